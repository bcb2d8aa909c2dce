"""Going on gives the same bits as never having stopped, and what would give others is refused or told.

Next: hostile_files.py
"""

import itertools
import json
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from minigpt.files import sha256, to_json

from .suite import Suite, Trial
from .trainings import TINY, WORDS, fingerprint, flags, run_minigpt, write_text

STEPS, INTERVAL = 8, 4  # of a training that is interrupted once; steps between two evaluations, which save
STOPS = {"the first step": 1, "an evaluation": 4, "a step between two": 6, "the last step but one": 7}
KINDS = (("bigram", "adamw"), ("gpt", "adamw"), ("gpt", "muon"), ("modern", "adamw"), ("modern", "muon"))
SHAPE = ("n_layer", "n_head", "n_embd")  # what a bigram has not


# ---- one interruption ----------------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """A training, and the step after which it is interrupted."""

    arch: str
    optimizer: str
    dropout: float
    grad_accum_steps: int
    dtype: str
    compile: str
    stop: int

    def flags(self) -> list[str]:
        """Of the command line."""
        values = TINY | self._asdict() | {"max_iters": STEPS, "eval_interval": INTERVAL}
        del values["stop"]
        if self.arch == "bigram":
            values = {name: value for name, value in values.items() if name not in (*SHAPE, "dropout")}
        return flags(**values)


def cells(compile: str, accumulations: tuple[int, ...], stops: tuple[int, ...]) -> list[Cell]:
    """All that there are, shuffled, so that a few of them are of every kind.

    A bigram has no dropout, and no matrices for Muon.
    """
    found = [
        Cell(arch, optimizer, dropout, accumulation, dtype, compile, stop)
        for arch, optimizer in KINDS
        for dropout in ((0.0,) if arch == "bigram" else (0.0, 0.1))
        for accumulation, dtype, stop in itertools.product(accumulations, ("float32", "bfloat16"), stops)
    ]
    random.Random(68).shuffle(found)
    return found


MATRIX = cells("off", (1, 3), tuple(STOPS.values()))
COMPILED = cells("on", (3,), (STOPS["the first step"], STOPS["a step between two"]))


def same_bits(trial: Trial, cell: Cell, surroundings: Callable[[], None] = lambda: None) -> str:
    """A training to its end, and the same interrupted by a signal and resumed."""
    write_text(trial.folder / "text.txt")
    begin = ["train", "text.txt", *cell.flags()]
    number = trial.rng.choice((signal.SIGTERM, signal.SIGKILL))
    reached = cell.stop if number == signal.SIGTERM else cell.stop - cell.stop % INTERVAL

    def world() -> None:
        surroundings()
        send_after(cell.stop, number)

    code, said = run_minigpt([*begin, "--out=whole"], trial.folder, surroundings)
    trial.check(code == 0, f"{cell}: {said}")
    code, said = run_minigpt([*begin, "--out=parts"], trial.folder, world)
    trial.check(code == (143 if number == signal.SIGTERM else -9), f"{cell} ended with {code}: {said}")
    code, said = run_minigpt(["train", "--resume", "--out=parts"], trial.folder, surroundings)
    trial.check(code == 0 and f"at step {reached} of {STEPS}" in said, f"{cell} was to go on at step {reached}: {said}")
    trial.check("Not as before" not in said, f"{cell} is on the same machine: {said}")
    whole, parts = (fingerprint(trial.folder / name) for name in ("whole", "parts"))
    trial.check(whole == parts, f"{cell} has other bits after {number.name}")
    without = " (no compiler here)" if "torch.compile does not work" in said else ""
    return f"same bits after {number.name}{without}"


def send_after(step: int, number: int) -> None:
    """Have this process get a signal when a step has been recorded."""
    from minigpt.checkpoint import Run

    record = Run.record

    def recorded(run: Run, metrics: object) -> None:
        record(run, metrics)  # type: ignore[arg-type]
        if metrics.step == step:  # type: ignore[attr-defined]
            os.kill(os.getpid(), number)

    setattr(Run, "record", recorded)  # noqa: B010


