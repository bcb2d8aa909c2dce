import json
import math
import re
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from minigpt import GPTConfig, load_corpus, planner
from minigpt.planner import LAW, Speed, difficulty, measured, plan, recipe, training_memory, xz_loss

ROOT = Path(__file__).parent.parent


@pytest.fixture
def corpus(text_file):
    return load_corpus([text_file])


def machine(flops: float):
    """A machine that does so many additions and multiplications a second, as a measurement for plan()."""

    def measure(arch: str, shape: GPTConfig, device: str) -> Speed:
        weights = planner.matrix_weights(arch, shape)
        return Speed(6 * weights / flops + 1e-7, 1e-3 + 40 * weights / flops)

    return measure


def test_a_batch_and_its_steps_read_the_tokens_they_should():
    for tokens in (2e5, 3e6, 5e7):
        for block_size in (8, 128, 1024):
            settings = recipe("modern", 96, block_size, tokens)
            assert settings["batch_size"] * settings["max_iters"] * block_size == pytest.approx(tokens, rel=0.01)
    assert (settings["optimizer"], settings["learning_rate"]) == ("muon", 0.0267)
    assert "optimizer" not in recipe("gpt", 128, 64, 1e6)
    assert recipe("gpt", 128, 64, 1e6)["learning_rate"] == 2e-3


def test_the_law_knows_what_helps():
    usual = dict(weights=1e6, tokens=2e6, block_size=128, text_tokens=1e6)
    loss = LAW.loss(**usual)
    for better in (dict(weights=2e6), dict(tokens=3e6), dict(block_size=256), dict(text_tokens=2e6)):
        assert LAW.loss(**usual | better) < loss
    assert LAW.loss(**usual | dict(text_tokens=2e6)) == LAW.loss(**usual | dict(text_tokens=2e9))  # nothing is read twice
    often = [LAW.loss(**usual | dict(tokens=n * 1e6)) for n in (1, 4, 50, 250)]
    assert often[0] > often[1] < often[2] < often[3]  # in the end it is learned by heart
    assert LAW.loss(**usual | dict(tokens=5e7, weights=1e5)) < often[2]  # more so by large models


