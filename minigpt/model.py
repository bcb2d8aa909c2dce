"""The GPT: token and position embeddings, a stack of blocks, and a score for every token that may come next.

Attention by itself is a bag: it does not know which token came first. The position embedding, added to the token
embedding, tells it. Everything else was built in the files above; here it is put together with GPT-2's exact details,
so that transformers, llama.cpp and others open what we train, and we open what they hold.

Next: modern.py
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .attention import KeyValueCache
from .bigram import LanguageModel, load_weights
from .block import Block
from .config import GPTConfig
from .files import checked, printable, read_json, read_tensors
from .hf import GPT2_DETAILS, check_blocks, gpt2_config, gpt2_name, sizes


def init_weights(model: nn.Module, n_layer: int) -> None:
    """GPT-2's start: normal with deviation 0.02, less for the 2 * n_layer outputs that are added to the residual.

    Source: Radford et al. 2019, section 2.3.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif name.endswith(("proj.weight", "down.weight")):
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layer))
        elif parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.02)


class GPT(LanguageModel):
    """GPT-2. Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3."""

    model_type = "gpt2"
    reads_on = False  # beyond block_size there is no position to give

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config, self.vocab_size, self.block_size = config, config.vocab_size, config.block_size
        self.tok_emb = nn.Embedding(config.vocab_size, config.n_embd)
        self.pos_emb = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config.n_embd, config.n_head, config.dropout) for _ in range(config.n_layer))
        self.ln_f: nn.Module = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.tok_emb.weight  # tied: a token's score is how well the output matches its embedding
        init_weights(self, config.n_layer)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, cache: list[KeyValueCache] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """idx (B, T), targets (B, T) -> logits (B, T, V), loss in nats/token or None.

        With a cache (see make_cache), idx holds only the tokens that come after those it has read; if the model reads on
        beyond block_size, one by one there.
        """
        self.check_length(idx.shape[1], cache)
        x = self.drop(self.embed(idx, cache[0].start if cache else 0))  # (B, T, C)
        for i, block in enumerate(self.blocks):
            x = block(x, cache[i] if cache else None)
        logits = self.lm_head(self.ln_f(x))  # (B, T, V)
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss

    def check_length(self, T: int, cache: Sequence[KeyValueCache] | None = None) -> None:
        """Raise ValueError if T more tokens do not fit into the context."""
        length = T + (cache[0].length if cache else 0)
        if length > self.block_size and not (self.reads_on and cache and T == 1):
            raise ValueError(f"{length} tokens do not fit in a context of block_size {self.block_size}; give the last ones")

    def embed(self, idx: Tensor, start: int | Tensor = 0) -> Tensor:
        """What is known of each token before it looks around: idx (B, T), at positions from `start` -> (B, T, C)."""
        positions = start + torch.arange(idx.shape[1], device=idx.device)  # (T,)
        return self.tok_emb(idx) + self.pos_emb(positions)  # (B, T, C)

    def make_cache(self, batch_size: int = 1, kind: type[KeyValueCache] = KeyValueCache) -> list[KeyValueCache]:
        """An empty memory for generation, one for each block."""
        c = self.config
        size = (batch_size, c.n_head, c.block_size, c.n_embd // c.n_head)
        return [kind(*size, like=self.tok_emb.weight) for _ in self.blocks]

    # ---- the same model in transformers' names -------------------------------------------------------------------------

    def to_hf(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """config.json and tensors of a GPT2LMHeadModel with the same weights."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.named_parameters():
            theirs, transposed = gpt2_name(name)
            tensors[theirs] = (parameter.detach().T if transposed else parameter.detach()).contiguous()
        return gpt2_config(self.config), tensors

    @classmethod
    def blank(cls, config: dict[str, Any]) -> "GPT":
        """A GPT without weights from the config.json of a GPT-2. Raises ValueError for one with other details."""
        shape = GPTConfig(**sizes(config, cls.model_type))
        for key, ours in GPT2_DETAILS.items():
            if config.get(key, ours) not in (ours, "gelu_pytorch_tanh" if key == "activation_function" else ours):
                raise ValueError(f"this GPT-2 has {key} = {printable(str(config[key]))[:50]}; only {ours!r} can be loaded")
        if config.get("n_inner") not in (None, 4 * shape.n_embd):
            raise ValueError(
                f"this GPT-2 has n_inner = {printable(str(config['n_inner']))[:50]}; only 4 * n_embd can be loaded"
            )
        with torch.device("meta"):
            return cls(shape)

    @classmethod
    def from_hf(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "GPT":
        """A GPT from the config.json and the tensors of a GPT-2. Raises ValueError for one with other details."""
        model = cls.blank(config)
        stored = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        weights: dict[str, Tensor] = {}
        for name, _ in model.named_parameters():
            theirs, transposed = gpt2_name(name)
            tensor = stored.pop(theirs.removeprefix("transformer."), None)
            if tensor is not None:
                weights[name] = tensor.T.contiguous() if transposed and tensor.dim() == 2 else tensor
        # GPT-2 files of old keep the causal mask, and some the tied table a second time.
        extra = {name: t for name, t in stored.items() if not name.endswith((".attn.bias", ".attn.masked_bias"))}
        head = extra.pop("lm_head.weight", None)
        if head is not None and not torch.equal(head, weights.get("tok_emb.weight", head)):
            raise ValueError("this GPT-2 has an output table of its own; only one tied to the token embedding can be loaded")
        load_weights(model, weights | extra)
        model.lm_head.weight = model.tok_emb.weight
        return model

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "GPT":
        """Open a GPT-2 folder (config.json and model.safetensors) that transformers or this package wrote."""
        folder = Path(folder)
        config = read_json(folder / "config.json")
        if config.get("model_type") != cls.model_type:
            kind = printable(str(config.get("model_type")))[:50]
            raise ValueError(f"{folder} holds a model of type {kind!r}, not {cls.model_type!r}")
        weights = checked(folder / "model.safetensors")
        n_layer = GPTConfig(**sizes(config, cls.model_type)).n_layer
        check_blocks(n_layer, weights.stat().st_size)
        return cls.from_hf(config, read_tensors(weights, at_most=20 * n_layer + 20))
