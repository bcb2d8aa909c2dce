"""What a suite is, and how it is run: from a seed, in parts that can be stopped and started, over several processes.

A suite is a claim and a trial. Trial number i is a pure function of (seed, i): whatever fails can be tried again by number.

Next: trainings.py
"""

import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 20261125
_work: "tuple[Suite, int, Path]"  # of a process of the pool
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass(frozen=True)
class Trial:
    """One attempt at breaking something."""

    number: int  # 0, 1, 2, ...
    rng: random.Random  # of its own
    folder: Path  # empty, and removed afterwards
    shared: Path  # what `prepare` made; read only

    def check(self, holds: object, otherwise: str) -> None:
        """Fail with words unless something holds. Unlike assert, it says what happened and cannot be switched off."""
        if not holds:
            raise Broken(otherwise)


class Broken(AssertionError):
    """What was claimed does not hold."""


@dataclass(frozen=True)
class Suite:
    """A claim, and trials that would show that it is wrong."""

    name: str
    claim: str  # one sentence
    trial: Callable[[Trial], str]  # how it ended, in a word or two; raises if the claim does not hold
    full: int | Callable[[Path], int]  # trials that there are; counted in what `prepare` made, where it depends on that
    quick: int  # of them in `make test`, spread evenly
    prepare: Callable[[Path], None] = lambda folder: None  # makes in a folder what all trials share
    together: int = 1  # trials in one part: what is recorded at once
    in_memory: bool = False  # its folders are in memory where the system has a place for that: many small files, soon gone

    def count(self, shared: Path) -> int:
        return self.full if isinstance(self.full, int) else self.full(shared)


def run_part(suite: Suite, seed: int, numbers: Sequence[int], shared: Path) -> dict[str, Any]:
    """Trials one after the other -> how they ended, which of them failed and why, seconds."""
    outcomes: Counter[str] = Counter()
    failures, slowest, began = [], 0.0, time.perf_counter()
    for number in numbers:
        folder = Path(tempfile.mkdtemp(prefix=f"minigpt-{suite.name}-", dir=MEMORY if suite.in_memory else None))
        started = time.perf_counter()
        try:
            outcomes[suite.trial(Trial(number, random.Random(f"{seed} {suite.name} {number}"), folder, shared))] += 1
        except Exception as error:
            outcomes["FAILED"] += 1
            short = "".join(traceback.format_exception(error)[-4:]) if not isinstance(error, Broken) else str(error)
            failures.append({"number": number, "why": short if len(short) < 2000 else f"{short[:500]} ... {short[-1500:]}"})
        finally:
            slowest = max(slowest, time.perf_counter() - started)
            shutil.rmtree(folder, ignore_errors=True)
    ended = {"outcomes": dict(outcomes), "failures": failures, "slowest": slowest}
    return {"first": next(iter(numbers), 0), "trials": len(numbers), **ended, "seconds": time.perf_counter() - began}


def run_quick(suite: Suite, shared: Path, seed: int = SEED) -> dict[str, Any]:
    """A few trials, spread evenly over all of them, in this process."""
    suite.prepare(shared)
    total = suite.count(shared)
    some = min(suite.quick, total)
    return run_part(suite, seed, [i * total // some for i in range(some)], shared)


def run_full(
    suite: Suite, folder: Path, seed: int, jobs: int, most: int | None = None
) -> Iterator[tuple[dict[str, Any], int]]:
    """All trials (or about `most`, spread evenly), over `jobs` processes -> each part as it is there, and how many trials
    there are.

    Parts are kept in `folder`; what an earlier call did is not done again, but told first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines, shared = folder / f"{suite.name}-{seed}.jsonl", folder / suite.name
    if not (shared / "prepared").exists():  # in its place, which what is made there may remember
        shutil.rmtree(shared, ignore_errors=True)
        shared.mkdir()
        suite.prepare(shared)
        (shared / "prepared").touch()
    total = suite.count(shared)
    firsts = range(0, total, suite.together)
    if most and most < total:
        firsts = firsts[:: -(-total // most)]  # spread over all of them
    done = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    there = {part["first"] for part in done}
    for part in done:
        yield part, total
    starts = [first for first in firsts if first not in there]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), _begin, (suite, seed, shared)) as pool:
        try:
            parts = [pool.submit(_part, first, min(first + suite.together, total)) for first in starts]
            for future in as_completed(parts):
                part = future.result()  # a process that crashed ends the suite: that is a finding too
                with lines.open("a") as file:
                    file.write(json.dumps(part) + "\n")
                yield part, total
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(*what: Any) -> None:
    """In each process of the pool: what it works on. A session of its own, so that Ctrl-C is for its parent alone."""
    global _work
    _work = what
    os.setsid()


def _part(first: int, end: int) -> dict[str, Any]:
    suite, seed, shared = _work
    return run_part(suite, seed, range(first, end), shared)


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sum of parts."""
    outcomes: Counter[str] = Counter()
    for part in parts:
        outcomes.update(part["outcomes"])
    return {
        "trials": sum(part["trials"] for part in parts),
        "failed": sum(len(part["failures"]) for part in parts),
        "outcomes": dict(outcomes.most_common()),
        "slowest_s": round(max(part["slowest"] for part in parts), 3),
        "seconds": round(sum(part["seconds"] for part in parts), 1),
        "failures": [failure for part in parts for failure in part["failures"]][:20],
    }
