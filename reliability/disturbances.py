"""How to strike a training at a chosen moment, and what must hold afterwards.

Next: kills.py
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import minigpt.cli
import minigpt.console
import minigpt.profile  # noqa: F401  with the other two all that a training loads, so that its children need not
from minigpt.files import damage, read_lines

from .suite import Trial
from .trainings import TINY, fingerprint, flags, leftovers, run_minigpt, write_text

SETTINGS = TINY | {"dropout": 0.1, "device": "cpu", "max_iters": 16}
RESUME = ["train", "--resume", "--out=run"]
INTERVAL = TINY["eval_interval"]


def start(shared: Path) -> list[str]:
    """The arguments of the training that is disturbed in all of these suites."""
    return ["train", str(shared / "text.txt"), "--out=run", *flags(**SETTINGS)]


def prepare(shared: Path) -> None:
    """The text, and what the training comes to when nothing disturbs it."""
    write_text(shared / "text.txt")
    began = time.perf_counter()
    code, said = run_minigpt(start(shared), shared)
    assert code == 0, said
    about = {"fingerprint": fingerprint(shared / "run"), "seconds": time.perf_counter() - began}
    (shared / "undisturbed.json").write_text(json.dumps(about))


def undisturbed(shared: Path) -> dict[str, Any]:
    """`fingerprint` and `seconds` of the training when nothing disturbs it."""
    return json.loads((shared / "undisturbed.json").read_text())


# ---- what must hold ----------------------------------------------------------------------------------------------------


def go_on(trial: Trial) -> str:
    """After a disturbance: nothing was lost, and going on ends as if nothing had happened -> what was to be done."""
    run = trial.folder / "run"
    begun = has_checkpoint(trial, run)
    code, said = run_minigpt(RESUME if begun else start(trial.shared), trial.folder)
    trial.check(code == 0, f"going on ended with {code}: {said}")
    trial.check(fingerprint(run) == undisturbed(trial.shared)["fingerprint"], "it ended with other bits than undisturbed")
    trial.check(not leftovers(run), f"left over: {leftovers(run)}")
    trial.check(not damage(run), f"the run is damaged: {damage(run)}")
    return "resumed" if begun else "started again"


def has_checkpoint(trial: Trial, run: Path) -> bool:
    """True if a run can be resumed. Every checkpoint there is whole, and the last one not older than an interval."""
    checkpoints = sorted((run / "checkpoints").glob("step-*"))
    for checkpoint in checkpoints:
        trial.check(not damage(checkpoint), f"{checkpoint.name} is damaged: {damage(checkpoint)}")
    told = max((line["step"] for line in read_lines(run / "metrics.jsonl")), default=0)
    last = int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else -INTERVAL
    trial.check(last >= told - INTERVAL, f"step {told} was taken, and the last checkpoint is of step {last}")
    trial.check(not checkpoints or not damage(run), f"the model is called damaged: {damage(run)}")
    return bool(checkpoints)


# ---- when to strike ----------------------------------------------------------------------------------------------------


class Moment:
    """The nth call of a function in a child, told to its parent: Moment(Run, "save", 2).

    instead: what is called then, if it is not the function itself.
    """

    def __init__(self, owner: Any, name: str, nth: int, instead: Callable[..., Any] | None = None) -> None:
        self.owner, self.name, self.left, self.instead = owner, name, nth, instead
        self.here, self.there = os.pipe()

    def arrange(self) -> None:
        """In the child."""
        original = getattr(self.owner, self.name)

        def told(*args: Any, **named: Any) -> Any:
            now = self.left == 0
            if now:
                os.write(self.there, b"!")
            self.left -= 1
            return (self.instead if now and self.instead else original)(*args, **named)

        setattr(self.owner, self.name, told)

    def wait(self) -> bool:
        """In the parent, after the fork. False if the child ended before."""
        os.close(self.there)
        came = os.read(self.here, 1)
        os.close(self.here)
        return bool(came)


CALLS = ("open", "write", "fsync", "ftruncate", "mkdir", "rename", "replace", "unlink", "rmdir")
See = Callable[[str, str, tuple[Any, ...]], Any]


def watch(see: See) -> None:
    """From now on tell see(name, path, arguments) of each call by which a training changes the disk, before it is made.

    What `see` returns, unless it is None, is returned to the caller, and the call is not made.
    """
    paths: dict[int, str] = {}  # of descriptors
    for name in CALLS:
        setattr(os, name, _watched(name, getattr(os, name), see, paths))


def _watched(name: str, call: Callable[..., Any], see: See, paths: dict[int, str]) -> Callable[..., Any]:
    def watched(target: Any, *rest: Any, **named: Any) -> Any:
        folder = paths.get(named.get("dir_fd", -1), "")
        path = paths.get(target, "") if isinstance(target, int) else os.path.join(folder, target)
        instead = see(name, path, (target, *rest))
        if instead is not None:
            return instead
        result = call(target, *rest, **named)
        if name == "open":
            paths[result] = path
        return result

    return watched


class Call(NamedTuple):
    """A call that changed the disk."""

    name: str
    path: str
    makes: bool = False  # a file that was not there
    size: int = 0  # of what is written
    other: str = ""  # the new path


def recorded(arguments: list[str], folder: Path, before: Callable[[], None] = lambda: None) -> list[Call]:
    """Run to the end -> every call by which that changed the disk, in order."""
    file = folder / "calls.jsonl"
    log, write = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), os.write

    def see(name: str, path: str, args: tuple[Any, ...]) -> None:
        path = os.path.abspath(path)
        makes = name == "open" and bool(args[1] & os.O_CREAT) and not os.path.exists(path)
        other = os.path.abspath(args[1]) if name in ("rename", "replace") else ""
        call = Call(name, path, makes, len(args[1]) if name == "write" else 0, other)
        write(log, (json.dumps(call) + "\n").encode())

    def watched() -> None:
        watch(see)
        before()

    code, said = run_minigpt(arguments, folder, watched)
    os.close(log)
    assert code == 0, said
    return [Call(*json.loads(line)) for line in file.read_text().splitlines()]
