"""How a model learns: predict, measure the surprise, find who is to blame, correct, again.

train() is a generator. It yields what it measured after every step and knows nothing of files, screens or architectures:
the command line prints and saves, a test takes next(), a page could draw. Whoever stops asking stops the training.

Next: watch.py
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from .batches import Batches, sweep
from .bigram import LanguageModel
from .clock import Clock
from .config import TrainConfig
from .fused import all_finite
from .gradient import Gradient, in_bfloat16, windows_at_once
from .machine import flops_per_token, peak_flops
from .optim import learning_rate, make_optimizer
from .recording import can_record
from .signals import interruptible
from .speed import speed_up

AHEAD = 8  # steps that a GPU takes before it is asked how they went
FIRST_LOOK = 2**14  # validation tokens that an untrained model is evaluated on
RECENT = 128  # steps that a step is compared with
SPIKE = 8.0  # standard deviations above what they let expect: told
LEAST_DEVIATION = 0.01  # of a logarithm: a loss that hardly scatters may rise by a few percent


@dataclass(frozen=True)
class Metrics:
    """What is known after a step. Losses are in nats/token."""

    step: int  # optimizer steps taken; 0 is the untrained model
    last_step: int  # the step to end with, as planned now
    seconds: float  # since training began, evaluations and earlier sessions included
    loss: float | None = None  # of this step's batch, before the step; None of the untrained model, as the next four
    lr: float | None = None  # of this step
    grad_norm: float | None = None  # of this step, before clipping
    tokens_per_s: float | None = None  # training alone, averaged over the last steps
    peak_share: float | None = None  # of the arithmetic that this device can do (machine.py); None where that is not known
    train_loss: float | None = None  # mean of the batches since the last evaluation; None between evaluations
    val_loss: float | None = None  # of the validation text; None between evaluations
    val_error: float | None = None  # its standard error
    is_best: bool = False  # the lowest val_loss so far
    spike: float | None = None  # if it was one: standard deviations of loss or gradient above what was to be expected
    skipped: bool = False  # the step was left out because of it
    time: dict[str, float] | None = None  # seconds of this session by part (clock.PARTS), at evaluations


@dataclass
class TrainState:
    """Where training stands: all that must be kept, beside the weights, to go on as if nothing had happened."""

    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0  # spent so far
    last_step: int = 0  # where a training that has a time to keep will end; 0 = not known yet
    evaluation_s: float = 0.0  # what an evaluation takes then, and what comes with it
    best_val_loss: float = float("inf")
    best_step: int = 0
    evaluations_since_best: int = 0
    loss_sum: float = 0.0  # of the batches since the last evaluation
    loss_count: int = 0
    recent: list[list[float]] = field(default_factory=list)  # loss and norm of the gradient of the last steps
    owed: list[float] = field(default_factory=list)  # if the evaluation of this step is not over: loss, lr, norm and spike

    @classmethod
    def new(cls, model: LanguageModel, config: TrainConfig) -> "TrainState":
        return cls(make_optimizer(model, config))

    def ends_at(self, config: TrainConfig) -> int:
        """The step to end with, as planned now."""
        return self.last_step or config.max_iters

    @property
    def begins_with_evaluation(self) -> bool:
        """True if the model of this step was not evaluated: it is untrained, or that was interrupted."""
        return not self.step or bool(self.owed)

    def is_over(self, config: TrainConfig) -> bool:
        """True if the last step was taken, and evaluated."""
        return self.step >= self.ends_at(config) and not self.begins_with_evaluation

    def spike(self, loss: float, grad_norm: float) -> float:
        """By how many standard deviations the loss or the norm of the gradient is above the line through the last ones.

        In logarithms: both are now and then some times what they usually are. 0 until there are RECENT; then these two are
        among them, but for at most SPIKE: so one does not hide the next, and what stays is normal within a dozen steps.
        Source: the outlier detector of llm.c (Karpathy 2024, llmc/outlier_detector.h), which has neither line nor logarithm.
        """
        z, now = 0.0, np.maximum([loss, grad_norm], 1e-12)
        if len(self.recent) >= RECENT:
            before, time = np.log(self.recent), np.arange(RECENT) - (RECENT - 1) / 2  # (RECENT, 2), (RECENT,)
            mean, slope = before.mean(0), time @ before / (time @ time)
            deviation = np.maximum((before - mean - np.outer(time, slope)).std(0), LEAST_DEVIATION)
            expected = mean + slope * (RECENT + 1) / 2
            z = float(((np.log(now) - expected) / deviation).max())
            now = np.minimum(now, np.exp(expected + SPIKE * deviation))
        self.recent = [*self.recent[1 - RECENT :], now.tolist()]
        return max(0.0, z)


class NonFiniteLoss(ArithmeticError):
    """A loss, a gradient, a weight or the optimizer became infinite or NaN. What was saved before is whole."""


def train(
    model: LanguageModel,
    batches: Batches,
    val: np.ndarray,
    config: TrainConfig,
    state: TrainState | None = None,
    step_by_step: bool = False,
) -> Iterator[Metrics]:
    """Train a model, yielding Metrics after every step, and first of the untrained model.

    The random numbers of dropout are set anew in each step from (seed, step), so no random state is saved; torch's global
    generator is ours while this runs. Evaluation draws none, so it cannot change the training.
    Where config.minutes says how long it may take, the number of steps, and with it the learning rate, follows the clock.
    An evaluation is interruptible(); the state knows then that it is owed, and the next training begins with it.
    A batch that does not fit into memory is computed in smaller parts, with a warning.
    A GPU repeats what was recorded, and is asked for its numbers once in AHEAD steps, or in about a second; they are told
    together, and the model is that of the last of them. step_by_step: there too it is told each operation, and asked after
    each step.
    Raises NonFiniteLoss in the step in which a loss, a gradient, a weight or a number of the optimizer is not finite: before
    the update, unless it is the update itself that spoils a weight, or other steps come before the numbers are asked for.
    """
    state = state or TrainState.new(model, config)
    device = next(model.parameters()).device
    clock = Clock(state.seconds, torch.cuda.Event if can_record(device) else None)
    speed_up(model, device)
    batches, gradient = batches.on(device) if can_record(device) else batches, Gradient(model, config, not step_by_step)
    peak = peak_flops(device, in_bfloat16(device, config.dtype))
    flops = flops_per_token(model, model.block_size)
    clock.evaluation_s = state.evaluation_s

    if state.begins_with_evaluation:
        yield _evaluated(_metrics(state, config, clock, *state.owed), model, val, config, state, gradient.autocast, clock)
        clock.lap("rest")
        will_read = min(config.eval_tokens or len(val), len(val))
        # Of a GPU the first evaluation is a beginning, and says nothing of what more tokens cost.
        alike = state.step or can_record(device)
        clock.evaluated(1.0 if alike else min(will_read, FIRST_LOOK) / will_read)
        state.evaluation_s = clock.evaluation_s if config.minutes else 0.0
    if config.compile == "on":
        model.train()
        gradient.compile(batches, state.step)
        clock.lap("rest")
    while state.step < state.ends_at(config) and not (0 < config.patience <= state.evaluations_since_best):
        model.train()
        planned = _until(state.ends_at(config), config)
        most = min(AHEAD, clock.steps_in(1.0)) if can_record(device) and not step_by_step else 1
        steps = range(state.step, state.step + _at_once(state, config, most))
        rates = [learning_rate(step, planned) for step in steps]
        numbers, spikes = _take(steps, rates, gradient, batches, config, state, clock)

        state.loss_sum += sum(loss for loss, _ in numbers)
        state.loss_count += len(steps)
        if config.minutes:
            state.last_step = clock.last_step(state.step, state.ends_at(config), config)
        look = state.step % (config.eval_interval or 1) == 0 or state.step >= state.ends_at(config)
        speed, state.seconds = clock.tokens_per_s, clock.seconds
        share = speed * flops / peak if flops and peak else None
        told = [(loss, lr, norm, z) for (loss, norm), lr, z in zip(numbers, rates, spikes, strict=True)]
        if look:
            state.owed = list(told[-1])
        for step, about in zip(steps, told, strict=True):
            metrics = replace(_metrics(state, config, clock, *about), step=step + 1, tokens_per_s=speed, peak_share=share)
            if look and step == steps[-1]:
                metrics = _evaluated(metrics, model, val, config, state, gradient.autocast, clock)
            yield metrics
            clock.lap("rest")
        if look:
            clock.evaluated(1.0)
            state.evaluation_s = clock.evaluation_s if config.minutes else 0.0


def _take(
    steps: range,
    rates: list[float],
    gradient: Gradient,
    batches: Batches,
    config: TrainConfig,
    state: TrainState,
    clock: Clock,
) -> tuple[list[list[float]], list[float]]:
    """Take steps at these learning rates -> the loss and the norm of the gradient of each, and its spike.

    They are asked for before the last update; nothing else here waits for a GPU, but a look at the weights after it.
    """
    model, optimizer = gradient.model, state.optimizer
    computed: list[Tensor] = []
    numbers, spikes, tokens = [], [0.0], 0
    for step, lr in zip(steps, rates, strict=True):
        loss, tokens = gradient.add_up(batches, step, clock)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip or float("inf"))
        computed.append(torch.stack([loss, norm]))
        if step == steps[-1]:
            numbers = torch.stack(computed).tolist()
            _check(numbers, steps, rates)
            spikes = [state.spike(*both) for both in numbers]
        if not _skipped(spikes[-1], config):
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
        if step == steps[-1] and not _all_finite(model, optimizer):
            raise NonFiniteLoss(
                f"in step {step + 1} a weight, or what the optimizer keeps for it, became infinite or NaN. {_usually(lr)}"
            )
        gradient.forget()
        state.step += 1
        clock.lap("optimizer")
    clock.stepped(tokens, len(steps))
    return numbers, spikes


def _at_once(state: TrainState, config: TrainConfig, most: int) -> int:
    """Steps until their numbers are asked for: to an evaluation at most, and one where they decide whether it is taken."""
    to_evaluation = config.eval_interval - state.step % config.eval_interval if config.eval_interval else 1
    return 1 if config.skip_spikes else min(most, to_evaluation, state.ends_at(config) - state.step)


def _check(numbers: list[list[float]], steps: range, rates: list[float]) -> None:
    """Raise NonFiniteLoss for the first step whose loss, or whose norm of the gradient, is not finite."""
    for (loss, norm), step, lr in zip(numbers, steps, rates, strict=True):
        if not np.isfinite([loss, norm]).all():
            late = f"; others were taken before that was known, up to step {steps[-1]}"
            then = ", so the step was not taken" if step == steps[-1] else late
            raise NonFiniteLoss(
                f"at step {step + 1} the loss is {loss:.4g} and the norm of the gradient {norm:.4g}{then}. {_usually(lr)}"
            )


def _until(last_step: int, config: TrainConfig) -> TrainConfig:
    """The config of a training that ends with this step: where the clock ends it early, the warm-up is shorter too."""
    assert config.warmup_iters is not None
    share = min(1.0, last_step / config.max_iters) if config.minutes else 1.0
    warmup = round(config.warmup_iters * share)
    return replace(config, max_iters=last_step, warmup_iters=warmup)


def _metrics(
    state: TrainState,
    config: TrainConfig,
    clock: Clock,
    loss: float | None = None,
    lr: float | None = None,
    grad_norm: float | None = None,
    spike: float = 0.0,
) -> Metrics:
    """What is known after a step but its speed; of the untrained model, without its numbers."""
    skipped = _skipped(spike, config)
    told = spike if skipped or spike >= SPIKE else None
    numbers = (loss, lr, grad_norm)
    return Metrics(state.step, state.ends_at(config), clock.seconds, *numbers, spike=told, skipped=skipped)


def _skipped(spike: float, config: TrainConfig) -> bool:
    """True if a step is left out because of its spike."""
    return 0 < config.skip_spikes <= spike


def _all_finite(model: LanguageModel, optimizer: torch.optim.Optimizer) -> bool:
    """True if every weight, and every number that the optimizer keeps, is finite.

    The optimizer's too: AdamW divides by the root of a mean square, and where that is infinite the weight stays as it is,
    finite and forever.
    """
    kept = [value for state in optimizer.state.values() for value in state.values()]
    return all_finite([*(p.detach() for p in model.parameters()), *kept])


def _usually(lr: float) -> str:
    return f"Usually the learning rate ({lr:.3g} here) is too high. What was saved before is whole"


def evaluate(model: LanguageModel, data: np.ndarray, max_tokens: int = 0, autocast=contextlib.nullcontext) -> float:
    """The mean loss over a text, nats/token: windows of block_size that do not overlap, every token a target once.

    max_tokens: read only about so many, in windows spread evenly; 0 = all. The same windows each time; nothing random.
    """
    return mean_and_error(model, data, max_tokens, autocast)[0]


def mean_and_error(model: LanguageModel, data: np.ndarray, max_tokens: int = 0, autocast=contextlib.nullcontext):
    """evaluate(), and the standard error of that mean, from the spread of at least eight parts; None of fewer windows."""
    device, block_size = next(model.parameters()).device, model.block_size
    windows = -(-min(max_tokens or len(data), len(data)) // block_size)
    at_once = min(windows_at_once(device, block_size), max(1, windows // 8))
    losses, counts = [], []
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for idx, targets in sweep(data, block_size, at_once, max_tokens):
            with autocast():
                _, loss = model(idx.to(device), targets.to(device))
            losses.append(loss)
            counts.append(targets.numel())
    model.train(was_training)
    means, weights = np.array(torch.stack(losses).tolist()), np.array(counts) / sum(counts)
    mean = float(means @ weights)
    n = len(means)
    error = math.sqrt(float(weights**2 @ (means - mean) ** 2) * n / (n - 1)) if n >= 8 else None
    return mean, error


def bits_per_char(loss: float, tokens_per_char: float = 1.0) -> float:
    """Nats/token -> bits/character, the measure that does not depend on the tokenizer."""
    return loss * tokens_per_char / math.log(2)


def best_device() -> str:
    """The fastest kind of device that this machine has: cuda, mps (Apple) or cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _evaluated(
    metrics: Metrics, model: LanguageModel, val: np.ndarray, config: TrainConfig, state: TrainState, autocast, clock: Clock
) -> Metrics:
    """The same metrics with the losses of an evaluation; the state remembers the best."""
    clock.evaluating()
    untrained = min(config.eval_tokens or FIRST_LOOK, FIRST_LOOK)  # knows nothing; nobody needs that to four digits
    with interruptible():
        val_loss, val_error = mean_and_error(model, val, config.eval_tokens if state.step else untrained, autocast)
    if not math.isfinite(val_loss):
        raise NonFiniteLoss(f"after step {state.step} the validation loss is {val_loss}; the weights are damaged")
    train_loss = state.loss_sum / state.loss_count if state.loss_count else None
    state.loss_sum, state.loss_count, state.owed = 0.0, 0, []
    is_best = val_loss < state.best_val_loss
    if is_best:
        state.best_val_loss, state.best_step, state.evaluations_since_best = val_loss, state.step, 0
    else:
        state.evaluations_since_best += 1
    clock.lap("evaluation")
    clock.read()
    state.seconds = clock.seconds
    losses = dict(train_loss=train_loss, val_loss=val_loss, val_error=val_error, is_best=is_best)
    return replace(metrics, seconds=state.seconds, time=dict(clock.parts), **losses)
