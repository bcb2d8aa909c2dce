"""Does --minutes keep its word? python benchmarks/minutes.py [--minutes 1 3 10] [--texts ...] [--presets]

For each number of minutes and each text (tiny Shakespeare, the Python manual, the source of Python's standard library) runs
`minigpt train TEXT --minutes M` as a person would, from the start of the process to its end, and compares: the time with the
time asked, the loss with the range that the plan told. --presets: also the sizes that a person can choose by hand, each for
the same time (`--size NAME --minutes M`) and the quick one as it is.

Keeps a line for each run in build/minutes.jsonl, so that it can be stopped and started, and writes a section of
docs/results.md. Nothing else should be computing meanwhile.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import ROOT, describe, publish, shakespeare, table
from sweep import library

from minigpt import evaluate, load, load_corpus
from minigpt.corpus import _python_manual

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
        shape = re.search(r"model +(.*): .* weights", done.stderr)
        last = json.loads((Path(folder) / "run/metrics.jsonl").read_text().splitlines()[-1])
        return {
            "seconds": round(seconds, 1),
            "val_loss": round(evaluate(model, corpus.val, 0 if len(corpus.val) < 2e5 else 2**18), 4),
            "expected": [float(x) for x in expected.groups()] if expected else None,
            "model": shape[1] if shape else " ".join(flags),
            "steps": last["step"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 3, 10])
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=TEXTS)
    parser.add_argument("--presets", action="store_true")
    asked = parser.parse_args()
    LINES.parent.mkdir(exist_ok=True)
    done = [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        manual = Path(folder, "manual.txt")
        manual.write_text(_python_manual(), encoding="utf-8")
        texts = {"shakespeare": Path(shakespeare()), "manual": manual, "library": library(Path(folder))}
        for minutes in asked.minutes:
            for name in asked.texts:
                ways = [["--minutes", f"{minutes:g}"]]
                if asked.presets:
                    ways += [["--size", size, "--minutes", f"{minutes:g}"] for size in ("quick", "tiny", "small")]
                for flags in ways:
                    key = {"text": name, "minutes": minutes, "flags": " ".join(flags)}
                    if any(key.items() <= line.items() for line in done):
                        continue
                    done.append(key | run(texts[name], flags))
                    print(done[-1], flush=True)
                    with LINES.open("a") as file:
                        file.write(json.dumps(done[-1]) + "\n")
    rows = []
    for line in sorted(done, key=lambda line: (TEXTS.index(line["text"]), line["minutes"])):
        told = "{:.2f} to {:.2f}".format(*line["expected"]) if line["expected"] else ""
        off = f"{100 * (line['seconds'] / 60 / line['minutes'] - 1):+.1f} %"
        plan = [f"`{line['flags']}`", line["model"] if told else "", f"{line['steps']:,}"]
        row = [line["text"], f"{line['minutes']:g}", *plan, told, f"{line['val_loss']:.4f}", f"{line['seconds']:.0f} s", off]
        rows.append(row)
    header = ["text", "minutes", "`minigpt train TEXT` with", "the plan's model", "steps", "expected", "val loss"]
    publish(
        "So many minutes",
        f"""Made by `python benchmarks/minutes.py --presets`.

{describe()}.

One seed each; seconds of the whole process, and how far they are from the time asked. Losses in nats/character on the whole
validation part (of the library: on 262,144 characters of it). "expected" is what the plan told before it began.

{table([*header, "time", "off"], rows)}""",
    )


if __name__ == "__main__":
    main()
