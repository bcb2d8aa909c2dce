"""minigpt generate, chat, novelty: a run that writes.

Next: measure.py
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import DataConfig, Faults, SampleConfig, from_dict, shown
from ..program import (
    UNKNOWN,
    Value,
    choose_device,
    compile_first,
    flags,
    one_of,
    or_drop,
    peak_memory,
    running_s,
    say,
    usage,
)

if TYPE_CHECKING:
    from ..opening import Opened
    from ..writing import Piece, Text

ANSWER = 200  # tokens in a chat, at most
AT_ONCE = 32  # texts that are written together, where nobody watches
COLOURS = ((0.5, "green"), (0.2, "cyan"), (0.05, "yellow"), (0.01, "magenta"), (0.0, "red"))  # from this probability on
WHERE = "where to compute: auto (the processor; with --engine torch the best there is), cpu, cuda, cuda:1, mps"
ENGINE = "what computes: auto (native, or numpy without a C compiler; torch on other devices), torch, numpy, native"
DTYPE = "weights of the engine native: float32, or int8 = faster for a text at a time, smaller, and a little less exact"


def engine_flags(command: Any) -> Any:
    """--engine, --dtype and --device."""
    for name, default, text in (("device", "auto", WHERE), ("dtype", "float32", DTYPE), ("engine", "auto", ENGINE)):
        command = click.option(f"--{name}", default=default, metavar="NAME", help=f"{text}  [default: {default}]")(command)
    return command


def opened(run: Path, engine: str, dtype: str, device: str) -> "Opened":
    """The run, ready to write. Raises a usage error for engines, precisions and devices that there are not."""
    from ..numpy_engine import NUMPY_MODELS, NumpyTransformer
    from ..opening import ENGINES, PRECISIONS, PROCESSOR, impossible, open_run
    from ..saved import read_run_config

    one_of("engine", engine, ENGINES)
    one_of("dtype", dtype, PRECISIONS)
    known = device.partition(":")[0] in ("auto", "cpu", "cuda", "mps")
    if known and (problem := impossible(engine, device, dtype)):
        raise click.UsageError(problem)
    if device not in ("auto", "cpu"):
        choose_device(device)  # is it there?
    kind = NUMPY_MODELS.get(read_run_config(run)["model_type"], object)
    by_c = engine in ("auto", "native") and device in PROCESSOR and issubclass(kind, NumpyTransformer)
    if by_c:
        compile_first()
    return open_run(run, engine, device, dtype)


def sample_config(faults: Faults, flags: dict[str, Any], **defaults: Any) -> SampleConfig:
    """The settings that were given, over defaults; what is wrong with them goes to the faults."""
    config = SampleConfig()
    with faults:
        config = from_dict(SampleConfig, defaults | {name: value for name, value in flags.items() if value is not None})
    return config


def check_number(name: str, value: int | str, least: int, most: int) -> None:
    """Raise ValueError unless it is a number in this range."""
    if isinstance(value, str) or not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}; it must be a whole number from {least} to {most:,}")


# ---- generate ----------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("run", type=Path, metavar="RUN")
@click.option("--prompt", metavar="TEXT", help="what the text begins with; nothing = a new line, or the first token")
@click.option(
    "--prompt-file",
    metavar="FILE",
    help="the same from a file in UTF-8, where it may have several lines; - for standard input",
)
@click.option("--num-samples", type=Value(int), default=1, metavar="N", help="texts to write  [default: 1]")
@click.option("--stop", multiple=True, metavar="TEXT", help="end a text before this; may be given several times")
@click.option("--stop-id", type=Value(int), multiple=True, metavar="N", help="the same before this token")
@click.option("--unknown", default="error", metavar="WHAT", help=f"{UNKNOWN}  [default: error]")
@click.option("--json", "as_json", is_flag=True, help="a line of JSON for each text: text, ids, logprobs, why it ended")
@click.option(
    "--stream/--no-stream",
    default=None,
    help="show each character at once, or write several texts together and show them when they are done  [default: at once]",
)
@click.option("--show-probs", is_flag=True, help="colour each character by how likely the model found it")
@click.option("-v", "--verbose", is_flag=True, help="say on stderr what computes, and how fast")
@engine_flags
@flags(SampleConfig)
def generate(
    run: Path,
    prompt: str | None,
    prompt_file: str | None,
    num_samples: int,
    stop: tuple[str, ...],
    stop_id: tuple[int, ...],
    unknown: str,
    as_json: bool,
    stream: bool | None,
    show_probs: bool,
    verbose: bool,
    engine: str,
    dtype: str,
    device: str,
    **flags: Any,
) -> None:
    """Let the best model of RUN write, character by character, to standard output.

    \b
    minigpt generate runs/my --prompt "ROMEO:" --max-new-tokens 300
    minigpt generate runs/my --temperature 0.8 --top-k 20 --num-samples 3
    minigpt generate runs/my --prompt "JULIET:" --stop "\\n\\n"
    minigpt generate runs/my --num-samples 100 --json > samples.jsonl

    The same seed gives the same text on the same machine, alone or among others, and with float32 by any engine; among
    others by torch, and between engines, up to rounding, which decides once in a hundred thousand tokens or so. A text may
    be longer than the context: the model looks back on the last block_size tokens.
    """
    faults = Faults()
    config = sample_config(faults, flags)
    with faults:
        check_number("num_samples", num_samples, 1, 10**6)
    with usage():
        faults.tell()
    one_of("unknown", unknown, ("error", "drop"))
    if any(not text for text in stop):
        raise click.UsageError("--stop needs a text, not an empty one")
    if prompt is not None and prompt_file is not None:
        raise click.UsageError("--prompt and --prompt-file both say what the text begins with; leave one away")
    if as_json and (stream or show_probs):
        raise click.UsageError("--json gives whole texts; leave --stream and --show-probs away")

    from ..writing import Text, start_ids

    model, tokenizer, what = opened(run, engine, dtype, device)
    with usage():
        for number in stop_id:
            check_number("stop_id", number, 0, tokenizer.vocab_size - 1)
    prompt = in_utf8(prompt or "") if prompt_file is None else _read_prompt(prompt_file)
    with or_drop():
        prompt = tokenizer.decode(tokenizer.encode(prompt, unknown))  # an unknown one is told before anything is written
    ids = start_ids(tokenizer, prompt)
    if len(ids) > model.block_size:
        say(f"The prompt has {len(ids):,} tokens; the model reads the last {model.block_size:,}.")
    stop = tuple(in_utf8(text).replace("\\n", "\n") for text in stop)

    def texts(count: int) -> list[Text]:
        return [Text(tokenizer, stop, stop_id, as_json or show_probs) for _ in range(count)]

    clock = _Clock()
    if as_json:
        for number, text in enumerate(clock.watch(_together(model, ids, config, texts, num_samples))):
            about = {"sample": number, "prompt": prompt, "prompt_ids": ids, "text": text.text, "ids": text.ids}
            print(json.dumps(about | {"logprobs": [round(x, 6) for x in text.logprobs], "ended": text.ended}), flush=True)
    else:
        show = _shower(show_probs)
        if stream is False:
            written: Iterator[Any] = (text.pieces for text in _together(model, ids, config, texts, num_samples))
        else:
            written = _one_by_one(model, ids, config, texts, num_samples)
        for number, one in enumerate(written):
            if number:
                print("-" * 40)
            show(prompt, None)
            for piece in clock.watch(one):
                show(piece.text, sum(piece.logprobs) if piece.logprobs else None)
            print(flush=True)
    if verbose:
        say(clock.report(what))


def _one_by_one(
    model: Any, ids: list[int], config: SampleConfig, texts: Callable[[int], "list[Text]"], count: int
) -> "Iterator[Iterator[Piece]]":
    """The pieces of each text as they come."""
    from ..engine import steps

    for sample in range(count):
        yield texts(1)[0].follow(steps(model, ids, config, sample), keep=False)


def _together(
    model: Any, ids: list[int], config: SampleConfig, texts: Callable[[int], "list[Text]"], count: int
) -> "Iterator[Text]":
    """Whole texts, in their order, many written at once."""
    from ..writing import write_many

    for first in range(0, count, AT_ONCE):
        some = texts(min(AT_ONCE, count - first))
        write_many(model, ids, config, some, first)
        yield from some


class _Clock:
    """How fast it went: counts the tokens of what passes by."""

    def __init__(self) -> None:
        self.began, self.tokens, self.first_s = time.perf_counter(), 0, 0.0

    def watch(self, passing: Any) -> Any:
        for one in passing:
            self.first_s = self.first_s or running_s()
            self.tokens += len(one.ids)
            yield one

    def report(self, what: str) -> str:
        seconds = max(time.perf_counter() - self.began, 1e-9)
        memory = peak_memory()
        return (
            f"\nEngine: {what}. {self.tokens:,} tokens in {seconds:.2f} s, {self.tokens / seconds:,.0f} tokens/s; the first "
            f"text {self.first_s:.2f} s after the start." + (f" Memory: {memory / 2**20:,.0f} MB." if memory else "")
        )


def _read_prompt(file: str) -> str:
    """A prompt in UTF-8 from a file, or with "-" from standard input; line ends as a model has learned them."""
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        name = "standard input" if file == "-" else file
        problem = f"{name} is not valid UTF-8: the byte at offset {error.start:,} does not fit; convert it to UTF-8"
        raise ValueError(f"--prompt-file: {problem}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def in_utf8(text: str) -> str:
    """What was typed, read as UTF-8 whatever the locale."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _shower(show_probs: bool) -> Callable[[str, float | None], None]:
    """What prints a piece of text with the logarithm of its probability (None: nobody knows)."""
    from ..files import without_controls

    shown = without_controls if sys.stdout.isatty() else str  # a model may come from anyone; a file gets what it wrote

    def plain(text: str, logprob: float | None) -> None:
        print(shown(text), end="", flush=True)

    if not show_probs:
        return plain
    import math

    from rich.console import Console
    from rich.segment import Segment, Segments
    from rich.style import Style
    from rich.text import Text

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            raise

    console = Pipe(highlight=False, soft_wrap=True)
    if not console.color_system or console.no_color:
        say(
            "NO_COLOR is set; without colours:"
            if console.no_color
            else "Colours need a terminal that can show them (or FORCE_COLOR=1); without them:"
        )
        return plain
    styles = [(least, Style(color=colour)) for least, colour in COLOURS]
    legend = Text("The model found each character as likely as its colour says: ")
    for least, style in styles:
        legend.append(f" {least:.0%} and more " if least else " less ", style)
    console.print(legend)

    def coloured(text: str, logprob: float | None) -> None:
        style = next((style for least, style in styles if logprob is not None and math.exp(logprob) >= least), None)
        console.print(Segments([Segment(without_controls(text), style)]), end="")  # Text would make spaces of a tab

    return coloured


