"""What speed.py puts in the place of torch's own parts computes the same."""

import pytest
import torch
import torch.nn as nn
from torch.nn.functional import scaled_dot_product_attention

from minigpt import GPT, GPTConfig, ModernGPT, fused, speed
from minigpt.attention import MultiHeadAttention
from minigpt.speed import ConvolutionalLinear, FewPassRMSNorm, attend_with_dropout, speed_up

CPU = torch.device("cpu")
fused_parts = set(speed.IN_ONE_PASS.values())


def same(theirs: nn.Module, ours: nn.Module, *shapes: tuple[int, ...]) -> None:
    """Both modules give the same sums, and the same gradients of their input and of their parameters."""
    ours.load_state_dict(theirs.state_dict())
    for shape in shapes:
        x, y = (torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2))
        weigh = torch.randn(theirs(x).shape, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(theirs(x), ours(y))
        (theirs(x) * weigh).sum().backward()
        (ours(y) * weigh).sum().backward()
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_a_linear_layer_as_a_convolution_is_the_same():
    same(nn.Linear(24, 40), ConvolutionalLinear(24, 40), (24,), (5, 24), (3, 7, 24))


def test_an_rms_norm_of_few_passes_is_the_same():
    theirs = nn.RMSNorm(24, eps=1e-6)
    nn.init.normal_(theirs.weight)
    same(theirs, FewPassRMSNorm(24, eps=1e-6), (5, 24), (2, 3, 7, 24))


def test_an_rms_norm_of_values_seen_from_another_side_is_the_same():
    """The heads are a transposed view: their gradient may come in any layout."""
    norm, few = nn.RMSNorm(8), FewPassRMSNorm(8)
    x, y = (torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2))
    torch.testing.assert_close(norm(x.transpose(1, 2)), few(y.transpose(1, 2)))
    norm(x.transpose(1, 2)).square().sum().backward()
    few(y.transpose(1, 2)).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("asking", [2, 128])
def test_attention_with_dropout_is_attention_when_nothing_is_dropped_and_has_its_mean_otherwise(monkeypatch, asking):
    monkeypatch.setattr(speed, "ASKING", asking)
    torch.manual_seed(0)
    attention = MultiHeadAttention(12, 3, dropout=1e-6).train()
    q, k, v = (torch.randn(2, 3, 5, 4) for _ in range(3))
    expected = scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(attend_with_dropout(attention, q, k, v), expected)
    attention.dropout = 0.3
    mean = torch.stack([attend_with_dropout(attention, q, k, v) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, expected, rtol=0, atol=0.1)
    assert (attend_with_dropout(attention, q, k, v)[:, :, 0] == 0).any()  # the first position has one weight to lose
    torch.testing.assert_close(attend_with_dropout(attention.eval(), q, k, v), expected)


@pytest.mark.parametrize("compiler_there", [True, False])
@pytest.mark.parametrize("slow", [True, False])
@pytest.mark.parametrize("kind", [GPT, ModernGPT])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_model_is_made_faster_in_its_place_and_answers_as_before(
    compiler_there, slow, kind, dropout, monkeypatch, request
):
    if compiler_there:
        request.getfixturevalue("compiler")
    else:
        monkeypatch.setattr(fused, "available", lambda: False)
    monkeypatch.setattr(speed, "_mkl_is_slow_here", lambda: slow)
    torch.manual_seed(0)
    model = kind(GPTConfig(vocab_size=64, block_size=8, n_layer=2, n_head=2, n_embd=16, dropout=dropout)).eval()
    nn.init.normal_(model.lm_head.weight)  # the modern one starts with nothing there
    idx = torch.randint(64, (3, 8))
    names, before = list(model.state_dict()), model(idx)[0]
    speed_up(model, CPU)
    types = {type(module) for module in model.modules()}
    assert (ConvolutionalLinear in types) == slow
    assert (nn.Linear in types) != slow
    assert (FewPassRMSNorm in types) == (kind is ModernGPT and not compiler_there)
    in_c = {fused.FusedRMSNorm, fused.FusedAttention, fused.FusedSwiGLU} if kind is ModernGPT else {fused.FusedGELU}
    assert types & fused_parts == (in_c if compiler_there else set()) | {fused.QuickDropout}
    assert not {nn.RMSNorm, nn.Dropout} & types
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(idx)[0], before)
    if dropout:
        model.train()
        assert not torch.equal(model(idx)[0], model(idx)[0])
    if kind is GPT:
        assert model.lm_head.weight is model.tok_emb.weight


def test_elsewhere_nothing_is_touched():
    model = GPT(GPTConfig(n_layer=1, dropout=0.1))
    speed_up(model, torch.device("cuda"))
    assert {nn.Linear, nn.Dropout} <= {type(module) for module in model.modules()}
