"""Logits -> one id. The model gives a score for every token; this decides which one is written.

A penalty lowers what was there already, temperature divides the scores, top_k, top_p and min_p leave out the unlikely, and
one random number picks from what is left.
Needs only NumPy, so that every engine draws alike.

Next: torch_engine.py
"""

from collections.abc import Set

import numpy as np

from .config import SampleConfig


def probabilities(logits: np.ndarray, config: SampleConfig, seen: Set[int] = frozenset()) -> np.ndarray:
    """The distribution that the next token is drawn from. logits (V,) -> probabilities (V,), float64, sum 1.

    seen: the ids read and written so far, for the repetition penalty. The order is that of transformers: repetition
    penalty, temperature, top_k, top_p, min_p. Temperature 0 puts everything on the likeliest token (the first of equals).
    Raises ValueError for logits that are not finite numbers.
    Source: Holtzman et al. 2019, section 3.1, for top_p (arXiv:1904.09751); Fan et al. 2018, section 5.1, for top_k; Nguyen
    et al. 2024, section 3, for min_p (arXiv:2407.01082); Keskar et al. 2019, section 4.1, for the penalty
    (arXiv:1909.05858).
    """
    if not np.isfinite(logits).all():
        raise ValueError("the model's scores are not finite numbers; its weights are damaged")
    logits = logits.astype(np.float64)
    if config.repetition_penalty != 1 and seen:
        ids = np.fromiter(seen, np.intp, len(seen))
        logits[ids] *= np.where(logits[ids] < 0, config.repetition_penalty, 1 / config.repetition_penalty)
    if config.temperature == 0 or config.top_k == 1 or config.top_p == 0:
        return np.eye(1, len(logits), int(logits.argmax()))[0]
    logits = (logits - logits.max()) / config.temperature
    if 0 < config.top_k < len(logits):
        kth = np.partition(logits, -config.top_k)[-config.top_k]
        logits[logits < kth] = -np.inf
    probs = np.exp(logits)
    probs /= probs.sum()
    if config.top_p < 1:
        order = np.argsort(-probs, kind="stable")
        before = np.cumsum(probs[order]) - probs[order]  # what the likelier ones hold together
        probs[order[before >= config.top_p]] = 0
        probs /= probs.sum()
    if config.min_p > 0:
        probs[probs < config.min_p * probs.max()] = 0
        probs /= probs.sum()
    return probs


def draw(probs: np.ndarray, rng: np.random.Generator) -> int:
    """Pick an id: the first whose cumulative probability exceeds a random number from [0, 1)."""
    cumulative = np.cumsum(probs)
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def random_generator(seed: int, sample: int = 0) -> np.random.Generator:
    """The random numbers of one text: the same for the same seed and sample number, alone or among others."""
    return np.random.Generator(np.random.Philox(key=(sample << 64) + seed))