# ---- chat --------------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("run", type=Path, metavar="RUN")
@engine_flags
@flags(SampleConfig, max_new_tokens=ANSWER)
def chat(run: Path, engine: str, dtype: str, device: str, **flags: Any) -> None:
    """Write a text together with the best model of RUN, in turns.

    \b
    minigpt chat runs/my
    minigpt chat runs/my --temperature 0.8 --max-new-tokens 100

    It goes on from whatever was written, as a model does that has only read, up to an empty line. /help lists what can be
    done; Ctrl-C stops an answer, Ctrl-D ends.
    """
    faults = Faults()
    config = sample_config(faults, flags, max_new_tokens=ANSWER)
    with usage():
        faults.tell()

    from ..chat import Chat
    from ..files import without_controls

    with suppress(ImportError):  # arrow keys and what was entered before, where the system has that
        import readline  # noqa: F401
    model, tokenizer, _ = opened(run, engine, dtype, device)
    talk, told = Chat(model, tokenizer, config), False
    say("Write something, and the model goes on from there. /help lists what else can be done.")
    while not talk.over:
        try:
            for piece in talk.answer(in_utf8(input("> "))):
                print(without_controls(piece), end="", flush=True)
            print()
            if talk.overflows and not told:
                told = True
                say(f"The text is longer than the context: from now on the model looks back on {model.block_size:,} tokens.")
        except EOFError:
            print()
            break
        except KeyboardInterrupt:
            print()
        except ValueError as error:
            say(str(error))


