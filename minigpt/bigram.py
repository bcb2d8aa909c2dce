"""The smallest language model: a table. Row i holds the scores of every token that may follow token i.

It looks at one token and forgets the rest: "th" and "qh" get the same answer, because both end in h. That is the limit
that attention removes.

Next: attention.py
"""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .config import GPTConfig
from .files import printable
from .hf import bigram_config, sizes


class LanguageModel(nn.Module):
    """The contract of every model here. Training, generation and saving know models by nothing else.

    model(idx) -> logits, None          model(idx, targets) -> logits, loss
    """

    model_type: str  # its name in config.json
    vocab_size: int  # the tokens that there are
    block_size: int  # the tokens it reads at once

    def to_hf(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a saved run holds: config.json and the tensors, in the names that the field uses."""
        raise NotImplementedError

    @classmethod
    def blank(cls, config: dict[str, Any]) -> "LanguageModel":
        """The model of a config.json without its weights: shapes that take no memory, on the device "meta".

        Raises ValueError for a config.json that cannot be this model.
        """
        raise NotImplementedError

    @classmethod
    def from_hf(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "LanguageModel":
        """The inverse of to_hf. Raises ValueError for what cannot be this model."""
        raise NotImplementedError


class BigramLanguageModel(LanguageModel):
    """Scores for the next token from the current one alone. vocab_size² parameters."""

    model_type = "minigpt-bigram"

    def __init__(self, vocab_size: int, block_size: int = 8) -> None:
        super().__init__()
        GPTConfig(vocab_size=vocab_size, block_size=block_size)  # the same ranges hold
        self.vocab_size, self.block_size = vocab_size, block_size
        self.token_table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """idx (B, T), targets (B, T) -> logits (B, T, V), loss in nats/token or None."""
        logits = self.token_table(idx)  # (B, T, V): looking up a row is the whole computation
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss

    def to_hf(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        config = GPTConfig(vocab_size=self.vocab_size, block_size=self.block_size)
        return bigram_config(config), {"token_table.weight": self.token_table.weight.detach()}

    @classmethod
    def blank(cls, config: dict[str, Any]) -> "BigramLanguageModel":
        with torch.device("meta"):
            return cls(**sizes(config, cls.model_type))

    @classmethod
    def from_hf(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "BigramLanguageModel":
        model = cls.blank(config)
        load_weights(model, tensors)
        return model


def load_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a model the weights of a file, in float32. Raises ValueError naming what is missing, extra or misshapen."""
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != given:
        faults = [f"{name} is missing" for name in sorted(wanted.keys() - given.keys())]
        faults += [f"{printable(name)[:80]} is not part of this model" for name in sorted(given.keys() - wanted.keys())]
        faults += [
            f"{name} is {str(given[name])[:80]} and should be {wanted[name]}"
            for name in wanted
            if given.get(name, wanted[name]) != wanted[name]
        ]
        raise ValueError(f"the weights do not fit the configuration: {'; '.join(faults[:3])}")
    own = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}
    model.load_state_dict(own, strict=False, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
