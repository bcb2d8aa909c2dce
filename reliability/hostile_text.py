"""Texts and settings that nobody would give on purpose: taken exactly as they are, or refused in plain words.

Next: surroundings.py
"""

import codecs
import contextlib
import encodings.aliases
import gzip
import hashlib
import json
import math
import os
import random
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import click
import torch

from minigpt import corpus as reading
from minigpt.batches import Batches
from minigpt.bigram import BigramLanguageModel, LanguageModel
from minigpt.cli import cli
from minigpt.config import DataConfig, GPTConfig, SampleConfig, TrainConfig, from_dict
from minigpt.corpus import Corpus, load_corpus
from minigpt.model import GPT
from minigpt.modern import ModernGPT
from minigpt.tokenizer import load_tokenizer, tokenizer_files
from minigpt.trainer import train
from minigpt.writing import write

from .space import nobody
from .suite import Suite, Trial
from .trainings import TINY, WORDS, flags, run_minigpt, write_text

BLOCK = TINY["block_size"]
SETTINGS = flags(**TINY | {"max_iters": 2, "eval_tokens": 256, "device": "cpu"})
PATIENCE = 5  # seconds of computing after which a program is taken to hang; of waiting, four times as many

# ---- by name -----------------------------------------------------------------------------------------------------------


class Named(NamedTuple):
    """A text that is hostile in a way that has a name."""

    make: Callable[[Path], Any]  # puts it at a path
    text: str = ""  # what is read, if it can be
    refusal: str = ""  # what is said of it, if it cannot be, or not without its encoding
    encoding: str = ""  # with which it can be
    path: str = "odd.txt"
    before: Callable[[], None] = lambda: None  # in the child that reads it


def taken(data: bytes, text: str | None = None, path: str = "odd.txt") -> Named:
    return Named(lambda place: place.write_bytes(data), data.decode() if text is None else text, path=path)


def refused(data: bytes, words: str) -> Named:
    return Named(lambda place: place.write_bytes(data), refusal=words)


def encoded(encoding: str, words: str) -> Named:
    text = "Grüße an König Übermut.\n" * 20
    return Named(lambda place: place.write_bytes(text.encode(encoding)), text, words, encoding)


def when_read_again(change: Callable[[Path], None]) -> Named:
    """A file that changes after it was read once."""

    def before() -> None:
        opened, calls = reading._open, 0

        def watched(path: Path) -> Any:
            nonlocal calls
            calls += 1
            if calls == 2:
                change(path)
            return opened(path)

        reading._open = watched

    return Named(write_text, refusal="odd.txt changed while it was read", before=before)


def replace_by_another(path: Path) -> None:
    write_text(path.with_name("other")).write_text(PLAIN.upper())
    path.with_name("other").replace(path)


def linked(target: str) -> Callable[[Path], Any]:
    return lambda place: place.symlink_to(target)


def link_to_text(place: Path) -> None:
    write_text(place.with_name("target"))
    place.symlink_to("target")


def unreadable(place: Path) -> None:
    write_text(place).chmod(0)
    place.parent.chmod(0o777)  # its owner is root, and its reader nobody


def sparse(place: Path) -> None:
    with place.open("wb") as file:
        file.truncate(10 * 2**30)


