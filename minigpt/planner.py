"""The best model that this machine can train on a text in the time there is.

Three things decide: how fast this machine is (measured, for a few sizes), how much a model of a size learns from so many
tokens (a law, fitted to the runs of benchmarks/sweep.py; docs/scaling.md shows it), and how hard the text is (what a
compressor makes of it). The plan is the candidate with the lowest loss that the law expects: of sizes from small to large,
then of contexts.

Next: card.py
"""

import contextlib
import lzma
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from .config import GPTConfig, TrainConfig, from_dict, with_muon
from .corpus import Corpus
from .gradient import autocast_on, out_of_memory, windows_at_once
from .hf import swiglu_width
from .machine import available_memory, flops_per_token, wait_for
from .model import GPT
from .modern import ModernGPT
from .optim import make_optimizer
from .recording import can_record, recorded
from .speed import speed_up
from .trainer import bits_per_char

SIZES = ((3, 64), (4, 96), (4, 128), (5, 160), (6, 192), (6, 256), (6, 384), (8, 512), (12, 768))  # layers, channels
CONTEXTS = (64, 128, 256)
OPTIMIZERS = {"modern": "muon", "gpt": "adamw"}  # that the law knows
TOKENS_PER_STEP = {"muon": 2.0, "adamw": 0.5}  # times the root of all tokens: 250 or 1000 steps for 250,000 tokens
LARGEST_BATCH = 2**14  # tokens: what a plan of some hours comes to
DROPOUTS = (0.0, 0.05, 0.1, 0.2)
CLOSE = 1.015  # times the lowest loss: who is expected to be nearer than this is measured once more
SOONER = 0.95  # of the loss at the end: what must be expected of ending sooner, for the best model is kept anyway
LOOKS = 5  # at the validation text while training: each costs, and the last one counts
LOOKED_AT = 2**14, 2**17  # tokens at least, if there are so many, and at most; between them
LOOKING = 0.04  # of the time at most
RECORDING_S = 3.0  # of a GPU, until what it repeats is recorded
MODELS = {"modern": ModernGPT, "gpt": GPT}
LEARNS = {"modern": 1.0, "gpt": 0.09}  # a token teaches a GPT-2 with AdamW as much as so many teach today's with Muon


@dataclass(frozen=True)
class Law:
    """The validation loss that a model of this family ends with on tiny Shakespeare, nats/character.

        floor + size (n / 10⁶)^-size_power + tokens (d / 10⁶ (T / 128)^-windows)^-tokens_power
              + context (T / 128)^-context_power + overfit exp(-relief p) h² / (h + knee) + price p,  h = r √(n / u)

    n: weights in the matrices of the blocks; u: tokens of the text; r: how often they are read again; T: the context; d: the
    tokens read, where what was read before counts less, and those of longer windows do, because there are fewer windows; p:
    dropout. The overfit term: what learning by heart costs.
    Form: Hoffmann et al. 2022, equation 10 (arXiv:2203.15556); repetition: Muennighoff et al. 2023, equation 5
    (arXiv:2305.16264); learning by heart: ours. Fitted to benchmarks/sweep.jsonl by `python benchmarks/sweep.py --fit`.
    """

    floor: float
    size: float
    size_power: float
    tokens: float
    tokens_power: float
    windows: float
    context: float
    context_power: float
    repeats: float
    overfit: float
    knee: float
    relief: float
    price: float
    error: float = 0.0  # of the logarithm of the loss: root mean square over the runs

    def on(self, difficulty: float) -> "Law":
        """What the law may be on a text of this difficulty: between those of texts that runs were made on, by POWERS;
        beyond, all of it by the root of how far it is beyond.
        """
        known = min(max(difficulty, EASIEST), 1.0)
        beyond = (difficulty / known) ** 0.5
        floor, rest = (known**power * beyond for power in POWERS)
        return self.scaled(floor, rest)

    def scaled(self, floor: float, rest: float) -> "Law":
        """The law on a text that has so much of the floor, and of what learning by heart costs; and so much of what size,
        tokens and context take away.
        """
        floors, others = ("floor", "overfit"), ("size", "tokens", "context")
        factors = dict.fromkeys(floors, floor) | dict.fromkeys(others, rest)
        return replace(self, **{name: getattr(self, name) * factor for name, factor in factors.items()})

    def loss(self, weights: float, tokens: float, block_size: float, text_tokens: float, dropout: float = 0.0) -> float:
        again = max(0.0, tokens / text_tokens - 1)
        fresh = min(tokens, text_tokens) + text_tokens * self.repeats * (1 - math.e ** (-again / self.repeats))
        return (
            self.floor
            + self.size * (weights / 1e6) ** -self.size_power
            + self.tokens * (fresh / 1e6 * (block_size / 128) ** -self.windows) ** -self.tokens_power
            + self.context * (block_size / 128) ** -self.context_power
            + self.by_heart(weights, tokens, text_tokens, dropout)
            + self.price * dropout
        )

    def by_heart(self, weights: float, tokens: float, text_tokens: float, dropout: float = 0.0) -> float:
        """What learning by heart costs: the overfit term."""
        h = max(0.0, tokens / text_tokens - 1) * math.sqrt(weights / text_tokens)
        return self.overfit * math.e ** (-self.relief * dropout) * h**2 / (h + self.knee)


