"""How a model learns: predict, measure the surprise, find who is to blame, correct, again.

train() is a generator. It yields what it measured after every step and knows nothing of files, screens or architectures:
the command line prints and saves, a test takes next(), a page could draw. Whoever stops asking stops the training.

Next: card.py
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn as nn

from .batches import Batches, random_bits, sweep
from .bigram import LanguageModel
from .config import TrainConfig
from .optim import learning_rate, make_optimizer
from .speed import speed_up


FIRST_LOOK = 2**14  # validation tokens that an untrained model is evaluated on


@dataclass(frozen=True)
class Metrics:
    """What is known after a step. Losses are in nats/token."""

    step: int  # optimizer steps taken; 0 is the untrained model
    loss: float | None  # of this step's batch, before the step
    lr: float | None  # of this step
    grad_norm: float | None  # of this step, before clipping
    tokens_per_s: float | None  # training alone, averaged over the last steps
    seconds: float  # since train() began, evaluations included
    train_loss: float | None = None  # mean of the batches since the last evaluation; None between evaluations
    val_loss: float | None = None  # of the validation text; None between evaluations
    is_best: bool = False  # the lowest val_loss so far


@dataclass
class TrainState:
    """Where training stands: all that must be kept, beside the weights, to go on as if nothing had happened."""

    optimizer: torch.optim.Optimizer
    step: int = 0
    best_val_loss: float = float("inf")
    best_step: int = 0
    evaluations_since_best: int = 0
    loss_sum: float = 0.0  # of the batches since the last evaluation
    loss_count: int = 0

    @classmethod
    def new(cls, model: LanguageModel, config: TrainConfig) -> "TrainState":
        return cls(make_optimizer(model, config))


class NonFiniteLoss(ArithmeticError):
    """The loss or the gradient became infinite or NaN. The step was not taken; the weights are those before it."""


def train(
    model: LanguageModel, batches: Batches, val: np.ndarray, config: TrainConfig, state: TrainState | None = None
) -> Iterator[Metrics]:
    """Train a model, yielding Metrics after every step, and first of the untrained model.

    The random numbers of dropout are set anew in each step from (seed, step), so no random state is saved; torch's global
    generator is ours while this runs. Evaluation draws none, so it cannot change the training.
    Raises NonFiniteLoss before an update that would spoil the weights.
    """
    state = state or TrainState.new(model, config)
    device = next(model.parameters()).device
    speed_up(model, device)
    autocast, at_once = _autocast(device, config.dtype), windows_at_once(device, model.block_size)
    started, clock = time.perf_counter(), _Speed()

    if state.step == 0:
        yield _evaluated(model, val, config, state, autocast, Metrics(0, None, None, None, None, 0.0), started)
    while state.step < config.max_iters and not (0 < config.patience <= state.evaluations_since_best):
        clock.start()
        model.train()
        lr = learning_rate(state.step, config)
        loss_sum, tokens = 0.0, 0
        for micro in range(config.grad_accum_steps):
            number = state.step * config.grad_accum_steps + micro
            _seed_dropout(device, config.seed, number)
            idx, targets = (ids.to(device, non_blocking=True) for ids in batches[number])
            for part in range(0, len(idx), at_once):
                few = slice(part, part + at_once)
                with autocast():
                    _, loss = model(idx[few], targets[few])
                share = len(idx[few]) / len(idx) / config.grad_accum_steps
                (loss * share).backward()
                loss_sum += loss.item() * share
            tokens += targets.numel()
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip or float("inf")).item()
        if not np.isfinite([loss_sum, grad_norm]).all():
            raise NonFiniteLoss(
                f"at step {state.step + 1} the loss is {loss_sum:.4g} and the norm of the gradient {grad_norm:.4g}, so the "
                f"step was not taken. Usually the learning rate ({lr:.3g} here) is too high"
            )
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        clock.stop(tokens)

        state.step += 1
        state.loss_sum += loss_sum
        state.loss_count += 1
        metrics = Metrics(state.step, loss_sum, lr, grad_norm, clock.tokens_per_s, time.perf_counter() - started)
        if state.step % (config.eval_interval or 1) == 0 or state.step == config.max_iters:
            metrics = _evaluated(model, val, config, state, autocast, metrics, started)
        yield metrics


def evaluate(model: LanguageModel, data: np.ndarray, max_tokens: int = 0, autocast=contextlib.nullcontext) -> float:
    """The mean loss over a text, nats/token: windows of block_size that do not overlap, every token a target once.

    max_tokens: read only about so many, in windows spread evenly; 0 = all. The same windows each time; nothing random.
    """
    device = next(model.parameters()).device
    block_size = model.block_size
    at_once = windows_at_once(device, block_size)
    total, count = 0.0, 0
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for idx, targets in sweep(data, block_size, at_once, max_tokens):
            with autocast():
                _, loss = model(idx.to(device), targets.to(device))
            total += loss.item() * targets.numel()
            count += targets.numel()
    model.train(was_training)
    return total / count


def windows_at_once(device: torch.device, block_size: int) -> int:
    """Windows that are computed together. On a processor few: what one layer made is still in the cache for the next."""
    return max(1, (2048 if device.type == "cpu" else 65536) // block_size)


def bits_per_char(loss: float, tokens_per_char: float = 1.0) -> float:
    """Nats/token -> bits/character, the measure that does not depend on the tokenizer."""
    return loss * tokens_per_char / math.log(2)


def best_device() -> str:
    """The fastest kind of device that this machine has: cuda, mps (Apple) or cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _evaluated(
    model: LanguageModel, val: np.ndarray, config: TrainConfig, state: TrainState, autocast, metrics: Metrics, started: float
) -> Metrics:
    """The same metrics with the losses of an evaluation; the state remembers the best."""
    untrained = min(config.eval_tokens or FIRST_LOOK, FIRST_LOOK)  # knows nothing; nobody needs that to four digits
    val_loss = evaluate(model, val, config.eval_tokens if state.step else untrained, autocast)
    if not math.isfinite(val_loss):
        raise NonFiniteLoss(f"after step {state.step} the validation loss is {val_loss}; the weights are damaged")
    train_loss = state.loss_sum / state.loss_count if state.loss_count else None
    state.loss_sum, state.loss_count = 0.0, 0
    is_best = val_loss < state.best_val_loss
    if is_best:
        state.best_val_loss, state.best_step, state.evaluations_since_best = val_loss, state.step, 0
    else:
        state.evaluations_since_best += 1
    seconds = time.perf_counter() - started
    return replace(metrics, seconds=seconds, train_loss=train_loss, val_loss=val_loss, is_best=is_best)


def _seed_dropout(device: torch.device, seed: int, number: int) -> None:
    """Make the dropout of a forward pass a function of (seed, number of the pass)."""
    bits = int(random_bits(np.array([seed], np.uint64), np.array([number], np.uint64))[0])
    if device.type == "cpu":  # torch.manual_seed would visit every kind of device
        torch.default_generator.manual_seed(bits)
    else:
        torch.manual_seed(bits)


def _autocast(device: torch.device, dtype: str):
    """bfloat16 arithmetic where the device is made for it, or where it was asked for."""
    wanted = dtype == "bfloat16" or (dtype == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())
    return lambda: torch.autocast(device.type, torch.bfloat16) if wanted else contextlib.nullcontext()


class _Speed:
    """Tokens per second of the last 20 steps, evaluations and whatever the consumer does left out."""

    def __init__(self) -> None:
        self.recent: list[tuple[int, float]] = []

    def start(self) -> None:
        self.began = time.perf_counter()

    def stop(self, tokens: int) -> None:
        self.recent = [*self.recent[-19:], (tokens, time.perf_counter() - self.began)]

    @property
    def tokens_per_s(self) -> float:
        tokens, seconds = map(sum, zip(*self.recent, strict=True))
        return tokens / max(seconds, 1e-9)
