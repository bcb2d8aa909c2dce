"""What a person sees: the architecture before training, progress while it lasts, the next steps when it is over.

Progress and messages go to stderr, text of the model to stdout. On a terminal the progress is a live bar, elsewhere plain
lines. NO_COLOR is honoured (by rich).

Next: cli.py
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

import torch.nn as nn
from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TaskID, TextColumn
from rich.text import Text

from .card import argument
from .checkpoint import Run
from .config import TrainConfig
from .program import say
from .signals import interrupt, nothing_interrupted
from .trainer import Metrics, NonFiniteLoss, bits_per_char
from .watch import Watch

# ---- the architecture --------------------------------------------------------------------------------------------------


def architecture(model: nn.Module) -> str:
    """Every component of a model with its shapes and its number of parameters; equal blocks are listed once."""
    total = sum(p.numel() for p in model.parameters())
    rows = list(_rows(model, "", {}))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"  {name:<{widths[0]}}  {shapes:<{widths[1]}}  {count:>12}" for name, shapes, count in rows]
    return "\n".join([f"{type(model).__name__}, {total:,} parameters", *lines])


def _rows(module: nn.Module, indent: str, seen: dict[int, str]) -> Iterator[tuple[str, str, str]]:
    for name, child in module.named_children():
        if isinstance(child, nn.Dropout | nn.GELU):
            continue
        own = [(key, p) for key, p in child.named_parameters(recurse=False)]
        shapes = "  ".join(f"{key} {tuple(p.shape)}" for key, p in own)
        tied = next((seen[id(p)] for _, p in own if id(p) in seen), "")
        seen.update({id(p): name for _, p in own})
        n = sum(p.numel() for p in child.parameters())
        if isinstance(child, nn.ModuleList):
            block = child[0]
            label = f"{indent}{name}: {len(child)} x {type(block).__name__}"
            yield label, "each:", f"{n:,}"
            yield from _rows(block, indent + "  ", seen)
        else:
            heads = getattr(child, "n_head", None)
            label = f"{indent}{name}: {type(child).__name__}" + (f", {heads} heads" if heads else "")
            yield label, f"the weight of {tied}" if tied else shapes, "tied" if tied else f"{n:,}"
            yield from _rows(child, indent + "  ", seen)


# ---- progress ----------------------------------------------------------------------------------------------------------


class Progress:
    """Shows metrics as they come: `with Progress(config) as progress: ... progress.update(metrics)`."""

    def __init__(self, config: TrainConfig, tokens_per_char: float = 1.0, first_step: int = 0) -> None:
        self.config, self.tokens_per_char, self.first_step = config, tokens_per_char, first_step
        self.console = Console(stderr=True, highlight=False)
        self.watch = Watch(config.learning_rate)
        self.bar: Bar | None = None
        self.task = TaskID(0)
        self.began = self.last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            wide = (TextColumn("training"), BarColumn(None)) if self.console.width >= 70 else ()
            columns = (*wide, TextColumn("{task.fields[status]}"))
            self.bar = Bar(*columns, console=self.console, transient=True, expand=True)
            self.task = self.bar.add_task("training", total=self.config.max_iters, completed=self.first_step, status="")
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, metrics: Metrics, sample: str = "") -> None:
        """Show a step; after an evaluation also its losses, in a line that stays, and a piece of what the model writes."""
        step, total = metrics.step, metrics.last_step
        speed = f"{metrics.tokens_per_s:,.0f} tok/s" if metrics.tokens_per_s else ""
        left = (time.monotonic() - self.began) / max(1, step - self.first_step) * (total - step)
        eta = f"ETA {_clock(left)}" if step > self.first_step else ""
        if self.bar:
            loss = f"loss {metrics.loss:.3f}" if metrics.loss is not None else ""
            status = "  ".join(filter(None, (f"{step:,}/{total:,}", eta, loss, speed)))
            self.bar.update(self.task, completed=step, total=total, status=status)
        elif metrics.val_loss is None and time.monotonic() - self.last_line > 10:
            self._line(f"step {step:>6,}/{total:,}  loss {metrics.loss:.4f}  {speed}  {eta}")
        if metrics.val_loss is not None:
            train = f"train {metrics.train_loss:.4f}  " if metrics.train_loss is not None else ""
            bits = bits_per_char(metrics.val_loss, self.tokens_per_char)
            best = "  best so far" if metrics.is_best and step else ""
            rest = "" if self.bar else f"  {speed}  {eta}".rstrip()
            self._line(f"step {step:>6,}/{total:,}  {train}val {metrics.val_loss:.4f} ({bits:.3f} bits/char){rest}{best}")
            if sample.strip():
                width = max(1, min(100, self.console.width) - 5)
                self._line("    " + excerpt(sample, width, sys.stderr), style="dim")
        for sentence in self.watch.see(metrics):
            self._line(sentence, style="yellow")

    def _line(self, line: str, style: str = "") -> None:
        self.last_line = time.monotonic()
        if self.bar:
            self.console.print(Text(line, style=style), soft_wrap=True)
        else:
            say(line)


def excerpt(sample: str, width: int, stream: TextIO) -> str:
    """The beginning of a sample on one line, line ends shown as a sign that the stream can print."""
    sign = "⏎" if (stream.encoding or "").lower().startswith("utf") else "/"
    line = sample.strip().replace("\n", sign)
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= width else line[:width]


def _clock(seconds: float) -> str:
    """75 -> "1:15"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


