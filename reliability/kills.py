"""SIGKILL at any time and at every step of a save; the order in which things reach the disk.

A kill cannot show what a power cut does, because the system still writes what it was given. For that the order of calls is
checked: nothing gets its name before it is on the disk.

Next: space.py
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minigpt import checkpoint
from minigpt.checkpoint import KEPT, Run
from minigpt.files import MANIFEST

from .disturbances import RESUME, Call, Moment, go_on, prepare, recorded, start, undisturbed, watch
from .suite import Suite, Trial
from .trainings import flags, leftovers, spawn, wait, write_text

# ---- at any time -------------------------------------------------------------------------------------------------------

SAVING: list[tuple[Any, str, int]] = [  # what writes, and how often it does
    (Run, "save", 6), (checkpoint, "write_into", 5), (checkpoint, "write_folder", 5), (checkpoint, "remove_folder", 3),
]  # fmt: skip


def kill_anytime(trial: Trial) -> str:
    while not killed(trial):
        shutil.rmtree(trial.folder / "run")  # it had ended before
    return f"killed{' while writing' if leftovers(trial.folder) else ''}, {go_on(trial)}"


def killed(trial: Trial) -> bool:
    """Train and kill; every other trial aims at a moment after something has begun to write."""
    if trial.number % 2:
        owner, name, times = trial.rng.choice(SAVING)
        moment = Moment(owner, name, trial.rng.randrange(times))
        pid = spawn(start(trial.shared), trial.folder, moment.arrange)
        moment.wait()
        time.sleep(trial.rng.uniform(0, 0.005))
    else:
        pid = spawn(start(trial.shared), trial.folder)
        time.sleep(trial.rng.uniform(0, undisturbed(trial.shared)["seconds"]))
    os.kill(pid, signal.SIGKILL)
    return wait(pid) == -signal.SIGKILL


# ---- at every call -----------------------------------------------------------------------------------------------------

# Where the training comes from, and the step with whose save the search for calls ends:
# from nothing until a checkpoint is pruned; from a start that was killed before its first checkpoint; from a training that
# was killed while it replaced its best weights.
SITUATIONS: dict[str, tuple[Callable[[Path], list[str]], int]] = {
    "new": (start, 8),
    "started again": (start, 0),
    "resumed": (lambda shared: RESUME, 8),
}


def prepare_calls(shared: Path) -> None:
    """The situations, and every call of each: {"situation", "call" number, "name", "half" of a write}."""
    prepare(shared)
    points = []
    for situation in SITUATIONS:
        calls = _record(shared, situation)
        for number, call in enumerate(calls):
            point = {"situation": situation, "call": number, "name": call.name}
            points += [point | {"half": False}] + [point | {"half": True}] * (call.name == "write")
        if situation == "new":
            first_save = next(i for i, call in enumerate(calls) if call.name == "rename")
            best = [i for i, call in enumerate(calls) if call.name == "open" and "/.model.safetensors" in call.path]
            for number, following in ((first_save, "started again"), (best[-1], "resumed")):
                assert _kill(shared, "new", number, shared / following) == -signal.SIGKILL
    (shared / "points.json").write_text(json.dumps(points))


def _record(shared: Path, situation: str) -> list[Call]:
    """All calls in a situation."""
    arguments, last = SITUATIONS[situation]
    folder = shared / f"record {situation}"
    _copy(shared, situation, folder)

    def before() -> None:
        record = Run.record

        def until(run: Run, metrics: Any) -> None:
            record(run, metrics)
            if metrics.step == last:
                os._exit(0)

        Run.record = until  # type: ignore[method-assign]

    return recorded(arguments(shared), folder, before)


def _copy(shared: Path, situation: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if (shared / situation).exists():
        shutil.copytree(shared / situation / "run", folder / "run")


def _kill(shared: Path, situation: str, call: int, folder: Path, half: bool = False) -> int:
    """Train in a situation until the child kills itself before a call, or in the middle of a write -> its exit code."""
    _copy(shared, situation, folder)
    write, count = os.write, 0

    def strike(name: str, path: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if count == call:
            if half:
                write(args[0], args[1][: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    return wait(spawn(SITUATIONS[situation][0](shared), folder, lambda: watch(strike)))


def kill_every_call(trial: Trial) -> str:
    point = json.loads((trial.shared / "points.json").read_text())[trial.number]
    code = _kill(trial.shared, point["situation"], point["call"], trial.folder, point["half"])
    trial.check(code == -signal.SIGKILL, f"{point} was not reached: it ended with {code}")
    return f"{point['situation']}: {go_on(trial)}"


# ---- at every call of the kernel ---------------------------------------------------------------------------------------

# fmt: off
KERNEL = (
    "open openat creat close write pwrite64 writev fsync fdatasync ftruncate truncate fallocate flock mkdir mkdirat rename "
    "renameat renameat2 unlink unlinkat rmdir link linkat symlink symlinkat chmod fchmod fchmodat"
).split()
# fmt: on
SAVES = (0, 4, 8)  # steps: the first save, a later one, and one that prunes


def prepare_kernel_calls(shared: Path) -> None:
    """The calls of each save: {"step", "name", "nth" of this name}; a single empty one where strace cannot be used."""
    prepare(shared)
    points: list[dict[str, Any]] = []
    for step in SAVES if _strace_works() else ():
        folder = shared / f"step {step}"
        folder.mkdir()
        assert _strace(start(shared), folder, step, []) == 0
        names = [line.split("(")[0].split()[-1] for line in (folder / "calls.txt").read_text().splitlines() if "(" in line]
        points += [{"step": step, "name": name, "nth": names[: i + 1].count(name)} for i, name in enumerate(names)]
    (shared / "points.json").write_text(json.dumps(points or [{}]))


def _strace_works() -> bool:
    try:
        return subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _strace(arguments: list[str], folder: Path, step: int, options: list[str]) -> int:
    """Train, and let strace watch from the record of a step to its end -> the exit code of the training."""

    def before() -> None:
        record = Run.record

        def watched(run: Run, metrics: Any) -> None:
            if metrics.step == step:
                os.kill(os.getpid(), signal.SIGSTOP)
            record(run, metrics)
            if metrics.step == step:
                os._exit(0)

        Run.record = watched  # type: ignore[method-assign]

    pid = spawn(arguments, folder, before)
    os.waitpid(pid, os.WUNTRACED)
    calls = ",".join(f"?{name}" for name in KERNEL)
    command = ["strace", "-p", str(pid), "-o", str(folder / "calls.txt"), "-e", f"trace={calls}", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
        assert strace.stderr
        strace.stderr.readline()  # "attached"
        os.kill(pid, signal.SIGCONT)
        strace.wait()
        return wait(pid)


def kill_every_syscall(trial: Trial) -> str:
    point = json.loads((trial.shared / "points.json").read_text())[trial.number]
    if not point:
        return "skipped: no strace"
    kill = ["-e", f"inject={point['name']}:signal=KILL:when={point['nth']}"]
    code = _strace(start(trial.shared), trial.folder, point["step"], kill)
    trial.check(code == -signal.SIGKILL, f"{point} was not reached: it ended with {code}")
    return f"save of step {point['step']}: {go_on(trial)}"


# ---- the order of what reaches the disk --------------------------------------------------------------------------------


def sync_order(trial: Trial) -> str:
    """A training with random settings: each call that changes the disk comes when what it relies on is on the disk."""
    settings = {
        "n_layer": trial.rng.choice([1, 2]),
        "n_head": 2,
        "n_embd": 16,
        "block_size": 8,
        "batch_size": 4,
        "max_iters": trial.rng.randrange(1, 25),
        "eval_interval": trial.rng.randrange(2, 9),
        "arch": trial.rng.choice(["modern", "gpt"]),
        "seed": trial.number,
    }
    write_text(trial.folder / "text.txt")
    arguments = ["train", "text.txt", "--out=run", *flags(**settings)]
    order = Order(trial)
    for call in recorded(arguments, trial.folder):
        order.see(call)
    trial.check(order.checkpoints, "no checkpoint was saved")
    trial.check(not order.entries, f"never synced: {order.entries}")
    return "every save in order"


class Order:
    """Reads calls in their order, and knows what a power cut at this very moment could take away."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.contents: set[str] = set()  # files whose content is not on the disk yet
        self.entries: set[str] = set()  # names that are not on the disk in their folder yet
        self.checkpoints: set[str] = set()

    def see(self, call: Call) -> None:
        if call.makes or call.name == "mkdir":
            self.entries.add(call.path)
        elif call.name == "write":
            self.contents.add(call.path)
        elif call.name == "fsync":
            self.contents.discard(call.path)
            self.entries -= {entry for entry in self.entries if os.path.dirname(entry) == call.path}
        elif call.other and not call.other.endswith(".tmp"):
            self._appears(call.path, call.other)
        elif call.path in self.checkpoints:  # an old one goes
            self.checkpoints.remove(call.path)
            safe = self.checkpoints - self.entries
            self.trial.check(len(safe) >= KEPT, f"{call.path} goes while there are only {safe} on the disk")

    def _appears(self, path: str, name: str) -> None:
        """A file or a folder gets the name that it is known by: all of it is on the disk, and whatever it relies on."""
        self.trial.check(path not in self.contents, f"{name} is named before its content is on the disk")
        manifest = f"{os.path.dirname(name)}/{MANIFEST}"
        self.trial.check(manifest not in self.entries, f"{name} is named before the manifest is on the disk")
        within = {one for one in self.contents | self.entries if one.startswith(f"{path}/")}
        self.trial.check(not within, f"{name} is named before {within} is on the disk")
        if "/step-" in name:
            logs = {one for one in self.contents | (self.entries if self.checkpoints else set()) if one.endswith(".jsonl")}
            self.trial.check(not logs, f"{name} is named before {logs} is on the disk")
            self.checkpoints.add(name)
        self.entries.discard(path)
        self.entries.add(name)


SUITES = [
    Suite("kill-anytime", "SIGKILL at a random moment, every other one in a save, loses no checkpoint, and going on gives "
          "the same bits.", kill_anytime, 1000, 20, prepare, together=10),
    Suite("kill-every-call", "SIGKILL before every call that changes the disk, and in the middle of every write, loses "
          "nothing.", kill_every_call, lambda shared: len(json.loads((shared / "points.json").read_text())), 8,
          prepare_calls, together=10),
    Suite("kill-every-syscall", "SIGKILL at every call of the kernel by which a save changes the disk loses nothing.",
          kill_every_syscall, lambda shared: len(json.loads((shared / "points.json").read_text())), 4,
          prepare_kernel_calls, together=10),
    Suite("sync-order", "Nothing gets its name before it is on the disk, and nothing goes before what replaces it is there.",
          sync_order, 50, 2, together=5),
]  # fmt: skip