POWERS = 2.14, -0.54  # of a text's difficulty: what its two factors are expected to be
EASIEST = 0.587  # the difficulty of the easiest text that runs were made on
LAW = Law(0.9087, 0.102, 0.3687, 0.4138, 0.297, 0.6385, 0.1463, 0.5791, 4.512, 0.0835, 53.81, 22.45, 1.111, 0.0118)


@dataclass(frozen=True)
class Speed:
    """What training costs here."""

    token_s: float  # seconds for a token, forward and backward
    step_s: float  # seconds for a step of the optimizer

    def seconds_for(self, tokens: float, optimizer: str, a_step: int | None = None) -> float:
        """Seconds to learn from so many tokens, in steps of so many, or in those of `recipe`."""
        steps = tokens / a_step if a_step else math.sqrt(tokens) / TOKENS_PER_STEP[optimizer]
        return tokens * self.token_s + steps * self.step_s

    def tokens_in(self, seconds: float, optimizer: str, a_step: int | None = None) -> float:
        """The inverse."""
        seconds = max(seconds, 1.0)
        if a_step:
            return seconds / (self.token_s + self.step_s / a_step)
        a, b = self.token_s, self.step_s / TOKENS_PER_STEP[optimizer]
        return ((math.sqrt(b * b + 4 * a * seconds) - b) / (2 * a)) ** 2


@dataclass(frozen=True)
class Plan:
    """What to train, and what is expected of it."""

    arch: str
    shape: GPTConfig
    config: TrainConfig
    speed: Speed
    memory: float  # bytes
    epochs: float  # how often the text is read
    by_heart: float  # what learning by heart is expected to cost, nats/token
    loss: float  # nats/token
    error: float  # of its logarithm
    sooner: bool  # than was asked
    ends: float  # seconds since the epoch

    def _risk(self) -> str:
        """How much is learned by heart, instead of understood."""
        if self.by_heart < 0.01:
            return "hardly anything will be learned by heart"
        return f"{'some' if self.by_heart < 0.1 else 'much'} may be learned by heart; the best model on the way is kept"

    def describe(self, tokens_per_char: float = 1.0) -> str:
        """The plan in plain words."""
        shape, config = self.shape, self.config
        tokens = config.batch_size * config.grad_accum_steps * shape.block_size
        times = f"{config.grad_accum_steps} x " if config.grad_accum_steps > 1 else ""
        step_s = tokens * self.speed.token_s + self.speed.step_s
        losses = [self.loss * math.exp(sign * 2 * self.error) for sign in (-1, 1)]
        low, high = (bits_per_char(loss, tokens_per_char) for loss in losses)
        expected = f"validation loss {losses[0]:.2f} to {losses[1]:.2f} nats/token ({low:.2f} to {high:.2f} bits/char)"
        day = "%Y-%m-%d " if time.localtime(self.ends)[:3] != time.localtime()[:3] else ""
        rows = {
            "model": f"{shape.n_layer} blocks of {shape.n_embd} channels, {shape.n_head} heads, context {shape.block_size}: "
            f"{parameters(self.arch, shape) / 1e6:.2g} M parameters",
            "training": f"{config.max_iters:,} steps of {times}{config.batch_size} x {shape.block_size}, "
            f"{config.max_iters * tokens / 1e6:.2g} M tokens" + f", dropout {shape.dropout:g}" * (shape.dropout > 0),
            "speed": f"{tokens / step_s:,.0f} tokens/s, a step in {1000 * step_s:.0f} ms",
            "memory": f"about {max(0.1, self.memory / 1e9):.1f} GB",
            "text": f"read {self.epochs:.2g} times: {self._risk()}",
            "expected": expected
            if config.optimizer == OPTIMIZERS[self.arch]
            else f"unknown: the law knows no {self.arch} model with {config.optimizer}",
            "ends": f"at {time.strftime(f'{day}%H:%M:%S', time.localtime(self.ends))}"
            + ", sooner than asked: more would only be learned by heart" * self.sooner,
        }
        return "\n".join(f"  {name:<10}{words}" for name, words in rows.items())


