"""Is it quoting? How much of what a model writes stands in the text that it was trained on, letter for letter.

For every place in a written text, the longest passage that begins there and occurs in the training text; all figures come
from these lengths. Long passages alone prove nothing: texts repeat themselves. So the same is asked of validation text,
which the model never saw: whoever quotes no more than that does not quote.

Next: chat.py
"""

import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .files import read_bytes, write_file

LEAST = 200  # characters, below which nothing is said
N_GRAMS = (5, 10, 20, 40)  # characters
SHOWN = 5  # passages
CARD = "## Is it quoting?\n"  # in the model card
PART = 4_000_000  # characters of the training text that are searched at once
FIRST_END = 0x110000  # the first number that is no character: ends of texts
AROUND = 30  # characters of the training text before and after a passage


@dataclass(frozen=True)
class Passage:
    """A piece of a written text that stands in the training text."""

    text: str
    sample: int  # the number of the written text
    place: int  # where it stands in the training text, characters
    before: str  # what the training text has around it
    after: str


@dataclass(frozen=True)
class Novelty:
    """What was found in written texts, and in as much validation text beside them. Lengths in characters."""

    characters: int  # looked at, of each
    longest: int
    longest_expected: int  # in the validation text
    mean: float  # over all places, of the longest passage that begins there
    mean_expected: float
    seen: dict[int, float]  # n -> share of the n-grams that occur in the training text
    seen_expected: dict[int, float]
    passages: list[Passage]  # the longest, which do not overlap

    @property
    def verdict(self) -> str:
        """In words."""
        if self.characters < LEAST:
            return f"{self.characters} characters are too few to tell whether it quotes; {LEAST} are not."
        told = f"Its longest passage from the training text has {self.longest} characters"
        beside = f"{told}; of text that it never saw, {self.longest_expected}."
        if self.longest > 2 * self.longest_expected + 20 and self.seen[40] > self.seen_expected[40] + 0.1:
            return f"It quotes: {self.seen[40]:.0%} of what it writes is learned by heart. {beside}"
        if self.longest > 2 * self.longest_expected or self.mean > 1.5 * self.mean_expected:
            return f"It quotes in places. {beside}"
        return f"It does not quote. {beside}"

    def describe(self) -> str:
        """A table, the longest passages, the verdict."""
        rows = [("", "written", "validation text"), ("longest passage", str(self.longest), str(self.longest_expected))]
        rows.append(("passage, on average", f"{self.mean:.1f}", f"{self.mean_expected:.1f}"))
        for n, share in self.seen.items():
            rows.append((f"{n} characters in a row seen", f"{share:.1%}", f"{self.seen_expected[n]:.1%}"))
        lines = [f"  {name:<30}{mine:>10}{theirs:>18}" for name, mine, theirs in rows]
        lines += ["", "The longest passages, in [brackets], where the training text has them:"]
        lines += [f"  {len(p.text):>4}  {_line(p.before)}[{_line(p.text)}]{_line(p.after)}" for p in self.passages]
        return "\n".join([*lines, "", self.verdict])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


def novelty(samples: Sequence[str], train: str, val: str) -> Novelty:
    """Compare written texts with the training text, beside pieces of validation text of the same lengths.

    Of a text that is longer than the validation text, the beginning.
    """
    samples = [sample[: len(val)] for sample in samples]
    pieces, start = [], 0
    for length in map(len, samples):
        start = start if start + length <= len(val) else 0
        pieces.append(val[start : start + length])
        start += length
    lengths = match_lengths([*samples, *pieces], train)
    found, expected = lengths[: len(samples)], lengths[len(samples) :]
    return Novelty(
        sum(map(len, found)),
        max(map(max, filter(None, found)), default=0),
        max(map(max, filter(None, expected)), default=0),
        _mean(found),
        _mean(expected),
        {n: _seen(found, n) for n in N_GRAMS},
        {n: _seen(expected, n) for n in N_GRAMS},
        _longest(samples, found, train),
    )


