"""How a GPT writes: predict one token, append it, predict again.

    for token in generate(model, tokenizer.encode("ROMEO:"), SampleConfig(max_new_tokens=200)):
        ...                                     # stop whenever you like

Whatever reads tokens and answers with scores can write: a model of torch (torch_engine.py) or of NumPy (numpy_engine.py).

A model looks back on at most block_size tokens. What happens when these are full depends on its positions:

    by rotation (modern)    it reads on: a new token takes the place of the oldest in a ring, and nothing is read again
    by a table (gpt)        the window slides by half of it: the newest half is read again from position 0, and so each
                            token sees between block_size / 2 and block_size tokens

Either way every token costs the same on average and memory stays as it is, however long the text (docs/results.md).

Next: writing.py
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from .config import SampleConfig
from .numpy_engine import check_ids
from .sampling import pick, random_generator


class Reader(Protocol):
    """What an engine is: it reads on, and remembers what it has read."""

    vocab_size: int
    block_size: int
    reads_on: bool  # beyond block_size, one by one

    @property
    def length(self) -> int:
        """Tokens read so far."""

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        """Read tokens after those before -> float32 scores (V,) of what comes next."""

    def forget(self) -> None:
        """Begin anew."""

    def follow(self, other: Any) -> None:
        """Have read what another reader of the same model has."""


def reader_of(model: Any) -> Reader:
    """A reader with a memory of its own, of a model of torch, of NumPy or of C."""
    if hasattr(model, "reader"):
        return model.reader()
    from .torch_engine import TorchReader  # here, so that NumPy models write without torch

    return TorchReader(model)


def readers_of(model: Any, count: int) -> Sequence[Reader]:
    """Readers of texts that begin alike, which `read_all` reads side by side."""
    if hasattr(model, "reader"):
        return [model.reader() for _ in range(count)]
    from .torch_engine import TorchReader, TorchRow

    together = TorchReader(model, rows=count)
    return [TorchRow(together, number) for number in range(count)]


class Step(NamedTuple):
    """A token that was written, and the scores (V,) that it was drawn by."""

    token: int
    scores: np.ndarray

    @property
    def logprob(self) -> float:
        """The logarithm of the probability that the model itself gave the token, whatever the settings: nats."""
        scores = self.scores - self.scores.max()
        return float(scores[self.token] - np.log(np.exp(scores).sum()))


def generate(model: Any, prompt: Sequence[int], config: SampleConfig, sample: int = 0) -> Iterator[int]:
    """Yield the ids that follow a prompt, one by one, config.max_new_tokens of them.

    model: a LanguageModel of torch, a NumpyModel or a NativeModel.
    prompt: at least one id; of a longer one than block_size the last block_size are read.
    sample: the number of the text, when several are written with one seed.
    """
    for step in steps(model, prompt, config, sample):
        yield step.token


def steps(model: Any, prompt: Sequence[int], config: SampleConfig, sample: int = 0) -> Iterator[Step]:
    """generate(), with the scores of each token."""
    text = Writer(reader_of(model), prompt, config, sample)
    for _ in range(config.max_new_tokens):
        yield draw_all([text], text.reader.read(text.unread)[None])[0]


class Writer:
    """A text that is being written: what its reader has to read next, and what is drawn from the scores."""

    def __init__(self, reader: Reader, prompt: Sequence[int], config: SampleConfig, sample: int) -> None:
        self.reader, self.config = reader, config
        ids = [int(i) for i in prompt]
        if not ids:
            raise ValueError("a prompt needs at least one token to start from")
        check_ids(ids, reader.vocab_size)
        self.seen = set(ids)
        self.window = ids[-reader.block_size :]  # what it sees
        self.unread = list(self.window)  # what of it is new to the reader
        self.rng = random_generator(config.seed, sample)
        reader.forget()

    def append(self, token: int) -> None:
        """Go on by this token; when the window slides, all that is left of it has to be read again."""
        self.seen.add(token)
        self.unread = [token]
        if not self.reader.reads_on:
            self.window.append(token)
            if len(self.window) > self.reader.block_size:
                self.window = self.window[window_start(len(self.window), self.reader.block_size) :]
                self.unread = list(self.window)
                self.reader.forget()


def window_start(length: int, block_size: int) -> int:
    """The first of `length` tokens that the model still reads: 0 while all fit, then on by halves of block_size.

    With block_size 8: lengths up to 8 -> 0, 9 to 12 -> 4, 13 to 16 -> 8.
    """
    half = max(1, block_size // 2)
    return max(0, -(-(length - block_size) // half)) * half


def read_all(model: Any, texts: Sequence[Writer]) -> np.ndarray:
    """What is unread of N texts -> their scores (N, V). Models of torch and of C read their weights once for all of them.

    Texts that begin alike are read once.
    """
    first, *others = texts
    if others and all(text.reader.length == 0 and text.unread == first.unread for text in texts):
        scores = first.reader.read(first.unread)
        for text in others:
            text.reader.follow(first.reader)
        return np.stack([scores] * len(texts))
    if hasattr(model, "read_all"):
        return model.read_all([text.reader for text in texts], [text.unread for text in texts])
    if hasattr(texts[0].reader, "together"):
        from .torch_engine import read_together

        return read_together([text.reader for text in texts], [text.unread for text in texts])  # type: ignore[misc]
    return np.stack([text.reader.read(text.unread) for text in texts])


def draw_all(texts: Sequence[Writer], scores: np.ndarray) -> list[Step]:
    """Let each of N texts go on by a token, drawn from its scores (N, V)."""
    tokens = pick(scores, texts[0].config, [text.seen for text in texts], [text.rng for text in texts])
    for text, token in zip(texts, tokens, strict=True):
        text.append(token)
    return [Step(token, row) for token, row in zip(tokens, scores, strict=True)]
