"""Locales, paths, terminals, clocks: nothing around a training changes what it learns, and nothing makes it fail.

These trials start real processes, since a locale is read when Python begins.

Next: numbers.py
"""

import hashlib
import os
import pty
import shlex
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

from .suite import Suite, Trial
from .trainings import TINY, fingerprint, flags, run_minigpt, write_text

MINIGPT = [sys.executable, "-m", "minigpt"]
SETTINGS = [*flags(**TINY | {"max_iters": 4}), "--device=cpu"]
SECONDS = 120  # for a process: far more than it needs
LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0"},
    {"LC_ALL": "C", "PYTHONUTF8": "1"},
    {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C.UTF-8"},
]
PATHS = [b"plain", b"two words", "größe – 本".encode(), b"a\nb", b"x" * 251, b"-rf", b"no \xff\xfe UTF-8"]


def prepare(shared: Path) -> None:
    """A text, and the model that comes of it in ordinary surroundings."""
    write_text(shared / "text.txt")
    code, said = run_minigpt(["train", "text.txt", "--out=run", *SETTINGS], shared)
    assert code == 0, said


def weights(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def environment(**changes: str | None) -> dict[str, str]:
    """That of this process with some variables changed, or taken away."""
    own = {**os.environ, "OMP_NUM_THREADS": "1", "MINIGPT_OFFLINE": "1"}
    return {name: value for name, value in {**own, **changes}.items() if value is not None}


def surroundings(trial: Trial) -> str:
    """A locale and a name for text and run: train, and use what was trained."""
    locale, name = LOCALES[trial.number % len(LOCALES)], PATHS[trial.number // len(LOCALES)]
    folder = os.fsencode(trial.folder)
    with open(os.path.join(folder, name + b".txt"), "wb") as file:
        file.write((trial.shared / "text.txt").read_bytes())
    where = environment(**locale)
    commands = [[b"train", *map(os.fsencode, SETTINGS), b"--out=" + name, b"--", name + b".txt"]]
    commands += [[b"generate", b"--max-new-tokens=9", b"--", name], [b"info", b"--", name], [b"eval", b"--", name]]
    for command in commands:
        done = subprocess.run(
            [*map(os.fsencode, MINIGPT), *command], cwd=folder, env=where, capture_output=True, timeout=SECONDS
        )
        trial.check(
            done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-800:]}"
        )
    run = Path(os.fsdecode(os.path.join(folder, name)))
    trial.check(weights(run) == weights(trial.shared / "run"), "another model came of it")
    return "the same model"


# ---- odd worlds ----------------------------------------------------------------------------------------------------------


def shell(
    end: str, use: bool = True, allowed: tuple[int, ...] = (0,), same: bool = True, **variables: str | None
) -> Callable[[Trial], None]:
    """Every command with this behind it, in such an environment: no traceback, an exit code that says what happened.

    same: it comes to the same bits.
    """

    def world(trial: Trial) -> None:
        text, where = shlex.quote(str(trial.shared / "text.txt")), environment(**variables)
        uses = ("generate run --max-new-tokens=20", "info run", f"eval run {text}") if use else ()
        for command in (f"train {text} --out=run {shlex.join(SETTINGS)}", *uses):
            line = f"{shlex.join(MINIGPT)} {command} {end}"
            done = subprocess.run(["bash", "-c", line], cwd=trial.folder, env=where, capture_output=True, timeout=SECONDS)
            said = done.stderr.decode(errors="replace")
            trial.check("Traceback" not in said and "Exception ignored" not in said, f"{command} {end}: {said[-800:]}")
            trial.check(done.returncode in allowed, f"{command} {end} ended with {done.returncode}: {said[-300:]}")
            as_ever = weights(trial.folder / "run") == weights(trial.shared / "run")
            trial.check(as_ever or not same, f"{command} {end}: another model came of it")

    return world


def narrow(trial: Trial) -> None:
    """A terminal that is one character wide."""
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 1))
    command = [*MINIGPT, "train", str(trial.shared / "text.txt"), "--out=run", *SETTINGS]
    with subprocess.Popen(
        command, cwd=trial.folder, env=environment(TERM="xterm"), stderr=terminal, stdout=terminal
    ) as process:
        os.close(terminal)
        said = b""
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            said += piece
    os.close(master)
    trial.check(process.returncode == 0, f"it ended with {process.returncode}: {said[-800:]!r}")
    trial.check(weights(trial.folder / "run") == weights(trial.shared / "run"), "another model came of it")


def clock(**clocks: Callable[[], float]) -> Callable[[Trial], None]:
    """Clocks that do not do what clocks do."""

    def before() -> None:
        for name, function in clocks.items():
            setattr(time, name, function)

    def world(trial: Trial) -> None:
        code, said = run_minigpt(["train", str(trial.shared / "text.txt"), "--out=run", *SETTINGS], trial.folder, before)
        trial.check(code == 0, said[-800:])
        trial.check(fingerprint(trial.folder / "run") == fingerprint(trial.shared / "run"), "it learned something else")

    return world


def backwards() -> float:
    """Each call a second earlier."""
    backwards.now -= 1.0  # type: ignore[attr-defined]
    return backwards.now  # type: ignore[attr-defined]


backwards.now = 1e9  # type: ignore[attr-defined]

WORLDS: dict[str, Callable[[Trial], None]] = {
    "time goes backwards": clock(time=backwards),
    "all clocks stand still": clock(time=lambda: 1e9, perf_counter=lambda: 5.0, monotonic=lambda: 5.0),
    "a terminal of width 1": narrow,
    "COLUMNS is 1": shell("", COLUMNS="1", TERM="dumb"),
    "stdout is closed": shell(">&-", allowed=(0, 1)),
    "stderr is closed": shell("2>&-"),
    "stdin is closed": shell("<&-"),
    "all three are closed": shell("<&- >&- 2>&-", allowed=(0, 1)),
    "nobody reads stdout": shell("| true"),
    "nobody reads stderr": shell("2>&1 >/dev/null | true"),
    "stdout is full": shell(">/dev/full", allowed=(0, 1)),
    "stderr is full": shell("2>/dev/full"),
    "no HOME": shell("", HOME=None, XDG_CACHE_HOME=None, MINIGPT_HOME=None),
    "a HOME that is not there": shell("", HOME="/nowhere/at/all", XDG_CACHE_HOME=None, MINIGPT_HOME=None),
    # Nothing can be compiled there, so torch computes all of it: the same up to rounding.
    "a cache that cannot be written": shell("", same=False, MINIGPT_HOME="/proc/nothing"),
}


def odd_worlds(trial: Trial) -> str:
    name = list(WORLDS)[trial.number]
    WORLDS[name](trial)
    return "as ever"


SUITES = [
    Suite("surroundings", "Whatever the locale, and whatever text and run are called: the same model, and every command "
          "works with it.", surroundings, len(LOCALES) * len(PATHS), 1, prepare),
    Suite("odd-worlds", "Odd clocks, terminals, pipes, disks and homes change no model and bring no traceback.",
          odd_worlds, len(WORLDS), 2, prepare),
]  # fmt: skip
