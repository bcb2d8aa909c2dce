"""The ladder, the lecture and the breaks as the documentation shows them: python benchmarks/ladder.py [--seeds 3] [PART ...]

Writes sections of docs/results.md, and docs/ladder.svg. Each part can be made alone: climb, manual, lecture, breaks. About
half an hour on two processor cores; nothing else should be computing meanwhile, since times are measured too.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import ROOT, describe, publish, shakespeare, table

from minigpt import load_corpus
from minigpt.ladder.breaks import FIGURES
from minigpt.ladder.program import break_parts, breaks_named, lecture, spread

WHERE = "nats/token of the whole validation part, in windows that do not overlap"


def climb(title: str, home: str, picture: Path | None = None) -> None:
    """`python ladder.py` as a person runs it, with the text that it finds in this cache folder."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MINIGPT_HOME": home or folder, "MINIGPT_OFFLINE": "1"}
        started = time.perf_counter()
        subprocess.run([sys.executable, str(ROOT / "ladder.py")], cwd=folder, env=environment, check=True)
        seconds = time.perf_counter() - started
        report = json.loads(Path(folder, "runs/ladder/ladder.json").read_text())
        if picture:
            shutil.copy(Path(folder, "runs/ladder/ladder.svg"), picture)
    recipe, text = report["recipe"], report["text"]
    size = f"{recipe['batch_size']} windows of {recipe['block_size']}"
    rows = [
        ["0", b["name"], b["idea"], "", "", f"{b['loss']:.4f}", f"{b['bits_per_char']:.4f}", "", ""]
        for b in report["baselines"]
    ]
    for r in report["rungs"]:
        gain = "" if r["gain"] is None else f"{r['gain']:+.4f}"
        losses = [
            f"{r['train_loss']:.4f}",
            f"{r['val_loss']:.4f}",
            f"{r['bits_per_char']:.4f}",
            gain,
            f"{r['seconds']:.0f} s",
        ]
        rows.append([str(r["number"]), r["name"], r["idea"], f"{r['parameters']:,}", *losses])
    header = ["", "rung", "idea", "parameters", "train loss", "val loss", "bits/char", "gain", "time"]
    shown = f"\n\n![Loss by rung]({picture.relative_to(ROOT / 'docs')})" if picture else ""
    publish(
        title,
        f"""Made by `python benchmarks/ladder.py`, which runs `python ladder.py`: {seconds:.0f} s, the whole process.

{describe()}.

{text["name"]}, {text["characters"]:,} characters; {recipe["steps"]} steps of {size}; losses in
{WHERE}. Gain: against the row before; the first row's: against unigram.

{table(header, rows)}{shown}""",
    )


def publish_lecture(seeds: int) -> None:
    rows = lecture(load_corpus([shakespeare()]), seeds)
    shown = [
        [
            row["step"],
            str(row["at"]),
            f"{row['published']:.4f}",
            spread(row["ours"]),
            f"{statistics.fmean(row['ours']) - row['published']:+.4f}",
            spread(row["right"]) if row["right"] else "the same",
        ]
        for row in rows
    ]
    header = ["step of the lecture", "after", "published", "ours", "off by", "with the right scale"]
    publish(
        "The lecture's steps",
        f"""Made by `python benchmarks/ladder.py lecture`: `python ladder.py --lecture --seeds {seeds}`.

{describe()}.

Tiny Shakespeare, the lecture's own recipes; mean ± standard deviation over seeds 1 to {seeds}. Published: one seed,
the mean of 200 random batches of validation text (51,200 tokens, so about 0.005 of chance). Ours:
{WHERE}. The lecture divides the attention scores by the square root
of n_embd instead of the head size; the last column has the head size. Weights, batches and the parts of the validation text
differ, so the seeds' spread and that chance are what may be expected; blocks without residual connections spread most.

{table(header, shown)}""",
    )


def publish_breaks() -> None:
    rows = []
    for brk, intact, broken in break_parts(load_corpus([shakespeare()]), breaks_named("all")):
        for i, name in enumerate(brk.figures):
            shows = ("yes" if brk.symptom(intact, broken) else "no") if i == 0 else ""
            figures = [f"{getattr(intact, name):.3g}", f"{getattr(broken, name):.3g}"]
            rows.append([brk.name if i == 0 else "", brk.mistake if i == 0 else "", FIGURES[name], *figures, shows])
    publish(
        "Broken parts",
        f"""Made by `python benchmarks/ladder.py breaks`, the figures of `python ladder.py --break all`.

{describe()}.

Tiny Shakespeare, a GPT of 0.81 M parameters, intact and with one mistake, trained alike for a short while.

{table(["part", "mistake", "figure", "intact", "broken", "symptom shows"], rows)}""",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["climb", "manual", "lecture", "breaks"], metavar="PART")
    parser.add_argument("--seeds", type=int, default=3, help="of the lecture's steps")
    asked = parser.parse_args()
    if "climb" in asked.parts:
        climb("The ladder on tiny Shakespeare", str(Path(shakespeare()).parent), ROOT / "docs/ladder.svg")
    if "manual" in asked.parts:
        climb("The ladder on Python's manual", "")
    if "lecture" in asked.parts:
        publish_lecture(asked.seeds)
    if "breaks" in asked.parts:
        publish_breaks()


if __name__ == "__main__":
    main()