PLAIN = (WORDS * 20)[:2000]
ABC = "abcdefgh\n"
MANY = "".join(chr(i) for i in range(0x20, 0x20 + 72_100) if not 0xD800 <= i < 0xE000)
SHORT, BINARY = f"block_size {BLOCK}", "holds a NUL character"
# fmt: off
NAMED: dict[str, Named] = {
    "empty": refused(b"", "is empty"),
    "1 character": refused(b"a", SHORT),
    "1 character repeated": taken(b"a" * 500),
    "a block less 1": refused(b"a" * (BLOCK - 1), SHORT),
    "a block": refused(b"a" * BLOCK, SHORT),
    "a block and 1": refused(b"a" * (BLOCK + 1), SHORT),
    "a block and 2": refused(b"a" * (BLOCK + 2), SHORT),
    "only newlines": taken(b"\n" * 500),
    "only spaces": taken(b" " * 500),
    "only NUL": refused(b"\0" * 500, BINARY),
    "NUL inside": refused(PLAIN.encode() + b"\0" + PLAIN.encode(), BINARY),
    "CRLF": taken(PLAIN.replace("\n", "\r\n").encode(), PLAIN),
    "lone CR": taken(PLAIN.replace("\n", "\r").encode(), PLAIN),
    "mixed newlines": taken((ABC + "\r\n\r\r\n\n" + ABC).encode() * 30, (ABC + "\n" * 4 + ABC) * 30),
    "BOM": taken(b"\xef\xbb\xbf" + PLAIN.encode(), PLAIN),
    "BOM in the middle": taken(b"a\xef\xbb\xbf" + PLAIN.encode()),
    "UTF-16LE": encoded("utf-16-le", "not valid utf-8"),
    "UTF-16BE": encoded("utf-16-be", "not valid utf-8"),
    "UTF-32": encoded("utf-32", "not valid utf-8"),
    "latin-1": encoded("latin-1", "--encoding latin-1"),
    "cut UTF-8": refused(PLAIN.encode() + b"\xe2\x82", "not valid utf-8: the byte at offset 2,000"),
    "overlong UTF-8": refused(b"abc\xc0\xaf" + PLAIN.encode(), "not valid utf-8: the byte at offset 3 "),
    "encoded surrogate": refused(b"abc\xed\xa0\x80" + PLAIN.encode(), "not valid utf-8: the byte at offset 3 "),
    "U+FFFE and U+FFFF": taken("a\ufffeb\uffff\n".encode() * 50),
    "storm of combining marks": taken(("a" + "\u0300\u0301\u0323" * 200).encode()),
    "right-to-left override": taken("abc \u202egnorw\u202c שלום\n".encode() * 30),
    "emoji with joiners": taken("\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\n".encode() * 50),
    "70,000 characters": taken(MANY.encode()),
    "10 MB in a line": taken((WORDS.replace("\n", " ").encode() * 100_000)[:10_000_000]),
    "10 GB of nothing": Named(sparse, refusal=BINARY),
    "PNG": refused(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" * 100, "not valid utf-8: the byte at offset 0 "),
    "gzip": refused(gzip.compress(PLAIN.encode()), "not valid utf-8: the byte at offset 1 "),
    "ELF": refused(b"\x7fELF\2\1\1" + bytes(9) + b"\3\0\x3e\0" * 100, BINARY),
    "folder": Named(Path.mkdir, refusal="has no .txt file"),
    "link": Named(link_to_text, PLAIN),
    "dangling link": Named(linked("nowhere"), refusal="there is no file or folder"),
    "loop of links": Named(linked("odd.txt"), refusal="there is no file or folder"),
    "FIFO": Named(os.mkfifo, refusal="neither a regular file nor a folder"),
    "/dev/zero": Named(lambda place: None, refusal="neither a regular file nor a folder", path="/dev/zero"),
    "mode 000": Named(unreadable, refusal="no permission to read", before=nobody),
    "file that shrinks": when_read_again(lambda path: os.truncate(path, 1000)),
    "file that is replaced": when_read_again(replace_by_another),
    "named -rf": taken(PLAIN.encode(), path="-rf"),
    "named a, newline, b": taken(PLAIN.encode(), path="a\nb"),
    "named with 255 bytes": taken(PLAIN.encode(), path="x" * 255),
}
# fmt: on


def named_text(trial: Trial) -> str:
    case = list(NAMED.values())[trial.number]
    case.make(trial.folder / case.path)
    if case.refusal:
        refuses(trial, case)
    if case.text:
        trains(trial, case)
    if case.encoding:
        return "refused, taken with its encoding"
    return "taken" if case.text else "refused"


def refuses(trial: Trial, case: Named) -> None:
    """One clear error, and nothing is written."""
    code, said = minigpt(trial, "train", "--out=run", *SETTINGS, "--", case.path, before=case.before)
    trial.check(code in (1, 2) and "Traceback" not in said, f"it ended with {code}: {said}")
    trial.check(case.refusal in said and len(said.splitlines()) <= 3, f"it said: {said}")
    trial.check(not (trial.folder / "run").exists(), "there is a folder of a run")


def trains(trial: Trial, case: Named) -> None:
    """It is learned from as it is, a step at least, and the model writes."""
    encoding = case.encoding or "utf-8"
    code, said = minigpt(trial, "train", "--out=run", *SETTINGS, f"--encoding={encoding}", "--", case.path)
    trial.check(code == 0 and "Traceback" not in said, f"training ended with {code}: {said}")
    run = trial.folder / "run"
    as_it_is(trial, load_corpus([trial.folder / case.path], DataConfig(encoding=encoding)), case.text)
    ids = load_tokenizer(run).encode(case.text)
    trial.check(load_tokenizer(run).decode(ids) == case.text, "the run's tokenizer makes another text of it")
    told = json.loads((run / "config.json").read_bytes())["minigpt"]["text"]
    trial.check(told["sha256"] == sha256(case.text), "the run names another text")
    code, said = minigpt(trial, "generate", "run", "--max-new-tokens=5")
    trial.check(code == 0, f"writing ended with {code}: {said}")


def minigpt(trial: Trial, *arguments: str, before: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Run to the end, in time -> exit code, and what it said on stderr."""

    def in_time() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE))
        signal.alarm(4 * PATIENCE)
        before()

    code, said = run_minigpt(list(arguments), trial.folder, in_time)
    trial.check(code not in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGALRM), f"it hangs: {said}")
    return code, said


def as_it_is(trial: Trial, corpus: Corpus, text: str) -> None:
    """The ids mean this text, and the hash is its hash."""
    trial.check(corpus.tokenizer.decode(corpus.ids) == text, "the ids mean another text")
    trial.check(corpus.sha256 == sha256(text), "the hash is that of another text")
    trial.check(corpus.characters == len(text), f"it has {len(text)} characters, not {corpus.characters}")


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ---- texts by chance ---------------------------------------------------------------------------------------------------

OTHERS = {"utf-8-sig", "cp720", "undefined", "unicode_escape", "raw_unicode_escape"}
OTHER_SYSTEMS = {"mbcs", "oem"}
ENCODINGS = sorted(
    name
    for name in set(encodings.aliases.aliases.values()) - OTHER_SYSTEMS | OTHERS
    if codecs.lookup(name)._is_text_encoding
)
OFTEN = ("utf-8",) * 3 + ("utf-16", "utf-32", "latin-1", "utf-7", "utf-8-sig")
ODD = "aé€😀\u0301\u202e\ufeff\ufffe\uffff\0\r\n\r\n\t\x1b\x85\u2028\ud800\udfff"


MARKS = {
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
}


def generated_text(trial: Trial) -> str:
    """What a text comes to is known beforehand: bytes.decode says it, in one piece and by other ways than a corpus."""
    rng = trial.rng
    encoding = rng.choice(OFTEN) if rng.random() < 0.7 else rng.choice(ENCODINGS)
    data = some_bytes(rng, encoding)
    path = trial.folder / "odd.txt"
    path.write_bytes(data)
    if rng.random() < 0.1:
        return changing(trial, path)
    text = expected(data, encoding)
    try:
        with read_in_pieces(rng.choice((1, 7, 64, 1 << 18))):
            corpus = read(trial, path, encoding, rng.choice(("char", "byte")))
    except (ValueError, OSError) as error:
        trial.check(text is None, f"{data[:200]!r} is refused as {encoding}: {error}")
        trial.check(plain(str(error)), f"not in plain words: {error}")
        return "refused"
    trial.check(text is not None, f"{data[:200]!r} is taken as {encoding}")
    assert text is not None
    as_it_is(trial, corpus, text)
    for name, content in tokenizer_files(corpus.tokenizer, BLOCK).items():
        (trial.folder / name).write_bytes(content)
    kept = load_tokenizer(trial.folder)
    trial.check(kept.to_hf() == corpus.tokenizer.to_hf() and kept.decode(kept.encode(text)) == text, "another tokenizer")
    if rng.random() < 0.02:
        through_the_command_line(trial, corpus, encoding)
    return "taken"


def some_bytes(rng: random.Random, encoding: str) -> bytes:
    """Random bytes, random characters, a text, or some of each; whole or spoiled."""
    parts = [rng.choice((random_bytes, random_text, a_text))(rng, encoding) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    data = bytearray(b"".join(parts))
    for _ in range(rng.choice((0, 0, 1, 3))):
        place = rng.randrange(len(data) + 1)
        data[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(data)


def random_bytes(rng: random.Random, encoding: str) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 3, 50, 400)))


def random_text(rng: random.Random, encoding: str) -> bytes:
    def character() -> str:
        return rng.choice(ODD) if rng.random() < 0.05 else chr(rng.randrange(rng.choice((0x80, 0x800, 0x10000, 0x110000))))

    return encode("".join(character() for _ in range(rng.choice((1, 20, 300)))), encoding)


def a_text(rng: random.Random, encoding: str) -> bytes:
    text = (WORDS + "Grüße, 世界, привет, 😀.\n") * rng.choice((1, 3, 50))
    return encode(text.replace("\n", rng.choice(("\n", "\r\n", "\r"))), encoding)


def encode(text: str, encoding: str) -> bytes:
    """In this encoding, or where that has no bytes for it, in UTF-8."""
    with contextlib.suppress(UnicodeError):
        return text.encode(encoding)
    return text.encode("utf-8", "surrogatepass")


def expected(data: bytes, encoding: str) -> str | None:
    """The text that these bytes are, or None if they are none. Which way round UTF-16 is, has to be said by its mark."""
    marks = MARKS.get(codecs.lookup(encoding).name, (b"",))
    if not data.startswith(marks):
        return None
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
        text.encode()
    except UnicodeError:
        return None
    text = re.sub("\r\n?", "\n", text)
    return text if text and "\0" not in text else None


@contextlib.contextmanager
def read_in_pieces(size: int) -> Iterator[None]:
    """Files are read so many bytes at a time."""
    before, reading.READ_SIZE = reading.READ_SIZE, size
    try:
        yield
    finally:
        reading.READ_SIZE = before


def read(trial: Trial, path: Path, encoding: str, tokenizer: str = "char") -> Corpus:
    """The corpus, in time."""
    began = time.process_time()
    try:
        return load_corpus([path], DataConfig(encoding=encoding, tokenizer=tokenizer))
    finally:
        seconds = time.process_time() - began
        trial.check(seconds < PATIENCE, f"reading took {seconds:.1f} s")


def plain(message: str) -> bool:
    """True for words of ours, not of Python's."""
    return "odd.txt" in message and "codec" not in message and len(message.splitlines()) == 1


def changing(trial: Trial, path: Path) -> str:
    """A file that changes at any moment while it is read is refused, or it is read as something that it was."""
    rng, opened = trial.rng, reading._open
    path.write_text(PLAIN)
    left = rng.randrange(90)  # pieces

    class Watched:
        def __init__(self, path: Path) -> None:
            self.file = opened(path)

        def __enter__(self) -> "Watched":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def read(self, size: int) -> bytes:
            nonlocal left
            left -= 1
            if left == 0:
                rng.choice((shrink, grow, overwrite, become_a_pipe, replace_by_another))(path)
            return self.file.read(size)

    reading._open = Watched  # type: ignore[assignment, misc]
    try:
        with read_in_pieces(50):
            corpus = read(trial, path, "utf-8")
    except (ValueError, OSError) as error:
        trial.check(plain(str(error)), f"not in plain words: {error}")
        return "refused while it changed"
    finally:
        reading._open = opened
    as_it_is(trial, corpus, corpus.tokenizer.decode(corpus.ids))
    return "taken while it changed"


def shrink(path: Path) -> None:
    os.truncate(path, 777)


def grow(path: Path) -> None:
    with path.open("a") as file:
        file.write("one more line, with a Z\n")


def overwrite(path: Path) -> None:
    with path.open("r+") as file:
        file.write("0123456789")


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def through_the_command_line(trial: Trial, corpus: Corpus, encoding: str) -> None:
    """`minigpt train` ends as the corpus lets expect."""
    fits = min(corpus.n_train, len(corpus.val)) > BLOCK
    tokenizer = f"--tokenizer={corpus.config.tokenizer}"
    code, said = minigpt(trial, "train", "odd.txt", "--out=run", *SETTINGS, f"--encoding={encoding}", tokenizer)
    trial.check(code == (0 if fits else 1) and "Traceback" not in said, f"it ended with {code}: {said}")
    trial.check(fits or SHORT in said, f"it said: {said}")


# ---- settings by chance ------------------------------------------------------------------------------------------------

CONFIGS: tuple[type, ...] = (GPTConfig, TrainConfig, DataConfig, SampleConfig)
FIELDS = {f.name: (config, f) for config in CONFIGS for f in fields(config)}
# What makes a step long is kept small; huge values are only drawn to be refused.
# fmt: off
SMALL: dict[str, tuple[int, ...]] = {
    "vocab_size": (1, 30, 300), "block_size": (1, 2, 7, 16), "n_layer": (1, 2, 3), "n_head": (1, 2, 3),
    "batch_size": (1, 2, 5), "grad_accum_steps": (1, 2, 3), "max_new_tokens": (0, 1, 20),
}
# fmt: on


def generated_settings(trial: Trial) -> str:
    rng = trial.rng
    values = {name: right(rng, name) for name in FIELDS}
    values["n_embd"] = values["n_head"] * rng.choice((2, 4, 10))
    if values["min_lr"] is not None:
        values["min_lr"] = min(values["min_lr"], values["learning_rate"])
    faulty = spoil(rng, values) if trial.number % 2 else set()
    if not faulty:
        return take_a_step(trial, values)
    return rng.choice((refused_by_the_configs, refused_on_the_command_line))(trial, values, faulty)


def right(rng: random.Random, name: str) -> Any:
    """A value that the field may have: an end of its range, or anything between."""
    config, f = FIELDS[name]
    about, kinds = f.metadata, kinds_of(config, name)
    if name in SMALL:
        return rng.choice(SMALL[name])
    if type(None) in kinds and rng.random() < 0.3:
        return None
    if name == "compile":
        return "off"  # compiling takes seconds
    if about["choices"]:
        return rng.choice(about["choices"])
    if name == "encoding":
        return rng.choice(("utf-8", "latin-1", "ascii", "cp1252"))
    if name == "val_fraction":
        return rng.uniform(0.02, 0.5)  # of a text of 2,000 characters
    low, high = about["low"], about["high"]
    value = rng.choice((low, high, low + (high - low) * rng.random(), low + (high - low) * 10 ** rng.uniform(-12, 0)))
    if about["open_high"] and value == high:
        value = math.nextafter(high, low)
    return int(value) if int in kinds else value


def kinds_of(config: type, name: str) -> tuple[type, ...]:
    hint = get_type_hints(config)[name]
    return get_args(hint) or (hint,)


def wrong(rng: random.Random, name: str) -> Any:
    """A value that the field cannot have."""
    config, f = FIELDS[name]
    about, kinds = f.metadata, kinds_of(config, name)
    if str in kinds:
        return rng.choice((3, True, [], "nonsense", "", "\0", "base64", "ä\ud800", "x" * 1000))
    bounds = (about["low"] - 1, about["high"] + 1, -(10**400), 10**400, 10**5000, -math.inf, math.inf, math.nan)
    others = ("many", "", True, [1]) + (about["low"] + 0.5,) * (int in kinds) + (about["high"],) * about["open_high"]
    return rng.choice(bounds + others)


def spoil(rng: random.Random, values: dict[str, Any]) -> set[str]:
    """Make some values such that they cannot be, alone or beside each other -> their names."""
    faulty = set(rng.sample(sorted(FIELDS), rng.choice((0, 1, 2, 5))))
    values |= {name: wrong(rng, name) for name in faulty}
    if rng.random() < 0.3 and not faulty & {"n_embd", "n_head"}:
        values |= {"n_embd": 16, "n_head": 3}
        faulty |= {"n_embd", "n_head"}
    if rng.random() < 0.3 and not faulty & {"min_lr", "learning_rate"}:
        values |= {"min_lr": 0.1, "learning_rate": 0.01}
        faulty |= {"min_lr", "learning_rate"}
    return faulty


def named_in(message: str) -> set[str]:
    """The fields that a message finds fault with."""
    return {name for name in FIELDS if re.search(rf"\b{name} (is |\()", message)}


def refused_by_the_configs(trial: Trial, values: dict[str, Any], faulty: set[str]) -> str:
    """Each config names every fault of its own, and no other field."""
    for config in CONFIGS:
        expected = faulty & {f.name for f in fields(config)}
        try:
            from_dict(config, values)
            named = set()
        except ValueError as error:
            named = named_in(str(error))
        trial.check(named == expected, f"{config.__name__} finds fault with {named}, not with {expected}")
    return "refused by the configs"


def refused_on_the_command_line(trial: Trial, values: dict[str, Any], faulty: set[str]) -> str:
    """`train` and `generate` name every fault of all their configs at once, and write nothing."""
    by_file = trial.rng.random() < 0.5
    commands = {"train": (GPTConfig, TrainConfig, DataConfig), "generate": (SampleConfig,)}
    for command, configs in commands.items():
        names = [name for name, (config, _) in FIELDS.items() if config in configs and name != "vocab_size"]
        given = {name: values[name] for name in names if values[name] is not None}
        arguments = [command, "somewhere", *as_arguments(trial.folder, given, by_file and command == "train")]
        there = os.listdir(trial.folder)
        try:
            cli.main(arguments, standalone_mode=False)
            named = set()
        except click.UsageError as error:
            named = named_in(error.format_message())
        except (ValueError, OSError) as error:
            named = set()
            trial.check("somewhere" in str(error), f"{arguments} ended with {error!r}")
        trial.check(named == faulty & set(names), f"{arguments} finds fault with {named}, not with {faulty & set(names)}")
        trial.check(os.listdir(trial.folder) == there, f"written: {os.listdir(trial.folder)}")
    return "refused on the command line"


def as_arguments(folder: Path, values: dict[str, Any], by_file: bool) -> list[str]:
    """The flags for these values; or by_file --config with a file of those that TOML can hold, and flags for the rest."""
    in_file = {name: value for name, value in values.items() if by_file and not is_long(value)}
    (folder / "my.toml").write_text(
        "".join(f"{name} = {value if isinstance(value, float) else json.dumps(value)}\n" for name, value in in_file.items())
    )
    out = f"--out={folder / 'run'}"
    given = {name: value for name, value in values.items() if name not in in_file}
    given = {name: "9" * 5000 if is_long(value) else value for name, value in given.items()}
    rest = [f"--{name}={value}" for name, value in given.items()]
    return [*rest, out, f"--config={folder / 'my.toml'}", "--size=small"] if by_file else [*rest]


def is_long(value: Any) -> bool:
    """True for what no TOML file can hold: a number of thousands of digits, half of a character."""
    return (isinstance(value, int) and abs(value) > 10**4000) or (isinstance(value, str) and "\ud800" in value)


def prepare_settings(shared: Path) -> None:
    write_text(shared / "text.txt")


@lru_cache
def text_of_settings(shared: Path, tokenizer: str) -> Corpus:
    return load_corpus([shared / "text.txt"], DataConfig(tokenizer=tokenizer))


def take_a_step(trial: Trial, values: dict[str, Any]) -> str:
    """The model of these settings takes a step, and writes."""
    corpus = text_of_settings(trial.shared, values["tokenizer"])
    corpus = replace(corpus, config=from_dict(DataConfig, values))
    shape = from_dict(GPTConfig, values | {"vocab_size": corpus.tokenizer.vocab_size})
    config, how = from_dict(TrainConfig, values), from_dict(SampleConfig, values)
    from_dict(GPTConfig, values)
    torch.manual_seed(config.seed)
    arch = trial.rng.choice(("bigram", "gpt", "modern"))
    model: LanguageModel
    if arch == "bigram":
        model = BigramLanguageModel(shape.vocab_size, shape.block_size)
    else:
        model = {"gpt": GPT, "modern": ModernGPT}[arch](shape)
    batches = Batches(corpus.train, config.batch_size, shape.block_size, config.seed)
    steps = train(model, batches, corpus.val, config)
    next(steps)
    metrics = next(steps)
    trial.check(metrics.step == 1 and math.isfinite(metrics.loss or 0.0), f"the step ended as {metrics}")
    written = "".join(write(model, corpus.tokenizer, "the", how))
    trial.check(len(written) <= how.max_new_tokens, f"it wrote {written!r}")
    return f"{arch} took a step"


SUITES = [
    Suite("named-texts", "Each of 45 texts that are hostile in a way that has a name is taken exactly as it is, trained on "
          "and written from, or refused with one clear error in at most 5 s.", named_text, len(NAMED), 8),
    Suite("generated-texts", "Whatever a file holds, in whatever encoding, and however it changes while it is read: a "
          "corpus is that text exactly, with its hash, or it is refused in plain words.",
          generated_text, 10_000, 100, together=100),
    Suite("generated-settings", "Settings that can be take a step; of others every fault is named at once, no other field "
          "is, and nothing is written.", generated_settings, 20_000, 200, prepare_settings, together=200),
]  # fmt: skip
