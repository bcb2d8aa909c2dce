"""The runs behind the planner: python benchmarks/sweep.py [--list] [--fit]

Trains models of the planner's family (today's GPT with Muon) of several sizes, contexts and lengths, on tiny Shakespeare, on
parts of it, on Python's manual and on the source of its standard library, and writes a line for each into
benchmarks/sweep.jsonl. A run that stands there already is not repeated, so it can be stopped and started at will. An hour
and a half on two processor cores.

--fit: from these lines, the constants of minigpt/planner.py's law (printed), docs/scaling.md and its picture.
"""

import argparse
import itertools
import json
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from machine import ROOT, describe, shakespeare

from minigpt import Batches, GPTConfig, TrainConfig, evaluate, load_corpus, train
from minigpt.config import from_dict
from minigpt.corpus import _python_manual
from minigpt.planner import MODELS, difficulty, recipe

LINES = ROOT / "benchmarks/sweep.jsonl"
MILLION = 10**6


def points() -> Iterator[dict[str, Any]]:
    """What is run: text (and how many of its characters; 0 = all), shape, tokens read, dropout."""

    def run(n_layer, n_embd, block_size, tokens, text="shakespeare", characters=0, dropout=0.0, arch="modern"):
        return dict(text=text, characters=characters, arch=arch, n_layer=n_layer, n_embd=n_embd, block_size=block_size,
                    tokens=int(tokens * MILLION), dropout=dropout)  # fmt: skip

    for tokens, (n_layer, n_embd) in itertools.product((0.25, 0.5, 1, 2), ((3, 64), (4, 96), (4, 128))):
        yield run(n_layer, n_embd, 128, tokens)
    for block_size, tokens in itertools.product((64, 256), (0.5, 2)):
        yield run(4, 96, block_size, tokens)
    for tokens in (0.5, 1.5):
        yield run(6, 192, 128, tokens)
    for tokens, (n_layer, n_embd) in itertools.product((0.5, 1, 2), ((3, 64), (4, 128))):  # the text is read over and over
        yield run(n_layer, n_embd, 128, tokens, characters=100_000)
    for tokens, (n_layer, n_embd) in ((0.5, (3, 64)), (2, (3, 64)), (1, (4, 128))):
        yield run(n_layer, n_embd, 128, tokens, arch="gpt")
    for dropout in (0.1, 0.2):
        yield run(4, 128, 128, 2, characters=100_000, dropout=dropout)
    yield run(4, 128, 128, 1, dropout=0.1)
    yield run(3, 64, 128, 4)
    for tokens, text in itertools.product((0.5, 2), ("library", "manual")):  # other texts
        for n_layer, n_embd in ((3, 64), (4, 128), (5, 160)):
            yield run(n_layer, n_embd, 128, tokens, text)
        for block_size in (64, 256):
            yield run(4, 96, block_size, tokens, text)


def library(folder: Path) -> Path:
    """The source of Python's standard library, without its tests, in one file. The same for the same Python."""
    home = Path(sysconfig.get_path("stdlib"))
    left_out = {"test", "tests", "site-packages", "dist-packages"}
    files = sorted(path for path in home.rglob("*.py") if not left_out & {*path.parts})
    whole = folder / "library.txt"
    whole.write_text("\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files), encoding="utf-8")
    return whole


def manual(folder: Path) -> Path:
    """Python's manual, as far as it is on this machine, in one file."""
    whole = folder / "manual.txt"
    whole.write_text(_python_manual(), encoding="utf-8")
    return whole


def measure(point: dict[str, Any], text: Path) -> dict[str, Any]:
    """Train a model and measure its loss on the whole validation part (of the library: on 2**18 tokens)."""
    corpus = load_corpus([text])
    read = corpus.train[: point["characters"] or None]
    shape = {name: point[name] for name in ("n_layer", "n_embd", "block_size", "dropout")}
    settings = recipe(point["arch"], point["n_embd"], point["block_size"], point["tokens"])
    config = from_dict(TrainConfig, settings | dict(eval_interval=settings["max_iters"], seed=1))
    torch.manual_seed(config.seed)
    model = MODELS[point["arch"]](GPTConfig(vocab_size=corpus.tokenizer.vocab_size, n_head=point["n_embd"] // 32, **shape))
    started = time.perf_counter()
    for metrics in train(model, Batches(read, config.batch_size, model.block_size, config.seed), corpus.val, config):
        last = metrics
    return {
        **point,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "on": describe().split(", ")[0],
        "difficulty": round(difficulty(corpus), 3),
        "n_params": sum(p.numel() for p in model.parameters()),
        "train_tokens": len(read),
        "train_loss": round(last.train_loss or 0.0, 4),
        "val_loss": round(evaluate(model, corpus.val, 2**18 if point["text"] == "library" else 0), 4),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="only say what is still to be run")
    parser.add_argument("--fit", action="store_true", help="fit the law and draw it")
    asked = parser.parse_args()
    done = [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []
    if asked.fit:
        from scaling import publish_law

        publish_law(done)
        return
    to_do = [p for p in points() if not any(p.items() <= line.items() for line in done)]
    with tempfile.TemporaryDirectory() as folder:
        texts = {"shakespeare": Path(shakespeare()), "manual": manual(Path(folder)), "library": library(Path(folder))}
        for number, point in enumerate(to_do, 1):
            print(f"{number}/{len(to_do)}", *(f"{name}={value}" for name, value in point.items()), flush=True)
            if asked.list:
                continue
            line = measure(point, texts[point["text"]])
            with LINES.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"    {line['val_loss']:.4f} after {line['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