def write_into_card(card: Path, found: Novelty, how: str) -> None:
    """Give the model card a section with the verdict; a training that goes on writes the card anew, without it.

    how: what was written, and with which settings, in words. Does nothing where there is no card, or one of another kind.
    """
    text = read_bytes(card).decode("utf-8", "replace") if card.exists() else ""
    text = re.sub(rf"^{re.escape(CARD)}.*?(?=^## |\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
    before, heading, rest = text.partition("## What it writes\n")
    if heading:
        write_file(card, f"{before}{CARD}\n{found.verdict} {how}\n\n{heading}{rest}")


def match_lengths(texts: Sequence[str], source: str) -> list[list[int]]:
    """For every place in each text, how long the longest passage is that begins there and occurs in the source.

    match_lengths(["abxab"], "cab") -> [[2, 1, 0, 2, 1]]. A long source is searched in parts, each with the beginning of the
    next, so that memory stays the same.
    """
    longest = max(map(len, texts), default=0)
    parts = [source[start : start + PART + longest] for start in range(0, len(source) or 1, PART)]
    found = [_match_lengths(texts, part) for part in parts]
    return [np.maximum.reduce(same).tolist() for same in zip(*found, strict=True)]


def _match_lengths(texts: Sequence[str], source: str) -> list[np.ndarray]:
    """The same for a source of moderate length, by a suffix array.

    All places of the source and the texts are sorted together by what follows them: by one character, then by 2, 4, 8, ...,
    until no two are alike. The longest passage is what a place has in common with the nearest one of the source, above or
    below. The time does not depend on how much of it is found.
    Source: Manber and Myers 1993, "Suffix arrays: a new method for on-line string searches", section 3.
    """
    pieces = [source, *texts]
    ends = [np.array([FIRST_END + i], np.uint32) for i in range(len(pieces))]  # each unlike everything else
    codes = [np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), np.uint32) for piece in pieces]
    ranks = [_ranked(np.concatenate([part for pair in zip(codes, ends, strict=True) for part in pair]))]
    n = len(ranks[0])
    while ranks[-1].max() < n - 1:  # ranks[k]: by the 2^k characters from each place on
        rank, length = ranks[-1].astype(np.int64), 2 ** (len(ranks) - 1)
        ranks.append(_ranked(rank * (n + 1) + np.append(rank[length:] + 1, np.zeros(min(length, n), np.int64))))

    rank, place = ranks[-1], np.empty(n, np.int32)
    place[rank] = np.arange(n, dtype=np.int32)  # sorted
    of_source = np.where(place < len(source), np.arange(n), -1)
    above = np.maximum.accumulate(of_source)  # for each rank, that of the nearest place of the source; -1: none
    below = n - 1 - np.maximum.accumulate(np.where(of_source[::-1] < 0, -1, np.arange(n)))[::-1]  # n: none
    starts = np.cumsum([len(piece) + 1 for piece in pieces])[:-1]
    here = [np.arange(start, start + len(text)) for start, text in zip(starts, texts, strict=True)]
    return [np.maximum(*(_in_common(ranks, at, place, near[rank[at]]) for near in (above, below))) for at in here]


def _ranked(keys: np.ndarray) -> np.ndarray:
    """The number of smaller keys that differ, for each key."""
    return np.unique(keys, return_inverse=True)[1].astype(np.int32)


def _in_common(ranks: list[np.ndarray], at: np.ndarray, place: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many characters each place has in common with the place of another rank; 0 where there is no such rank."""
    exists = (other >= 0) & (other < len(place))
    there, length = place[np.where(exists, other, 0)], np.zeros(len(at), np.int64)
    for k in reversed(range(len(ranks))):
        length += 2**k * (exists & (ranks[k][at + length] == ranks[k][there + length]))
    return length


def _mean(lengths: list[list[int]]) -> float:
    together = [length for one in lengths for length in one]
    return statistics.fmean(together) if together else 0.0


def _seen(lengths: list[list[int]], n: int) -> float:
    """The share of n-grams that occur in the training text."""
    places = [length >= n for one in lengths for length in one[: max(0, len(one) - n + 1)]]
    return sum(places) / len(places) if places else 0.0


def _longest(samples: Sequence[str], found: list[list[int]], train: str) -> list[Passage]:
    places = [(length, sample, start) for sample, one in enumerate(found) for start, length in enumerate(one) if length]
    passages: list[Passage] = []
    taken: list[tuple[int, int, int]] = []
    for length, sample, start in sorted(places, key=lambda place: (-place[0], *place[1:])):
        if any(sample == other and start < end and begin < start + length for other, begin, end in taken):
            continue
        text = samples[sample][start : start + length]
        place = train.index(text)
        around = train[max(0, place - AROUND) : place], train[place + length : place + length + AROUND]
        passages.append(Passage(text, sample, place, *around))
        taken.append((sample, start, start + length))
        if len(passages) == SHOWN:
            break
    return passages


def _line(text: str) -> str:
    """On one line of a terminal."""
    return "".join(char if char.isprintable() else "⏎" if char == "\n" else "?" for char in text)
