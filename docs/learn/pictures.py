"""The pictures of the pages in this folder: python docs/learn/pictures.py writes them all to pictures/.

Each is made from the package itself: a rung's parts from its model, its loss from docs/results.md, the rest from
docs/learn/text.txt. So a picture can be old, but not wrong; tests/test_learn.py says when it is old.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from minigpt import RUNGS, CharTokenizer, FeedForward, GPTConfig, SampleConfig, attention_weights
from minigpt.attention import Head, MultiHeadAttention
from minigpt.block import Block
from minigpt.ladder.picture import STYLE
from minigpt.modern import NormedAttention, RotaryAttention, SwiGLU
from minigpt.rungs import Heads, Residual, Rung, TiedScores, TokenAndPosition
from minigpt.sampling import probabilities

HERE = Path(__file__).parent
TEXT = (HERE / "text.txt").read_text(encoding="utf-8")
WIDTH = 900


def pictures() -> dict[str, str]:
    """Every picture: the name of its file -> SVG."""
    losses = published()
    made = {
        "1-bigram.svg": after_h(),
        "2-attention.svg": weights(),
        "3-positions.svg": order(),
        "4-generation.svg": temperatures(),
        "5-blocks.svg": gradients(),
        "rung-00-counting.svg": counting(losses),
    }
    below: Rung | None = None
    for rung in RUNGS.values():
        made[f"rung-{rung.number:02}-{rung.name}.svg"] = stack(rung, below, losses)
        below = rung
    return made


# ---- drawing -----------------------------------------------------------------------------------------------------------


def svg(height: int, label: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">\n'
        f"<style>{STYLE}</style>\n"
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="var(--paper)"/>\n{body}\n</svg>\n'
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "middle", size: int = 13) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place} style="font-size:{size}px">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, opacity: float = 1.0, stroke: str = "none") -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" fill="{fill}" '
        f'fill-opacity="{opacity:.3f}" stroke="{stroke}"/>'
    )


def path(d: str, stroke: str = "var(--soft)", width: float = 1.5) -> str:
    return f'<path d="{d}" fill="none" stroke="{stroke}" stroke-width="{width}" stroke-linecap="round"/>'


def bars(x: float, title: str, note: str, shares: Sequence[tuple[str, float]], width: float = 250) -> Iterator[str]:
    """Shares of 1 as horizontal bars, one below the other."""
    yield text(x, 40, title, "bold", "start", 16)
    yield text(x, 60, note, "soft", "start", 12)
    for i, (name, share) in enumerate(shares):
        y = 78 + 27 * i
        yield text(x + 12, y + 15, name.replace(" ", "␣").replace("\n", "⏎"), "bold", size=15)
        yield box(x + 30, y, max(1.0, (width - 80) * share), 20, "var(--step)", 0.85)
        yield text(x + 38 + (width - 80) * share, y + 15, f"{share:.2f}", "soft", "start")


# ---- the five learnings ------------------------------------------------------------------------------------------------


def after_h() -> str:
    parts: list[str] = []
    for i, seen in enumerate(("h", "th", "wh")):
        follows = Counter(TEXT[m.end()] for m in re.finditer(re.escape(seen), TEXT))
        total = sum(follows.values())
        note = "all that a bigram can know" if seen == "h" else "what a longer memory would know"
        parts += bars(40 + 290 * i, f'after "{seen}"', note, [(c, n / total) for c, n in follows.most_common(5)])
    return svg(230, "What follows h, th and wh in a text", parts)


def weights() -> str:
    letters = "the harbour"
    kind = torch.tensor([[1.0 if c in "aeiou" else -1.0 if c != " " else 0.0] for c in letters])
    parts: list[str] = []
    maps = (
        ("an average", "every score is 0", attention_weights(0 * kind, kind)),
        ("attention", "vowels ask for consonants, consonants for vowels", attention_weights(-2 * kind, kind)),
    )
    for i, (title, note, rows) in enumerate(maps):
        left, top, cell = 80 + 430 * i, 96, 24
        parts += [text(left, 40, title, "bold", "start", 16), text(left, 60, note, "soft", "start", 12)]
        for t, row in enumerate(rows.tolist()):
            name = letters[t].replace(" ", "␣")
            parts += [
                text(left - 12, top + t * cell + 17, name, "bold"),
                text(left + (t + 0.5) * cell, top - 6, name, "soft"),
            ]
            for s, weight in enumerate(row):
                seen = s <= t
                parts.append(
                    box(
                        left + s * cell + 1,
                        top + t * cell + 1,
                        cell - 2,
                        cell - 2,
                        "var(--step)" if seen else "var(--line)",
                        0.06 + 0.94 * weight if seen else 0.15,
                    )
                )
        parts.append(text(left + 290, top + 60, "the future", "soft", "start", 12))
        parts.append(text(left + 290, top + 76, "is masked", "soft", "start", 12))
    return svg(390, "Attention weights: an average of the past, and a weighted one", parts)


def order() -> str:
    parts: list[str] = []
    for i, (title, note) in enumerate(
        (
            ("attention alone", "a bag of letters and an a: the same answer"),
            ("with positions", "other vectors, another answer"),
        )
    ):
        left = 40 + 430 * i
        parts += [text(left, 40, title, "bold", "start", 16), text(left, 60, note, "soft", "start", 12)]
        for row, word in enumerate(("tea", "eta")):
            y = 84 + 62 * row
            for place, letter in enumerate(word):
                x = left + 64 * place
                parts.append(box(x, y, 52, 40, "var(--step)", 0.15, "var(--step)"))
                parts.append(text(x + (18 if i else 26), y + 26, letter, "bold", size=18))
                if i:
                    parts.append(text(x + 36, y + 26, f"+{place}", "up bold", size=14))
            parts.append(path(f"M {left + 190} {y + 20} H {left + 226} m -6 -4 l 6 4 l -6 4"))
            first, second, last = (f"{letter}+{place}" if i else letter for place, letter in enumerate(word))
            bag = f"{{{', '.join(sorted((first, second)))}}} then {last}"
            parts.append(text(left + 238, y + 26, bag, "bold" if not i else "up bold", "start", 15))
    return svg(220, "Without positions, tea and eta are the same to attention", parts)


def temperatures() -> str:
    tokenizer = CharTokenizer.train(TEXT)
    follows = Counter(TEXT[m.end()] for m in re.finditer("t", TEXT))
    scores = np.log([follows[c] + 0.01 for c in tokenizer.chars])
    parts: list[str] = []
    for i, (temperature, note) in enumerate(((0.5, "sure"), (1.0, "as the text is"), (2.0, "adventurous"))):
        probs = probabilities(scores, SampleConfig(temperature=temperature))
        best = np.argsort(-scores, kind="stable")[:6]
        shares = [(tokenizer.chars[j], float(probs[j])) for j in best]
        parts += bars(40 + 290 * i, f"temperature {temperature:g}", f'after "t": {note}', shares)
    return svg(256, "What follows t, at three temperatures", parts)


def gradients() -> str:
    layers = 10
    config = GPTConfig(vocab_size=65, block_size=16, n_layer=layers, n_head=4, n_embd=32)
    x = lambda layer: 120 + 560 * layer / (layers - 1)  # noqa: E731
    y = lambda norm: 70 - 28 * math.log10(norm)  # noqa: E731
    parts = [
        text(40, 36, "gradient that arrives at each layer, the last = 1", "bold", "start", 16),
        text(400, 372, "layer, first to last", "soft"),
    ]
    for power in range(0, -10, -3):
        parts.append(path(f"M 120 {y(10.0**power):.1f} H 680", "var(--line)", 1))
        parts.append(text(108, y(10.0**power) + 4, f"{10.0**power:g}", "soft", "end"))
    for name, label, colour, beside in (  # beside: the layer that the label stands at, and its distance from it
        ("blocks", "without residual", "var(--up)", (4, 14, 22)),
        ("residual", "with residual", "var(--step)", (9, 14, 16)),
        ("layernorm", "and layer norm", "var(--base)", (9, 14, -6)),
    ):
        torch.manual_seed(0)
        model, idx = RUNGS[name].model(config), torch.randint(65, (8, 17))
        model(idx[:, :-1], idx[:, 1:])[1].backward()
        norms = [m.up.weight.grad.norm().item() for m in model.modules() if isinstance(m, FeedForward)]
        points = [(x(i), y(norm / norms[-1])) for i, norm in enumerate(norms)]
        parts.append(path("M " + " L ".join(f"{a:.1f} {b:.1f}" for a, b in points), colour, 2.5))
        layer, right, down = beside
        parts.append(text(points[layer][0] + right, points[layer][1] + down, label, "bold", "start"))
    return svg(390, "Norm of the gradient by layer, with and without residual connections", parts)


# ---- the rungs ---------------------------------------------------------------------------------------------------------


def published() -> dict[str, float]:
    """Name of a rung or baseline -> validation loss on tiny Shakespeare, from docs/results.md."""
    section = (
        (HERE.parent / "results.md")
        .read_text(encoding="utf-8")
        .split("## The ladder on tiny Shakespeare")[1]
        .split("\n## ")[0]
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if re.match(r"\| \d", line)]
    return {row[1]: float(row[5]) for row in rows}


def counting(losses: dict[str, float]) -> str:
    names = [name for name in losses if name not in RUNGS]
    parts = [text(40, 40, "tiny Shakespeare, nats per character", "bold", "start", 16)]
    for i, name in enumerate([*names, "modern"]):
        y, wide = 64 + 32 * i, 130 * losses[name]
        learned = name == "modern"
        parts.append(text(170, y + 16, "rung 14, modern" if learned else name, "bold", "end"))
        parts.append(box(184, y, wide, 22, "var(--step)" if learned else "var(--base)", 0.8))
        parts.append(text(194 + wide, y + 16, f"{losses[name]:.2f}", "soft", "start"))
    return svg(270, "Loss of each counting baseline", parts)


LABELS: dict[type[nn.Module], tuple[str, ...]] = {  # lines in a box
    nn.Embedding: ("token", "table"),
    TokenAndPosition: ("token +", "position"),
    Head: ("one head",),
    Heads: ("4 heads",),
    MultiHeadAttention: ("4 heads,", "projection"),
    RotaryAttention: ("4 heads,", "turned"),
    NormedAttention: ("turned heads,", "QK-norm"),
    FeedForward: ("feed-", "forward"),
    SwiGLU: ("SwiGLU",),
    nn.LayerNorm: ("layer", "norm"),
    nn.RMSNorm: ("RMS", "norm"),
    nn.Linear: ("scores",),
    TiedScores: ("scores,", "tied"),
    nn.Dropout: ("dropout",),
}
Part = tuple[bool, tuple[str, ...]]  # whether a residual connection leads past it; what stands in its box


def parts_of(module: nn.Module) -> list[Part]:
    """What a rung is made of, from ids to scores."""
    if isinstance(module, Residual):
        norm = [LABELS[type(m)] for m in module.parts if isinstance(m, nn.LayerNorm | nn.RMSNorm)]
        return [(True, (*(" ".join(lines) + "," for lines in norm), *LABELS[type(list(module.parts)[-1])]))]
    if isinstance(module, Block):
        pairs = ((module.ln_1, module.attn), (module.ln_2, module.mlp))
        return [(True, (" ".join(LABELS[type(norm)]) + ",", *LABELS[type(part)])) for norm, part in pairs]
    if isinstance(module, nn.Sequential | nn.ModuleList) and not isinstance(module, Heads):
        return [part for child in module for part in parts_of(child)]
    return [(False, LABELS[type(module)])]


def parts_of_rung(rung: Rung) -> list[Part]:
    model = rung.model(GPTConfig(vocab_size=65, block_size=32, n_layer=4 if rung.scaled else 3, n_head=4, n_embd=32))
    if rung.name == "bigram":
        return [(False, ("table of", "scores"))]
    if hasattr(model, "parts"):
        return parts_of(model.parts)
    assert hasattr(model, "blocks")
    first = TokenAndPosition(model.config) if hasattr(model, "pos_emb") else model.tok_emb
    return [
        *parts_of(first),
        *parts_of(model.drop),
        *parts_of(model.blocks),
        *parts_of(model.ln_f),
        (False, LABELS[TiedScores]),
    ]


def stack(rung: Rung, below: Rung | None, losses: dict[str, float]) -> str:
    """The parts of a rung from left to right, the new ones in colour, and where it stands on the ladder."""
    old = set(parts_of_rung(below)) if below else set()
    parts = parts_of_rung(rung)
    repeated, times = 0, 1  # the parts that are repeated: the first of them, how often
    for i in range(len(parts) - 1):
        while parts[i : i + 2] == parts[i + 2 * times : i + 2 * times + 2] and len(parts) > 2:
            repeated, times = i, times + 1
        if times > 1:
            del parts[i + 2 : i + 2 * times]
            break
    wide, gap = 101, 22
    x = (WIDTH - len(parts) * (wide + gap) - gap - 116) / 2
    drawn = [text(x + 26, 94, "ids", "bold"), text(x + 26, 112, "(B, T)", "soft", size=11)]
    x += 58
    for i, (around, lines) in enumerate(parts):
        new = (around, lines) not in old
        drawn.append(path(f"M {x + 2:.1f} 90 h {gap - 6} m -5 -4 l 5 4 l -5 4"))
        x += gap
        drawn.append(box(x, 56, wide, 68, "var(--step)", 0.85 if new else 0.12, "var(--step)"))
        for k, line in enumerate(lines):
            drawn.append(
                f'<text x="{x + wide / 2:.1f}" y="{95 + 17 * (k - (len(lines) - 1) / 2):.1f}" text-anchor="middle" '
                f'style="font-size:12px;font-weight:650{";fill:var(--paper)" if new else ""}">{escape(line)}</text>'
            )
        if around:
            drawn.append(path(f"M {x - 16:.1f} 88 V 44 H {x + wide + 8:.1f} V 80", "var(--base)", 2))
            drawn.append(text(x + wide + 8, 78, "+", "base bold", size=17))
        if times > 1 and i == repeated:
            start = x - 22
        if times > 1 and i == repeated + 1:
            drawn.append(path(f"M {start:.1f} 134 v 8 H {x + wide + 16:.1f} v -8", "var(--soft)"))
            drawn.append(text((start + x + wide + 16) / 2, 160, f"{times} times", "bold"))
        x += wide
    drawn.append(path(f"M {x + 2:.1f} 90 h {gap - 6} m -5 -4 l 5 4 l -5 4"))
    drawn += [text(x + gap + 26, 94, "logits", "bold"), text(x + gap + 26, 112, "(B, T, V)", "soft", size=11)]
    if below and parts_of_rung(rung) == parts_of_rung(below):
        drawn.append(text(WIDTH / 2, 30, "the same parts, other initial weights", "bold"))
    return svg(330, f"The parts of rung {rung.number}, {rung.name}", [*drawn, *staircase(rung, losses)])


def staircase(rung: Rung, losses: dict[str, float]) -> Iterator[str]:
    """The losses of all rungs as bars, this one in colour."""
    low, high = 1.6, max(losses[name] for name in RUNGS)
    wide = (WIDTH - 80) / len(RUNGS)
    for other in RUNGS.values():
        x, tall = 40 + wide * (other.number - 1), 95 * (losses[other.name] - low) / (high - low)
        this = other is rung
        yield box(x + 3, 300 - tall, wide - 6, tall, "var(--step)" if this else "var(--soft)", 0.9 if this else 0.25)
        yield text(
            x + wide / 2, 294 - tall, f"{losses[other.name]:.2f}", "bold" if this else "soft", size=13 if this else 11
        )
        yield text(x + wide / 2, 316, other.name, "bold" if this else "soft", size=11)


if __name__ == "__main__":
    (HERE / "pictures").mkdir(exist_ok=True)
    for name, picture in pictures().items():
        (HERE / "pictures" / name).write_text(picture, encoding="utf-8")
    print(f"{len(pictures())} pictures in {HERE / 'pictures'}")