def matrix(trial: Trial) -> str:
    return same_bits(trial, MATRIX[trial.number])


def compiled(trial: Trial) -> str:
    def surroundings() -> None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(trial.shared / "compiled")
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

    return same_bits(trial, COMPILED[trial.number], surroundings)


# ---- many interruptions --------------------------------------------------------------------------------------------------


def fifty_kills(trial: Trial) -> str:
    """The first trial is a short one: 5 kills in 100 steps."""
    kills = 50 if trial.number else 5
    steps, arch = 20 * kills, ("modern", "gpt", "bigram")[trial.number % 3]
    settings = TINY | {"arch": arch, "max_iters": steps, "eval_interval": 10, "seed": trial.rng.randrange(2**31)}
    if arch == "bigram":
        settings = {name: value for name, value in settings.items() if name not in SHAPE}
    else:
        settings["dropout"] = 0.1
    write_text(trial.folder / "text.txt")
    begin = ["train", "text.txt", *flags(**settings)]
    code, said = run_minigpt([*begin, "--out=whole"], trial.folder)
    trial.check(code == 0, said)

    for kill, step in enumerate(sorted(trial.rng.randrange(1, steps) for _ in range(kills))):
        command = ["train", "--resume", "--out=parts"] if kill else [*begin, "--out=parts"]
        world = partial(kill_after, step, trial.rng.uniform(0, 0.05), steps - 1)
        code, said = run_minigpt(command, trial.folder, world)
        trial.check(code == -9, f"kill {kill} at step {step} of {steps} ended with {code}: {said}")
    code, said = run_minigpt(["train", "--resume", "--out=parts"], trial.folder)
    trial.check(code == 0, said)
    whole, parts = (fingerprint(trial.folder / name) for name in ("whole", "parts"))
    trial.check(whole == parts, f"{arch}, seed {settings['seed']}: other bits after {kills} kills in {steps} steps")
    return f"same bits after {kills} kills in {steps:,} steps"


def kill_after(step: int, seconds: float, latest: int) -> None:
    """Have this process killed so many seconds after a step: in the middle of whatever that is, but before the end."""
    from minigpt.checkpoint import Run

    record = Run.record
    kill = partial(os.kill, os.getpid(), signal.SIGKILL)

    def recorded(run: Run, metrics: object) -> None:
        record(run, metrics)  # type: ignore[arg-type]
        if metrics.step == step:  # type: ignore[attr-defined]
            threading.Timer(seconds, kill).start()
        if metrics.step == latest:  # type: ignore[attr-defined]
            kill()

    setattr(Run, "record", recorded)  # noqa: B010


# ---- what would give other bits ------------------------------------------------------------------------------------------


def prepare_run(folder: Path) -> None:
    """A run that was stopped in the middle, and its text."""
    write_text(folder / "text.txt")
    values = TINY | {"max_iters": STEPS, "eval_interval": INTERVAL}
    code, said = run_minigpt(
        ["train", "text.txt", "--out=run", *flags(**values)], folder, partial(send_after, 6, signal.SIGTERM)
    )
    assert code == 143, said


class Resumed(NamedTuple):
    code: int
    said: str
    wrote: list[str]  # files that are not as before


def resume(trial: Trial, *arguments: str, surroundings: Callable[[], None] = lambda: None) -> Resumed:
    """Try to go on with the run of a trial."""
    before = contents(trial.folder / "run")
    code, said = run_minigpt(["train", "--resume", "--out=run", *arguments], trial.folder, surroundings)
    after = contents(trial.folder / "run")
    return Resumed(code, said, [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)])


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(trial: Trial, resumed: Resumed, code: int, *names: str) -> str:
    """Both sides are named, nothing is written."""
    trial.check(resumed.code == code, f"ended with {resumed.code}, not {code}: {resumed.said}")
    trial.check(not resumed.wrote, f"refused, but wrote {', '.join(resumed.wrote)}")
    told(trial, resumed, *names)
    return "refused"


