"""A conversation with a model that only knows how to go on: a text that two hands write in turn.

What you write is put behind the text, the model goes on from there, and so does the next turn. Nothing marks who wrote
what: a base model has learned no such marks. An answer ends before a stop string, an empty line to begin with, which is part
of the text too: your next line begins behind it. \\n in a line is a new line; one that begins with / is for the program.

    chat = Chat(model, tokenizer, SampleConfig(max_new_tokens=200, temperature=0.8))
    for piece in chat.answer("ROMEO:"): print(piece, end="")
    for piece in chat.answer("/temperature 0.5"): print(piece, end="")

Next: explain.py
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, get_type_hints

from .config import SampleConfig
from .engine import Step, steps
from .tokenizer import Tokenizer
from .writing import Text, start_ids

HELP = """\
/retry           write the last answer anew
/edit TEXT       replace what you wrote last, and let it answer again
/undo            take back the last turn
/clear           begin with an empty text
/text            show the whole text
/stop TEXT       end an answer before this (now {stop}); /stop alone: nothing ends it but its length
/NAME VALUE      change a setting: {settings}
/help, /quit     this; the end (also Ctrl-D). Ctrl-C stops an answer; \\n in a line is a new line"""


@dataclass
class Turn:
    """What you wrote, and what it wrote."""

    yours: str
    its: str = ""
    stop: str = ""  # what would have come next
    ids: list[int] = field(default_factory=list)  # of both, which a text cannot always tell: half a character


class Chat:
    """The text so far, and how it goes on."""

    def __init__(self, model: Any, tokenizer: Tokenizer, config: SampleConfig, stop: Sequence[str] = ("\n\n",)) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.stop = (stop,) if isinstance(stop, str) else tuple(stop)
        self.turns: list[Turn] = []
        self.answers = 0  # so far, those that were taken back too: each has random numbers of its own
        self.over = False

    @property
    def text(self) -> str:
        """All that both have written."""
        return "".join(turn.yours + turn.its + turn.stop for turn in self.turns)

    @property
    def ids(self) -> list[int]:
        """The same as the model has read and written it."""
        encode = self.tokenizer.encode
        turns = [[*encode(turn.yours), *turn.ids] for turn in self.turns]
        return [int(i) for turn in turns for i in turn] or start_ids(self.tokenizer, "")

    @property
    def overflows(self) -> bool:
        """True if the text is longer than the context: the model looks back on its end."""
        return len(self.ids) > self.model.block_size

    def answer(self, line: str) -> Iterator[str]:
        """Yield the answer to a line, piece by piece: the model's, or the program's to a command.

        Whoever stops asking stops the answer; what was written until then is part of the text.
        Raises ValueError in plain words for a line that cannot be used; the text is unchanged then.
        """
        line = line.replace("\\n", "\n")
        if line.startswith("/"):
            yield from self._obey(*line[1:].partition(" ")[::2])
        else:
            self.tokenizer.encode(line)  # an unknown character is refused before anything changes
            yield from self._write([*self.turns, Turn(line)])

    def _write(self, turns: list[Turn]) -> Iterator[str]:
        """Go on from these turns, which are the text from now on, unless the model fails."""
        before, self.turns = self.turns, turns
        try:
            yield from self._write_last()
        except ValueError:
            self.turns = before
            raise

    def _write_last(self) -> Iterator[str]:
        turn, sample = self.turns[-1], self.answers
        self.answers += 1
        text = Text(self.tokenizer, self.stop)
        drawn: list[int] = []
        for piece in text.follow(self._steps(sample, drawn), keep=False):
            turn.its += piece.text
            turn.ids += piece.ids
            yield piece.text
        if text.stopped_by:
            turn.stop, turn.ids = text.stopped_by, drawn

    def _steps(self, sample: int, drawn: list[int]) -> Iterator[Step]:
        """How the text goes on; what is drawn is noted."""
        for step in steps(self.model, self.ids, self.config, sample):
            drawn.append(step.token)
            yield step

    def _obey(self, name: str, value: str) -> Iterator[str]:
        name = name.replace("-", "_")
        if name in {f.name for f in fields(SampleConfig)}:
            self.config = replace(self.config, **{name: _value(name, value)})
            self.answers = 0 if name == "seed" else self.answers  # the same seed, the same answers
            yield f"{name} is {getattr(self.config, name)}"
        elif name in ("retry", "edit", "undo") and not self.turns:
            raise ValueError("nothing was written yet")
        elif name in ("retry", "edit"):
            yours = value if name == "edit" else self.turns[-1].yours
            self.tokenizer.encode(yours)
            yield from self._write([*self.turns[:-1], Turn(yours)])
        elif name == "undo":
            self.turns.pop()
            yield "The last turn is taken back."
        elif name == "clear":
            self.turns.clear()
            yield "The text is empty."
        elif name == "text":
            yield self.text
        elif name == "stop":
            self.stop = (value,) if value else ()
            yield f"An answer ends before {_shown(value)}." if value else "An answer ends after max_new_tokens."
        elif name == "quit":
            self.over = True
        elif name == "help":
            settings = ", ".join(f"{key} {value}" for key, value in asdict(self.config).items())
            stop = " or ".join(map(_shown, self.stop)) or "nothing"
            yield HELP.format(settings=settings, stop=stop)
        else:
            known = ["retry", "edit", "undo", "clear", "text", "stop", "quit", "help", *asdict(self.config)]
            close = difflib.get_close_matches(name, known, 1)
            raise ValueError(
                f"there is no /{name}; {f'did you mean /{close[0]}?' if close else '/help lists what there is'}"
            )


def _shown(text: str) -> str:
    return text.replace("\n", "\\n")


def _value(name: str, value: str) -> Any:
    """The value of a setting, by its declaration; what is none stays as it is, and SampleConfig says what it must be."""
    try:
        return get_type_hints(SampleConfig)[name](value)
    except ValueError:
        return value
