"""What fused.py does in one pass is what torch does in several."""

import copy

import pytest
import torch
import torch.nn as nn

from minigpt import Batches, ModernGPT, TrainConfig, fused, speed, train
from minigpt.config import GPTConfig
from minigpt.modern import NormedAttention, SwiGLU

pytestmark = pytest.mark.usefixtures("compiler")


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    monkeypatch.setattr(fused, "GRAIN", 0)
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def there():
    assert fused.available()


@pytest.fixture(params=["C", "torch"])
def dropped(request, monkeypatch):
    monkeypatch.setattr(fused, "available", lambda: request.param == "C")
    return fused.dropped


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.GELU("tanh"), (37,)),
        (nn.GELU("tanh"), (3, 7, 40)),
        (nn.RMSNorm(24, eps=1e-6), (24,)),
        (nn.RMSNorm(24), (2, 3, 7, 24)),
        (SwiGLU(24), (3, 7, 24)),
        (NormedAttention(24, 2), (3, 7, 24)),
        (NormedAttention(64, 1), (1, 70, 64)),
    ],
    ids=repr,
)
def test_values_and_gradients_are_those_of_torch(module, shape):
    torch.manual_seed(0)
    module = copy.deepcopy(module)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = copy.deepcopy(module)
    for part in ours.modules():
        part.__class__ = speed.IN_ONE_PASS.get(type(part), type(part))
    assert type(ours) is not type(module)
    x = (3 * torch.randn(shape)).requires_grad_()
    y = x.detach().clone().requires_grad_()
    expected, found = module(x), ours(y)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weigh = torch.randn(expected.shape)
    expected.backward(weigh)
    found.backward(weigh)
    torch.testing.assert_close(y.grad, x.grad, rtol=1e-4, atol=1e-5)
    for a, b in zip(ours.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_layouts_that_come_from_elsewhere_are_understood():
    """Values seen from another side, and gradients in any layout."""
    for module in (nn.RMSNorm(8), nn.GELU("tanh")):
        ours = copy.deepcopy(module)
        ours.__class__ = speed.IN_ONE_PASS[type(module)]
        x, y = (torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2))
        torch.testing.assert_close(module(x.transpose(1, 2)), ours(y.transpose(1, 2)))
        (module(x.transpose(1, 2)).transpose(1, 3) * torch.arange(3.0)).sum().backward()
        (ours(y.transpose(1, 2)).transpose(1, 3) * torch.arange(3.0)).sum().backward()
        torch.testing.assert_close(x.grad, y.grad)


def test_a_gelu_far_out_is_right_and_hides_no_nan():
    x = torch.tensor([-1e4, -100.0, -10.0, -5.0, 0.0, 5.0, 10.0, 100.0, 1e4], requires_grad=True)
    y = x.detach().clone().requires_grad_()
    theirs, ours = nn.GELU("tanh")(x), fused.FusedGELU("tanh")(y)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    theirs.sum().backward()
    ours.sum().backward()
    torch.testing.assert_close(y.grad, x.grad, rtol=1e-5, atol=1e-5)
    assert fused.FusedGELU("tanh")(torch.tensor([1.0, float("nan")])).isnan().tolist() == [False, True]


def test_heads_in_any_layout_are_placed():
    torch.manual_seed(0)
    theirs, ours = NormedAttention(24, 2), fused.FusedAttention(24, 2)
    layouts = (torch.randn(3, 2, 7, 12), torch.randn(7, 12, 2, 3).permute(3, 2, 0, 1), torch.randn(1, 2, 1, 12),
               torch.randn(3, 2, 1, 12), torch.randn(3, 1, 2, 12).transpose(1, 2), torch.randn(3, 1, 5, 12))  # fmt: skip
    for x in layouts:
        x, y = (x.clone().requires_grad_() for _ in range(2))
        expected, found = theirs.placed(theirs.q_norm, x, 3), ours.placed(ours.q_norm, y, 3)
        torch.testing.assert_close(found, expected)
        expected.sin().sum().backward()
        found.sin().sum().backward()
        torch.testing.assert_close(y.grad, x.grad)


def test_what_does_not_fit_fails_as_with_torch_or_goes_its_way():
    odd = fused.FusedAttention(6, 2)  # channels that cannot be turned in pairs
    with pytest.raises(RuntimeError):
        odd(torch.randn(1, 4, 6))
    with pytest.raises(RuntimeError):
        fused.FusedRMSNorm(8)(torch.randn(2, 4))
    for norm in (nn.RMSNorm(8, elementwise_affine=False), nn.RMSNorm((4, 8))):
        ours, x = copy.deepcopy(norm), torch.randn(3, 4, 8)
        ours.__class__ = fused.FusedRMSNorm
        assert torch.equal(ours(x), norm(x))


