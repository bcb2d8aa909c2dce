"""Small trainings in processes of their own, to be killed, starved and disturbed.

Starting Python with torch takes seconds, so a trial forks: the child is a fresh process in all that matters here, with the
command line as its program. A few trials of a suite start the real thing.

Next: disturbances.py
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch  # imported before the fork, once

from minigpt import checkpoint, console, profile  # noqa: F401  imported before the fork too
from minigpt.cli import main
from minigpt.machine import peak_flops

# A model that learns in a moment, and saves every few steps.
TINY = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "batch_size": 4, "max_iters": 24, "eval_interval": 4}
WORDS = "the king and the queen saw a fox; the fox saw them. why not? they walked to the river, and the river sang.\n"


def write_text(path: Path, characters: int = 2000) -> Path:
    """A text to learn from."""
    path.write_text((WORDS * (characters // len(WORDS) + 1))[:characters], encoding="utf-8")
    return path


def flags(**values: Any) -> list[str]:
    """n_layer=2, resume=True -> ["--n-layer=2", "--resume"]"""
    names = {name.replace("_", "-"): value for name, value in values.items()}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in names.items()]


def spawn(arguments: list[str], folder: Path, before: Callable[[], None] = lambda: None) -> int:
    """Fork a child that runs `minigpt ARGUMENTS` in a folder, its output in stdout.txt and stderr.txt there -> its pid.

    before: runs in the child first; that is where a trial makes the world hostile.
    """
    torch.set_num_threads(1)  # here too: a pool of threads does not survive a fork
    peak_flops(torch.device("cpu"))  # measured once, for all children
    pid = os.fork()
    if pid:
        return pid
    code = 70  # what nobody uses
    try:
        os.chdir(folder)
        for name, number in (("stdout", 1), ("stderr", 2)):
            descriptor = os.open(f"{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(descriptor, number)
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115
        sys.argv = ["minigpt", *arguments]
        checkpoint.SAMPLE = replace(checkpoint.SAMPLE, max_new_tokens=20)  # or most of the time would go into writing
        before()
        main(arguments)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int) -> int:
    """The exit code of a child; minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_minigpt(arguments: list[str], folder: Path, before: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Run to the end -> exit code, and what it said on stderr."""
    file = folder / "stderr.txt"
    said = file.stat().st_size if file.exists() else 0
    code = wait(spawn(arguments, folder, before))
    return code, file.read_bytes()[said:].decode("utf-8", "replace")


def fingerprint(run: Path) -> str:
    """The SHA-256 of all that a training comes to: its last checkpoint, its best model, and its metrics but the times."""
    digest = hashlib.sha256()
    last = max((run / "checkpoints").glob("step-*"))
    for path in (last / "model.safetensors", last / "optimizer.safetensors", run / "model.safetensors"):
        digest.update(path.read_bytes())
    state = json.loads((last / "state.json").read_bytes())
    digest.update(json.dumps([last.name, {k: v for k, v in state.items() if k not in ("seconds", "machine")}]).encode())
    for line in (run / "metrics.jsonl").read_bytes().splitlines():
        kept = {k: v for k, v in json.loads(line).items() if k in ("step", "loss", "grad_norm", "train_loss", "val_loss")}
        digest.update(json.dumps(kept).encode())
    return digest.hexdigest()


def leftovers(folder: Path) -> list[str]:
    """Temporary files that somebody forgot."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*.tmp")]
