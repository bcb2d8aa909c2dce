"""Logits -> one id. The model gives a score for every token; this decides which one is written.

A penalty lowers what was there already, temperature divides the scores, top_k, top_p and min_p leave out the unlikely, and
one random number picks from what is left.
Needs only NumPy, so that every engine draws alike.

Next: recording.py
"""

from collections.abc import Sequence, Set

import numpy as np

from .config import SampleConfig

CACHED = 2**16  # numbers that stay in a core's cache while they are looked at again and again
PART = 1024  # tokens that are summed up together, before one is looked for among them


def pick(
    logits: np.ndarray, config: SampleConfig, seen: Sequence[Set[int]], rngs: Sequence[np.random.Generator]
) -> list[int]:
    """The next token of each of N texts. logits (N, V) -> N ids.

    seen: the ids read and written so far, by text; rngs: the random numbers of each. What a text gets does not depend on
    the others. Raises ValueError for logits that are not finite numbers.
    """
    at_once = max(1, CACHED // logits.shape[-1])
    if len(logits) > at_once:
        rows = [slice(i, i + at_once) for i in range(0, len(logits), at_once)]
        return [token for some in rows for token in pick(logits[some], config, seen[some], rngs[some])]
    logits = _penalised(logits, config, seen)
    if _is_greedy(config):
        return logits.argmax(-1).tolist()
    return draw(_distribution(logits, config), rngs)


def probabilities(logits: np.ndarray, config: SampleConfig, seen: Set[int] = frozenset()) -> np.ndarray:
    """The distribution that the next token is drawn from. logits (V,) -> probabilities (V,), float64, sum 1.

    The order is that of transformers: repetition penalty, temperature, top_k, top_p, min_p. Temperature 0 puts everything
    on the likeliest token (the first of equals). Raises ValueError for logits that are not finite numbers.
    Source: Holtzman et al. 2019, section 3.1, for top_p (arXiv:1904.09751); Fan et al. 2018, section 5.1, for top_k; Nguyen
    et al. 2024, section 3, for min_p (arXiv:2407.01082); Keskar et al. 2019, section 4.1, for the penalty
    (arXiv:1909.05858).
    """
    logits = _penalised(logits[None], config, [seen])
    if _is_greedy(config):
        return np.eye(1, logits.shape[-1], int(logits.argmax()))[0]
    return _distribution(logits, config)[0]


def draw(probs: np.ndarray, rngs: Sequence[np.random.Generator]) -> list[int]:
    """Pick ids: the first whose cumulative probability exceeds a random number from [0, 1). probs (N, V) -> N ids."""
    numbers = np.array([rng.random() for rng in rngs])
    if probs.shape[-1] > PART:
        return [_draw_by_parts(row, number) for row, number in zip(probs, numbers, strict=True)]
    cumulative = probs.cumsum(-1)
    return (cumulative > numbers[:, None] * cumulative[:, -1:]).argmax(-1).tolist()


def _draw_by_parts(probs: np.ndarray, number: float) -> int:
    """The same for one row of a large vocabulary: first the part that the token is in, as sums are quicker than cumulative
    ones; then the token. probs (V,) -> id.
    """
    sums = np.add.reduceat(probs, np.arange(0, len(probs), PART)).cumsum()
    wanted = number * sums[-1]
    part = int((sums > wanted).argmax())
    before = sums[part - 1] if part else 0.0
    share = min((wanted - before) / (sums[part] - before), np.nextafter(1, 0))  # of the part, [0, 1)
    cumulative = probs[part * PART : (part + 1) * PART].cumsum()
    return part * PART + int((cumulative > share * cumulative[-1]).argmax())


def _is_greedy(config: SampleConfig) -> bool:
    return config.temperature == 0 or config.top_p == 0


def _penalised(logits: np.ndarray, config: SampleConfig, seen: Sequence[Set[int]]) -> np.ndarray:
    """Logits (N, V), a copy in float64, with what was seen less likely."""
    if not np.isfinite(logits).all():
        raise ValueError("the model's scores are not finite numbers; its weights are damaged")
    logits = logits.astype(np.float64)
    if config.repetition_penalty != 1:
        for row, tokens in zip(logits, seen, strict=True):
            ids = np.fromiter(tokens, np.intp, len(tokens))
            row[ids] *= np.where(row[ids] < 0, config.repetition_penalty, 1 / config.repetition_penalty)
    return logits


def _distribution(logits: np.ndarray, config: SampleConfig) -> np.ndarray:
    """Logits (N, V), which are overwritten -> probabilities (N, V)."""
    logits -= logits.max(-1, keepdims=True)
    with np.errstate(over="ignore"):  # of a temperature next to nothing: minus infinity is right
        logits /= config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        kth = np.partition(logits, -config.top_k, axis=-1)[:, -config.top_k, None]
        logits[logits < kth] = -np.inf
    probs = np.exp(logits, out=logits)
    probs /= probs.sum(-1, keepdims=True)
    if config.top_p < 1:
        for row in probs:
            _leave_the_top(row, config.top_p)
        probs /= probs.sum(-1, keepdims=True)
    if config.min_p > 0:
        probs[probs < config.min_p * probs.max(-1, keepdims=True)] = 0
        probs /= probs.sum(-1, keepdims=True)
    return probs


def _leave_the_top(probs: np.ndarray, top_p: float) -> None:
    """Set probabilities (V,) to 0 where the likelier ones reach top_p without them.

    Those below (1 - top_p) / V hold less than 1 - top_p together, so they are never needed, and only the others are sorted.
    Of equal ones the last are taken first, as transformers does.
    """
    unlikely = probs < (1 - top_p) / len(probs)
    probs[unlikely] = 0
    candidates = np.flatnonzero(~unlikely)
    order = candidates[np.argsort(probs[candidates], kind="stable")[::-1]]
    before = np.cumsum(probs[order]) - probs[order]  # what the likelier ones hold together
    probs[order[before >= top_p]] = 0


def random_generator(seed: int, sample: int = 0) -> np.random.Generator:
    """The random numbers of one text: the same for the same seed and sample number, alone or among others.

    Raises ValueError for numbers that are not below 2^64.
    """
    if not (0 <= seed < 2**64 and 0 <= sample < 2**64):
        raise ValueError(f"seed is {seed} and sample is {sample}; both must be whole numbers from 0 to {2**64 - 1:,}")
    return np.random.Generator(np.random.Philox(key=(sample << 64) + seed))