def test_a_second_derivative_is_refused_not_wrong():
    x = torch.randn(5, requires_grad=True)
    (gradient,) = torch.autograd.grad(fused.FusedGELU("tanh")(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_under_autocast_a_model_goes_the_way_of_torch():
    model = ModernGPT(GPTConfig(vocab_size=32, block_size=16, n_layer=2, n_head=2, n_embd=32))
    nn.init.normal_(model.lm_head.weight)
    idx = torch.randint(32, (3, 16))
    with torch.autocast("cpu", torch.bfloat16):
        before = model(idx)[0]
        speed.speed_up(model, torch.device("cpu"))
        torch.testing.assert_close(model(idx)[0], before, rtol=0.05, atol=0.1)


def test_what_is_not_float32_goes_the_way_of_torch():
    x = torch.randn(4, 8, dtype=torch.bfloat16)
    assert torch.equal(fused.FusedGELU("tanh")(x), nn.GELU("tanh")(x))
    assert torch.equal(fused.FusedGELU()(x.float()), nn.GELU()(x.float()))  # the other form
    norm = nn.RMSNorm(8)
    ours = copy.deepcopy(norm)
    ours.__class__ = fused.FusedRMSNorm
    assert torch.equal(ours.double()(x.double()), norm.double()(x.double()))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("shape", [(200_001,), (7, 11, 3001)])
def test_dropout_keeps_the_share_that_it_should_and_the_mean(dropped, p, shape):
    torch.manual_seed(0)
    mask = dropped(torch.ones(shape), p)
    assert mask.shape == shape
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)])
    n = mask.numel()
    assert (mask > 0).float().mean().item() == pytest.approx(1 - p, abs=4 * (p * (1 - p) / n) ** 0.5)


def test_what_dropout_keeps_is_drawn_for_each_element_alone_and_anew_each_time(dropped):
    torch.manual_seed(0)
    first, second = ((dropped(torch.ones(400_000), 0.3) == 0).float() for _ in range(2))
    for distance in (1, 2, 3, 4, 8, 64, 1000):
        assert (first[distance:] * first[:-distance]).mean().item() == pytest.approx(0.09, abs=0.003)
        assert (first[distance:] * second[:-distance]).mean().item() == pytest.approx(0.09, abs=0.003)
    assert (first * second).mean().item() == pytest.approx(0.09, abs=0.003)
    assert first.view(-1, 4).mean(0).tolist() == pytest.approx([0.3] * 4, abs=0.006)
    torch.manual_seed(0)
    assert torch.equal((dropped(torch.ones(400_000), 0.3) == 0).float(), first)


def test_dropout_passes_the_gradient_where_it_passed_the_value_and_does_nothing_in_use(dropped):
    torch.manual_seed(0)
    dropout, x = fused.QuickDropout(0.25), torch.ones(30, 40, requires_grad=True)
    out = dropout(x.mT)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach().mT)
    assert torch.equal(dropout.eval()(x), x)


def test_what_is_dropped_does_not_depend_on_a_compiler(monkeypatch):
    kept = []
    for there in (True, False):
        monkeypatch.setattr(fused, "available", lambda there=there: there)
        torch.manual_seed(0)
        kept.append(fused.dropped(torch.ones(7, 11), 0.3))
    assert torch.equal(*kept)


def test_one_number_that_is_none_is_found_among_all(monkeypatch):
    tensors = [torch.ones(5), torch.ones(300, 7), torch.ones(()), torch.empty(0)]
    for there in (True, False):
        monkeypatch.setattr(fused, "available", lambda there=there: there)
        assert fused.all_finite(tensors)
        for place, wrong in ((0, float("nan")), (1, float("inf")), (2, float("-inf"))):
            broken = [x.clone() for x in tensors]
            broken[place].view(-1)[-1] = wrong
            assert not fused.all_finite(broken)


def test_a_model_learns_the_same_without_a_compiler(monkeypatch):
    losses = []
    data = torch.randint(32, (4000,), generator=torch.Generator().manual_seed(0)).byte().numpy()
    for there in (True, False):
        monkeypatch.setattr(fused, "available", lambda there=there: there)
        torch.manual_seed(0)
        model = ModernGPT(GPTConfig(vocab_size=32, block_size=16, n_layer=2, n_head=2, n_embd=32, dropout=0.1))
        config = TrainConfig(max_iters=20, batch_size=4, eval_interval=20, optimizer="muon")
        losses.append([metrics.loss for metrics in train(model, Batches(data, 4, 16, 1), data[:256], config)][1:])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
