import math
import subprocess
import sys

import pytest
import torch

from minigpt import GPT, BigramLanguageModel, GPTConfig, ModernGPT, TrainConfig
from minigpt.optim import TURNS, AdamW, Muon, learning_rate, make_optimizer, orthogonal


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


MUON = TrainConfig(optimizer="muon", learning_rate=0.1, weight_decay=0.5, beta1=0.8)


@pytest.mark.parametrize("shape", [(4, 4), (3, 9), (9, 3), (5, 16, 48), (1, 7)])
def test_orthogonal_keeps_directions_and_evens_out_their_lengths(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    U, S, Vh = torch.linalg.svd(x, full_matrices=False)
    out = orthogonal(x)
    assert out.shape == x.shape
    inside = U.mT @ out @ Vh.mT  # diagonal where the directions are those of x
    lengths = inside.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(inside, torch.diag_embed(lengths), atol=1e-4, rtol=0)
    assert (lengths[0.02 * S.amax() < S] > 0.5).all()
    assert (lengths < 1.3).all()


def test_of_nothing_orthogonal_makes_nothing():
    assert torch.equal(orthogonal(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_a_step_of_muon_is_that_of_the_formula():
    """Two steps on two matrices of a shape and one of another, one by one by the definition."""
    torch.manual_seed(0)
    holder = torch.nn.Module()
    holder.blocks = torch.nn.ParameterList([torch.randn(6, 4), torch.randn(6, 4), torch.randn(4, 12), torch.randn(5)])
    optimizer = make_optimizer(holder, MUON)
    assert type(optimizer) is Muon
    expected = [p.detach().clone() for p in holder.blocks]
    momenta = [torch.zeros_like(p) for p in holder.blocks]
    for _ in range(2):
        for p in holder.blocks:
            p.grad = torch.randn_like(p)
        for i, p in enumerate(list(holder.blocks)[:3]):
            momenta[i] = 0.8 * momenta[i] + 0.2 * p.grad
            direction = orthogonal(0.2 * p.grad + 0.8 * momenta[i])
            expected[i] -= 0.1 * (0.2 * math.sqrt(max(p.shape)) * direction + 0.5 * expected[i])
        optimizer.step()
    for i in range(3):
        torch.testing.assert_close(holder.blocks[i].detach(), expected[i], atol=1e-5, rtol=1e-5)


def test_muon_moves_about_as_far_as_torchs_own():
    """torch.optim.Muon (2.9 or newer) orthogonalises in bfloat16; the directions agree as far as that allows."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    torch.manual_seed(0)
    start, gradient = torch.randn(24, 16), torch.randn(24, 16)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    holder = torch.nn.Module()
    holder.blocks = torch.nn.ParameterList([ours])
    ours.grad, theirs.grad = gradient.clone(), gradient.clone()
    make_optimizer(holder, MUON).step()
    settings = dict(lr=0.1, weight_decay=0.5, momentum=0.8, nesterov=True, ns_steps=TURNS, adjust_lr_fn="match_rms_adamw")
    torch.optim.Muon([theirs], **settings).step()
    a, b = (p.detach() - start * (1 - 0.1 * 0.5) for p in (ours, theirs))
    assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99
    assert a.norm() / b.norm() == pytest.approx(1, abs=0.05)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest():
    model = ModernGPT(GPTConfig(n_layer=2, n_embd=32))
    groups = make_optimizer(model, MUON).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    matrices, decay, keep = ([names[id(p)] for p in g["params"]] for g in groups)
    assert len(matrices) == 2 * 5
    assert all(name.startswith("blocks.") for name in matrices)
    assert sorted(decay) == ["lm_head.weight", "tok_emb.weight"]
    assert all("norm" in name or "ln_" in name for name in keep)
    assert [g["weight_decay"] for g in groups] == [0.5, 0.5, 0.0]
    rest = make_optimizer(BigramLanguageModel(5), MUON)  # without blocks it is AdamW
    assert not any(g["orthogonal"] for g in rest.param_groups)


def test_the_learning_rate_can_fall_along_a_line_to_nothing():
    config = TrainConfig(max_iters=100, learning_rate=1.0, min_lr=0.0, warmup_iters=0, schedule="linear")
    assert [learning_rate(step, config) for step in (0, 25, 50, 100)] == [1.0, 0.75, 0.5, 0.0]


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


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_torchs_compiler_is_not_loaded_for_an_optimizer(optimizer):
    code = f"""
import sys, torch
from minigpt import GPT, GPTConfig, TrainConfig
from minigpt.optim import make_optimizer
model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=8))
optimizer = make_optimizer(model, TrainConfig(optimizer={optimizer!r}))
model(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))[1].backward()
optimizer.step()
optimizer.zero_grad()
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_adamw_is_torchs():
    steps = []
    for kind in (torch.optim.AdamW, AdamW):
        torch.manual_seed(0)
        layer = torch.nn.Linear(5, 3)
        optimizer = kind(layer.parameters(), lr=0.1, fused=True)
        for _ in range(5):
            layer(torch.randn(4, 5)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert layer.weight.requires_grad
        steps.append(layer.weight.detach())
    assert torch.equal(*steps)
