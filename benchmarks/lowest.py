"""How low can the loss be on tiny Shakespeare, for less than an hour of two processor cores? python benchmarks/lowest.py

Standard split, context 256, no text from outside, windows that do not overlap. Five fresh seeds of one recipe that was fixed
beforehand; what counts is the whole validation part, read by the saved model. Two trainings at once, a core each, because
that takes less time than one after the other on both.

Keeps a line for each seed in build/lowest.jsonl, so that it can be stopped and started, and writes a section of
docs/results.md.
"""

import argparse
import json
import os
import statistics
from concurrent.futures import ThreadPoolExecutor

from machine import ROOT, describe, publish, shakespeare, table
from race import mean_spread, ours

from minigpt.files import read_lines

RECIPE = "--n-layer 6 --n-head 8 --n-embd 256 --block-size 256 --batch-size 14 --max-iters 820 --eval-interval 164"
PUBLISHED = (
    ("nanoGPT's README, 10.65 M parameters, one run on a GPU; the best of its steps", "1.4697"),
    ("the lecture's gpt.py, 10.79 M parameters, 5000 steps on a GPU; the last", "1.4873"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of each training
    file, text, seeds = ROOT / "build/lowest.jsonl", shakespeare(), range(201, 201 + asked.seeds)
    file.parent.mkdir(exist_ok=True)

    def train(seed: int) -> None:
        loss, seconds, _, plan = ours(text, seed, "--size", "small", *RECIPE.split())
        line = {"seed": seed, "loss": loss, "seconds": seconds, "plan": plan}
        print(line, flush=True)
        with file.open("a") as lines:
            lines.write(json.dumps(line) + "\n")

    there = {line["seed"] for line in read_lines(file)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(train, [seed for seed in seeds if seed not in there]))
    lines = [line for line in read_lines(file) if line["seed"] in seeds]
    losses = [line["loss"] for line in lines]
    minutes = statistics.median(line["seconds"] for line in lines) / 60
    name = f"`minigpt train --size small {RECIPE}`: {lines[0]['plan']}"
    rows = [[name, mean_spread(losses), ", ".join(f"{loss:.4f}" for loss in losses), f"{minutes:.0f} minutes of a core"]]
    rows += [[what, loss, "", ""] for what, loss in PUBLISHED]
    publish(
        "The lowest loss",
        f"""Made by `python benchmarks/lowest.py --seeds {asked.seeds}`.

{describe()}.

Tiny Shakespeare's standard split, context 256, nothing from outside: the loss of the saved model on the whole validation
part in windows that do not overlap, nats/character, mean ± standard deviation over fresh seeds. The recipe was fixed before.

{table(["what", "validation loss", "each seed", "cost"], rows)}""",
    )


if __name__ == "__main__":
    main()
