"""Training every rung on the same text with the same budget, and keeping what came out.

    for run, metrics in attempt(RUNGS["head"], corpus, folder, steps=500): ...
    results = Result.of(rung, attempts), ...

All rungs read the same batches: 32 windows of 32 characters a step. The first ten are small (32 channels), the rest as
large as the GPT of gpt.py (128 channels). Each learns at the rate that suits its size.

Next: picture.py
"""

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..batches import Batches
from ..checkpoint import Run
from ..config import GPTConfig, TrainConfig
from ..corpus import Corpus
from ..files import read_json
from ..rungs import RUNGS, Rung
from ..trainer import Metrics, bits_per_char, train
from .counting import Baseline

STEPS = 300
BATCH_SIZE, BLOCK_SIZE = 32, 32
SHAPES: dict[bool, dict[str, Any]] = {  # of a rung, by rung.scaled
    False: dict(n_layer=3, n_head=4, n_embd=32),
    True: dict(n_layer=4, n_head=4, n_embd=128, dropout=0.05),
}
LEARNING_RATES = {"table": 1e-1, "small": 2e-2, "scaled": 4e-3, "muon": 2e-2}  # rows of a table are seldom read
CURVE = 60  # points of a saved loss curve


@dataclass(frozen=True)
class Attempt:
    """What one training of a rung came to. Losses in nats/token."""

    seed: int
    start_loss: float  # of the validation text, untrained
    train_loss: float  # of the last tenth of the steps
    val_loss: float
    seconds: float
    sample: str
    run: str  # its folder
    curve: list[float]  # training loss, averaged down to CURVE points


@dataclass(frozen=True)
class Result:
    """What a rung came to: the means over its attempts, one for each seed."""

    number: int
    name: str
    idea: str
    parameters: int
    shape: dict[str, Any]
    attempts: list[Attempt]
    train_loss: float
    val_loss: float
    deviation: float | None  # standard deviation of val_loss; None for one attempt
    bits_per_char: float
    gain: float | None  # nats/token better than the rung before (or than counting characters); None if that is not known
    seconds: float  # of one attempt

    @property
    def sample(self) -> str:
        return self.attempts[0].sample


def shape(rung: Rung, vocab_size: int) -> GPTConfig:
    """The sizes of a rung's model."""
    return GPTConfig(vocab_size=vocab_size, block_size=BLOCK_SIZE, **SHAPES[rung.scaled])


def learning_rate(rung: Rung) -> float:
    size = "scaled" if rung.scaled else "small"
    return LEARNING_RATES[{"bigram": "table", "muon": "muon"}.get(rung.name, size)]


def attempt(
    rung: Rung, corpus: Corpus, folder: Path, steps: int = STEPS, seed: int = 1337, device: str = "cpu"
) -> Iterator[tuple[Run, Metrics]]:
    """Train a rung once, yielding after every step; the run is kept in the folder."""
    config = TrainConfig(
        batch_size=BATCH_SIZE,
        max_iters=steps,
        optimizer=rung.optimizer,
        learning_rate=learning_rate(rung),
        eval_interval=steps,
        seed=seed,
    )
    torch.manual_seed(seed)
    model = rung.model(shape(rung, corpus.tokenizer.vocab_size)).to(device)
    batches = Batches(corpus.train, BATCH_SIZE, BLOCK_SIZE, seed)
    run = Run.create(folder, model, corpus, config)
    for metrics in train(model, batches, corpus.val, config, run.state):
        run.record(metrics)
        yield run, metrics


