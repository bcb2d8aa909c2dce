"""Predicting without learning: what mere counting reaches on the same text. The ladder's ground floor.

    uniform       every character as likely as any other: ln V
    unigram       how often each character occurs
    bigram        which character follows which
    n-gram        the last few characters, backing off to fewer where these were never seen
    xz            a compressor that has seen the training text

Next: climb.py
"""

import lzma
import math
from dataclasses import dataclass

import numpy as np

from ..corpus import Corpus

ORDER = 6  # characters in an n-gram, the predicted one included
AT_MOST = 10_000_000  # training tokens that are counted: the last ones


@dataclass(frozen=True)
class Baseline:
    """A way to predict without training, and its loss on the validation text in nats/token."""

    name: str
    idea: str
    loss: float


def baselines(corpus: Corpus) -> list[Baseline]:
    """Every baseline, measured on the whole validation text of a corpus, each token after the first predicted once."""
    train, val = corpus.train[-AT_MOST:].astype(np.int64), corpus.val.astype(np.int64)
    vocab_size = corpus.tokenizer.vocab_size
    before, after = corpus.tokenizer.decode(train).encode(), corpus.tokenizer.decode(val).encode()
    return [
        Baseline("uniform", "every character as likely", math.log(vocab_size)),
        Baseline("unigram", "how often each one occurs", unigram_loss(train, val, vocab_size)),
        Baseline("bigram counts", "which one follows which", bigram_loss(train, val, vocab_size)),
        Baseline(f"{ORDER}-gram counts", f"the last {ORDER - 1}, Kneser-Ney", kneser_ney_loss(train, val, vocab_size)),
        Baseline("xz", "a compressor, same text read", xz_loss(before, after, len(val))),
    ]


def unigram_loss(train: np.ndarray, val: np.ndarray, vocab_size: int) -> float:
    """nats/token of the relative frequencies, every count one higher than it is (Laplace)."""
    counts = np.bincount(train, minlength=vocab_size) + 1
    return float(-np.log(counts / counts.sum())[val[1:]].mean())


def bigram_loss(train: np.ndarray, val: np.ndarray, vocab_size: int) -> float:
    """nats/token of the relative frequencies of pairs, every count one higher than it is (Laplace).

    This is the best table that a BigramLanguageModel could learn, but for the smoothing.
    """
    pairs, counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    asked = val[:-1] * vocab_size + val[1:]
    seen = np.append(counts, 0)[_find(pairs, asked)]
    context = np.bincount(train[:-1], minlength=vocab_size)[val[:-1]]
    return float(-np.log((seen + 1) / (context + vocab_size)).mean())


def kneser_ney_loss(train: np.ndarray, val: np.ndarray, vocab_size: int, order: int = ORDER) -> float:
    """nats/token of an interpolated n-gram: each order gives a share of its counts to the order below.

        p(w | h) = max(c(h w) - D, 0) / c(h) + D * n(h) / c(h) * p(w | h without its first token)

    c counts occurrences in the highest order and different left neighbours below; n(h) is the number of different tokens
    after h; D = n1 / (n1 + 2 n2), from the numbers of n-grams counted once and twice.
    Source: Kneser and Ney 1995; Chen and Goodman 1998, section 2.7 and equation 26 (TR-10-98).
    """
    probs = np.full(len(val), 1 / vocab_size)
    # The n-gram that ends at a position has a number: its place among the sorted pairs (number of the n-1 before, token).
    ends, val_ends = np.zeros(len(train), np.int64), np.zeros(len(val), np.int64)  # n = 0: there is only one
    levels = []
    for n in range(1, order + 1):
        contexts = ends[: len(ends) - 1] if n > 1 else ends  # of n - 1 tokens, ending one position earlier
        keys, first, ends, counts = np.unique(
            contexts * vocab_size + train[n - 1 :], return_index=True, return_inverse=True, return_counts=True
        )
        val_contexts = np.concatenate([[-1], val_ends[:-1]]) if n > 1 else val_ends
        val_ends = np.where(val_contexts < 0, -1, _find(keys, val_contexts * vocab_size + val))
        levels.append((keys // vocab_size, first, ends, counts, val_contexts, val_ends))
    for n, (contexts, _, ends, counts, val_contexts, val_ends) in enumerate(levels, 1):
        if n < order:  # in how many n+1-grams is it the end?
            counts = np.bincount(ends[1 + levels[n][1]], minlength=len(counts))
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        discount = once / (once + 2 * twice) if once and twice else 0.5
        n_contexts = contexts.max() + 1
        total = np.bincount(contexts, counts, n_contexts)
        different = np.bincount(contexts, counts > 0, n_contexts)
        known = (val_contexts >= 0) & (np.append(total, 0)[val_contexts] > 0)
        total, different = total[val_contexts[known]], different[val_contexts[known]]
        seen = np.append(counts, 0)[val_ends[known]]
        probs[known] = (np.maximum(seen - discount, 0) + discount * different * probs[known]) / total
    return float(-np.log(probs[1:]).mean())


def xz_loss(before: bytes, after: bytes, n_tokens: int) -> float:
    """nats/token of what `after` adds to the compressed size of `before`."""
    size = [8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) for data in (before, before + after)]
    return (size[1] - size[0]) * math.log(2) / n_tokens


def _find(keys: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The place of each number among sorted keys, -1 where it is not there."""
    place = np.searchsorted(keys, asked).clip(max=len(keys) - 1)
    return np.where(keys[place] == asked, place, -1)
