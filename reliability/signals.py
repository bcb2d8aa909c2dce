"""Ctrl-C and SIGTERM at any moment, and many starts in one folder.

Next: resuming.py
"""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from minigpt import trainer
from minigpt.batches import sweep
from minigpt.checkpoint import Run
from minigpt.files import read_lines
from minigpt.gradient import Gradient

from .disturbances import RESUME, Moment, go_on, prepare, start
from .suite import Suite, Trial
from .trainings import fingerprint, spawn, wait

PROMPT = 5.0  # seconds after which a program has ended at the latest, beyond one step

# ---- a signal at any moment --------------------------------------------------------------------------------------------

# What is going on when the signal comes: the start of a program, a step, an evaluation, a save, compiling; in turn.
# fmt: off
TURNS = (
    "start", "step", "evaluation", "save", "compile", "twice", "step", "endless", "step", "save", "start", "twice",
    "evaluation", "save", "step", "start", "twice", "step", "endless", "save", "save",
)
# fmt: on
MOMENTS: dict[str, tuple[Any, str, int, Any]] = {  # a function that is called then, how often it is, what it is instead
    "step": (Gradient, "add_up", 16, None),
    "evaluation": (trainer, "mean_and_error", 5, None),
    "endless": (trainer, "sweep", 5, lambda *args: itertools.cycle(sweep(*args))),  # an evaluation of a very long text
    "save": (Run, "save", 6, None),
    "twice": (Run, "record", 17, None),
}


def one_signal(trial: Trial) -> str:
    turn = TURNS[trial.number % len(TURNS)]
    number = trial.rng.choice([signal.SIGINT, signal.SIGTERM])
    if turn in ("start", "compile"):
        return {"start": at_the_start, "compile": while_compiling}[turn](trial, number)
    owner, name, times, instead = MOMENTS[turn]
    moment = Moment(owner, name, trial.rng.randrange(times), instead)
    pid = spawn(start(trial.shared), trial.folder, moment.arrange)
    moment.wait()
    time.sleep(trial.rng.uniform(0, 0.003))
    sent = time.monotonic()
    for _ in range(2 if turn == "twice" else 1):
        os.kill(pid, number)
        time.sleep(trial.rng.uniform(0, 0.003))
    code = wait(pid)
    ended_well(trial, code, number, time.monotonic() - sent, (trial.folder / "stderr.txt").read_text())
    if turn != "twice":
        saved_last_step(trial)
    return f"{turn}: {go_on(trial)}"


def ended_well(trial: Trial, code: int, number: int, seconds: float, said: str) -> None:
    """The exit code is that of the signal (or 0, if all was done before), it came soon, and nobody was frightened."""
    trial.check(code in (128 + number, 0), f"{signal.Signals(number).name}: it ended with {code}: {said}")
    trial.check(code or "Try next" in said, f"it ended with 0 before the end: {said}")
    trial.check(seconds < PROMPT, f"it took {seconds:.1f} s to end: {said}")
    trial.check("Traceback" not in said, said)


def saved_last_step(trial: Trial) -> None:
    """There is a checkpoint of the last step that was told, or of one whose evaluation was not over."""
    last = max((line["step"] for line in read_lines(trial.folder / "run/metrics.jsonl")), default=None)
    saved = max((int(path.name[5:]) for path in trial.folder.glob("run/checkpoints/step-*")), default=-1)
    trial.check(last is None or saved >= last, f"there is no checkpoint of step {last}, the last one")


def at_the_start(trial: Trial, number: int) -> str:
    """A real process, from the moment on at which it is ours: what the interpreter does before that is not."""
    with program(start(trial.shared), trial.folder) as process:
        wait_until_heeded(process.pid)
        time.sleep(trial.rng.uniform(0, 3))
        sent = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate()
    ended_well(trial, process.returncode, number, time.monotonic() - sent, said.decode())
    saved_last_step(trial)
    return f"start: {go_on(trial)}"


def program(arguments: list[str], folder: Path, **environment: str) -> subprocess.Popen:
    """The real thing, as a process group of its own, as a terminal makes it."""
    return subprocess.Popen(
        [sys.executable, "-m", "minigpt", *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MINIGPT_OFFLINE": "1"} | environment,
    )


def wait_until_heeded(pid: int) -> None:
    """Wait until a process catches SIGTERM. Where the system does not tell, half a second."""
    try:
        while not int(re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1], 16) >> 14 & 1:  # type: ignore[index]
            time.sleep(0.001)
    except OSError:
        time.sleep(0.5)


