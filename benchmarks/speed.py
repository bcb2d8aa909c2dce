"""Speed beside nanoGPT, in one alternating run: python benchmarks/speed.py --nanogpt PATH [--rounds 12]

PATH is a clone of nanoGPT. Writes benchmarks/results.md. About ten minutes; nothing else should be computing meanwhile.
Its model and its optimizer are used as they are, eager and compiled; the loop around them does what its train.py does on a
processor (a new memory map and a list of windows for each batch, clipping, AdamW, the loss fetched in each step). Each side
lives in a process of its own, so that neither gains or loses by what the other does to memory or threads. A third process
computes nothing but the matrix products of our step, forward and backward: no training can be faster than that.
"""

import argparse
import importlib.util
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import ROOT, describe, shakespeare, table

from minigpt import GPT, Batches, CharTokenizer, GPTConfig, TrainConfig, gradient, load_corpus, train, trainer
from minigpt.attention import MultiHeadAttention
from minigpt.speed import speed_up

# A model, how it is fed, steps in one turn and turns.
SMALL = dict(batch=12, block=64, shape=dict(n_layer=4, n_head=4, n_embd=128), dropout=0.0, steps=20)
LARGE = dict(batch=64, block=256, shape=dict(n_layer=6, n_head=6, n_embd=384), dropout=0.2, steps=1)
SIZES: dict[str, dict[str, Any]] = {"small": SMALL, "large": LARGE}
WHO = ("minigpt", "plain", "products", "nanogpt", "nanogpt-compiled")


def our_model(size: dict[str, Any], corpus) -> GPT:
    torch.manual_seed(1)
    shape = dict(vocab_size=corpus.tokenizer.vocab_size, block_size=size["block"], dropout=size["dropout"], **size["shape"])
    return GPT(GPTConfig(**shape))


def our_step(size: dict[str, Any], corpus, plain: bool = False) -> Callable[[], object]:
    """One training step; `plain`: without what speed.py does, and the batch whole."""
    if plain:
        trainer.speed_up = lambda *_: None
        gradient.windows_at_once = lambda *_: 10**6
    config = TrainConfig(
        batch_size=size["batch"], max_iters=10**6, eval_interval=10**6, eval_tokens=size["block"], warmup_iters=100
    )
    steps = train(our_model(size, corpus), Batches(corpus.train, size["batch"], size["block"], 1), corpus.val, config)
    next(steps)  # the evaluation of the untrained model
    return lambda: next(steps)


def products_step(size: dict[str, Any], corpus) -> Callable[[], object]:
    """The matrix products of our step alone, by the way that our step takes them, in the same parts."""
    model = our_model(size, corpus)
    speed_up(model, torch.device("cpu"))
    windows = min(size["batch"], gradient.windows_at_once(torch.device("cpu"), size["block"]))
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    data = []
    for layer in linear:
        x = torch.randn(windows, size["block"], layer.in_features, requires_grad=True)
        data.append((layer, x, torch.randn(windows, size["block"], layer.out_features)))
    heads = [m for m in model.modules() if isinstance(m, MultiHeadAttention)]
    width = size["shape"]["n_embd"] // size["shape"]["n_head"]
    q, k, v = (torch.randn(windows * size["shape"]["n_head"], size["block"], width) for _ in range(3))

    def step() -> None:
        for _ in range(0, size["batch"], windows):
            for layer, x, grad in data:
                layer(x).backward(grad)
            for _ in heads:
                weights = q @ k.mT
                (weights @ v, weights.mT @ v, v @ v.mT, weights @ k, weights.mT @ q)  # values; then dv, dw, dq, dk

    return step


