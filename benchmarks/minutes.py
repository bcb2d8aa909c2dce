"""Does --minutes keep its word? python benchmarks/minutes.py [--minutes 1 3 10] [--texts ...] [--presets] [--cores N]

For each number of minutes and each text (tiny Shakespeare, the Python manual, the source of Python's standard library) runs
`minigpt train TEXT --minutes M` as a person would, from the start of the process to its end, and compares: the time with the
time asked, the loss with the range that the plan told. --presets: also the sizes that a person can choose by hand, each for
the same time (`--size NAME --minutes M`), and what `minigpt train TEXT` does by itself.

--cores N: each run has N cores to itself, and as many runs go on at once as the machine has room for: so a machine of two
cores judges the plans of a machine of one in half of the time. Without it a run has all cores, and nothing else should be
computing. Keeps a line for each run in build/minutes.jsonl, so that it can be stopped and started, and writes a section of
docs/results.md.
"""

import argparse
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from machine import ROOT, commit, describe, publish, shakespeare, table
from sweep import library, manual

from minigpt import evaluate, load, load_corpus
from minigpt.config import SIZES

LINES = ROOT / "build/minutes.jsonl"
TEXTS = ("shakespeare", "manual", "library")


def run(text: Path, flags: list[str]) -> dict:
    """Train once -> seconds of the whole process, loss on the whole validation part, what was planned."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "minigpt", "train", str(text), "--out", f"{folder}/run", "--device", "cpu", *flags]
        started = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        model, tokenizer = load(f"{folder}/run")
        corpus = load_corpus([text], tokenizer=tokenizer)
        expected = re.search(r"expected +validation loss ([\d.]+) to ([\d.]+)", done.stderr)
        shape = model.config
        last = json.loads((Path(folder) / "run/metrics.jsonl").read_text().splitlines()[-1])
        return {
            "seconds": round(seconds, 1),
            "val_loss": round(evaluate(model, corpus.val, 0 if len(corpus.val) < 2e5 else 2**18), 4),
            "expected": [float(x) for x in expected.groups()] if expected else None,
            "model": f"{shape.n_layer} blocks of {shape.n_embd} channels, context {shape.block_size}",
            "steps": last["step"],
        }


def ways(text: str, minutes: float, presets: bool) -> list[str]:
    """The flags of every run on a text that takes so many minutes; 0: of the one that is given none."""
    if not minutes:
        return [""]
    flags = [f"--minutes {minutes:g}"]
    if presets:
        # The lecture's size is for a GPU: in ten minutes of a processor it makes some fifty steps. Once is enough.
        sizes = [size for size in SIZES if size != "lecture" or (text, minutes) == ("shakespeare", 10)]
        flags += [f"--size {size} --minutes {minutes:g}" for size in sizes]
    return flags


def run_all(keys: list[dict], texts: dict[str, Path], cores: int) -> None:
    """Train each, as many at once as there is room for, and keep a line for each."""
    here = sorted(os.sched_getaffinity(0))
    waiting: queue.SimpleQueue[dict] = queue.SimpleQueue()
    for key in keys:
        waiting.put(key)
    threads = torch.get_num_threads()
    torch.set_num_threads(cores)  # of the evaluations, which are ours

    def work(mine: list[int]) -> None:
        os.sched_setaffinity(0, mine)  # of this thread, and of the processes that it starts
        while True:
            try:
                key = waiting.get_nowait()
            except queue.Empty:
                return
            line = key | {"at": commit()} | run(texts[key["text"]], key["flags"].split())
            print(line, flush=True)
            with LINES.open("a") as file:
                file.write(json.dumps(line) + "\n")

    groups = [here[i : i + cores] for i in range(0, len(here) - cores + 1, cores)]
    with ThreadPoolExecutor(len(groups)) as pool:
        list(pool.map(work, groups))
    torch.set_num_threads(threads)


def rows(lines: list[dict]) -> list[list[str]]:
    """The table; of runs on the same text for the same time, the best loss is bold."""
    made = []
    for line in lines:
        rivals = [
            other["val_loss"] for other in lines if all(other[key] == line[key] for key in ("text", "minutes", "cores"))
        ]
        best = len(rivals) > 1 and line["val_loss"] == min(rivals)
        told = "{:.2f} to {:.2f}".format(*line["expected"]) if line["expected"] else ""
        off = f"{100 * (line['seconds'] / 60 / line['minutes'] - 1):+.1f} %" if line["minutes"] else ""
        loss = f"**{line['val_loss']:.4f}**" if best else f"{line['val_loss']:.4f}"
        plan = [f"`{line['flags']}`" if line["flags"] else "nothing else", line["model"], f"{line['steps']:,}", told]
        made.append([line["text"], str(line["cores"]), *plan, loss, f"{line['seconds']:.0f} s", off, line["at"]])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 3, 10])
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=TEXTS)
    parser.add_argument("--presets", action="store_true")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    asked = parser.parse_args()
    if not 1 <= asked.cores <= parser.get_default("cores"):
        parser.error(f"--cores must be from 1 to {parser.get_default('cores')}")
    LINES.parent.mkdir(exist_ok=True)
    done = [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []
    wanted = [
        {"text": text, "minutes": minutes, "cores": asked.cores, "flags": flags}
        for minutes in [*asked.minutes, *([0] if asked.presets else [])]
        for text in asked.texts
        for flags in ways(text, minutes, asked.presets)
    ]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        texts = {"shakespeare": Path(shakespeare()), "manual": manual(place), "library": library(place)}
        run_all([key for key in wanted if not any(key.items() <= line.items() for line in done)], texts, asked.cores)
    lines = [json.loads(line) for line in LINES.read_text().splitlines()]
    lines.sort(key=lambda line: (-line["cores"], TEXTS.index(line["text"]), line["minutes"], len(line["flags"])))
    header = ["text", "cores", "`minigpt train TEXT` with", "model", "steps", "expected", "val loss", "time", "off", "at"]
    publish(
        "So many minutes",
        f"""Made by `python benchmarks/minutes.py` and `python benchmarks/minutes.py --presets --cores 1`.

{describe()}.

One seed each; seconds of the whole process, and how far they are from the time asked. Losses in nats/character on the whole
validation part (of the library: on 262,144 characters of it); the best of a text and a time is bold. Seeds differ by about
0.01. "expected" is what the plan told before it began; "at" the commit: before
a32b6ea a step took 1.1 to 1.2 times as long. Where a run had one core of two, another had the other.

{table(header, rows(lines))}""",
    )


if __name__ == "__main__":
    main()
