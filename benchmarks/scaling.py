"""The law behind the planner, fitted to the sweep's runs, and the page and the picture that show it (see sweep.py)."""

import math
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from itertools import groupby
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
from machine import ROOT, describe, table
from scipy.optimize import least_squares

from minigpt.config import GPTConfig
from minigpt.planner import LAW, LEARNS, Law, matrix_weights

Line = dict[str, Any]  # of sweep.jsonl
START = {"floor": 0.9, "size": 0.05, "size_power": 0.3, "tokens": 0.5, "tokens_power": 0.3, "windows": 0.3, "context": 0.05,
         "context_power": 0.5, "repeats": 10.0, "overfit": 0.04, "knee": 5.0, "relief": 16.0, "price": 0.2}  # fmt: skip
SHIFT = 0.1  # nats: a part of the text is not like the end of the whole; fitted, but no part of the law
FACTORS = 0.5, 1.3  # of another text: see Law.scaled


class Fitted(NamedTuple):
    """A law, and what else was fitted with it."""

    law: Law
    shift: float  # nats that runs on a part of the text lie above the law
    factors: dict[str, tuple[float, float]]  # of the other texts
    elsewhere: float  # the error on the other texts, as Law.error

    def expected(self, line: Line, learns: float = 1.0) -> float:
        """What a run should have ended with, if not on a part of the text."""
        factors = self.factors.get(line["text"])
        return expected(self.law.scaled(*factors) if factors else self.law, line, learns)

    def powers(self, lines: list[Line]) -> tuple[float, float]:
        """Those that turn the mean difficulty of the other texts into the mean of their factors."""
        difficulties = {line["text"]: line["difficulty"] for line in lines if line["text"] in self.factors}
        floor, rest = (
            round(math.log(mean(factors)) / math.log(mean(difficulties.values())), 2)
            for factors in zip(*self.factors.values(), strict=True)
        )
        return floor, rest


def expected(law: Law, line: Line, learns: float = 1.0) -> float:
    """Law.loss for a line."""
    shape = GPTConfig(n_layer=line["n_layer"], n_embd=line["n_embd"], n_head=1, block_size=line["block_size"])
    weights = matrix_weights(line["arch"], shape)
    return law.loss(weights, learns * line["tokens"], line["block_size"], line["train_tokens"], line["dropout"])


def fit(lines: list[Line]) -> Fitted:
    """The constants with the smallest Huber loss of log(expected / measured): a run that is far off pulls no harder.

    To the runs of the family's own architecture, on all texts at once: what a text is like, its two factors say. What hardly
    matters stays near the start.
    """
    lines = [line for line in lines if line["arch"] == "modern"]
    others = sorted({line["text"] for line in lines} - {"shakespeare"})
    at_home = np.array([line["text"] == "shakespeare" for line in lines])
    start = np.log([*START.values(), SHIFT, *FACTORS * len(others)])

    def read(values: list[float]) -> tuple[Law, float, dict[str, tuple[float, float]]]:
        shift, *factors = values[len(START) :]
        pairs = zip(factors[::2], factors[1::2], strict=True)
        return replace(LAW, **dict(zip(START, values, strict=False))), shift, dict(zip(others, pairs, strict=True))

    def errors(values: list[float]) -> np.ndarray:
        law, shift, factors = read(values)
        laws = {"shakespeare": law} | {text: law.scaled(*pair) for text, pair in factors.items()}
        runs = [expected(laws[line["text"]], line) + shift * (line["characters"] > 0) for line in lines]
        return np.log(np.array(runs) / [line["val_loss"] for line in lines])

    wrong = lambda logs: np.append(errors(np.exp(logs).tolist()), 3e-3 * (logs - start))  # noqa: E731
    found = [float(f"{value:.4g}") for value in np.exp(least_squares(wrong, start, loss="huber", f_scale=0.01).x)]
    law, shift, factors = read(found)
    error, elsewhere = (float(f"{np.sqrt((errors(found)[these] ** 2).mean()):.3g}") for these in (at_home, ~at_home))
    return Fitted(replace(law, error=error), shift, factors, elsewhere)


