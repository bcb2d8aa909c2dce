"""The same GPT with the parts that changed since: what a model of today is made of.

    rotary positions    the place of a token turns its query and key; the learned position table goes
    RMSNorm, QK-norm    only the scale is normalised, not the mean; queries and keys get a norm of their own
    SwiGLU              the feed-forward has a gate: one product decides how much of another passes
    a quiet start       scores have a matrix of their own; it and all that is added to the residual begin at zero

No biases. These are Qwen3's exact details, so Qwen3ForCausalLM of transformers opens what we train, and so do llama.cpp
and others. Each part is a rung of the ladder.

Next: rungs.py
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .attention import MultiHeadAttention
from .bigram import load_weights
from .block import Block
from .config import GPTConfig
from .files import printable
from .hf import NORM_EPS, ROPE_THETA, qwen3_config, qwen3_details, qwen3_names, sizes, swiglu_width
from .model import GPT


def rotate(x: Tensor, start: int | Tensor = 0) -> Tensor:
    """Turn each pair of channels (i, i + hs/2) by position * θ^(-2i/hs). x (..., T, hs), T positions from `start` -> same.

    A query turned by m and a key turned by n meet at the angle m - n: attention feels how far away a token is, and needs
    no table of positions. Source: Su et al. 2021, equation 34 (arXiv:2104.09864).
    """
    known = turns_to_learn if torch.is_grad_enabled() else turns  # whoever writes meanwhile must not have those forgotten
    cos, sin = known(start, *x.shape[-2:], x.device, x.dtype)
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin  # (left, right) * cos + (right, left) * (-sin, sin)


@lru_cache(maxsize=16)
def turns(start: int | Tensor, T: int, hs: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of the angles at T positions from `start`, twice (T, hs); the left half of the sines is negative.

    The angles are float64: in float32, those from position 65,536 on would be off by up to 0.004.
    """
    at = torch.device("cpu") if device.type == "mps" else device  # which has no float64
    with torch.inference_mode(False):  # kept for training too
        frequencies = ROPE_THETA ** -(torch.arange(0, hs, 2, device=at, dtype=torch.float64) / hs)  # (hs/2,)
        positions = start + torch.arange(T, device=at, dtype=torch.float64)  # (T,)
        angles = torch.outer(positions, frequencies)  # (T, hs/2)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([cos, cos], -1).to(device, dtype), torch.cat([-sin, sin], -1).to(device, dtype)


turns_to_learn = lru_cache(maxsize=16)(turns.__wrapped__)


class RotaryAttention(MultiHeadAttention):
    """MultiHeadAttention that knows positions by rotation. x (B, T, C) -> (B, T, C)."""

    def heads(self, x: Tensor, start: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x, start)
        return rotate(q, start), rotate(k, start), v


class NormedAttention(MultiHeadAttention):
    """RotaryAttention without biases, whose queries and keys are normalised before they turn. x (B, T, C) -> (B, T, C).

    So no score can exceed what the gains allow, and softmax never saturates by accident.
    Source: Henry et al. 2020 (arXiv:2010.04245).
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0) -> None:
        super().__init__(n_embd, n_head, dropout, bias=False)
        self.q_norm = nn.RMSNorm(n_embd // n_head, NORM_EPS)
        self.k_norm = nn.RMSNorm(n_embd // n_head, NORM_EPS)

    def heads(self, x: Tensor, start: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x, start)
        return self.placed(self.q_norm, q, start), self.placed(self.k_norm, k, start), v

    def placed(self, norm: nn.RMSNorm, x: Tensor, start: int | Tensor) -> Tensor:
        """Queries or keys, normalised and turned: x (B, nh, T, hs) -> same."""
        return rotate(norm(x.to(norm.weight.dtype)), start)  # under autocast, x comes in bfloat16


class SwiGLU(nn.Module):
    """A feed-forward with a gate: down(silu(gate(x)) * up(x)). x (B, T, C) -> (B, T, C).

    Three matrices of width 8/3 C hold as much as the two of width 4 C before.
    Source: Shazeer 2020, equation 6 (arXiv:2002.05202).
    """

    def __init__(self, n_embd: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate = nn.Linear(n_embd, swiglu_width(n_embd), bias=False)
        self.up = nn.Linear(n_embd, swiglu_width(n_embd), bias=False)
        self.down = nn.Linear(swiglu_width(n_embd), n_embd, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(F.silu(self.gate(x)) * self.up(x)))


class ModernBlock(Block):
    """A Block whose four parts are today's. x (B, T, C) -> (B, T, C).

    Source of RMSNorm: Zhang and Sennrich 2019, equation 4 (arXiv:1910.07467).
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0) -> None:
        super().__init__(n_embd, n_head, dropout)
        self.ln_1 = nn.RMSNorm(n_embd, NORM_EPS)
        self.attn = NormedAttention(n_embd, n_head, dropout)
        self.ln_2 = nn.RMSNorm(n_embd, NORM_EPS)
        self.mlp = SwiGLU(n_embd, dropout)


