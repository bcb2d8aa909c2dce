"""How a model of torch reads on: the past does not change, so its keys and values are kept (the cache).

Each step computes only the positions that are new. A model without a cache, such as a bigram, reads everything again.

On a GPU a step is recorded and repeated (recording.py), so nothing in it may grow: attention is given the whole memory, and
a mask that says how much of it there is (FixedCache).

Next: numpy_engine.py
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .attention import KeyValueCache
from .bigram import LanguageModel
from .recording import can_record, recorded

AT_ONCE = 256  # tokens of a prompt


class TorchReader:
    """A LanguageModel that reads on, in `rows` texts side by side. Leaves it in the mode, training or not, of before."""

    def __init__(
        self, model: LanguageModel, use_cache: bool = True, rows: int = 1, in_fixed_steps: bool | None = None
    ) -> None:
        """in_fixed_steps: read single tokens by a FixedStep; None = where that can be recorded."""
        self.model, self.use_cache, self.rows = model, use_cache, rows
        self.vocab_size, self.block_size = model.vocab_size, model.block_size
        self.device = next(model.parameters()).device
        self.make_cache = getattr(model, "make_cache", None) if use_cache else None
        self.reads_on = self.make_cache is not None and getattr(model, "reads_on", False)
        fixed = can_record(self.device) if in_fixed_steps is None else in_fixed_steps
        self.cache: Any = self.make_cache(rows, FixedCache if fixed else KeyValueCache) if self.make_cache else None
        self.step = FixedStep(model, self.cache, rows) if self.cache and fixed else None
        self.forget()

    def reader(self) -> "TorchReader":
        """Another one of the same model."""
        return TorchReader(self.model, self.use_cache, in_fixed_steps=self.step is not None)

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
            read = slice(min(its.length, self.block_size))  # the rest was never written to
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
                    if self.step and part.shape[1] == 1:
                        logits = self.step(part)  # (rows, 1, V)
                    else:
                        logits, _ = self.model(part, cache=self.cache)  # (rows, T, V)
            else:
                logits, _ = self.model(idx)
        finally:
            if training:
                self.model.train()
        return logits[:, -1].float().cpu().numpy()


class FixedCache(KeyValueCache):
    """A KeyValueCache of which nothing grows while single tokens are read, as long as it has a position to read at."""

    def __init__(self, batch_size: int, n_head: int, block_size: int, head_size: int, like: Tensor) -> None:
        super().__init__(batch_size, n_head, block_size, head_size, like)
        self.keys.zero_()
        self.values.zero_()  # nothing times what was never written would be NaN, if that is
        self.position: Tensor | None = None  # (), int64, on the device
        self.filled: Tensor | None = None  # (1, block_size): the places up to it

    @property
    def start(self) -> int | Tensor:
        return self.length if self.position is None else self.position

    @property
    def seen(self) -> Tensor | None:
        return self.filled

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (B, nh, 1, hs) -> the keys and values (B, nh, block_size, hs) of all places. The length stays."""
        if self.position is None:
            return super().append(k, v)
        place = (self.position % self.keys.shape[-2])[None]
        self.keys.index_copy_(2, place, k)
        self.values.index_copy_(2, place, v)
        return self.keys, self.values


class FixedStep:
    """A model that reads one more token in each row, always by the same operations on the same memory.

    On a GPU they are recorded in the second step: a text of one token is no reason to.
    """

    def __init__(self, model: Any, cache: list[FixedCache], rows: int) -> None:
        self.model, self.cache = model, cache
        self.device = next(model.parameters()).device
        self.idx = torch.zeros((rows, 1), dtype=torch.long, device=self.device)
        self.position = torch.zeros((), dtype=torch.long, device=self.device)
        self.began = False
        self.repeat: Callable[[], Tensor] | None = None

    def __call__(self, idx: Tensor) -> Tensor:
        """idx (rows, 1) -> logits (rows, 1, V), which the next call overwrites."""
        self.model.check_length(1, self.cache)  # once recorded, it does not look itself
        self.idx.copy_(idx)
        self.position.fill_(self.cache[0].length)
        if self.began and self.repeat is None and can_record(self.device):
            # What is written for that is written again: the same numbers to the same place.
            self.repeat = recorded(self._forward, self.device)
        logits = self.repeat() if self.repeat else self._forward()
        self.began = True
        for layer in self.cache:
            layer.length += 1
        return logits

    def _forward(self) -> Tensor:
        position = self.position.clone()  # another tensor each time, so that what is known of one is not taken for the next
        filled = (torch.arange(self.model.block_size, device=self.device) <= position)[None]
        for layer in self.cache:
            layer.position, layer.filled = position, filled
        try:
            return self.model(self.idx, cache=self.cache)[0]
        finally:
            for layer in self.cache:
                layer.position = layer.filled = None


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