def measured(steps: Iterator[tuple[Run, Metrics]]) -> Iterator[tuple[Metrics, Attempt | None]]:
    """The metrics of an attempt as they come, and with the last of them what it came to."""
    started, losses, start_loss = time.perf_counter(), [], 0.0
    for run, metrics in steps:
        if metrics.loss is None:
            start_loss = metrics.val_loss or 0.0
        else:
            losses.append(metrics.loss)
        if metrics.step < run.config.max_iters:
            yield metrics, None
            continue
        assert metrics.val_loss is not None
        tenth = losses[-max(1, len(losses) // 10) :]
        yield (
            metrics,
            Attempt(
                seed=run.config.seed,
                start_loss=start_loss,
                train_loss=statistics.fmean(tenth),
                val_loss=metrics.val_loss,
                seconds=time.perf_counter() - started,
                sample=run.sample,
                run=str(run.folder),
                curve=averaged(losses, CURVE),
            ),
        )


def result(rung: Rung, corpus: Corpus, attempts: Sequence[Attempt], before: float | None) -> Result:
    """The attempts of a rung together. before: the loss of the rung below it."""
    config = shape(rung, corpus.tokenizer.vocab_size)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in rung.model(config).parameters())
    losses = [a.val_loss for a in attempts]
    val_loss = statistics.fmean(losses)
    return Result(
        number=rung.number,
        name=rung.name,
        idea=rung.idea,
        parameters=parameters,
        shape=asdict(config),
        attempts=list(attempts),
        train_loss=statistics.fmean(a.train_loss for a in attempts),
        val_loss=val_loss,
        deviation=statistics.stdev(losses) if len(losses) > 1 else None,
        bits_per_char=bits_per_char(val_loss, corpus.tokens_per_char),
        gain=None if before is None else before - val_loss,
        seconds=statistics.fmean(a.seconds for a in attempts),
    )


def averaged(values: Sequence[float], points: int) -> list[float]:
    """A curve of at most so many points, each the mean of its neighbours: [1, 3, 5, 7], 2 -> [2, 6]."""
    n = len(values)
    edges = [round(i * n / min(points, n)) for i in range(min(points, n) + 1)] if n else [0]
    return [round(statistics.fmean(values[a:b]), 4) for a, b in itertools.pairwise(edges)]


def chosen(rung: str | None, first: str | None, last: str | None) -> list[Rung]:
    """The rungs that a person asks for by name or number. Raises ValueError for what there is not."""
    if rung is not None and (first is not None or last is not None):
        raise ValueError("name one rung with --rung, or a part of the ladder with --from and --to, not both")
    start = find(rung or first or "1")
    end = find(rung) if rung is not None else find(last or str(len(RUNGS)))
    if start.number > end.number:
        raise ValueError(f"from {start.name} ({start.number}) to {end.name} ({end.number}) goes down; climb the other way")
    return [r for r in RUNGS.values() if start.number <= r.number <= end.number]


def find(name: str) -> Rung:
    """A rung by its name or number. Raises ValueError naming them all."""
    for rung in RUNGS.values():
        if name in (rung.name, str(rung.number)):
            return rung
    known = ", ".join(f"{rung.number} {rung.name}" for rung in RUNGS.values())
    raise ValueError(f"there is no rung {name!r}; there is {known}")


def report(corpus: Corpus, steps: int, floor: Sequence[Baseline], results: Sequence[Result]) -> dict[str, Any]:
    """ladder.json: everything that was measured."""
    return {
        "made_by": f"minigpt {__version__}, torch {torch.__version__}",
        "text": {"name": corpus.name, "sha256": corpus.sha256, "characters": corpus.characters, "unit": corpus.unit},
        "recipe": {"steps": steps, "batch_size": BATCH_SIZE, "block_size": BLOCK_SIZE, "learning_rates": LEARNING_RATES},
        "baselines": [asdict(b) | {"bits_per_char": bits_per_char(b.loss, corpus.tokens_per_char)} for b in floor],
        "rungs": [asdict(r) for r in results],
    }


def read_report(path: Path, text: str = "", steps: int | None = None) -> dict[str, Result]:
    """The results of a ladder.json by name; none if there is no such file, or one of another text (SHA-256) or budget."""
    if not path.exists():
        return {}
    known = read_json(path)
    of, recipe = known.get("text", {}), known.get("recipe", {})
    if (text and of.get("sha256") != text) or (steps and recipe.get("steps") != steps):
        return {}
    rungs = known.get("rungs", [])
    return {r["name"]: Result(**{**r, "attempts": [Attempt(**a) for a in r["attempts"]]}) for r in rungs}
