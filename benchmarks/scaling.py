"""The law behind the planner, fitted to the sweep's runs, and the page and the picture that show it (see sweep.py)."""

import math
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from itertools import groupby
from typing import Any

import torch
from machine import ROOT, describe, table
from torch.nn.functional import huber_loss

from minigpt.config import GPTConfig
from minigpt.planner import LAW, LEARNS, Law, matrix_weights

Line = dict[str, Any]  # of sweep.jsonl
START = {"floor": 0.9, "size": 0.05, "size_power": 0.3, "tokens": 0.5, "tokens_power": 0.3, "context": 0.05,
         "context_power": 0.5, "repeats": 10.0, "overfit": 0.04, "knee": 5.0, "relief": 16.0, "price": 0.2}  # fmt: skip

SHIFT = 0.1  # nats: a part of the text is not like the end of the whole; fitted, but no part of the law


def of_the_law(lines: list[Line]) -> list[Line]:
    """The runs that the law is fitted to: the family's own, on tiny Shakespeare."""
    return [line for line in lines if (line["text"], line["arch"]) == ("shakespeare", "modern")]


def expected(law: Law, line: Line, learns: float = 1.0) -> Any:
    """Law.loss for a line; a tensor if the constants are tensors."""
    shape = GPTConfig(n_layer=line["n_layer"], n_embd=line["n_embd"], n_head=1, block_size=line["block_size"])
    weights = matrix_weights(line["arch"], shape)
    return law.loss(weights, learns * line["tokens"], line["block_size"], line["train_tokens"], line["dropout"])