def learning_share(law: Law, lines: list[Line]) -> float:
    """How many tokens of today's GPT with Muon a token is worth to these runs: the best of a fine grid."""
    shares = [1.02**-n for n in range(150)]
    wrong = lambda share: sum(math.log(expected(law, line, share) / line["val_loss"]) ** 2 for line in lines)  # noqa: E731
    return round(min(shares, key=wrong), 2)


def publish_law(lines: list[Line]) -> None:
    """Print the constants for planner.py; write docs/scaling.md and docs/scaling.svg."""
    fitted = fit(lines)
    law, powers = fitted.law, fitted.powers(lines)
    gpt = [line for line in lines if line["arch"] == "gpt"]
    learns = {"modern": 1.0, **({"gpt": learning_share(law, gpt)} if gpt else {})}
    print(f"LAW = {law}\nLEARNS = {learns}\nPOWERS = {powers}")
    others = {line["text"]: line["difficulty"] for line in lines if line["text"] in fitted.factors}
    factors = [
        [text, f"{difficulty:.2f}", *(f"{factor:.2f}" for factor in fitted.factors[text])]
        for text, difficulty in others.items()
    ]
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
            f"{fitted.expected(line, learns[line['arch']]):.4f}",
            f"{line['train_loss']:.4f}",
            f"{line['seconds']:.0f} s",
            line["on"],
        ]
        for line in lines
    ]
    header = ["text", "model", "blocks x channels", "context", "tokens", "times the text", "dropout"]
    header += ["val loss", "by the law", "train loss (mean of the run)", "time", "on"]
    (ROOT / "docs/scaling.svg").write_text(
        picture(law, [line for line in lines if (line["text"], line["arch"]) == ("shakespeare", "modern")])
    )
    (ROOT / "docs/scaling.md").write_text(f"""# What a model of a size learns from so many tokens

Made by `python benchmarks/sweep.py --fit` from the {len(lines)} runs in benchmarks/sweep.jsonl, which `python
benchmarks/sweep.py` makes again. The fit: {describe()}.

![Loss by tokens and size](scaling.svg)

`minigpt plan` and `minigpt train --minutes` choose the size of a model by a law:

> loss = {law.floor:g} + {law.size:g} (n / 10⁶)^-{law.size_power:g} + {law.tokens:g} (d / 10⁶)^-{law.tokens_power:g} \
(T / 128)^{law.windows * law.tokens_power:.3g} + \
{law.context:g} (T / 128)^-{law.context_power:g} + \
{law.overfit:g} e^(-{law.relief:g} p) h² / (h + {law.knee:g}) + {law.price:g} p

in nats/character of tiny Shakespeare's validation part, with n the weights in the matrices of the blocks, d the tokens read,
T the context and p the dropout. The same number of tokens is fewer windows if they are longer, and each token then teaches
less: long contexts want long training. What is read again counts less: after {law.repeats:g} more readings, each counts
about a third of the first. h = r √(n / u), with r how often the u tokens of the text are read again, is the pressure to
learn by heart; dropout takes it away, for a price. A token teaches the GPT-2 of `gpt.py` with AdamW as much as
{learns.get("gpt", LEARNS["gpt"]):g} of a token teaches today's GPT with Muon. The law misses its runs by
{100 * law.error:.2g} % (root mean square). Runs on the first 100,000 characters alone lie {fitted.shift:g} nats above it:
the plays at the beginning are not those at the end. That number is fitted too, and no part of the law.

On another text the floor and what learning by heart costs are multiplied by one number, the terms of size, tokens and
context by another. These are fitted with the law, to the runs on each text:

{table(["text", "difficulty", "floor, learning by heart", "size, tokens, context"], factors)}

The law misses these runs by {100 * fitted.elsewhere:.2g} %. So an easier text leaves less that cannot be learned, and
rewards size, tokens and context more, but about equally: it changes the loss, and hardly the choice. Difficulty is what xz
makes of a text's first half million tokens, against tiny Shakespeare. For any text, those in the table too, the planner
takes that to the power of {powers[0]:g} for the first number and to {powers[1]:g} for the second. That is rough, so the plan
tells a wider range than on tiny Shakespeare.

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