def while_compiling(trial: Trial, number: int) -> str:
    """A real process, with its compilers: all of them get the signal, as from a terminal."""
    if not shutil.which("c++"):
        return "skipped: no compiler"
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(trial.folder / "cache")}
    arguments = [*start(trial.shared), "--compile=on"]
    began = time.monotonic()
    with program([*arguments[:2], "--out=whole", *arguments[3:]], trial.folder, **cache) as process:
        _, said = process.communicate()
    seconds = time.monotonic() - began
    trial.check(process.returncode == 0, said.decode())
    shutil.rmtree(trial.folder / "cache", ignore_errors=True)
    with program(arguments, trial.folder, **cache) as process:
        while process.poll() is None and not (trial.folder / "run/checkpoints/step-00000000").exists():
            time.sleep(0.01)  # after this checkpoint, and before the first step, the model is compiled
        time.sleep(trial.rng.uniform(0, seconds / 3))
        sent = time.monotonic()
        os.killpg(process.pid, number)
        _, said = process.communicate()
    ended_well(trial, process.returncode, number, time.monotonic() - sent, said.decode())
    run = trial.folder / "run"
    begun = any((run / "checkpoints").glob("step-*"))
    with program(RESUME if begun else arguments, trial.folder, **cache) as process:
        _, said = process.communicate()
    trial.check(process.returncode == 0, said.decode())
    trial.check(fingerprint(run) == fingerprint(trial.folder / "whole"), "it ended with other bits than undisturbed")
    return f"compile: {'resumed' if begun else 'started again'}"


# ---- one owner ---------------------------------------------------------------------------------------------------------

STARTS = 50


def one_owner(trial: Trial) -> str:
    """Many start at once; one of them gets the folder, and is killed."""
    here, there = os.pipe()
    before_checkpoint = trial.number % 2

    def before() -> None:
        record = Run.record

        def wait_for_the_end(run: Run, metrics: Any) -> None:
            if not before_checkpoint:
                record(run, metrics)
            (trial.folder / "owner.tmp").write_text(str(os.getpid()))
            (trial.folder / "owner.tmp").rename(trial.folder / "owner.txt")
            time.sleep(600)

        Run.record = wait_for_the_end  # type: ignore[method-assign]
        os.close(there)
        os.read(here, 1)  # until the parent closes its end: all go at once

    folders = [trial.folder / f"start {i}" for i in range(STARTS)]
    for folder in folders:
        folder.mkdir()
    shared_run = f"--out={trial.folder / 'run'}"
    arguments = [shared_run if flag == "--out=run" else flag for flag in start(trial.shared)]
    children = {spawn(arguments, folder, before): folder for folder in folders}
    os.close(there)
    until, codes = time.monotonic() + 60, {}
    while (len(codes) < STARTS - 1 or not (trial.folder / "owner.txt").exists()) and time.monotonic() < until:
        ended = [os.waitpid(pid, os.WNOHANG) for pid in children.keys() - codes.keys()]
        codes |= {pid: os.waitstatus_to_exitcode(status) for pid, status in ended if pid}
        time.sleep(0.01)
    owners = list(children.keys() - codes.keys())
    for pid in owners:
        os.kill(pid, signal.SIGKILL)
        wait(pid)
    trial.check(len(owners) == 1, f"{len(owners)} of them have the folder")
    trial.check((trial.folder / "owner.txt").read_text() == str(owners[0]), "another one has the folder")
    for pid, code in codes.items():
        said = (children[pid] / "stderr.txt").read_text()
        trial.check(code == 1, f"one of them ended with {code}: {said}")
        trial.check(f"is in use by process {owners[0]};" in said, f"one of them said: {said}")
    return f"one owner, {go_on(trial)}"


SUITES = [
    Suite("signals", "SIGINT and SIGTERM at any moment end a training within a step and five seconds, with a checkpoint if "
          "it has begun, and going on gives the same bits.", one_signal, 100, 6, prepare, together=5),
    Suite("one-owner", "Of fifty starts in one folder at the same moment one gets it, and the others name its process; when "
          "that is killed, the folder is free at once.", one_owner, 50, 1, prepare),
]  # fmt: skip