def test_the_constants_are_those_that_fit_the_sweep(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    from scaling import fit

    lines = [json.loads(line) for line in (ROOT / "benchmarks/sweep.jsonl").read_text().splitlines()]
    found = fit(lines)
    for name, value in asdict(LAW).items():
        assert asdict(found.law)[name] == pytest.approx(value, rel=0.02), name
    assert found.powers(lines) == pytest.approx(planner.POWERS, abs=0.03)
    assert LAW.error < 0.02


def test_on_an_easier_text_the_loss_is_lower_and_a_larger_model_helps_more():
    small, large = (dict(weights=n * 1e6, tokens=2e6, block_size=128, text_tokens=1e7) for n in (0.2, 1))
    easier = LAW.on(0.6)
    assert LAW.on(1.0) == LAW
    assert easier.loss(**large) < LAW.loss(**large)
    assert easier.loss(**small) - easier.loss(**large) > LAW.loss(**small) - LAW.loss(**large) > 0


def test_a_harder_text_is_expected_to_have_a_higher_loss():
    usual = dict(weights=2e5, tokens=1e6, block_size=128, text_tokens=1e7)
    losses = [LAW.on(difficulty).loss(**usual) for difficulty in (0.001, 0.05, 0.15, 0.3, 0.587, 0.7, 0.9, 1.0, 1.5, 3.0)]
    assert losses == sorted(losses)
    assert losses[0] < 0.1


class Long:
    """A text of 100 M tokens: nothing is read twice."""

    def __init__(self, corpus):
        self.ids, self.val, self.tokenizer, self.train = corpus.ids, corpus.ids, corpus.tokenizer, range(10**8)
        self.check = corpus.check


@pytest.mark.parametrize("minutes", [0.5, 3, 60])
def test_a_plan_fills_its_time_and_no_more(corpus, minutes):
    found = plan(Long(corpus), minutes, measure=machine(3e10), spent=5)
    c, shape = found.config, found.shape
    tokens = c.batch_size * shape.block_size
    seconds = c.max_iters * (tokens * found.speed.token_s + found.speed.step_s)
    assert 0.8 * (60 * minutes - 5) < seconds < 60 * minutes - 5
    assert c.minutes == minutes
    assert found.epochs == pytest.approx(c.max_iters * tokens / 10**8)


def test_a_text_that_would_be_learned_by_heart_takes_less_than_the_time(corpus):
    found = plan(corpus, 60, measure=machine(1e12))
    assert found.config.minutes < 30
    assert found.loss < plan(corpus, 60, measure=machine(1e12), given=dict(max_iters=10 * found.config.max_iters)).loss


def test_more_time_or_a_faster_machine_means_a_larger_and_better_model(corpus):
    plans = [plan(Long(corpus), minutes, measure=machine(flops)) for minutes, flops in ((0.5, 1e10), (10, 1e10), (10, 1e12))]
    weights = [planner.matrix_weights("modern", p.shape) for p in plans]
    assert weights == sorted(weights)
    assert weights[0] < weights[-1]
    assert [p.loss for p in plans] == sorted((p.loss for p in plans), reverse=True)


def test_a_moment_of_noise_does_not_choose_the_size(corpus, monkeypatch):
    def moved(flops: float) -> bool:
        """Whether another size is chosen if the best one is measured 1.1 times slower the first time."""
        best = plan(Long(corpus), 3, measure=machine(flops)).shape.n_embd
        slower = [1.1]

        def disturbed(arch: str, shape: GPTConfig, device: str) -> Speed:
            speed = machine(flops)(arch, shape, device)
            factor = slower.pop() if shape.n_embd == best and slower else 1
            return Speed(factor * speed.token_s, speed.step_s)

        return plan(Long(corpus), 3, measure=disturbed).shape.n_embd != best

    machines = [1e11 * 1.7**n for n in range(8)]
    assert not any(map(moved, machines))
    monkeypatch.setattr(planner, "CLOSE", 0)  # nobody is measured once more
    assert any(map(moved, machines))


def test_what_is_given_stays(corpus):
    given = dict(
        n_layer=2, n_embd=48, n_head=3, block_size=32, dropout=0.1, batch_size=5, learning_rate=0.01, eval_tokens=64
    )
    found = plan(corpus, 1, given=given, measure=machine(1e10))
    for name, value in given.items():
        assert getattr(found.shape, name, getattr(found.config, name, None)) == value


@pytest.mark.parametrize("given", [dict(batch_size=64), dict(batch_size=4, grad_accum_steps=8), dict(grad_accum_steps=3)])
def test_a_batch_that_is_given_takes_no_more_time_than_there_is(corpus, given):
    found = plan(Long(corpus), 3, given=given, measure=machine(3e10))
    c, shape = found.config, found.shape
    tokens = c.batch_size * c.grad_accum_steps * shape.block_size
    seconds = c.max_iters * (tokens * found.speed.token_s + found.speed.step_s)
    assert 0.8 * 180 < seconds < 180
    assert found.epochs == pytest.approx(c.max_iters * tokens / 10**8)
    assert ("3 x" in found.describe()) == (c.grad_accum_steps == 3)


def test_an_optimizer_that_is_given_gets_its_own_rates():
    adamw, muon = (
        recipe("modern", 128, 64, 1e6, dict(optimizer="adamw")),
        recipe("gpt", 128, 64, 1e6, dict(optimizer="muon")),
    )
    assert (adamw["learning_rate"], adamw.get("schedule")) == (2e-3, None)
    assert (muon["learning_rate"], muon["schedule"]) == (0.02, "linear")


@pytest.mark.parametrize("n_head", [1, 3, 5, 7, 12])
def test_heads_that_are_given_get_channels_that_suit_them(corpus, n_head):
    shape = plan(Long(corpus), 3, given=dict(n_head=n_head), measure=machine(3e10)).shape
    assert shape.n_head == n_head
    shape.check_rotary()
    assert plan(Long(corpus), 3, given=dict(n_embd=66, n_layer=1), measure=machine(3e10)).shape.n_head == 1


def test_a_text_too_short_for_any_plan_is_told_as_that_before_anything_is_measured(tmp_path):
    (tmp_path / "short.txt").write_text("a")
    with pytest.raises(ValueError, match="no block size fits so short a text"):
        plan(load_corpus([tmp_path / "short.txt"]), 1)


def test_the_speed_is_measured_with_the_dropout_of_the_plan(corpus):
    asked = []

    def measure(arch: str, shape: GPTConfig, device: str) -> Speed:
        asked.append(shape)
        return machine(1e12)(arch, shape, device)

    found = plan(corpus, 5, measure=measure)  # a short text: learned by heart without dropout
    assert found.shape.dropout > 0
    assert replace(found.shape, block_size=128) in asked  # contexts are told from what they compute


def test_a_size_that_turns_out_not_to_fit_ends_the_search(corpus, monkeypatch):
    from minigpt.planner import MODELS

    class TooLarge(MODELS["modern"]):
        def forward(self, *args, **kwargs):
            if self.config.n_embd > 64:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999 bytes")
            return super().forward(*args, **kwargs)

    monkeypatch.setitem(MODELS, "modern", TooLarge)
    assert plan(Long(corpus), 60, given=dict(n_layer=1, block_size=16)).shape.n_embd == 64


def test_a_context_longer_than_the_validation_part_is_no_candidate(tmp_path):
    (tmp_path / "short.txt").write_text("To be, or not to be. " * 40)  # 84 characters held back
    assert plan(load_corpus([tmp_path / "short.txt"]), 1, measure=machine(1e10)).shape.block_size == 64


def test_a_plan_that_does_not_fit_into_memory_is_not_made(corpus, monkeypatch):
    needed = training_memory("modern", GPTConfig(n_layer=4, n_embd=128), torch.device("cpu"))
    monkeypatch.setattr(planner, "available_memory", lambda device: needed)
    assert plan(corpus, 60, measure=machine(1e12)).shape.n_embd < 128
    monkeypatch.setattr(planner, "available_memory", lambda device: 10_000_000)
    with pytest.raises(ValueError, match=r"3 blocks of 64 channels takes .* GB, and 0.0 GB are free; a smaller model"):
        plan(corpus, 60, measure=machine(1e12))


def test_what_a_plan_takes_is_that_of_its_own_batch_and_dropout():
    shape, cpu, gpu = GPTConfig(n_layer=6, n_embd=256, block_size=256), torch.device("cpu"), torch.device("cuda")
    dropped = replace(shape, dropout=0.1)
    assert training_memory("modern", dropped, cpu) > 1.3 * training_memory("modern", shape, cpu)  # the weights are kept
    assert training_memory("modern", dropped, gpu) == training_memory("modern", shape, gpu)
    few, many, most = (training_memory("modern", shape, gpu, n) for n in (4, 64, 256))
    assert few < training_memory("modern", shape, gpu) == many < most == training_memory("modern", shape, gpu, 10**6)


def test_the_memory_that_is_told_is_that_without_dropout_where_none_is_chosen(corpus):
    found = plan(Long(corpus), 1, measure=machine(1e10))
    assert found.shape.dropout == 0
    assert found.memory == training_memory("modern", found.shape, torch.device("cpu"), found.config.batch_size)


def test_no_loss_is_promised_for_an_optimizer_that_the_law_does_not_know(corpus):
    usual, other = (plan(corpus, 1, given=given, measure=machine(1e10)) for given in ({}, {"optimizer": "adamw"}))
    assert "nats/token" in usual.describe()
    assert "expected  unknown: the law knows no modern model with adamw" in other.describe()
    assert other.config.batch_size < usual.config.batch_size


def test_five_evaluations_are_made(corpus):
    for minutes in (0.5, 1, 2, 7, 11):
        config = plan(Long(corpus), minutes, measure=machine(1e10)).config
        assert config.max_iters > 20
        assert math.ceil(config.max_iters / config.eval_interval) == planner.LOOKS


def test_a_plan_of_days_tells_the_day(corpus):
    assert re.search(r"ends +at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", plan(Long(corpus), 5000, measure=machine(1e9)).describe())


def test_this_machine_is_measured(corpus):
    small, large = (measured("modern", GPTConfig(n_layer=2, n_embd=C, block_size=32), "cpu") for C in (32, 256))
    assert 0 < small.token_s < large.token_s
    assert 0 < small.step_s < large.step_s


def test_measuring_stops_in_time(corpus, monkeypatch):
    """A machine on which measuring takes a second for each candidate, and a plan for 20 seconds."""
    asked, now = [], [0.0]

    def slow(arch: str, shape: GPTConfig, device: str) -> Speed:
        asked.append(shape)
        now[0] += 1.1
        return machine(1e15)(arch, shape, device)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    plan(Long(corpus), 20 / 60, measure=slow)
    assert len(asked) == 1


def test_a_short_training_looks_at_less_text_and_what_is_given_stays(corpus):
    looked = [plan(Long(corpus), minutes, measure=machine(1e10)).config.eval_tokens for minutes in (0.5, 3, 60)]
    assert looked == sorted(looked)
    assert looked[0] == 2**14 < looked[1] < looked[2] == 2**17
    assert plan(Long(corpus), 1, given=dict(eval_tokens=0), measure=machine(1e9)).config.eval_tokens == 0


def test_text_that_repeats_itself_is_easier_than_noise(tmp_path):
    rng = np.random.default_rng(0)
    noise = "".join(rng.choice(list("abcdefghij klmnop\n"), 50_000))
    (tmp_path / "noise.txt").write_text(noise)
    (tmp_path / "song.txt").write_text("la la la, and so on it goes\n" * 2000)
    hard, easy = (difficulty(load_corpus([tmp_path / name])) for name in ("noise.txt", "song.txt"))
    assert easy < 0.1 < 1 < hard
    assert xz_loss(load_corpus([tmp_path / "noise.txt"]).ids) == pytest.approx(np.log(18), rel=0.1)


def test_a_plan_is_told_in_plain_words(corpus):
    words = plan(corpus, 2, measure=machine(3e10)).describe()
    assert re.search(r"ends +at (\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d", words)
    for part in (
        "blocks of",
        "heads, context",
        "steps of",
        "tokens/s",
        "GB",
        "read",
        "by heart",
        "nats/token",
        "bits/char",
        "ends",
    ):
        assert part in words
