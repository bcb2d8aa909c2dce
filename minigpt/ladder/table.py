"""What a person sees of the climb: a row for every rung as soon as it stands, a live line for the one that is climbed.

Next: compare.py
"""

import sys

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..console import excerpt
from ..trainer import Metrics, bits_per_char
from .climb import Result
from .counting import Baseline

HEADER = f"{'':>2}  {'rung':<13} {'parameters':>10} {'train':>7} {'val':>7} {'bits/char':>9} {'gain':>7} {'time':>6}   idea"
SAMPLE = 60  # characters


class Table:
    """with Table(...) as table: table.baseline(b); table.progress(...); table.row(result)"""

    def __init__(self, tokens_per_char: float) -> None:
        self.tokens_per_char = tokens_per_char
        self.console = Console(highlight=False)
        self.live: Live | None = None

    def __enter__(self) -> "Table":
        if self.console.is_terminal:
            self.live = Live(Text(""), console=self.console, transient=True, refresh_per_second=8)
            self.live.start()
        self._line(HEADER, "bold")
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def baseline(self, b: Baseline) -> None:
        bits = bits_per_char(b.loss, self.tokens_per_char)
        self._line(f"{0:>2}  {b.name:<13} {'':>18} {b.loss:>7.4f} {bits:>9.4f} {'':>14}   {b.idea}", "yellow")

    def progress(self, number: int, name: str, seed: str, metrics: Metrics, steps: int) -> None:
        """The rung that is being climbed: only on a terminal, in a line that does not stay."""
        if self.live and metrics.loss is not None:
            done = "━" * round(20 * metrics.step / steps)
            text = f"{number:>2}  {name:<13} {done:<20} {metrics.step:,}/{steps:,}  loss {metrics.loss:.3f}{seed}"
            self.live.update(Text(text, style="cyan"))

    def row(self, r: Result) -> None:
        """A rung with all its numbers, and what its model writes."""
        gain = "" if r.gain is None else f"{r.gain:+.4f}"
        spread = "" if r.deviation is None else f" ± {r.deviation:.4f} over {len(r.attempts)} seeds"
        losses = f"{r.train_loss:>7.4f} {r.val_loss:>7.4f} {r.bits_per_char:>9.4f} {gain:>7}"
        self._line(f"{r.number:>2}  {r.name:<13} {r.parameters:>10,} {losses} {r.seconds:>4.0f} s   {r.idea}{spread}")
        self._line(f"    {excerpt(r.sample, SAMPLE, sys.stdout)}", "dim")

    def _line(self, line: str, style: str = "") -> None:
        if self.live:
            self.console.print(Text(line, style=style), soft_wrap=True)
        else:
            print(line, flush=True)


def seed_note(index: int, seeds: int) -> str:
    """Which attempt this is, if there are several."""
    return f"  (seed {index + 1} of {seeds})" if seeds > 1 else ""