def told(trial: Trial, resumed: Resumed, *names: str) -> None:
    missing = [name for name in names if name not in resumed.said]
    trial.check(not missing, f"did not say {', '.join(map(repr, missing))}: {resumed.said}")
    trial.check("Traceback" not in resumed.said, resumed.said)


def goes_on(trial: Trial, resumed: Resumed, *names: str) -> str:
    """It is told, and trains to the end."""
    trial.check(resumed.code == 0, f"ended with {resumed.code}: {resumed.said}")
    told(trial, resumed, *names, "The best model")
    return "told, and went on"


def identity(path: Path) -> tuple[str, str]:
    """What a person compares of a text: characters, and the beginning of its SHA-256."""
    return f"{len(path.read_text()):,} characters", f"SHA-256 {sha256(path.read_bytes())[:12]}"


def edited(rng: random.Random, text: str, alphabet: str) -> str:
    """The text with one character, or a few, put in, taken out or replaced."""
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(text))
        new = rng.choice(("", rng.choice(alphabet), rng.choice(alphabet) + text[at], "ж", "\n\n"))
        text = text[:at] + new + text[at + 1 :]
    return text


def edited_text(trial: Trial) -> str:
    path = trial.folder / "text.txt"
    before, text = identity(path), path.read_text()
    while (now := edited(trial.rng, text, WORDS)) == text:
        pass
    path.write_text(now)
    return refused(trial, resume(trial), 1, "text.txt", *before, *identity(path), "--other-text")


def other_text(trial: Trial) -> str:
    """Refused, then allowed; afterwards it is the text of this run."""
    path, before = trial.folder / "other.txt", identity(trial.folder / "text.txt")
    words = WORDS.split()
    path.write_text(" ".join(trial.rng.choice([*words, "a βeta"]) for _ in range(400)))
    refused(trial, resume(trial, "other.txt"), 1, "text.txt", "other.txt", *before, *identity(path), "--other-text")
    goes_on(trial, resume(trial, "other.txt", "--other-text"), *before, *identity(path), "dropped", "β")
    about = json.loads((trial.folder / "run/config.json").read_text())["minigpt"]
    trial.check(about["text"]["sha256"] == sha256(path.read_bytes()), "config.json does not say the new text")
    trial.check(about["earlier"][0]["until_step"] == 6, f"config.json says {about['earlier']} of the old text")
    return goes_on(trial, resume(trial, f"--max-iters={STEPS + 2}"))


def change_tokenizer(trial: Trial) -> tuple[str, str]:
    """Replace a character of the alphabet, or swap two -> what came, what went."""
    path = trial.folder / "run/tokenizer.json"
    data = json.loads(path.read_text())
    chars = sorted(data["model"]["vocab"])
    came, went = "", ""
    at, swapped = trial.rng.sample(range(len(chars)), 2)
    if trial.rng.random() < 0.5:
        came, went = trial.rng.choice("ÄжAZ"), chars[at]
        chars[at] = came
    else:
        chars[at], chars[swapped] = chars[swapped], chars[at]
    data["model"]["vocab"] = {char: i for i, char in enumerate(chars)}
    path.write_bytes(to_json(data))
    return came, went


def other_tokenizer(trial: Trial) -> str:
    came, went = change_tokenizer(trial)
    names = (f"{came!r} came", f"{went!r} went") if came else ("in another order",)
    return refused(trial, resume(trial), 1, "tokenizer.json", *names)


def other_config(trial: Trial) -> str:
    """A file that was changed behind the back of its manifest."""
    path = trial.folder / "run" / trial.rng.choice(("config.json", "tokenizer_config.json", "generation_config.json"))
    before = path.read_bytes()
    data = json.loads(before)
    if path.name == "config.json":
        values, key = data["minigpt"]["train"], trial.rng.choice(("batch_size", "learning_rate", "seed", "max_iters"))
    else:
        values, key = data, trial.rng.choice([key for key, value in data.items() if type(value) in (int, float)])
    values[key] *= 2
    path.write_bytes(to_json(data))
    after = path.read_bytes()
    sides = (sha256(after)[:12], sha256(before)[:12])
    if len(before) != len(after):
        sides = (f"{len(after):,} bytes", f"{len(before):,}")
    return refused(trial, resume(trial), 1, path.name, *sides)


