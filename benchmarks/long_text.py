"""How well and how fast does a model write beyond its context? python benchmarks/long_text.py

Trains a GPT with rotary positions and one with a table (some minutes each; kept in build/long-text) and lets them read the
beginning of tiny Shakespeare's validation part without a stop, in the ways there are to go on beyond block_size: what is the
loss by position? Then one of each kind writes 100,000 tokens: how fast is each ten thousand, how large the process?

Writes a section of docs/results.md and docs/long-text.svg.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import ROOT, describe, publish, shakespeare, table
from scaling import COLOURS, STYLE

from minigpt import load, load_corpus
from minigpt.bigram import LanguageModel
from minigpt.checkpoint import hf_config
from minigpt.config import SampleConfig
from minigpt.engine import Reader, Writer, generate
from minigpt.native_engine import NativeModel
from minigpt.numpy_engine import NUMPY_MODELS

TOKENS, STRETCH = 20_000, 1_000  # read
WRITTEN, PACE = 100_000, 10_000
RUNS = {
    "modern-64": "--arch modern --block-size 64 --batch-size 16 --max-iters 900",
    "modern-128": "--arch modern --block-size 128 --batch-size 12 --max-iters 700",
    "gpt-64": "--arch gpt --block-size 64 --batch-size 16 --max-iters 900",
}
SHAPE = "--optimizer muon --n-layer 4 --n-head 4 --n-embd 128 --dropout 0 --device cpu"


def trained(name: str) -> LanguageModel:
    """The model of a run, trained now if it is not there."""
    folder = ROOT / "build/long-text" / name
    if not folder.exists():
        command = [sys.executable, "-m", "minigpt", "train", shakespeare(), "--out", str(folder)]
        subprocess.run([*command, *SHAPE.split(), *RUNS[name].split()], check=True)
    return load(folder)[0]


def native(model: LanguageModel) -> NativeModel:
    """The same model in C."""
    tensors = {name: tensor.numpy() for name, tensor in model.to_hf()[1].items()}
    return NativeModel(NUMPY_MODELS[model.model_type](hf_config(model), tensors))


# ---- reading -----------------------------------------------------------------------------------------------------------


def read_on(reader: Reader, text: list[int]) -> np.ndarray:
    """The loss of each token after the first, read as the engine does when it writes: nats (len(text) - 1,)."""
    writer, losses = Writer(reader, text[:1], SampleConfig(), 0), []
    for token in text[1:]:
        scores = torch.from_numpy(reader.read(writer.unread))
        losses.append(F.cross_entropy(scores, torch.tensor(token)).item())
        writer.append(token)
    return np.array(losses)


@torch.inference_mode()
def read_anew(model: LanguageModel, text: list[int]) -> np.ndarray:
    """The loss of each token after the first, the block_size tokens before it read again for each: nats (len(text) - 1,)."""
    tokens, size = torch.tensor(text), model.block_size
    logits = [model(tokens[None, :size])[0][0, :-1]]
    windows = tokens[:-1].unfold(0, size, 1)  # (windows, size)
    logits += [model(some)[0][:, -1] for some in windows.split(64)]
    return F.cross_entropy(torch.cat(logits), tokens[1:], reduction="none").numpy()


def in_halves(reader: Reader) -> Reader:
    """A reader whose window slides, whatever its positions."""
    reader.reads_on = False
    return reader


def measured(name: str) -> dict[str, np.ndarray]:
    """The losses of a run, by the way it reads: nats (TOKENS,)."""
    model = trained(name).eval()
    ids = load_corpus([shakespeare()]).val[: TOKENS + 1]
    text, ours = [int(i) for i in ids], native(model)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "ring": lambda: read_on(ours.reader(), text),
        "halves": lambda: read_on(in_halves(ours.reader()), text),
        "anew": lambda: read_anew(model, text),
    }
    return {f"{name}, {way}": measure() for way, measure in ways.items() if ours.reads_on or way != "ring"}


# ---- writing -----------------------------------------------------------------------------------------------------------


def resident() -> float:
    """The memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def paces(model: NativeModel) -> tuple[list[float], list[float]]:
    """Tokens a second of each PACE tokens of a text; memory in MiB after 1,000 tokens and at the end."""
    writing = generate(model, [0], SampleConfig(max_new_tokens=1000 + WRITTEN, seed=1))
    for _ in islice(writing, 1000):
        pass
    memory, speeds = [resident()], []
    for _ in range(WRITTEN // PACE):
        started = time.perf_counter()
        for _ in islice(writing, PACE):
            pass
        speeds.append(PACE / (time.perf_counter() - started))
    return speeds, [*memory, resident()]


# ---- the page and the picture ------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1000, 520, 80, 800, 96, 440


def by_stretch(losses: np.ndarray) -> np.ndarray:
    """The mean of each STRETCH tokens."""
    return losses.reshape(-1, STRETCH).mean(1)


def picture(losses: dict[str, np.ndarray]) -> str:
    """How much worse than reading anew each way is, by position: a ring that forgot would rise."""
    curves = {}
    for name, values in losses.items():
        run, way = name.split(", ")
        if way != "anew":
            curves[name] = by_stretch(values - losses[f"{run}, anew"])
    most = math.ceil(max(np.abs(curve).max() for curve in curves.values()) * 100) / 100
    y = lambda value: (TOP + BOTTOM) / 2 - value / most * (BOTTOM - TOP) / 2  # noqa: E731
    x = lambda token: LEFT + token / TOKENS * (RIGHT - LEFT)  # noqa: E731
    parts = [
        f'<text class="title" x="{LEFT}" y="44">Beyond the context</text>',
        f'<text class="soft" x="{LEFT}" y="70">loss above that of reading the last block_size tokens anew for each; '
        f"nats/character, mean of {STRETCH:,} each</text>",
    ]
    for value in np.linspace(-most, most, 5):
        parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="var(--line)"/>')
        parts.append(f'<text class="soft" x="{LEFT - 10}" y="{y(value) + 5:.1f}" text-anchor="end">{value:+.3f}</text>')
    for token in range(0, TOKENS + 1, TOKENS // 4):
        parts.append(f'<text class="soft" x="{x(token):.1f}" y="{BOTTOM + 26}" text-anchor="middle">{token:,}</text>')
    parts.append(f'<text class="soft" x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 54}" text-anchor="middle">tokens read</text>')
    for i, (colour, (name, curve)) in enumerate(zip(COLOURS, curves.items(), strict=False)):
        path = " ".join(f"{x((n + 0.5) * STRETCH):.1f},{y(value):.1f}" for n, value in enumerate(curve))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(f'<text x="{RIGHT + 16}" y="{TOP + 14 + 24 * i}" style="fill:{colour}">{name}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Long text">'
    paper = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="var(--paper)"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", paper, *parts, "</svg>", ""])


def against_anew(name: str, losses: dict[str, np.ndarray]) -> str:
    """The mean difference to reading anew, with its standard error."""
    differences = losses[name] - losses[name.split(", ")[0] + ", anew"]
    error = differences.std() / math.sqrt(len(differences))
    return "" if name.endswith("anew") else f"{differences.mean():+.4f} ± {error:.4f}"


def main() -> None:
    Path(ROOT / "build").mkdir(exist_ok=True)
    written = []
    for name in ("modern-64", "gpt-64"):
        speeds, memory = paces(native(trained(name)))
        words = ", ".join(f"{speed:,.0f}" for speed in speeds)
        written.append([name, words, *(f"{size:.1f} MiB" for size in memory)])
        print(written[-1], flush=True)
    losses: dict[str, np.ndarray] = {}
    for name in RUNS:
        losses |= measured(name)
    (ROOT / "docs/long-text.svg").write_text(picture(losses))
    shares = TOKENS // 4
    rows = [
        [name, *(f"{values[n : n + shares].mean():.4f}" for n in range(0, TOKENS, shares)), f"{values.mean():.4f}",
         against_anew(name, losses)]
        for name, values in losses.items()
    ]  # fmt: skip
    spans = [f"{n:,} to {n + shares:,}" for n in range(0, TOKENS, shares)]
    header = ["model and context, way", *spans, "all", "against anew"]
    paces_of = f"tokens/s of each {PACE:,} after the first 1,000"
    columns = ["model and context", paces_of, "memory after 1,000", f"after {WRITTEN + 1000:,}"]
    publish(
        "Long text",
        f"""Made by `python benchmarks/long_text.py`.

{describe()}.

What happens beyond block_size? The first {TOKENS:,} characters of tiny Shakespeare's validation part are read without a
stop, one by one as when a model writes; loss in nats/character by position. *Ring*, what `modern` does: the keys and values
of the newest block_size tokens are kept, positions go on, nothing is read again. *Halves*, what `gpt` does: when the window
is full, its newest half is read again from position 0. *Anew*: the last block_size tokens are read again for each token,
the ideal at block_size times the work. ± is the standard error of the mean difference, token by token.

{table(header, rows)}

![Loss by position, against reading anew](long-text.svg)

No way gets worse with the length of the text. That halves can be better than anew says how little these models, after a few
minutes of training, make of the far end of their context (docs/decisions.md has more); a longer training was not measured.

Written by the same models in C, float32, one after the other in one process; its memory with torch and all:

{table(columns, written)}
""",
    )


if __name__ == "__main__":
    main()
