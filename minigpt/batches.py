"""Ids -> (idx, targets). Batch number `step` is a pure function of (data, seed, step, batch_size, block_size).

    data      = 10 11 12 13 14 15 ...
    idx       = 10 11 12 13         what the model reads
    targets   = 11 12 13 14         what comes next, at every position: block_size lessons in one window

An epoch cuts the data into windows of block_size from a fresh random offset and visits each once, in a fresh random
order. The order is never stored: a bijection on the numbers 0 ... n-1 says which window comes at which place. So resuming
needs no state, and two machines draw the same batches.

Next: bigram.py
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

ON_DEVICE = 2**28  # tokens that are kept in the memory of a GPU at most, 4 bytes each


class Batches:
    """`batches[step]` -> idx (B, T), targets (B, T), int64, with targets[b, t] the token after idx[b, t]."""

    def __init__(self, data: np.ndarray, batch_size: int, block_size: int, seed: int = 0) -> None:
        if len(data) < block_size + 1:
            raise ValueError(f"a window needs block_size + 1 = {block_size + 1} tokens; the data has {len(data)}")
        self.data, self.batch_size, self.block_size, self.seed = data, batch_size, block_size, seed
        # One window less than would fit, so that at least block_size offsets leave room for the same number of windows.
        self.windows_per_epoch = max(1, len(data) // block_size - 1)
        self.n_offsets = len(data) - self.windows_per_epoch * block_size
        self._within = np.arange(block_size + 1)
        self._there: Tensor | None = None  # the data on a GPU

    def on(self, device: torch.device) -> "Batches":
        """The same batches, cut there, so that only their places travel; as before, where the data is too much for that."""
        there = copy.copy(self)
        if len(self.data) <= ON_DEVICE:
            there._there = torch.from_numpy(self.data.astype(np.int32)).to(device)
        return there

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        if self._there is not None:
            starts = torch.from_numpy(self.starts(step)).to(self._there.device, non_blocking=True)
            within = torch.arange(self.block_size + 1, device=self._there.device)
            ids = self._there[starts[:, None] + within].long()
            return ids[:, :-1], ids[:, 1:]
        windows = self.data[self.starts(step)[:, None] + self._within]  # (B, T + 1)
        ids = torch.from_numpy(windows.astype(np.int64))
        return ids[:, :-1], ids[:, 1:]

    def starts(self, step: int) -> np.ndarray:
        """Where the windows of a batch begin: (B,) positions in the data."""
        samples = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.uint64)
        epoch, place = np.divmod(samples, np.uint64(self.windows_per_epoch))
        key = random_bits(np.full_like(epoch, self.seed), epoch)
        window = permuted(place, self.windows_per_epoch, key)
        offset = random_bits(key, np.zeros_like(epoch)) % np.uint64(self.n_offsets)
        return (offset + window * np.uint64(self.block_size)).astype(np.int64)


def sweep(data: np.ndarray, block_size: int, batch_size: int, max_tokens: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Every token after the first as a target exactly once, in windows that do not overlap.

    data (number of tokens,) -> idx, targets (up to batch_size, block_size), int64, again and again. The last window may be
    shorter. With max_tokens, about so many targets, in whole windows spread evenly over the data.
    """
    n_windows = (len(data) - 1) // block_size
    starts = np.arange(n_windows) * block_size
    if n_windows and 0 < max_tokens < len(data) - 1:
        keep = max(1, max_tokens // block_size)
        starts = starts[np.linspace(0, n_windows - 1, min(keep, n_windows)).astype(np.int64)]
        rest = 0
    else:
        rest = (len(data) - 1) % block_size
    within = np.arange(block_size + 1)
    for i in range(0, len(starts), batch_size):
        windows = torch.from_numpy(data[starts[i : i + batch_size, None] + within].astype(np.int64))
        yield windows[:, :-1], windows[:, 1:]
    if rest:
        window = torch.from_numpy(data[len(data) - rest - 1 :].astype(np.int64))[None]
        yield window[:, :-1], window[:, 1:]


def random_bits(key: np.ndarray, counter: np.ndarray) -> np.ndarray:
    """64 random bits, the same on every machine, from a key and a counter (uint64, arithmetic modulo 2^64).

    Source: SplitMix64; Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 12's mixer.
    """
    with np.errstate(over="ignore"):
        z = key + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def permuted(place: np.ndarray, n: int, key: np.ndarray) -> np.ndarray:
    """What stands at a place when the numbers 0 ... n-1 are shuffled: a bijection, computed one element at a time.

    place (B,), key (B,) -> (B,). On a power of two, multiplying by an odd number and xor with its own upper half can both
    be undone, so a few rounds of them are a permutation; a result beyond n is sent through again until it falls inside
    (cycle walking; Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    bits = max(1, (n - 1).bit_length())
    mask, half = np.uint64((1 << bits) - 1), np.uint64((bits + 1) // 2)
    keys = [random_bits(key, np.full_like(place, round_number)) for round_number in range(8)]
    result, outside = place, np.ones(place.shape, bool)
    while outside.any():
        x = result
        with np.errstate(over="ignore"):
            for add, multiply in zip(keys[::2], keys[1::2], strict=True):
                x = ((x + add) * (multiply | np.uint64(1))) & mask
                x = x ^ (x >> half)
        result = np.where(outside, x, result)
        outside = result >= np.uint64(n)
    return result