def other_shape_in_config(trial: Trial) -> str:
    """The same without a manifest: a size that was doubled does not fit the others, the tokenizer or the weights."""
    sides = {
        "hidden_size": ("head_dim", "8", "16"),
        "intermediate_size": ("intermediate_size", "96", "48"),
        "num_attention_heads": ("head_dim", "8", "4"),
        "num_hidden_layers": ("model.safetensors", "bytes; these weights take"),
        "vocab_size": ("27 tokens", "vocab_size 54"),
    }
    (trial.folder / "run/manifest.json").unlink()
    path = trial.folder / "run/config.json"
    data = json.loads(path.read_text())
    key = trial.rng.choice(list(sides))
    data[key] *= 2
    path.write_bytes(to_json(data))
    return refused(trial, resume(trial), 1, *sides[key])


def other_shape_flags(trial: Trial) -> str:
    name = trial.rng.choice(("n_layer", "n_head", "n_embd", "block_size", "dropout", "val_fraction"))
    before = TINY | {"dropout": 0.0, "val_fraction": 0.1}
    value = {"dropout": 0.25, "val_fraction": 0.3}.get(name, before[name] * trial.rng.randint(2, 9))
    return refused(trial, resume(trial, *flags(**{name: value})), 2, name, str(before[name]), str(value))


def other_settings(trial: Trial) -> str:
    """What may change is told."""
    values = {
        "learning_rate": round(trial.rng.uniform(1e-4, 1e-3), 6),
        "batch_size": trial.rng.randint(5, 9),
        "eval_interval": trial.rng.randint(5, 9),
        "seed": trial.rng.randrange(1000),
        "max_iters": STEPS + trial.rng.randint(1, 9),
        "grad_clip": trial.rng.randint(2, 9) / 2 + 0.25,
    }
    name = trial.rng.choice(list(values))
    before = json.loads((trial.folder / "run/config.json").read_text())["minigpt"]["train"][name]
    return goes_on(trial, resume(trial, *flags(**{name: values[name]})), f"{name}: {before} -> {values[name]}")


def other_machine(trial: Trial) -> str:
    """Threads, or what a library was told to do."""

    def more_threads() -> None:
        torch.set_num_threads(2)

    def other_products() -> None:
        os.environ["MKL_CBWR"] = "COMPATIBLE"

    surroundings, sides = trial.rng.choice(
        ((more_threads, "threads 1 -> 2"), (other_products, "MKL_CBWR unset -> COMPATIBLE"))
    )
    return goes_on(trial, resume(trial, surroundings=surroundings), f"Not as before: {sides}.")


def resume_refused(trial: Trial) -> str:
    changes = (
        edited_text,
        other_text,
        other_tokenizer,
        other_config,
        other_shape_in_config,
        other_shape_flags,
        other_settings,
        other_machine,
    )
    shutil.copytree(trial.shared, trial.folder, dirs_exist_ok=True)
    change = changes[trial.number % len(changes)]
    return f"{change.__name__.replace('_', ' ')}: {change(trial)}"


SUITES = [
    Suite(
        "resume-matrix",
        "A training that is interrupted and resumed ends with the bits of one that was not, whatever is trained.",
        matrix,
        full=len(MATRIX),
        quick=12,
    ),
    Suite(
        "resume-compiled",
        "The same for a compiled model.",
        compiled,
        full=len(COMPILED),
        quick=0,  # a compilation takes longer than all other quick trials
        prepare=lambda folder: (folder / "compiled").mkdir(),
    ),
    Suite(
        "fifty-kills",
        "A training of 1,000 steps that is killed 50 times ends with the bits of one that was never killed.",
        fifty_kills,
        full=31,
        quick=1,
    ),
    Suite(
        "resume-refused",
        "Text, tokenizer or shape that are others than before are refused, naming both; what may change is told.",
        resume_refused,
        full=200,
        quick=8,
        prepare=prepare_run,
    ),
]