def start_quietly(model: nn.Module) -> None:
    """Weights from which it learns fastest: vectors of deviation 1, inner matrices that keep it, outputs that are zero.

    Every block begins by adding nothing, and every token is as likely as any other; both are for the first steps to say.
    Source: Zhang et al. 2019, "Fixup", section 3 (arXiv:1901.09321), and the records of modded-nanogpt (Jordan et al. 2024).
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("proj.weight", "down.weight", "lm_head.weight")):
            nn.init.zeros_(parameter)
        elif name.endswith("tok_emb.weight"):
            nn.init.normal_(parameter)
        elif parameter.dim() == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)


class ModernGPT(GPT):
    """A GPT without a position table, of ModernBlocks: Qwen3, with as many key heads as query heads.

    Source: Yang et al. 2025, "Qwen3 Technical Report", section 2 (arXiv:2505.09388).
    """

    model_type = "qwen3"
    reads_on = True  # attention feels only how far away a token is, and that never exceeds block_size

    def __init__(self, config: GPTConfig) -> None:
        config.check_rotary()
        super().__init__(config)
        del self.pos_emb
        self.blocks = nn.ModuleList(ModernBlock(config.n_embd, config.n_head, config.dropout) for _ in range(config.n_layer))
        self.ln_f = nn.RMSNorm(config.n_embd, NORM_EPS)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)  # untied
        start_quietly(self)

    def embed(self, idx: Tensor, start: int | Tensor = 0) -> Tensor:
        return self.tok_emb(idx)  # attention turns by the positions

    # ---- the same model in transformers' names -------------------------------------------------------------------------

    def to_hf(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """config.json and tensors of a Qwen3ForCausalLM with the same weights."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.named_parameters():
            theirs = qwen3_names(name)
            tensors.update(zip(theirs, (part.contiguous() for part in parameter.detach().chunk(len(theirs))), strict=True))
        return qwen3_config(self.config), tensors

    @classmethod
    def blank(cls, config: dict[str, Any]) -> "ModernGPT":
        """A ModernGPT without weights from the config.json of a Qwen3. Raises ValueError for one with other details."""
        shape = GPTConfig(**sizes(config, cls.model_type))
        for key, ours in qwen3_details(shape).items():
            if config.get(key, ours) != ours:
                raise ValueError(f"this Qwen3 has {key} = {printable(str(config[key]))[:50]}; only {ours!r} can be loaded")
        with torch.device("meta"):
            return cls(shape)

    @classmethod
    def from_hf(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "ModernGPT":
        """A ModernGPT from the config.json and the tensors of a Qwen3. Raises ValueError for one with other details."""
        model = cls.blank(config)
        stored = dict(tensors)
        weights: dict[str, Tensor] = {}
        for name, _ in model.named_parameters():
            parts = [stored.pop(theirs) for theirs in qwen3_names(name) if theirs in stored]
            if parts:
                weights[name] = torch.cat(parts)
        load_weights(model, weights | stored)
        return model
