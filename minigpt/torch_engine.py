"""How a model of torch reads on: the past does not change, so its keys and values are kept (the cache).

Each step computes only the positions that are new. A model without a cache, such as a bigram, reads everything again.

Next: numpy_engine.py
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .bigram import LanguageModel


class TorchReader:
    """A LanguageModel that reads on. Leaves it in the mode, training or not, in which it found it."""

    def __init__(self, model: LanguageModel, use_cache: bool = True) -> None:
        self.model, self.block_size, self.use_cache = model, model.block_size, use_cache
        self.device = next(model.parameters()).device
        self.make_cache = getattr(model, "make_cache", None) if use_cache else None
        self.reads_on = self.make_cache is not None and getattr(model, "reads_on", False)
        self.forget()

    def reader(self) -> "TorchReader":
        """Another one of the same model."""
        return TorchReader(self.model, self.use_cache)

    def forget(self) -> None:
        self.cache: Any = self.make_cache() if self.make_cache else None
        self.tokens: list[int] = []

    @torch.inference_mode()
    def read(self, tokens: Sequence[int]) -> np.ndarray:
        """Read on -> float32 scores (V,) of what comes next."""
        if training := self.model.training:
            self.model.eval()
        self.tokens = list(tokens) if self.cache else self.tokens + list(tokens)
        idx = torch.tensor([self.tokens], device=self.device)  # (1, T)
        logits, _ = self.model(idx, cache=self.cache) if self.cache else self.model(idx)  # (1, T, V)
        if training:
            self.model.train()
        return logits[0, -1].float().cpu().numpy()
