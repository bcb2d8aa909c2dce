"""What an experienced eye sees in the figures of a training, in words.

watch = Watch(); for metrics in train(...): for sentence in watch.see(metrics): print(sentence)

Next: planner.py
"""

from collections import deque
from collections.abc import Iterable
from statistics import mean, stdev

from .trainer import SPIKE, Metrics

LOOK_BACK = 20  # steps whose losses are averaged: the loss of one batch says little
SLOWER = 0.8  # of the steps that seemed to fit: told
IMPRECISE = 0.02  # nats/token: a standard error above it hides what a better setting gains


class Watch:
    """Reads metrics as they come and says each thing once. learning_rate: the peak that was asked for."""

    def __init__(self, learning_rate: float = 0.0) -> None:
        self.learning_rate = learning_rate
        self.said: set[str] = set()
        self.losses: deque[float] = deque(maxlen=LOOK_BACK)
        self.lowest = float("inf")  # mean of LOOK_BACK losses, and when it was reached
        self.lowest_step = 0
        self.start: float | None = None  # loss of the untrained model
        self.best: Metrics | None = None  # the evaluation with the lowest validation loss
        self.worse: list[float] = []  # validation losses since then
        self.fitting = 0  # steps that seemed to fit into the time, when the speed was known

    def remember(self, evaluations: Iterable[Metrics]) -> None:
        """Evaluations of earlier sessions: what was to be said of them was said then."""
        for metrics in evaluations:
            self.said |= self._evaluations(metrics).keys()

    def see(self, metrics: Metrics) -> list[str]:
        """What is to be said after this step: mostly nothing."""
        found: dict[str, str] = {}
        if metrics.loss is not None and not metrics.spike:  # what is told as a spike is no trend yet
            found |= self._steps(metrics)
        if metrics.spike:
            found["skipped" if metrics.skipped else "spike"] = (
                f"A spike at step {metrics.step:,}: the loss ({metrics.loss:.2f}) or the norm of the gradient "
                f"({metrics.grad_norm:.2f}) is {metrics.spike:.0f} standard deviations above what the last ones let expect. "
                + ("The step was left out." if metrics.skipped else f"--skip-spikes {SPIKE:g} leaves such steps out.")
            )
        if metrics.val_loss is not None:
            found |= self._evaluations(metrics)
        if metrics.step >= LOOK_BACK:
            self.fitting = self.fitting or metrics.last_step
            if metrics.last_step < SLOWER * self.fitting:
                found["slower"] = (
                    f"This machine has become slower: about {metrics.last_step:,} steps will fit into the time, not "
                    f"{self.fitting:,}."
                )
        new = [sentence for kind, sentence in found.items() if kind not in self.said]
        self.said |= found.keys()
        return new

    def _steps(self, metrics: Metrics) -> dict[str, str]:
        assert metrics.loss is not None
        self.losses.append(metrics.loss)
        if len(self.losses) < LOOK_BACK:
            return {}
        now, spread = mean(self.losses), stdev(self.losses)
        if now < self.lowest:
            self.lowest, self.lowest_step = now, metrics.step
        rate = f"--learning-rate {self.learning_rate / 3:.1g}" if self.learning_rate else "a lower learning rate"
        if self.start is not None and now > self.start + 0.1:
            return {
                "rate": f"The learning rate is too high: after {metrics.step:,} steps the loss ({now:.2f}) is above that of "
                f"the untrained model ({self.start:.2f}). Try {rate}."
            }
        if now > self.lowest + max(0.2, 4 * spread / LOOK_BACK**0.5) and "rate" not in self.said:
            return {
                "diverging": f"Diverging since step {self.lowest_step:,}: the training loss rose from {self.lowest:.2f} to "
                f"{now:.2f}. Try {rate}, or a longer warm-up (--warmup-iters)."
            }
        return {}

    def _evaluations(self, metrics: Metrics) -> dict[str, str]:
        assert metrics.val_loss is not None
        if metrics.step == 0:
            self.start = metrics.val_loss
            return {}
        found: dict[str, str] = {}
        error = metrics.val_error
        if error is None or error > IMPRECISE:
            known = "nobody knows how precise its loss is" if error is None else f"its loss is known to ± {error:.2f} only"
            found["imprecise"] = f"So little validation text is read that {known}; small differences mean nothing."
        if self.best is None or metrics.is_best:
            self.best, self.worse = metrics, []
        else:
            self.worse.append(metrics.val_loss)
            before, now = self.best.train_loss, metrics.train_loss
            learned = before is not None and now is not None and now < before
            rising = len(self.worse) >= 2 and self.worse[-1] > self.worse[-2]
            if rising and learned and self.best.val_loss is not None:
                found["overfitting"] = (
                    f"Overfitting since step {self.best.step:,}: the validation loss rises ({self.best.val_loss:.3f} to "
                    f"{metrics.val_loss:.3f}) while the training loss falls ({metrics.train_loss:.3f}). The best model is "
                    f"kept. More text, --dropout, a smaller model or fewer steps help."
                )
        return found