def plan(
    corpus: Corpus,
    minutes: float,
    arch: str = "modern",
    device: str = "cpu",
    given: dict[str, Any] | None = None,
    spent: float = 0.0,
    measure: "Callable[[str, GPTConfig, str], Speed] | None" = None,
) -> Plan:
    """The candidate with the lowest expected loss that can be trained in so many minutes.

    Sizes are tried from small to large until larger ones are expected to be worse; if there is time, those that are nearly
    the best once more, for a moment in which the machine did something else shall not decide; then contexts of the best.
    given: values that are fixed (fields of GPTConfig and TrainConfig). spent: seconds of the minutes that are gone already.
    Raises ValueError for a text that is too short, and if nothing fits into the memory.
    """
    began, given = time.perf_counter(), given or {}
    measure = measure or partial(measured, given=given)
    contexts = [given["block_size"]] if "block_size" in given else [T for T in CONTEXTS if len(corpus.val) > T] or [8]
    corpus.check(contexts[0])
    law = LAW.on(difficulty(corpus))
    optimizer = given.get("optimizer", OPTIMIZERS[arch])
    speeds: dict[GPTConfig, Speed] = {}

    def fastest(shape: GPTConfig) -> Speed:
        """The best of all that was measured: what else the machine does only makes it slower."""
        now = measure(arch, shape, device)
        before = speeds.get(shape, now)
        speeds[shape] = Speed(min(now.token_s, before.token_s), min(now.step_s, before.step_s))
        return speeds[shape]

    def check_memory(shape: GPTConfig, batch_size: int | None) -> float:
        """Bytes that its training takes. Raises MemoryError if they are not there."""
        memory = training_memory(arch, shape, torch.device(device), batch_size)
        free = available_memory(torch.device(device))
        if free is not None and memory > 0.8 * free:
            raise MemoryError(
                f"to train {shape.n_layer} blocks of {shape.n_embd} channels takes {memory / 1e9:.1f} GB, "
                f"and {free / 1e9:.1f} GB are free"
            )
        return memory

    def candidate(shape: GPTConfig, dropouts: Sequence[float], speed: Speed | None = None) -> Plan:
        check_memory(replace(shape, dropout=min(dropouts)), given.get("batch_size"))
        speed = speed or fastest(replace(shape, dropout=min(dropouts)))
        now = spent + time.perf_counter() - began
        gone = now + (RECORDING_S if can_record(torch.device(device)) else 0)
        forward_s = speed.token_s / 3  # a token of an evaluation
        affordable = int(LOOKING * 60 * minutes / LOOKS / forward_s)
        looked_at = given.get("eval_tokens", min(max(affordable, LOOKED_AT[0]), LOOKED_AT[1]))
        look_s = min(len(corpus.val), looked_at or len(corpus.val)) * forward_s + 0.3  # a sample, a checkpoint
        text, weights, a_step = len(corpus.train), matrix_weights(arch, shape), step_tokens(shape.block_size, given)

        def loss(tokens: float, dropout: float) -> float:
            return law.loss(weights, tokens * LEARNS[arch], shape.block_size, text, dropout)

        most = speed.tokens_in(60 * minutes - gone - LOOKS * look_s, optimizer, a_step)
        options = [[(most * 0.95**n, p) for p in dropouts] for n in range(200)]
        full, *fewer = (min(same, key=lambda option: loss(*option)) for same in options)  # tokens and dropout
        less = min(fewer, key=lambda option: loss(*option))
        tokens, dropout = less if loss(*less) < SOONER * loss(*full) else full  # if more would only be learned by heart
        if dropout > min(dropouts):  # which costs time, too: once more with the time that it takes
            return candidate(shape, [dropout])
        needed = minutes if tokens == most else (gone + LOOKS * look_s + speed.seconds_for(tokens, optimizer, a_step)) / 60
        values = recipe(arch, shape.n_embd, shape.block_size, tokens, given)
        looks = dict(eval_interval=-(-values["max_iters"] // LOOKS), eval_tokens=looked_at)
        config = from_dict(TrainConfig, looks | values | given | {"minutes": needed})
        tokens = config.max_iters * config.batch_size * config.grad_accum_steps * shape.block_size
        error = LAW.error + UNKNOWN_TEXT * (law != LAW)
        shape = replace(shape, dropout=dropout)
        memory = check_memory(shape, config.batch_size)
        by_heart = law.by_heart(weights, tokens * LEARNS[arch], text, dropout)
        expected, ends = loss(tokens, dropout), time.time() + 60 * needed - now
        return Plan(arch, shape, config, speed, memory, tokens / text, by_heart, expected, error, needed < minutes, ends)

    def in_time(most: float, share: float) -> bool:
        """So many seconds of choosing have not passed, nor such a share of the minutes."""
        return time.perf_counter() - began < min(most, share * 60 * minutes)

    middle = contexts[len(contexts) // 2]
    dropouts = [given["dropout"]] if "dropout" in given else DROPOUTS
    sizes = [(given.get("n_layer", L), given.get("n_embd", C)) for L, C in SIZES]
    tried: list[Plan] = []
    for shape in dict.fromkeys(shaped(corpus.tokenizer.vocab_size, L, C, middle, given) for L, C in sizes):
        try:
            tried.append(candidate(shape, dropouts))
        except MemoryError as error:
            if not tried:
                raise ValueError(f"{error}; a smaller model, or another machine, is needed") from error
            break
        best = min(tried, key=lambda plan: plan.loss)
        if best not in tried[-2:] or not in_time(10, 0.05):
            break
    close = [replace(plan.shape, dropout=0.0) for plan in tried if plan.loss < CLOSE * best.loss]
    with contextlib.suppress(MemoryError):
        if len(close) > 1 and in_time(10, 0.05):
            best = min((candidate(shape, dropouts) for shape in close), key=lambda plan: plan.loss)
    for block_size in contexts:
        shape = replace(best.shape, block_size=block_size, dropout=0.0)
        # Not measured: what a context costs is less than what a measurement is wrong by.
        times = operations(arch, shape) / operations(arch, best.shape)
        with contextlib.suppress(MemoryError):
            if shape.block_size != best.shape.block_size:
                rival = candidate(shape, [best.shape.dropout], replace(best.speed, token_s=times * best.speed.token_s))
                best = min(best, rival, key=lambda plan: plan.loss)
    return best


def shaped(vocab_size: int, n_layer: int, n_embd: int, block_size: int, given: dict[str, Any]) -> GPTConfig:
    """A candidate's shape: heads of 32 channels, of 64 above 256, where nothing else is given; of an even number of them,
    because rotation turns pairs. Where heads are given and channels are not, as many channels as suit them.
    """
    n_head = given.get("n_head", 0)
    if not n_head:
        n_head = max(1, n_embd // (32 if n_embd <= 256 else 64))
        while n_head > 1 and n_embd % (2 * n_head):
            n_head -= 1
    elif "n_embd" not in given:
        n_embd = 2 * n_head * max(1, round(n_embd / (2 * n_head)))
    values = dict(vocab_size=vocab_size, n_layer=n_layer, n_embd=n_embd, block_size=block_size, n_head=n_head, dropout=0.0)
    return from_dict(GPTConfig, values)


def step_tokens(block_size: int, given: dict[str, Any]) -> int | None:
    """Tokens of a step, if the batch is given."""
    return given["batch_size"] * given.get("grad_accum_steps", 1) * block_size if "batch_size" in given else None


def recipe(arch: str, n_embd: int, block_size: int, tokens: float, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """How a model of this width learns from so many tokens: batch, steps, optimizer and rates (fields of TrainConfig).

    given: values that are fixed; the others suit them.
    """
    given = given or {}
    passes, optimizer = given.get("grad_accum_steps", 1), given.get("optimizer", OPTIMIZERS[arch])
    batch_size = max(1, round(TOKENS_PER_STEP[optimizer] * math.sqrt(tokens) / (block_size * passes)))
    batch_size = given.get("batch_size", batch_size)
    steps = max(1, round(tokens / (batch_size * passes * block_size)))
    values = dict(batch_size=batch_size, max_iters=steps, learning_rate=float(f"{0.256 / n_embd:.3g}"))
    return with_muon(values, n_embd) if optimizer == "muon" else values


def matrix_weights(arch: str, shape: GPTConfig) -> float:
    """Weights in the matrices of the blocks: those that the law counts."""
    C = shape.n_embd
    return shape.n_layer * (4 * C * C + (3 * C * swiglu_width(C) if arch == "modern" else 8 * C * C))


def parameters(arch: str, shape: GPTConfig) -> int:
    """Numbers that are learned."""
    with torch.device("meta"):
        return sum(p.numel() for p in MODELS[arch](shape).parameters())


def operations(arch: str, shape: GPTConfig) -> int:
    """Additions and multiplications of a training step for each token."""
    with torch.device("meta"):  # a model without numbers
        return flops_per_token(MODELS[arch](shape), shape.block_size)


def training_memory(arch: str, shape: GPTConfig, device: torch.device, batch_size: int | None = None) -> float:
    """Bytes that training takes at most: weights, gradient, optimizer, and what is kept for the backward pass.

    batch_size: windows of a batch; None = as many as are measured.
    """
    windows = min(batch_size or LARGEST_BATCH // shape.block_size or 1, windows_at_once(device, shape.block_size))
    tokens, tables = windows * shape.block_size, 2 * shape.vocab_size * shape.n_embd
    scores = shape.dropout and device.type != "cuda"  # there attention with dropout keeps none
    kept = shape.n_layer * (30 * shape.n_embd + (shape.n_head * shape.block_size * 4 if scores else 0))
    return 4 * (4 * (matrix_weights(arch, shape) + tables) + tokens * (kept + 3 * shape.vocab_size))


def measured(arch: str, shape: GPTConfig, device: str, given: dict[str, Any] | None = None) -> Speed:
    """Seconds for a token and for a step of the optimizer: the best of two, after one that warms up.

    Raises MemoryError if it does not fit, whatever was expected.
    """
    where, given = torch.device(device), given or {}
    settings = recipe(arch, shape.n_embd, shape.block_size, 1e6, given)
    batch_size = given.get("batch_size", max(1, LARGEST_BATCH // shape.block_size))
    windows = min(windows_at_once(where, shape.block_size), batch_size)
    try:
        with torch.random.fork_rng([]):  # what is drawn later must not depend on how many candidates there were
            model = MODELS[arch](shape).to(where).train()
            speed_up(model, where)
            optimizer = make_optimizer(model, from_dict(TrainConfig, settings))
            ids = torch.zeros((windows, shape.block_size), dtype=torch.long, device=where)

            def passes() -> torch.Tensor:
                with autocast_on(where, given.get("dtype", "auto")):
                    _, loss = model(ids, ids)
                loss.backward()
                return loss.detach()

            quickly = recorded(passes, where) if can_record(where) else passes
            seconds = [_a_step(quickly, optimizer, where) for _ in range(3)][1:]
    except RuntimeError as error:
        if out_of_memory(error):
            raise MemoryError(f"{shape.n_layer} blocks of {shape.n_embd} channels do not fit into memory") from error
        raise
    return Speed(min(passes for passes, _ in seconds) / ids.numel(), min(step for _, step in seconds))


def _a_step(
    passes: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[float, float]:
    """Seconds of forward and backward, and of the optimizer."""
    started = time.perf_counter()
    passes().item()
    passed = time.perf_counter()
    optimizer.step()
    optimizer.zero_grad(set_to_none=not can_record(device))  # what was recorded adds to the same memory again
    wait_for(device)
    return passed - started, time.perf_counter() - passed


# ---- how hard a text is ------------------------------------------------------------------------------------------------

UNKNOWN_TEXT = 0.12  # of the logarithm of the loss: how wrong `Law.on` is (docs/decisions.md, A law for more than one text)
SHAKESPEARE_XZ = 1.873  # nats/token that xz needs for the first half million of tiny Shakespeare


def difficulty(corpus: Corpus) -> float:
    """How many bytes xz makes of a part of this text, against tiny Shakespeare: 0.6 for programs and manuals."""
    return round(xz_loss(corpus.ids), 3) / SHAKESPEARE_XZ


def xz_loss(ids: np.ndarray, most: int = 500_000) -> float:
    """nats/token that xz needs for the first ids."""
    part = np.ascontiguousarray(ids[:most])
    return 8 * math.log(2) * len(lzma.compress(part.tobytes(), preset=6)) / len(part)
