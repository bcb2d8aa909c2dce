"""The ladder as a picture: loss by rung, going down like a staircase, with the baselines as lines. SVG, light and dark.

Next: table.py
"""

import math
from collections.abc import Sequence
from html import escape

from .climb import Result
from .counting import Baseline

WIDTH, HEIGHT = 1280, 800
LEFT, RIGHT, TOP, BOTTOM = 84, 1130, 150, 630  # of the plot
STYLE = """
  :root { --paper: #fdfcf9; --ink: #22252b; --soft: #6b7078; --line: #d9d7d0; --step: #2f6f8f; --shade: #2f6f8f;
          --up: #b3462f; --base: #a0762a }
  @media (prefers-color-scheme: dark) {
    :root { --paper: #15171b; --ink: #e9e6df; --soft: #9aa0a8; --line: #363a42; --step: #7cc4e4; --shade: #7cc4e4;
            --up: #f08a70; --base: #d9b15e } }
  text { font-family: ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--ink); font-size: 12px }
  .title { font-size: 27px; font-weight: 650 }
  .soft { fill: var(--soft) } .base { fill: var(--base) } .up { fill: var(--up) } .bold { font-weight: 650 }
  .value { font-size: 14px; font-weight: 650 }
"""


def picture(results: Sequence[Result], floor: Sequence[Baseline], text: str, steps: int) -> str:
    """An SVG of the results, as wide as WIDTH. Lower is better. Losses above the plot are named at its edge."""
    losses = [r.val_loss for r in results]
    high = max([*losses, *(b.loss for b in floor if b.loss < max(losses) + 0.4)]) + 0.12
    low = min([*losses, *(b.loss for b in floor if b.loss > min(losses) - 0.4)]) - 0.12
    y = lambda loss: BOTTOM - (loss - low) / (high - low) * (BOTTOM - TOP)  # noqa: E731
    wide = (RIGHT - LEFT) / len(results)
    x = lambda i: LEFT + i * wide  # noqa: E731
    parts = [
        f'<text class="title" x="{LEFT}" y="58">From one character to a GPT</text>',
        f'<text class="soft" x="{LEFT}" y="84" style="font-size:15px">{escape(_title(text, results, steps))}</text>',
        f'<text class="soft" x="{LEFT}" y="{TOP - 16}">validation loss, nats/token; lower is better</text>',
    ]
    parts += _grid(low, high, y)
    parts += _floor(floor, low, high, y)
    # The staircase, and the shade under it.
    corners = [f"{x(i + end):.1f},{y(loss):.1f}" for i, loss in enumerate(losses) for end in (0, 1)]
    under = f"{LEFT},{BOTTOM} {' '.join(corners)} {x(len(losses)):.1f},{BOTTOM}"
    parts.append(f'<polygon points="{under}" fill="var(--shade)" opacity="0.11"/>')
    parts.append(
        f'<polyline points="{" ".join(corners)}" fill="none" stroke="var(--step)" stroke-width="3" stroke-linejoin="round"/>'
    )
    for i, r in enumerate(results):
        parts += _rung(r, x(i) + wide / 2, y(r.val_loss), wide, y)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Loss by rung">\n'
        f"<style>{STYLE}</style>\n"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="var(--paper)"/>\n{body}\n</svg>\n'
    )


def _title(text: str, results: Sequence[Result], steps: int) -> str:
    seeds = len(results[0].attempts)
    return f"{text}, {steps:,} steps a rung" + (f", mean of {seeds} seeds" if seeds > 1 else "")


def _grid(low: float, high: float, y) -> list[str]:
    """A faint line and a number for every fifth or tenth of a nat."""
    gap = 0.2 if high - low > 1 else 0.1
    ticks = [gap * k for k in range(math.ceil(low / gap), math.floor(high / gap) + 1)]
    return [
        f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}" stroke="var(--line)" opacity="0.6"/>'
        f'<text class="soft" x="{LEFT - 12}" y="{y(t) + 4:.1f}" text-anchor="end">{t:.1f}</text>'
        for t in ticks
    ]


def _floor(floor: Sequence[Baseline], low: float, high: float, y) -> list[str]:
    """A dashed line for each baseline, its name at the right; what lies outside is named at the edge."""
    parts, above = [], []
    last = -math.inf
    for b in sorted(floor, key=lambda b: -b.loss):
        if not low <= b.loss <= high:
            above.append(f"{b.name} {b.loss:.2f}")
            continue
        parts.append(
            f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y(b.loss):.1f}" y2="{y(b.loss):.1f}" stroke="var(--base)" '
            'stroke-width="1.5" stroke-dasharray="2 5" stroke-linecap="round"/>'
        )
        last = max(y(b.loss) - 6, last + 32)  # names do not cover each other
        parts.append(
            f'<text class="base bold" x="{RIGHT + 12}" y="{last + 6:.1f}">{escape(b.name)}</text>'
            f'<text class="base" x="{RIGHT + 12}" y="{last + 21:.1f}">{b.loss:.2f}</text>'
        )
    if above:
        parts.append(
            f'<text class="base" x="{RIGHT}" y="{TOP - 16}" text-anchor="end">beyond: {escape(", ".join(above))}</text>'
        )
    return parts


def _rung(r: Result, middle: float, top: float, wide: float, y) -> list[str]:
    """The number above a step, what it gained, its spread over seeds, its name and idea below the plot."""
    parts = [f'<text class="value" x="{middle:.1f}" y="{top - 10:.1f}" text-anchor="middle">{r.val_loss:.2f}</text>']
    if r.gain is not None and abs(r.gain) >= 0.005:
        sign, kind = ("−", "soft") if r.gain > 0 else ("+", "up bold")
        parts.append(
            f'<text class="{kind}" x="{middle:.1f}" y="{top + 19:.1f}" text-anchor="middle">{sign}{abs(r.gain):.2f}</text>'
        )
    if r.deviation:
        ends = y(r.val_loss + r.deviation), y(r.val_loss - r.deviation)
        parts.append(
            f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}" stroke="var(--ink)"/>'
        )
    lines = _wrapped(r.idea, max(8, int(wide / 6.1)))
    parts.append(f'<text class="soft" x="{middle:.1f}" y="{BOTTOM + 28}" text-anchor="middle">{r.number}</text>')
    parts.append(f'<text class="bold" x="{middle:.1f}" y="{BOTTOM + 48}" text-anchor="middle">{escape(r.name)}</text>')
    parts += [
        f'<text class="soft" x="{middle:.1f}" y="{BOTTOM + 68 + 15 * i}" text-anchor="middle" style="font-size:11px">'
        f"{escape(line)}</text>"
        for i, line in enumerate(lines)
    ]
    return parts


def _wrapped(words: str, width: int) -> list[str]:
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
