"""Run the suites in full: python -m reliability [NAME ...] [--seed N] [--jobs N] [--most N], or `make soak` for all of them.

What is done is kept in build/reliability/, so that it can be stopped (Ctrl-C) and started; after a change of the code it
begins anew. Writes docs/reliability/NAME.json
for each suite, and the table in docs/reliability/README.md. Hours on two processor cores; nothing is timed, so other
programs may run meanwhile.
"""

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of all trainings here: small models are fastest on one
os.environ.setdefault("MINIGPT_OFFLINE", "1")

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from minigpt.machine import fingerprint

from .suite import SEED, Suite, merged, run_full
from .suites import SUITES

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "reliability"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"suites: {', '.join(SUITES)}  [default: all]")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help=f"of all trials  [default: {SEED}]")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes  [default: one a core]"
    )
    parser.add_argument("--most", type=int, metavar="N", help="about so many trials of each")
    asked = parser.parse_args()
    if unknown := set(asked.names) - SUITES.keys():
        parser.error(f"there is no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    torch.set_num_threads(1)
    failed = 0
    with contextlib.suppress(KeyboardInterrupt):
        for suite in [SUITES[name] for name in asked.names] or SUITES.values():
            result = soak(suite, asked.seed, asked.jobs, asked.most)
            failed += result["failed"]
            publish(suite, result, asked.seed, asked.most)
        sys.exit(bool(failed))
    print("Stopped; the same command goes on.", file=sys.stderr)
    sys.exit(130)


def soak(suite: Suite, seed: int, jobs: int, most: int | None) -> dict[str, Any]:
    """All trials of a suite, with a bar -> the sum of their results."""
    bar = (
        TextColumn(suite.name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    parts = []
    with Progress(*bar) as progress:
        task = progress.add_task(suite.name, total=None)
        for part, total in run_full(suite, ROOT / "build" / "reliability" / version(), seed, jobs, most):
            parts.append(part)
            progress.update(task, total=total, advance=part["trials"])
            for failure in part["failures"]:
                progress.console.print(f"trial {failure['number']}: {failure['why']}", markup=False, highlight=False)
    result = merged(parts) | {"of": total}
    print(
        f"{suite.name}, seed {seed}: {result['trials']:,} trials, {result['failed']} failed; {outcomes(result)}", flush=True
    )
    return result


def version() -> str:
    """A name for the code that is tried."""
    files = sorted(
        path for folder in ("minigpt", "reliability") for path in (ROOT / folder).rglob("*.*") if path.suffix != ".pyc"
    )
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def outcomes(result: dict[str, Any]) -> str:
    """How the trials ended: "980 resumed, 20 had not begun"."""
    return ", ".join(f"{count:,} {name}" for name, count in result["outcomes"].items())


def publish(suite: Suite, result: dict[str, Any], seed: int, most: int | None) -> None:
    """Write the result of a suite, and the page anew."""
    commit = _git("rev-parse", "--short", "HEAD") + "-dirty" * bool(_git("status", "--porcelain", "minigpt", "reliability"))
    about = {
        "suite": suite.name,
        "claim": suite.claim,
        "command": f"python -m reliability {suite.name} --seed {seed}" + (f" --most {most}" if most else ""),
        "date": str(datetime.date.today()),
        "commit": commit,
        "machine": fingerprint(torch.device("cpu")) | {"python": sys.version.split()[0], "system": sys.platform},
        "seed": seed,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{suite.name}.json").write_text(json.dumps(about | result, indent=2) + "\n")
    write_page()


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def write_page() -> None:
    """The table of all suites that have a result."""
    rows = []
    for name, one in SUITES.items():
        file = RESULTS / f"{name}.json"
        if file.exists():
            r = json.loads(file.read_text())
            tried = f"{r['trials']:,}" + (f" of {r['of']:,}" if r["trials"] < r.get("of", 0) else "")
            minutes = max(1, round(r["seconds"] / 60))
            figures = f"{tried} | {r['failed']} | {outcomes(r)} | {minutes} | {r['date']}, {r['commit']}"
            rows.append(f"| [{name}]({name}.json) | {one.claim} | {figures} |")
    (RESULTS / "README.md").write_text(
        f"""# Reliability

What minigpt promises, and how often each promise was tried. `make soak` runs all of it again, `python -m reliability NAME`
one suite, and `make test` a few trials of each. Trial number i of a suite is a function of (seed, i). The file behind each
name says seed, machine and versions; minutes are of one processor core.

| suite | what must hold | trials | failed | how they ended | minutes | when |
| --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}
"""
    )


if __name__ == "__main__":
    main()
