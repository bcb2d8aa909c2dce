import math

import pytest
import torch

from minigpt import GPT, GPTConfig, TrainConfig
from minigpt.optim import learning_rate, make_optimizer


def test_only_matrices_decay():
    model = GPT(GPTConfig(n_layer=1))
    decay, keep = make_optimizer(model, TrainConfig(weight_decay=0.1)).param_groups
    assert (decay["weight_decay"], keep["weight_decay"]) == (0.1, 0.0)
    assert all(p.dim() == 2 for p in decay["params"])
    assert all(p.dim() == 1 for p in keep["params"])
    assert len(decay["params"]) + len(keep["params"]) == len(list(model.parameters()))


def test_a_step_is_that_of_the_formula():
    """AdamW by hand on one weight. Source: Loshchilov and Hutter 2017, algorithm 2."""
    weight = torch.nn.Parameter(torch.tensor([[2.0]]))
    holder = torch.nn.Module()
    holder.weight = weight
    config = TrainConfig(learning_rate=0.1, weight_decay=0.5, beta1=0.9, beta2=0.99)
    optimizer = make_optimizer(holder, config)
    expected, m, v = 2.0, 0.0, 0.0
    for step, gradient in enumerate((3.0, -1.0, 0.5), start=1):
        weight.grad = torch.tensor([[gradient]])
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        expected *= 1 - 0.1 * 0.5
        expected -= 0.1 * (m / (1 - 0.9**step)) / (math.sqrt(v / (1 - 0.99**step)) + 1e-8)
        assert weight.item() == pytest.approx(expected, rel=1e-5)


def test_the_learning_rate_warms_up_and_falls_along_a_cosine_to_its_end():
    config = TrainConfig(max_iters=1000, learning_rate=1.0, min_lr=0.1, warmup_iters=100)
    rates = [learning_rate(step, config) for step in range(1001)]
    assert rates[0] == pytest.approx(1 / 101)
    assert rates[:100] == sorted(rates[:100])
    assert rates[100] == 1.0
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[550] == pytest.approx(0.55)
    assert rates[1000] == pytest.approx(0.1)


def test_with_min_lr_at_the_peak_and_no_warm_up_the_rate_is_constant():
    config = TrainConfig(max_iters=10, learning_rate=0.3, min_lr=0.3, warmup_iters=0)
    assert {learning_rate(step, config) for step in range(20)} == {0.3}


def test_what_is_not_given_is_derived():
    assert (TrainConfig(max_iters=500).warmup_iters, TrainConfig(max_iters=5000).warmup_iters) == (50, 100)
    assert TrainConfig(learning_rate=0.02).min_lr == 0.002
    assert (TrainConfig(max_iters=500).eval_interval, TrainConfig(max_iters=3).eval_interval) == (50, 1)