def nanogpt_step(size: dict[str, Any], path: Path, corpus, folder: str, compiled: bool) -> Callable[[], object]:
    spec = importlib.util.spec_from_file_location("nanogpt_model", path / "model.py")
    assert spec is not None
    assert spec.loader is not None
    nanogpt = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nanogpt)
    torch.manual_seed(1)
    shape = dict(vocab_size=corpus.tokenizer.vocab_size, block_size=size["block"], dropout=size["dropout"], **size["shape"])
    model = nanogpt.GPT(nanogpt.GPTConfig(bias=False, **shape))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    if compiled:
        model = torch.compile(model)
    file = Path(folder, "train.bin")
    corpus.train.astype(np.uint16).tofile(file)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        data = np.memmap(file, dtype=np.uint16, mode="r")
        starts = torch.randint(len(data) - size["block"], (size["batch"],))
        windows = [torch.from_numpy(data[i : i + size["block"] + 1].astype(np.int64)) for i in starts]
        return torch.stack([w[:-1] for w in windows]), torch.stack([w[1:] for w in windows])

    def step() -> float:
        idx, targets = batch()
        _, loss = model(idx, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def serve(step: Callable[[], object], steps: int) -> None:
    """In a process of its own: for each line that comes in, take some steps; answer with the seconds of one, and bytes."""
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(steps):
            step()
        seconds = (time.perf_counter() - started) / steps
        print("turn", seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)


class Served:
    """The other end of `serve`: called, it lets the process take its turn."""

    def __init__(self, who: str, size: str, nanogpt: Path) -> None:
        command = [sys.executable, __file__, "--nanogpt", str(nanogpt), "--serve", who, "--size", size]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.bytes = 0.0

    def __call__(self) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        while not line.startswith("turn "):  # what the model says of itself
            if not line:
                sys.exit("a side of the comparison ended; what it said is above")
            line = self.process.stdout.readline()
        seconds, self.bytes = map(float, line.split()[1:])
        return seconds

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def timed(function: Callable[[], object]) -> Callable[[], float]:
    def turn() -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    return turn


def alternate(turns: int, *sides: Callable[[], float]) -> list[list[float]]:
    """The seconds of each side's turns, all taking turns; the first of each is a warm-up."""
    rounds = [[side() for side in sides] for _ in range(turns + 1)][1:]
    return [list(seconds) for seconds in zip(*rounds, strict=True)]


def row(name: str, amount: float, unit: str, ours: list, theirs: list) -> list[str]:
    """Medians of both and the median, lowest and highest of the ratios turn by turn."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    figures = [f"{amount / statistics.median(seconds):,.5g} {unit}" for seconds in (theirs, ours)]
    return [name, *figures, f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]


def training_rows(name: str, size: str, turns: int, nanogpt: Path) -> tuple[list[list[str]], str]:
    """Tokens/s of our training beside nanoGPT's, eager and compiled; the share of the matrix products; peak memory."""
    sides = {who: Served(who, size, nanogpt) for who in WHO if size == "small" or who != "plain"}  # whole batches need GBs
    seconds = dict(zip(sides, alternate(turns, *sides.values()), strict=True))
    for side in sides.values():
        side.end()
    tokens, ours = SIZES[size]["batch"] * SIZES[size]["block"], seconds["minigpt"]
    rows = [
        row(f"training, {name}, eager", tokens, "tokens/s", ours, seconds["nanogpt"]),
        row(f"training, {name}, nanoGPT compiled", tokens, "tokens/s", ours, seconds["nanogpt-compiled"]),
    ]
    if "plain" in seconds:
        rows.append(row("the same without speed.py, eager", tokens, "tokens/s", seconds["plain"], seconds["nanogpt"]))
    share = statistics.median(p / o for p, o in zip(seconds["products"], ours, strict=True))
    memory = {who: side.bytes / 1e9 for who, side in sides.items()}
    words = (
        f"{name}: our step spends {share:.0%} of its time on what its matrix products need alone. Peak memory of a process: "
        f"{memory['minigpt']:.2f} GB, nanoGPT {memory['nanogpt']:.2f}, compiled {memory['nanogpt-compiled']:.2f}."
    )
    for line in (*rows, words):
        print(line, flush=True)
    return rows, words


def many_scripts(length: int) -> str:
    """A text of Latin, Cyrillic, Greek, Chinese, Hebrew, Arabic, Devanagari, Korean letters and emoji, in words of each."""
    rng = np.random.default_rng(0)
    ranges = [(0x61, 0x7B), (0x430, 0x450), (0x3B1, 0x3CA), (0x4E00, 0x5E00), (0x5D0, 0x5EB), (0x621, 0x64B),
              (0x905, 0x93A), (0xAC00, 0xB000), (0x1F600, 0x1F640)]  # fmt: skip
    script = np.repeat(rng.integers(len(ranges), size=length // 5 + 1), 5)[:length]
    low, high = np.array(ranges).T
    return "".join(map(chr, (low[script] + (rng.random(length) * (high - low)[script]).astype(int)).tolist()))


def encoding_row(name: str, text: str, turns: int) -> list[str]:
    tokenizer = CharTokenizer.train(text)
    ids = {char: i for i, char in enumerate(tokenizer.chars)}
    by_dictionary = lambda: np.array([ids[char] for char in text], dtype=np.uint16)  # noqa: E731  what prepare.py does
    assert np.array_equal(by_dictionary(), tokenizer.encode(text))
    seconds = alternate(turns, timed(lambda: tokenizer.encode(text)), timed(by_dictionary))
    return row(name, len(text) / 1e6, "M characters/s", *seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, metavar="PATH", help="a clone of nanoGPT")
    parser.add_argument("--rounds", type=int, default=12, metavar="N", help="turns of each  [default: 12]")
    parser.add_argument("--serve", choices=WHO, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=SIZES, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if not (flags.nanogpt / "model.py").is_file():
        parser.error(f"{flags.nanogpt} has no model.py; name a clone of nanoGPT")
    text = shakespeare()
    corpus = load_corpus([text])
    if flags.serve:
        size, who = SIZES[flags.size], flags.serve
        with tempfile.TemporaryDirectory() as folder:
            if who.startswith("nanogpt"):
                step = nanogpt_step(size, flags.nanogpt, corpus, folder, who == "nanogpt-compiled")
            else:
                step = products_step(size, corpus) if who == "products" else our_step(size, corpus, who == "plain")
            serve(step, size["steps"])
        return
    rows, words = training_rows("0.80 M, 12 x 64, fp32", "small", flags.rounds, flags.nanogpt)
    more, words_large = training_rows("10.65 M, 64 x 256, dropout 0.2, fp32", "large", 5, flags.nanogpt)
    rows += more
    ascii_text = Path(text).read_text() * 20
    rows.append(encoding_row(f"characters to ids, {len(ascii_text) / 1e6:.0f} M of ASCII", ascii_text, 5))
    print(rows[-1], flush=True)
    scripts = many_scripts(5_000_000)
    rows.append(encoding_row(f"characters to ids, 5 M of nine scripts ({len(set(scripts)):,} different)", scripts, 5))
    print(rows[-1], flush=True)
    header = ["what", "nanoGPT", "minigpt", "ratio (median)", "lowest to highest"]
    text = f"""# Speed

Made by `python benchmarks/speed.py --nanogpt PATH`; losses are in [docs/results.md](../docs/results.md).

{describe(nanogpt=flags.nanogpt)}.

They take turns, {flags.rounds} of {SMALL["steps"]} training steps (the larger model: 5 of one step), each in a process of
its own. Medians, and the ratio turn by turn, so that a machine whose speed drifts does not matter.

{table(header, rows)}

{words}

{words_large}
"""
    (ROOT / "benchmarks/results.md").write_text(text)


if __name__ == "__main__":
    main()