# ---- novelty -----------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("run", type=Path, metavar="RUN")
@click.argument("texts", nargs=-1, metavar="[TEXT ...]")
@click.option("--num-samples", type=Value(int), default=5, metavar="N", help="texts to write  [default: 5]")
@click.option("--json", "as_json", is_flag=True, help="print the figures as JSON")
@engine_flags
@flags(SampleConfig)
def novelty(
    run: Path, texts: tuple[str, ...], num_samples: int, as_json: bool, engine: str, dtype: str, device: str, **flags: Any
) -> None:
    """Say how much of what the best model of RUN writes stands in its training text, letter for letter.

    \b
    minigpt novelty runs/my
    minigpt novelty runs/my --num-samples 20 --temperature 0.5

    Beside it: how much of the validation text does, which the model never saw. TEXT: the training text, where it is not any
    more where it was. The verdict goes into the model card.
    """
    faults = Faults()
    config = sample_config(faults, flags)
    with faults:
        check_number("num_samples", num_samples, 1, 1000)
    with usage():
        faults.tell()

    from ..corpus import load_corpus
    from ..files import printable
    from ..novelty import novelty as compare, write_into_card
    from ..saved import read_run_config, text_paths
    from ..writing import Text, start_ids

    model, tokenizer, _ = opened(run, engine, dtype, device)
    about = read_run_config(run)["minigpt"]
    corpus = load_corpus(texts or text_paths(run, about), from_dict(DataConfig, about["text"]), tokenizer, "drop")
    for note in corpus.notes:
        say(note)
    if corpus.sha256 != about["text"]["sha256"]:
        raise ValueError(f"the text that {run} was trained on ({about['text']['name']}) is not here or has changed")

    def drafts(count: int) -> list[Text]:
        return [Text(tokenizer) for _ in range(count)]

    samples = [text.text for text in _together(model, start_ids(tokenizer, ""), config, drafts, num_samples)]
    found = compare(samples, tokenizer.decode(corpus.train), tokenizer.decode(corpus.val))
    settings = ", ".join(f"{name} {value}" for name, value in (asdict(config) | {"weights": dtype}).items())
    how = f"({found.characters:,} characters in {num_samples} texts; {settings}.)"
    if earlier := [before["name"] for before in about.get("earlier", [])]:
        how = f"Before this text it learned from {', '.join(map(printable, earlier))}, which was not looked at. {how}"
    print(json.dumps(found.to_dict() | {"how": how}) if as_json else f"{found.describe()} {how}")
    with suppress(OSError, ValueError):  # a run that is only to be read, or whose card is none
        write_into_card(run / "README.md", found, how)
