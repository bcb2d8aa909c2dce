"""How a model of torch reads on: the past does not change, so its keys and values are kept (the cache).

Each step computes only the positions that are new. A model without a cache, such as a bigram, reads everything again.

Next: numpy_engine.py
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .bigram import LanguageModel

AT_ONCE = 256  # tokens of a prompt


class TorchReader:
    """A LanguageModel that reads on, in `rows` texts side by side. Leaves it in the mode, training or not, of before."""

    def __init__(self, model: LanguageModel, use_cache: bool = True, rows: int = 1) -> None:
        self.model, self.use_cache, self.rows = model, use_cache, rows
        self.vocab_size, self.block_size = model.vocab_size, model.block_size
        self.device = next(model.parameters()).device
        self.make_cache = getattr(model, "make_cache", None) if use_cache else None
        self.reads_on = self.make_cache is not None and getattr(model, "reads_on", False)
        self.cache: Any = self.make_cache(rows) if self.make_cache else None
        self.forget()

    def reader(self) -> "TorchReader":
        """Another one of the same model."""
        return TorchReader(self.model, self.use_cache)

    def forget(self) -> None:
        for layer in self.cache or ():  # it has room for any text
            layer.length = 0
        self.tokens: list[list[int]] = [[]] * self.rows

    @property
    def length(self) -> int:
        """Tokens read so far, in each text."""
        return self.cache[0].length if self.cache else len(self.tokens[0])

    def follow(self, other: "TorchReader") -> None:
        """Have read in each text what another reader of the same model has in its only one."""
        self.tokens = other.tokens * self.rows
        for mine, its in zip(self.cache or (), other.cache or (), strict=True):
            read = slice(min(its.length, self.block_size))  # the rest was never written to, and takes no memory
            mine.keys[:, :, read], mine.values[:, :, read] = its.keys[:, :, read], its.values[:, :, read]
            mine.length = its.length

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        """Read on in a single text -> float32 scores (V,) of what comes next."""
        return self.read_rows([tokens])[0]

    @torch.inference_mode()
    def read_rows(self, new: Sequence[Sequence[int]]) -> np.ndarray:
        """Read on in each text, by as many tokens in all of them -> float32 scores (rows, V). What is alike is read once."""
        if self.rows > 1 and self.length == 0 and all(list(tokens) == list(new[0]) for tokens in new):
            one = self.reader()
            scores = one.read(new[0])
            self.follow(one)
            return np.stack([scores] * self.rows)
        before = [[]] * self.rows if self.cache else self.tokens
        self.tokens = [[*old, *tokens] for old, tokens in zip(before, new, strict=True)]
        idx = torch.tensor(self.tokens, device=self.device)  # (rows, T)
        training = self.model.training
        try:
            if training:
                self.model.eval()
            if self.cache:
                for part in idx.split(AT_ONCE, 1):  # a score for every token of a long prompt would take gigabytes
                    logits, _ = self.model(part, cache=self.cache)  # (rows, T, V)
            else:
                logits, _ = self.model(idx)
        finally:
            if training:
                self.model.train()
        return logits[:, -1].float().cpu().numpy()


class TorchRow:
    """One of several texts that begin alike and are read side by side: one pass over the weights for all of them."""

    def __init__(self, together: TorchReader, number: int) -> None:
        self.together, self.number, self.vocab_size = together, number, together.vocab_size
        self.block_size, self.reads_on = together.block_size, together.reads_on

    @property
    def length(self) -> int:
        return self.together.length

    def follow(self, other: "TorchRow") -> None:
        """Rows that are not asked to read read along."""
        assert other.together is self.together

    def forget(self) -> None:
        """Begin anew: all rows do, at the same token."""
        self.together.forget()

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        return read_together([self], [tokens])[0]


def read_together(rows: Sequence[TorchRow], new: Sequence[Sequence[int]]) -> np.ndarray:
    """Read on in these rows, by as many tokens in each -> their scores (N, V). Rows whose texts are over read along."""
    together, given = rows[0].together, {row.number: tokens for row, tokens in zip(rows, new, strict=True)}
    scores = together.read_rows([given.get(number, new[0]) for number in range(together.rows)])
    return scores[list(given)]
