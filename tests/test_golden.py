"""Golden losses: 100 steps of training give the numbers that they always gave, for every architecture.

Other instruction sets (AVX-512, AVX2, none) change them by at most 4e-7, relative; a real change of the arithmetic by a
hundred times more. If it is meant to change, say so in CHANGELOG.md and write the file anew:

    python tests/test_golden.py
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn as nn

from minigpt import GPT, Batches, BigramLanguageModel, GPTConfig, ModernGPT, TrainConfig, load_corpus, optim, train, trainer

TEXT = Path(__file__).parent.parent / "docs" / "learn" / "text.txt"
GOLDEN = Path(__file__).parent / "fixtures" / "golden.json"
CASES = {
    "bigram": (lambda shape: BigramLanguageModel(shape.vocab_size, shape.block_size), "adamw"),
    "gpt": (GPT, "adamw"),
    "gpt, muon": (GPT, "muon"),
    "modern": (ModernGPT, "adamw"),
    "modern, muon": (ModernGPT, "muon"),
}
STEPS = (1, 2, 5, 10, 20, 50, 100)
TOLERANCE = 2e-6


def measured(case: str, dropout: float = 0.1, **changes: float) -> dict[str, list[float]]:
    """The losses of the training at some steps, and of the validation text before, in the middle and at the end."""
    make, optimizer = CASES[case]
    corpus = load_corpus([TEXT])
    shape = GPTConfig(corpus.tokenizer.vocab_size, block_size=16, n_layer=2, n_head=2, n_embd=32, dropout=dropout)
    settings = dict(batch_size=4, grad_accum_steps=2, max_iters=100, eval_interval=50, learning_rate=3e-3)
    config = TrainConfig(**settings | changes, optimizer=optimizer)
    torch.manual_seed(config.seed)
    model = make(shape)
    batches = Batches(corpus.train, config.batch_size, shape.block_size, config.seed)
    metrics = list(train(model, batches, corpus.val, config))
    return {"loss": [metrics[step].loss for step in STEPS], "val_loss": [metrics[step].val_loss for step in (0, 50, 100)]}


def deviation(case: str, losses: dict[str, list[float]]) -> float:
    """How far losses are from the golden ones: the largest relative difference."""
    golden = json.loads(GOLDEN.read_text())[case]
    pairs = [pair for kind in golden for pair in zip(golden[kind], losses[kind], strict=True)]
    return max(abs(now / before - 1) for before, now in pairs)


@pytest.mark.parametrize("case", CASES)
def test_the_losses_are_what_they_always_were(case):
    off = deviation(case, measured(case))
    assert off < TOLERANCE, (
        f"the losses of {case} are off by {off:.1e}. If this change of the arithmetic is meant, say so in CHANGELOG.md "
        "and run: python tests/test_golden.py"
    )


def test_they_are_the_same_without_the_instructions_of_this_processor():
    code = "import test_golden as g; print({case: g.deviation(case, g.measured(case)) for case in ('gpt', 'modern, muon')})"
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TEXT.parents[2])}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=True
    )
    assert max(json.loads(told.stdout.replace("'", '"')).values()) < TOLERANCE


def other_epsilon_of_the_norms(monkeypatch):
    monkeypatch.setattr(nn, "LayerNorm", partial(nn.LayerNorm, eps=1.1e-5))


def other_start(monkeypatch):
    normal = nn.init.normal_
    monkeypatch.setattr(nn.init, "normal_", lambda p, mean=0.0, std=1.0: normal(p, mean, std * 1.001))


def other_epsilon_of_the_optimizer(monkeypatch):
    monkeypatch.setattr(optim, "AdamW", partial(optim.AdamW, eps=1e-7))


def warm_up_a_step_later(monkeypatch):
    monkeypatch.setattr(trainer, "learning_rate", lambda step, config: optim.learning_rate(step - 1, config))


def everything_decays(monkeypatch):
    make = trainer.make_optimizer

    def changed(model, config):
        optimizer = make(model, config)
        for group in optimizer.param_groups:
            group["weight_decay"] = config.weight_decay
        return optimizer

    monkeypatch.setattr(trainer, "make_optimizer", changed)


def other_order_of_the_batches(monkeypatch):
    starts = Batches.starts
    monkeypatch.setattr(Batches, "starts", lambda self, step: starts(self, step)[::-1].copy())


@pytest.mark.parametrize("change", [other_epsilon_of_the_norms, other_start, other_epsilon_of_the_optimizer,
                                    warm_up_a_step_later, everything_decays, other_order_of_the_batches])  # fmt: skip
def test_a_change_of_the_arithmetic_shows(change, monkeypatch):
    change(monkeypatch)
    assert deviation("gpt", measured("gpt")) > 5 * TOLERANCE


def test_a_change_of_muon_shows(monkeypatch):
    monkeypatch.setattr(optim, "TURNS", 5)
    assert deviation("modern, muon", measured("modern, muon")) > 5 * TOLERANCE


@pytest.mark.parametrize("change", [{"dropout": 0.1001}, {"beta2": 0.9901}, {"grad_clip": 0.99}, {"weight_decay": 0.101}])
def test_a_change_of_the_recipe_shows(change):
    assert deviation("gpt", measured("gpt", **change)) > 5 * TOLERANCE


if __name__ == "__main__":
    torch.set_num_threads(1)
    GOLDEN.write_text(json.dumps({case: measured(case) for case in CASES}, indent=2) + "\n")
