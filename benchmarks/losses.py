"""The losses that the documentation quotes, measured anew: python benchmarks/losses.py [--seeds 3]

Writes a section of docs/results.md. About ten minutes on two processor cores. Every loss is of the whole validation part
(the last tenth of tiny Shakespeare, 111,539 predictions in windows that do not overlap), in nats/character.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import ROOT, describe, publish, shakespeare, table

from minigpt import GPT, Batches, BigramLanguageModel, GPTConfig, TrainConfig, load_corpus, train
from minigpt.config import RECIPES, from_dict
from minigpt.files import read_lines

# nanoGPT's CPU example: config/train_shakespeare_char.py with the flags of its README for a MacBook.
NANOGPT_CPU = dict(
    n_layer=4, n_head=4, n_embd=128, block_size=64, dropout=0.0, batch_size=12, max_iters=2000,
    learning_rate=1e-3, min_lr=1e-4, warmup_iters=100, weight_decay=0.1, beta2=0.99, grad_clip=1.0,
)  # fmt: skip


def measure(recipe: dict, arch: str, seed: int, corpus) -> tuple[float, float]:
    """The last validation loss of a recipe and the seconds of its training, evaluations left out but the last."""
    config = from_dict(TrainConfig, {**recipe, "seed": seed, "eval_interval": recipe["max_iters"]})
    torch.manual_seed(seed)
    vocab_size = corpus.tokenizer.vocab_size
    if arch == "bigram":
        model = BigramLanguageModel(vocab_size, recipe["block_size"])
    else:
        model = GPT(from_dict(GPTConfig, {**recipe, "vocab_size": vocab_size}))
    batches = Batches(corpus.train, config.batch_size, recipe["block_size"], seed)
    started = time.perf_counter()
    for metrics in train(model, batches, corpus.val, config):
        last = metrics
    assert last.val_loss is not None
    return last.val_loss, time.perf_counter() - started


def python_gpt(text: str) -> tuple[float, float]:
    """`python gpt.py` as a person runs it, with this text as input.txt: its best loss, and the seconds of the process."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "input.txt").write_bytes(Path(text).read_bytes())
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, str(ROOT / "gpt.py"), "--device", "cpu"], cwd=folder, check=True, capture_output=True
        )
        seconds = time.perf_counter() - started
        log = read_lines(Path(folder, "runs/gpt/metrics.jsonl"))
        return min(line["val_loss"] for line in log if "val_loss" in line), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(1, parser.parse_args().seeds + 1)
    text = shakespeare()
    corpus = load_corpus([text])
    plan = [
        ("bigram, the lecture's recipe: `python bigram.py`", "2.49 ± 0.01", RECIPES["bigram"], "bigram"),
        ("nanoGPT's CPU configuration (0.80 M, 2000 steps of 12 x 64)", "1.8857, one seed", NANOGPT_CPU, "gpt"),
        (
            "the lecture notebook's last cell (0.21 M, 5000 steps of 16 x 32): `--size tiny`",
            "1.8226",
            RECIPES["tiny"],
            "gpt",
        ),
    ]
    rows = []
    for name, published, recipe, arch in plan:
        results = [measure(recipe, arch, seed, corpus) for seed in seeds]
        losses, seconds = zip(*results, strict=True)
        spread = f" ± {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
        each = ", ".join(f"{loss:.4f}" for loss in losses)
        rows.append([name, published, f"{statistics.mean(losses):.4f}{spread}", each, f"{statistics.median(seconds):.0f} s"])
        print(rows[-1], flush=True)
    loss, seconds = python_gpt(text)
    rows.append(["`python gpt.py` as it is, the whole process", "", f"{loss:.4f}", f"{loss:.4f}", f"{seconds:.0f} s"])
    print(rows[-1], flush=True)
    header = ["run", "published", "validation loss", "each seed", "time"]
    publish(
        "Losses beside published ones",
        f"""Made by `python benchmarks/losses.py`.

{describe()}.

Tiny Shakespeare, the last tenth as validation, all of it in windows that do not overlap, nats/character; mean ± standard
deviation over seeds 1 to {len(seeds)}. Published figures are their authors' means over random batches of validation text.

{table(header, rows)}""",
    )


if __name__ == "__main__":
    main()
