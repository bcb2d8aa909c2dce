"""Where the time of a training goes, and how many steps still fit into it.

Next: gradient.py
"""

import itertools
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .config import TrainConfig

PARTS = ("data", "model", "optimizer", "evaluation", "rest")  # rest: saving, samples, the screen: whatever the consumer does
SETTLED = 5  # steps until a machine's speed is believed,
HURRY = 0.2  # or less, when they took so much of the time


class Clock:
    """Seconds by part: `lap(part)` gives the time since the last lap to a part.

    clock = Clock()
    idx, targets = batches[0]; clock.lap("data")
    loss.backward();           clock.lap("model")
    """

    def __init__(self, spent: float = 0.0, event: Callable[..., Any] | None = None) -> None:
        """spent: seconds that were used before, by an earlier session or by starting.

        event: makes marks in what a device does (torch.cuda.Event), where that is done later than it is asked for.
        """
        self.event = event
        self.marks: list[tuple[str, Any]] = []  # not read yet; the first is where the last one that was read is
        if event:
            self._mark("")
        self.last = time.perf_counter()
        self.began = self.last - spent
        self.parts = dict.fromkeys(PARTS, 0.0)
        self.steps: deque[tuple[int, float]] = deque(maxlen=20)  # tokens and seconds of the latest
        self.trained = 0.0  # seconds of all steps before the present one
        self.evaluation_s = 0.0  # what the next evaluation will take, with the saving and the sample after it
        self.before = dict(self.parts)  # when the last evaluation began

    def lap(self, part: str) -> None:
        if self.event:
            self._mark(part)
            return
        now = time.perf_counter()
        self.parts[part] += now - self.last
        self.last = now

    @property
    def seconds(self) -> float:
        """Since training began, earlier sessions included."""
        return time.perf_counter() - self.began

    def _mark(self, part: str) -> None:
        assert self.event
        mark = self.event(enable_timing=True)
        mark.record()
        self.marks.append((part, mark))

    def read(self) -> None:
        """Wait until the device has done all that was asked for, and give its time to the parts."""
        if self.marks:
            self.marks[-1][1].synchronize()
            for (_, before), (part, mark) in itertools.pairwise(self.marks):
                self.parts[part] += before.elapsed_time(mark) / 1000
            del self.marks[:-1]

    def stepped(self, tokens: int, steps: int = 1) -> None:
        """Some steps are over, of so many tokens each; if they are not alike, the last."""
        self.read()
        trained = sum(self.parts[part] for part in ("data", "model", "optimizer"))
        self.steps.extend([(tokens, (trained - self.trained) / steps)] * steps)
        self.trained = trained

    def steps_in(self, seconds: float) -> int:
        """How many steps take about so long: one, until their speed is believed."""
        if len(self.steps) < SETTLED:
            return 1
        return max(1, int(seconds * len(self.steps) / max(sum(took for _, took in self.steps), 1e-9)))

    @property
    def tokens_per_s(self) -> float:
        """Of the last 20 steps; evaluations and whatever the consumer does left out."""
        tokens, seconds = map(sum, zip(*self.steps, strict=True))
        return tokens / max(seconds, 1e-9)

    def evaluating(self) -> None:
        """An evaluation begins."""
        self.read()
        self.before = dict(self.parts)

    def evaluated(self, share: float) -> None:
        """An evaluation and what the consumer made of it are over. share: of the tokens that the next one will read."""
        self.read()
        evaluation, rest = (self.parts[part] - self.before[part] for part in ("evaluation", "rest"))
        self.evaluation_s = evaluation / share + rest  # a sample and a checkpoint take as long as before

    def last_step(self, step: int, planned: int, config: TrainConfig) -> int:
        """The step to end with, so that config.minutes are kept: the planned one, unless that would miss them clearly."""
        if len(self.steps) < SETTLED and self.trained < HURRY * 60 * config.minutes and self.seconds < 60 * config.minutes:
            return planned
        seconds = sorted(seconds for _, seconds in self.steps)[len(self.steps) // 2]
        left = 60 * config.minutes - self.seconds - self.evaluation_s  # the last evaluation is after the last step
        assert config.eval_interval
        each = max(seconds + self.evaluation_s / config.eval_interval, 1e-9)  # a coarse clock may say 0
        fitting = step + max(0, round(left / each))
        return fitting if abs(fitting - planned) > 0.02 * (planned - step) else planned