# ---- stopping ----------------------------------------------------------------------------------------------------------


class StopSignals:
    """Ctrl-C or SIGTERM asks to stop after the step; a second one stops at once.

    with StopSignals() as stop:
        for ...:
            if stop.requested: break
    """

    def __enter__(self) -> "StopSignals":
        self.requested = 0  # the number of the signal
        nothing_interrupted()
        self.before: dict[int, Any] = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        nothing_interrupted()
        for number, handler in self.before.items():
            signal.signal(number, handler)
        # What takes long was interrupted. Ctrl-C in a terminal ends compilers as well; that they failed is no news then.
        ended = kind and (
            issubclass(kind, KeyboardInterrupt) or kind.__module__.startswith(("torch._dynamo", "torch._inductor"))
        )
        return bool(self.requested and ended)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if sys.stderr.isatty():
                print("\x1b[?25h", file=sys.stderr)  # the live bar has hidden the cursor
            os._exit(128 + number)
        self.requested = number
        say("\nStopping after this step; once more to quit at once.")
        interrupt()  # where a model is compiled or evaluated: that can take minutes

    def leave(self, run: Run) -> NoReturn:
        """Save, say how to go on, and exit with 130 (Ctrl-C) or 143 (SIGTERM)."""
        run.save()
        say(f"Stopped at step {run.state.step:,} and saved. Go on with:\n  {_resume_command(run)}")
        raise SystemExit(128 + self.requested)


@contextmanager
def rescue(run: Run) -> Iterator[None]:
    """Where a training ends because its numbers are no numbers any more, say how to go on from what was saved."""
    try:
        yield
    except NonFiniteLoss as error:
        if not any((run.folder / "checkpoints").glob("step-*")):
            raise
        command = _resume_command(run, f"--learning-rate {run.config.learning_rate / 3:.1g}")
        raise NonFiniteLoss(f"{error}. Go on from there, more slowly, with:\n  {command}") from None


def farewell(run: Run) -> None:
    """Say how good the model is, where it is, and what to try next."""
    state, text = run.state, run.about["text"]
    if state.step < state.ends_at(run.config):
        say(f"Stopped early: no better validation loss in {state.evaluations_since_best} evaluations.")
    bits, folder = bits_per_char(state.best_val_loss, text["tokens_per_char"]), argument(str(run.folder))
    say(
        f"\nThe best model, of step {state.best_step:,}: val {state.best_val_loss:.4f} ({bits:.3f} bits/char). "
        f"It is in {run.folder}"
    )
    say("Try next:")
    for command in (f"generate {folder} --temperature 0.8", f"eval {folder}", f"info {folder}"):
        say(f"  {_program()} {command}")


def _resume_command(run: Run, *flags: str) -> str:
    texts = map(argument, run.about["text"]["paths"])
    return " ".join((_program(), "train", *texts, "--resume --out", argument(str(run.folder)), *flags))


def _program() -> str:
    """How this person can call the command line: minigpt where it is on the PATH, else by its place."""
    if shutil.which("minigpt"):
        return "minigpt"
    beside = Path(sys.executable).with_name("minigpt.exe" if os.name == "nt" else "minigpt")
    place = ""
    with suppress(ValueError):  # on another drive of Windows
        place = os.path.relpath(beside) if beside.exists() else ""
    return place if place and not place.startswith("..") else f"{Path(sys.executable).name} -m minigpt"
