"""A text much larger than memory needs to be: python benchmarks/memory.py [--gigabytes 5]

Writes benchmarks/memory.md. Makes a text of that size in a temporary folder, trains on it for 20 steps in a process of its
own, and asks the system for the most memory that process ever held. The ids are kept in the folder too, so it needs twice
the size of the text on the disk.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import ROOT, describe, table


def write_text(path: Path, size: int) -> None:
    """Words of a fixed list in random order, a new block of 16 MB each time."""
    words = np.array("the a of and in we they see know some green old river mountain letter é ß.\n".split(" "))
    rng = np.random.default_rng(0)
    block = " ".join(rng.choice(words, 4_000_000)).encode()
    with path.open("wb") as file:
        while file.tell() < size:
            start = int(rng.integers(len(block) // 2))
            start = block.index(b" ", start) + 1
            file.write(block[start:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5, metavar="X", help="size of the text  [default: 5]")
    size = int(parser.parse_args().gigabytes * 2**30)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "large.txt")
        write_text(text, size)
        command = [sys.executable, "-m", "minigpt", "train", str(text), "--out", f"{folder}/run"]
        command += ["--size", "small", "--max-iters", "20", "--eval-interval", "10", "--device", "cpu"]
        rows = []
        for what in ("first run, ids made", "second run, ids from the cache"):
            started = time.perf_counter()
            environment = {**os.environ, "MINIGPT_HOME": folder}
            subprocess.run(command, env=environment, check=True, capture_output=True)
            seconds = time.perf_counter() - started
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # kB -> GB on Linux
            size_gb = text.stat().st_size / 2**30
            rows.append([what, f"{size_gb:.2f} GB", f"{seconds:.0f} s", f"{peak:.2f} GB"])
            print(rows[-1], flush=True)
            command[command.index("--out") + 1] += "-again"
    page = f"""# Memory

Made by `python benchmarks/memory.py`.

{describe()}.

{table(["run of 20 steps", "text", "whole process", "most memory held"], rows)}
"""
    (ROOT / "benchmarks/memory.md").write_text(page)


if __name__ == "__main__":
    main()