def fit(lines: list[Line]) -> tuple[Law, float]:
    """The constants with the smallest mean Huber loss of log(expected / measured): a run that is far off pulls no harder.

    And how many nats a part of the text is from the end of the whole.
    """
    start = torch.tensor([*START.values(), SHIFT], dtype=torch.float64).log()
    logs = start.clone().requires_grad_()
    measured = torch.tensor([line["val_loss"] for line in lines], dtype=torch.float64).log()
    search = torch.optim.LBFGS([logs], max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def errors() -> torch.Tensor:
        law = replace(LAW, **dict(zip(START, logs.exp(), strict=False)))
        shift = logs[-1].exp()
        return torch.stack([expected(law, line) + shift * (line["characters"] > 0) for line in lines]).log() - measured

    def closure() -> torch.Tensor:
        search.zero_grad()
        loss = huber_loss(errors(), torch.zeros_like(measured), delta=0.01) + 1e-7 * (logs - start).square().sum()
        loss.backward()
        return loss

    search.step(closure)
    constants = {name: float(f"{value:.4g}") for name, value in zip(START, logs.exp().tolist(), strict=False)}
    return Law(**constants, error=float(f"{errors().square().mean().sqrt().item():.3g}")), round(logs[-1].exp().item(), 3)


def learning_share(law: Law, lines: list[Line]) -> float:
    """How many tokens of today's GPT with Muon a token is worth to these runs: the best of a fine grid."""
    shares = [1.02**-n for n in range(150)]
    wrong = lambda share: sum(math.log(expected(law, line, share) / line["val_loss"]) ** 2 for line in lines)  # noqa: E731
    return round(min(shares, key=wrong), 2)


def publish_law(lines: list[Line]) -> None:
    """Print the constants for planner.py; write docs/scaling.md and docs/scaling.svg."""
    law, shift = fit(of_the_law(lines))
    gpt = [line for line in lines if line["arch"] == "gpt"]
    learns = {"modern": 1.0, **({"gpt": learning_share(law, gpt)} if gpt else {})}
    print(f"LAW = {law}\nLEARNS = {learns}")
    rows = [
        [
            line["text"] + (f", first {line['characters']:,}" if line["characters"] else ""),
            line["arch"],
            f"{line['n_layer']} x {line['n_embd']}",
            str(line["block_size"]),
            f"{line['tokens'] / 1e6:g} M",
            f"{line['tokens'] / line['train_tokens']:.1f}",
            f"{line['dropout']:g}",
            f"{line['val_loss']:.4f}",
            f"{expected(law, line, learns[line['arch']]):.4f}" if line["text"] == "shakespeare" else "",
            f"{line['train_loss']:.4f}",
            f"{line['seconds']:.0f} s",
        ]
        for line in lines
    ]
    header = ["text", "model", "blocks x channels", "context", "tokens", "times the text", "dropout"]
    header += ["val loss", "by the law", "train loss (mean of the run)", "time"]
    (ROOT / "docs/scaling.svg").write_text(picture(law, of_the_law(lines)))
    (ROOT / "docs/scaling.md").write_text(f"""# What a model of a size learns from so many tokens

Made by `python benchmarks/sweep.py --fit` from the {len(lines)} runs in benchmarks/sweep.jsonl, which `python
benchmarks/sweep.py` makes again; the law from the {len(of_the_law(lines))} of today's GPT on tiny Shakespeare. {describe()}.

![Loss by tokens and size](scaling.svg)

`minigpt plan` and `minigpt train --minutes` choose the size of a model by a law:

> loss = {law.floor:g} + {law.size:g} (n / 10⁶)^-{law.size_power:g} + {law.tokens:g} (d / 10⁶)^-{law.tokens_power:g} + \
{law.context:g} (T / 128)^-{law.context_power:g} + \
{law.overfit:g} e^(-{law.relief:g} p) h² / (h + {law.knee:g}) + {law.price:g} p

in nats/character of tiny Shakespeare's validation part, with n the weights in the matrices of the blocks, d the tokens read,
T the context and p the dropout. What is read again counts less: after {law.repeats:g} more readings, each counts about a
third of the first. h = r √(n / u), with r how often the u tokens of the text are read again, is the pressure to learn by
heart; dropout takes it away, for a price. A token teaches the GPT-2 of `gpt.py` with AdamW as much as
{learns.get("gpt", LEARNS["gpt"]):g} of a token teaches today's GPT with Muon. The law misses its runs by
{100 * law.error:.2g} % (root mean square). Runs on the first 100,000 characters alone lie {shift:g} nats above it: the plays
at the beginning are not those at the end. That number is fitted too, and no part of the law.

On another text the losses are multiplied by the root of how much harder it is for a compressor (xz, its first half million
tokens); that is rough, so the plan tells a wider range there.

{table(header, rows)}
""")


# ---- the picture -------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1000, 620, 80, 780, 96, 540
STYLE = """
  :root { --paper: #fdfcf9; --ink: #22252b; --soft: #6b7078; --line: #d9d7d0 }
  @media (prefers-color-scheme: dark) { :root { --paper: #15171b; --ink: #e9e6df; --soft: #9aa0a8; --line: #363a42 } }
  text { font-family: ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--ink); font-size: 14px }
  .title { font-size: 24px; font-weight: 650 } .soft { fill: var(--soft) }
"""
COLOURS = ("#2f8fb3", "#c06a2b", "#5c9a3c", "#9a5fb0", "#b3462f", "#7a7f88", "#a0762a", "#3f6fbf")


def picture(law: Law, lines: list[Line]) -> str:
    """Runs on the whole text as dots, the law as lines, a colour for each size and context; both axes logarithmic."""
    lines = [
        line for line in lines if not line["characters"] and not line["dropout"]
    ]  # the others would press these together
    kind = lambda line: (line["n_layer"], line["n_embd"], line["block_size"])  # noqa: E731
    groups = [(key, list(group)) for key, group in groupby(sorted(lines, key=lambda p: (kind(p), p["tokens"])), key=kind)]
    groups = [(key, group) for key, group in groups if len(group) > 1]
    shown = [line for _, group in groups for line in group]
    low, high = (f(line["val_loss"] for line in shown) for f in (min, max))
    first, last = (f(line["tokens"] for line in shown) for f in (min, max))
    x = lambda tokens: LEFT + math.log(tokens / first) / math.log(last / first) * (RIGHT - LEFT)  # noqa: E731
    y = lambda loss: BOTTOM - math.log(loss / low) / math.log(high / low) * (BOTTOM - TOP)  # noqa: E731
    parts = [f'<text class="title" x="{LEFT}" y="44">Loss by tokens read</text>']
    parts += [f'<text class="soft" x="{LEFT}" y="70">validation loss, nats/character; dots are runs, lines the law</text>']
    for loss in [n / 20 for n in range(math.ceil(low * 20), math.floor(high * 20) + 1)]:
        parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y(loss):.1f}" y2="{y(loss):.1f}" stroke="var(--line)"/>')
        parts.append(f'<text class="soft" x="{LEFT - 10}" y="{y(loss) + 5:.1f}" text-anchor="end">{loss:.2f}</text>')
    for tokens in sorted({line["tokens"] for line in shown}):
        label = f"{tokens / 1e6:g} M"
        parts.append(f'<text class="soft" x="{x(tokens):.1f}" y="{BOTTOM + 26}" text-anchor="middle">{label}</text>')
    parts.append(f'<text class="soft" x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 54}" text-anchor="middle">tokens read</text>')
    for colour, (_, group) in zip(COLOURS, groups, strict=False):
        span = group[0]["tokens"], group[-1]["tokens"]
        curve = [span[0] * (span[1] / span[0]) ** (n / 40) for n in range(41)]
        path = " ".join(f"{x(t):.1f},{y(expected(law, group[0] | {'tokens': t})):.1f}" for t in curve)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{x(p["tokens"]):.1f}" cy="{y(p["val_loss"]):.1f}" r="5" fill="{colour}"/>' for p in group]
    labels = spaced([(y(group[-1]["val_loss"]), x(group[-1]["tokens"])) for _, group in groups[: len(COLOURS)]])
    for colour, (key, _), place in zip(COLOURS, groups, labels, strict=False):
        n_layer, n_embd, block_size = key
        name = f"{n_layer} x {n_embd}" + (f", context {block_size}" if block_size != 128 else "")
        parts.append(f'<text x="{RIGHT + 16}" y="{place:.1f}" style="fill:{colour}">{escape(name)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Loss by tokens">'
    paper = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="var(--paper)"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", paper, *parts, "</svg>", ""])


def spaced(ends: list[tuple[float, float]]) -> Iterator[float]:
    """Heights for labels, in the order of the curves' ends, at least 20 apart."""
    order = sorted(range(len(ends)), key=lambda i: ends[i][0])
    places, last = {}, -math.inf
    for i in order:
        places[i] = last = max(ends[i][0] + 5, last + 20)
    return (places[i] for i in range(len(ends)))
