"""Speed beside nanoGPT, in one alternating run: python benchmarks/speed.py --nanogpt PATH [--rounds 12]

PATH is a clone of nanoGPT. Writes benchmarks/results.md. About two minutes; nothing else should be computing meanwhile.
Its model and its optimizer are used as they are; the loop around them does what its train.py does on a processor (a new
memory map and a list of windows for each batch, clipping, AdamW, the loss fetched in each step). Each of the two lives in a
process of its own, so that neither gains or loses by what the other does to memory or threads.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import ROOT, describe, shakespeare, table

from minigpt import GPT, Batches, CharTokenizer, GPTConfig, TrainConfig, load_corpus, train, trainer

BATCH, BLOCK, SHAPE = 12, 64, dict(n_layer=4, n_head=4, n_embd=128)
STEPS = 20  # in one turn


def our_step(corpus, plain: bool = False) -> Callable[[], object]:
    """One training step; `plain`: without what speed.py does."""
    if plain:
        trainer.speed_up = lambda *_: None
    torch.manual_seed(1)
    model = GPT(GPTConfig(vocab_size=corpus.tokenizer.vocab_size, block_size=BLOCK, dropout=0.0, **SHAPE))
    config = TrainConfig(batch_size=BATCH, max_iters=10**6, eval_interval=10**6, eval_tokens=BLOCK, warmup_iters=100)
    steps = train(model, Batches(corpus.train, BATCH, BLOCK, 1), corpus.val, config)
    next(steps)  # the evaluation of the untrained model
    return lambda: next(steps)


def nanogpt_step(path: Path, corpus, folder: str) -> Callable[[], object]:
    spec = importlib.util.spec_from_file_location("nanogpt_model", path / "model.py")
    assert spec is not None
    assert spec.loader is not None
    nanogpt = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nanogpt)
    torch.manual_seed(1)
    vocab_size = corpus.tokenizer.vocab_size
    model = nanogpt.GPT(nanogpt.GPTConfig(vocab_size=vocab_size, block_size=BLOCK, dropout=0.0, bias=False, **SHAPE))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    file = Path(folder, "train.bin")
    corpus.train.astype(np.uint16).tofile(file)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        data = np.memmap(file, dtype=np.uint16, mode="r")
        starts = torch.randint(len(data) - BLOCK, (BATCH,))
        windows = [torch.from_numpy(data[i : i + BLOCK + 1].astype(np.int64)) for i in starts]
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


def serve(step: Callable[[], object]) -> None:
    """In a process of its own: for each line that comes in, take STEPS steps and answer with the seconds of one."""
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(STEPS):
            step()
        print((time.perf_counter() - started) / STEPS, flush=True)


class Served:
    """The other end of `serve`: called, it lets the process take its turn."""

    def __init__(self, who: str, nanogpt: Path) -> None:
        command = [sys.executable, __file__, "--nanogpt", str(nanogpt), "--serve", who]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        while not line.startswith("0."):  # what the model says of itself
            line = self.process.stdout.readline()
        return float(line)


def timed(function: Callable[[], object]) -> Callable[[], float]:
    def turn() -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    return turn


def alternate(ours: Callable[[], float], theirs: Callable[[], float], turns: int) -> tuple[list, list]:
    """The seconds of each turn, the two taking turns; the first of each is a warm-up."""
    pairs = [(ours(), theirs()) for _ in range(turns + 1)][1:]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def row(name: str, amount: float, unit: str, ours: list, theirs: list) -> list[str]:
    """Medians of both and the median, lowest and highest of the ratios turn by turn."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    figures = [f"{amount / statistics.median(seconds):,.3g} {unit}" for seconds in (theirs, ours)]
    return [name, *figures, f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]


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
    seconds = alternate(timed(lambda: tokenizer.encode(text)), timed(by_dictionary), turns)
    return row(name, len(text) / 1e6, "M characters/s", *seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, metavar="PATH", help="a clone of nanoGPT")
    parser.add_argument("--rounds", type=int, default=12, metavar="N", help="turns of each  [default: 12]")
    parser.add_argument("--serve", choices=("minigpt", "plain", "nanogpt"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if not (flags.nanogpt / "model.py").is_file():
        parser.error(f"{flags.nanogpt} has no model.py; name a clone of nanoGPT")
    text = shakespeare()
    corpus = load_corpus([text])
    if flags.serve:
        with tempfile.TemporaryDirectory() as folder:
            theirs = flags.serve == "nanogpt"
            serve(nanogpt_step(flags.nanogpt, corpus, folder) if theirs else our_step(corpus, flags.serve == "plain"))
        return
    nanogpt = Served("nanogpt", flags.nanogpt)
    seconds = alternate(Served("minigpt", flags.nanogpt), nanogpt, flags.rounds)
    rows = [row("training, 0.80 M, 12 x 64, eager, fp32", BATCH * BLOCK, "tokens/s", *seconds)]
    print(rows[-1], flush=True)
    seconds = alternate(Served("plain", flags.nanogpt), nanogpt, flags.rounds)
    rows.append(row("the same without speed.py", BATCH * BLOCK, "tokens/s", *seconds))
    print(rows[-1], flush=True)
    ascii_text = Path(text).read_text() * 20
    rows.append(encoding_row(f"characters to ids, {len(ascii_text) / 1e6:.0f} M of ASCII", ascii_text, 5))
    print(rows[-1], flush=True)
    scripts = many_scripts(5_000_000)
    rows.append(encoding_row(f"characters to ids, 5 M of nine scripts ({len(set(scripts)):,} different)", scripts, 5))
    print(rows[-1], flush=True)
    header = ["what", "nanoGPT", "minigpt", "ratio (median)", "lowest to highest"]
    text = f"""# Speed

Made by `python benchmarks/speed.py --nanogpt PATH`; losses are in [docs/results.md](../docs/results.md).

{describe()}.

The two take turns, {flags.rounds} of {STEPS} training steps, each in a process of its own. Medians, and the ratio turn by
turn, so that a machine whose speed drifts does not matter.

{table(header, rows)}
"""
    (ROOT / "benchmarks/results.md").write_text(text)


if __name__ == "__main__":
    main()
