"""No space left, no permission, folders that vanish: one clear error, nothing lost, and all goes on when it is over.

Next: signals.py
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .disturbances import go_on, prepare, recorded, start, watch
from .suite import Suite, Trial
from .trainings import leftovers, run_minigpt

# Every file that a training writes; in a checkpoint with the word before it.
KINDS = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "manifest.json", "model.safetensors",
    "README.md", "metrics.jsonl", "samples.jsonl",
    "checkpoint manifest.json", "checkpoint model.safetensors", "checkpoint optimizer.safetensors", "checkpoint state.json",
)  # fmt: skip
SIZES = 64  # of each: bytes after which there is no space left


def kind(path: str) -> str:
    """run/checkpoints/.step-00000004.123.tmp/state.json -> checkpoint state.json"""
    folder, name = os.path.split(path)
    name = re.sub(r"^\.(.+)\.\d+\.tmp$", r"\1", name)
    return f"checkpoint {name}" if os.path.basename(folder).startswith(".step-") else name


def prepare_writes(shared: Path) -> None:
    """What the undisturbed training writes: the bytes of each write by kind of file; and the number of all its calls."""
    prepare(shared)
    folder = shared / "record"
    folder.mkdir()
    calls, writes = recorded(start(shared), folder), {}
    for what in KINDS:
        writes[what] = [call.size for call in calls if call.name == "write" and kind(call.path) == what]
        assert writes[what], what
    (shared / "record.json").write_text(json.dumps({"writes": writes, "calls": len(calls)}))


def record(trial: Trial) -> dict[str, Any]:
    return json.loads((trial.shared / "record.json").read_text())


# ---- no space left -----------------------------------------------------------------------------------------------------


class Usage(NamedTuple):
    """What shutil.disk_usage says."""

    total: int
    used: int
    free: int


def no_space(trial: Trial) -> str:
    number, part = divmod(trial.number, SIZES)
    if number == len(KINDS):
        return no_space_from_the_beginning(trial, part)
    what = KINDS[number]
    lengths = record(trial)["writes"][what]
    nth = trial.rng.randrange(len(lengths))
    code, said = run_minigpt(start(trial.shared), trial.folder, lambda: fill(what, nth, lengths[nth] * part // SIZES))
    refused(trial, code, said, r"no space left: [\d,]+ bytes are needed.* and [\d,]+ are free")
    trial.check(not leftovers(trial.folder), f"left over: {leftovers(trial.folder)}")
    return go_on(trial)


def fill(what: str, nth: int, size: int) -> None:
    """Let the disk be full once the nth write to files of a kind has written so many bytes."""
    write, seen, full = os.write, 0, False

    def see(name: str, path: str, args: tuple[Any, ...]) -> int | None:
        nonlocal seen, full
        if name != "write":
            return None
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if kind(path) != what:
            return None
        seen += 1
        if seen <= nth:
            return None
        full = True
        shutil.disk_usage = lambda path: Usage(10**9, 10**9, 0)  # type: ignore[assignment]
        if size == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(args[0], args[1][:size])  # as the system does it: first less than was asked for, then the error

    watch(see)


def no_space_from_the_beginning(trial: Trial, part: int) -> str:
    """It is found before the first step, and nothing is written."""

    def before() -> None:
        shutil.disk_usage = lambda path: Usage(10**9, 10**9 - free, free)  # type: ignore[assignment]

    free = 2000 * part
    code, said = run_minigpt(start(trial.shared), trial.folder, before)
    refused(trial, code, said, rf"no space left: [\d,]+ bytes are needed and {free:,} are free")
    trial.check(not (trial.folder / "run").exists(), "there is a folder")
    return "refused before the first step"


def refused(trial: Trial, code: int, said: str, words: str) -> None:
    """Exit code 1, and one sentence with certain words, at the end."""
    trial.check(code == 1, f"it ended with {code}: {said}")
    trial.check("Traceback" not in said, said)
    last = said.strip().splitlines()[-1]
    trial.check(re.match(rf"minigpt: {words}", last), f"it said: {last}")
    trial.check(said.count("minigpt: ") == 1, f"it said more than one thing: {said}")


# ---- no folder ---------------------------------------------------------------------------------------------------------

VANISHED = "(the folder of this run was moved or removed while it was trained|No such file or directory): "


def no_folder(trial: Trial) -> str:
    return (read_only_from_the_beginning, read_only, removed, renamed)[trial.number // 50](trial)


def read_only_from_the_beginning(trial: Trial) -> str:
    """Found before the first step, and nothing is written."""
    shelf = trial.folder / "shelf"
    shelf.mkdir()
    shutil.copy(trial.shared / "text.txt", shelf)
    shelf.chmod(0o555)
    trial.folder.chmod(0o755)
    code, said = run_minigpt(["train", "shelf/text.txt", "--out=shelf/deep/run"], trial.folder, nobody)
    refused(trial, code, said, "no permission to write in .*shelf")
    trial.check(os.listdir(shelf) == ["text.txt"], f"written: {os.listdir(shelf)}")
    return "no permission: refused before the first step"


def nobody() -> None:
    """Root may write everywhere, so a child of root becomes somebody else."""
    if os.geteuid() == 0:
        os.setuid(65534)


def read_only(trial: Trial) -> str:
    """From a call on it is as on a disk that has failed: all can be read, nothing written."""

    def strike(name: str, args: tuple[Any, ...]) -> None:
        if name not in ("open", "fsync") or (name == "open" and args[1] & (os.O_WRONLY | os.O_RDWR)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    code, said = run_and_strike(trial, strike)
    refused(trial, code, said, os.strerror(errno.EROFS))
    return f"read-only: {go_on(trial)}"


def removed(trial: Trial) -> str:
    run = trial.folder / "run"
    code, said = run_and_strike(trial, lambda name, args: shutil.rmtree(run), once=True)
    refused(trial, code, said, VANISHED)
    trial.check(not run.exists(), f"made again: {list(run.rglob('*'))}")
    return f"removed: {go_on(trial)}"


def renamed(trial: Trial) -> str:
    run, elsewhere = trial.folder / "run", trial.folder / "elsewhere"
    code, said = run_and_strike(trial, lambda name, args: run.rename(elsewhere), once=True)
    refused(trial, code, said, VANISHED)
    trial.check(not run.exists(), f"made again: {list(run.rglob('*'))}")
    elsewhere.rename(run)
    return f"renamed: {go_on(trial)}"


def run_and_strike(trial: Trial, strike: Callable[[str, tuple[Any, ...]], Any], once: bool = False) -> tuple[int, str]:
    """Train, and strike at a random call, `once` or at each one after it too -> exit code, what was said."""
    run = trial.folder / "run"
    left = trial.rng.randrange(record(trial)["calls"] - 1)
    striking = False

    def see(name: str, path: str, args: tuple[Any, ...]) -> None:
        nonlocal left, striking
        left -= 1
        if left < 0 and not striking and (run / "config.json").exists():
            striking = True  # the strike makes calls of its own
            strike(name, args)
            striking = once

    return run_minigpt(start(trial.shared), trial.folder, lambda: watch(see))


SUITES = [
    Suite("no-space", "Where the disk is full, after any number of bytes of any file, there is one clear error, nothing "
          "lost and nothing left over; when there is space again, going on gives the same bits.", no_space,
          (len(KINDS) + 1) * SIZES, 8, prepare_writes, together=16),
    Suite("no-folder", "A run whose folder cannot be written or vanishes ends with one clear error, makes nothing anew, and "
          "goes on when the folder is back.", no_folder, 200, 4, prepare_writes, together=10),
]  # fmt: skip
