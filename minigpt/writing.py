"""From tokens to text: pieces as soon as they are certain, up to whatever ends a text.

    text = Text(tokenizer, stop=["\\n\\n"])
    for piece in text.follow(steps(model, ids, config)):
        print(piece.text, end="")               # piece.ids and piece.logprobs are behind it
    text.text, text.ids, text.ended             # all of it; "length" or "stop"

A piece is a character, or a few: some characters take several tokens, and what may be the beginning of a stop string waits
until it is known whether it is one. Where bytes are no UTF-8, a piece can be cut by a stop string; its ids are those of all
of it then.

Next: optim.py
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from .config import SampleConfig
from .engine import Step, Writer, draw_all, read_all, readers_of, steps
from .tokenizer import Tokenizer


class Piece(NamedTuple):
    """A piece of written text, the tokens behind it, and how likely the model itself found each of them (nats)."""

    text: str
    ids: list[int]
    logprobs: list[float]  # empty if nobody wants to know


class Text:
    """A text that is being written, without its prompt."""

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), stop_ids: Iterable[int] = (), logprobs: bool = False
    ) -> None:
        """stop: the text ends before the first of these. stop_ids: it ends before such a token. logprobs: keep them.

        Raises ValueError for an empty stop string, and for an id that is no token.
        """
        stop = (stop,) if isinstance(stop, str) else stop
        if not all(stop):
            raise ValueError("a stop string needs a text, not an empty one")
        stop_ids = frozenset(stop_ids)
        if strange := [number for number in stop_ids if not 0 <= number < tokenizer.vocab_size]:
            raise ValueError(f"there is no token {strange[0]} to stop at; this model has 0 to {tokenizer.vocab_size - 1}")
        self.stop, self.stop_ids, self.keeps_logprobs = tuple(stop), stop_ids, logprobs
        self.pieces: list[Piece] = []  # that are certain
        self.ended = ""  # later "length" or "stop",
        self.stopped_by = ""  # and by which stop string
        self._decode = tokenizer.decoder()
        self._ids: list[int] = []  # of tokens that are no whole character yet
        self._logprobs: list[float] = []
        self._waiting: list[Piece] = []  # perhaps the beginning of a stop string

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def ids(self) -> list[int]:
        return [i for piece in self.pieces for i in piece.ids]

    @property
    def logprobs(self) -> list[float]:
        return [x for piece in self.pieces for x in piece.logprobs]

    def follow(self, tokens: Iterable[Step], keep: bool = True) -> Iterator[Piece]:
        """Yield the pieces of a text that is written by these steps, to its end; keep them, or forget what was given."""
        for step in tokens:
            yield from self.add(step)
            if self.ended:
                return
            if not keep:
                self.pieces.clear()
        yield from self.end()

    def add(self, step: Step) -> list[Piece]:
        """Go on by a token -> the pieces that are certain now. `ended` says if that was the last."""
        if step.token in self.stop_ids:
            return self.end("stop")
        self._ids.append(step.token)
        if self.keeps_logprobs:
            self._logprobs.append(step.logprob)
        return self._more(self._decode(step.token))

    def end(self, why: str = "length") -> list[Piece]:
        """There are no more tokens -> the pieces that waited."""
        rest = self._more(self._decode(None))
        if not self.ended:
            rest += self._give(len(self._waiting))
            self.ended = why
        return rest

    def _more(self, text: str) -> list[Piece]:
        if not text:
            return []
        piece = Piece(text, self._ids, self._logprobs)
        self._ids, self._logprobs = [], []
        if not self.stop:
            self.pieces.append(piece)
            return [piece]
        self._waiting.append(piece)
        held = "".join(piece.text for piece in self._waiting)
        if found := [(held.find(s), -len(s), s) for s in self.stop if s in held]:
            place, _, self.stopped_by = min(found)
            self.ended = "stop"
            return self._give_up_to(place)
        waiting = max(
            (n for s in self.stop for n in range(1, min(len(s), len(held) + 1)) if held.endswith(s[:n])), default=0
        )
        count = length = 0
        while count < len(self._waiting) and length + len(self._waiting[count].text) <= len(held) - waiting:
            length += len(self._waiting[count].text)
            count += 1
        return self._give(count)

    def _give(self, count: int) -> list[Piece]:
        given, self._waiting = self._waiting[:count], self._waiting[count:]
        self.pieces += given
        return given

    def _give_up_to(self, length: int) -> list[Piece]:
        """Give the first `length` characters of what waits."""
        for i, piece in enumerate(self._waiting):
            if length < len(piece.text):
                self._waiting[i] = piece._replace(text=piece.text[:length])
                return self._give(i + (length > 0))
            length -= len(piece.text)
        return self._give(len(self._waiting))


def start_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt; of an empty one the newline, or the first token if the model knows no newline."""
    ids = [int(i) for i in tokenizer.encode(prompt)]
    if not ids:
        try:
            ids = [int(i) for i in tokenizer.encode("\n")]
        except ValueError:
            ids = [0]
    return ids


def write(
    model: Any,
    tokenizer: Tokenizer,
    prompt: str,
    config: SampleConfig,
    sample: int = 0,
    stop: Sequence[str] = (),
    stop_ids: Sequence[int] = (),
) -> Iterator[str]:
    """Yield the text that follows a prompt in pieces, up to the first of the stop strings or ids.

    model: a LanguageModel of torch, a NumpyModel or a NativeModel.
    """
    text = Text(tokenizer, stop, stop_ids)
    for piece in text.follow(steps(model, start_ids(tokenizer, prompt), config, sample), keep=False):
        yield piece.text


def write_many(
    model: Any, prompt: Sequence[int], config: SampleConfig, texts: Sequence[Text], first_sample: int = 0
) -> None:
    """Write several texts at once after one prompt; text number i is what `write` writes alone as sample first_sample + i.

    To the bit by the engines in NumPy and in C, up to rounding by torch. The prompt is read once, and models of torch and of
    C read their weights once for all texts.
    """
    readers = readers_of(model, len(texts))
    writers = [Writer(reader, prompt, config, first_sample + i) for i, reader in enumerate(readers)]
    for _ in range(config.max_new_tokens):
        going = [(writer, text) for writer, text in zip(writers, texts, strict=True) if not text.ended]
        if not going:
            return
        some = [writer for writer, _ in going]
        for (_, text), step in zip(going, draw_all(some, read_all(model, some)), strict=True):
            text.add(step)
    for text in texts:
        if not text.ended:
            text.end()
