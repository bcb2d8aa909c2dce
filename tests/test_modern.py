import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import awake

from minigpt import GPTConfig, SampleConfig
from minigpt.attention import MultiHeadAttention, attention_weights, causal_mask
from minigpt.block import FeedForward
from minigpt.engine import generate
from minigpt.hf import qwen3_names, swiglu_width
from minigpt.modern import (
    ModernBlock,
    ModernGPT,
    NormedAttention,
    RotaryAttention,
    SwiGLU,
    rotate,
)
from minigpt.torch_engine import TorchReader

SHAPES = [
    dict(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_embd=128),
    dict(vocab_size=300, block_size=32, n_layer=1, n_head=1, n_embd=24),
    dict(vocab_size=11, block_size=50, n_layer=3, n_head=6, n_embd=12),
]
SMALL = GPTConfig(vocab_size=20, block_size=16, n_layer=2, n_head=2, n_embd=16)


def random_ids(*shape: int, vocab_size: int = 20) -> torch.Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(1))


# ---- rotary positions --------------------------------------------------------------------------------------------------


def test_rotation_turns_each_pair_of_channels_by_position_times_its_frequency():
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 5)  # (T=5, hs=4): the first of pair (0, 2) points right
    turned = rotate(x)
    for position in range(5):
        expected = [math.cos(position), 0.0, math.sin(position), 0.0]
        torch.testing.assert_close(turned[position], torch.tensor(expected))
    slow = rotate(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), start=7)[0]  # the second pair turns 100 times as slowly
    torch.testing.assert_close(slow, torch.tensor([0.0, math.cos(0.07), 0.0, math.sin(0.07)]))


def test_rotation_keeps_lengths_and_the_scores_feel_only_the_distance():
    q, k = torch.randn(8), torch.randn(8)
    score = lambda m, n: rotate(q[None], m)[0] @ rotate(k[None], n)[0]  # noqa: E731
    assert rotate(q[None], 9).norm().item() == pytest.approx(q.norm().item(), rel=1e-5)
    for m, n in ((5, 2), (9, 9), (100, 40)):
        assert score(m, n).item() == pytest.approx(score(m + 13, n + 13).item(), abs=1e-4)
    assert abs(score(5, 2) - score(5, 3)) > 1e-3


def test_rotary_attention_is_no_bag_though_nothing_is_added_to_the_tokens():
    torch.manual_seed(0)
    x = torch.randn(1, 6, 16)
    order = torch.tensor([3, 1, 0, 4, 2, 5])
    bag, rotary = MultiHeadAttention(16, 2), RotaryAttention(16, 2)
    assert torch.allclose(bag(x)[:, -1], bag(x[:, order])[:, -1], atol=1e-6)
    assert not torch.allclose(rotary(x)[:, -1], rotary(x[:, order])[:, -1], atol=1e-3)


def test_the_fast_path_of_rotary_attention_is_attention_weights_times_values():
    for attention in (RotaryAttention(16, 2), NormedAttention(16, 2)):
        x = torch.randn(2, 7, 16)
        q, k, v = attention.heads(x)
        out = (attention_weights(q, k) @ v).transpose(1, 2).flatten(2)
        torch.testing.assert_close(attention(x), attention.proj(out))


# ---- norms and the gate ------------------------------------------------------------------------------------------------


def test_normed_queries_and_keys_bound_every_score():
    attention = NormedAttention(32, 2)
    for size in (1.0, 1e4):
        q, k, _ = attention.heads(size * torch.randn(2, 9, 32))
        scores = q @ k.transpose(-2, -1) / 16**0.5
        assert scores.abs().max() <= 16**0.5 + 1e-3  # |q| = |k| = sqrt(hs) while the gains are 1


def test_a_block_normalises_the_scale_and_nothing_else():
    x = torch.randn(3, 16) + 5
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(ModernBlock(16, 2).ln_1(x), expected)


def test_the_gate_decides_how_much_passes():
    mlp, x = SwiGLU(12), torch.randn(2, 5, 12)
    gate = mlp.gate(x)
    torch.testing.assert_close(mlp(x), mlp.down(gate * torch.sigmoid(gate) * mlp.up(x)))
    torch.nn.init.zeros_(mlp.gate.weight)
    assert mlp(x).abs().max() == 0


@pytest.mark.parametrize(("n_embd", "width"), [(3, 8), (32, 88), (128, 344), (384, 1024), (768, 2048)])
def test_three_matrices_hold_as_much_as_two_before(n_embd, width):
    assert swiglu_width(n_embd) == width
    if n_embd >= 128:
        weights = sum(p.numel() for p in SwiGLU(n_embd).parameters())
        before = sum(p.numel() for p in FeedForward(n_embd).parameters() if p.dim() == 2)
        assert weights == pytest.approx(before, rel=0.01)


def test_there_are_no_biases_and_no_position_table():
    names = [name for name, _ in ModernGPT(SMALL).named_parameters()]
    assert not [name for name in names if "bias" in name or "pos_emb" in name]


# ---- the whole model ---------------------------------------------------------------------------------------------------


def test_no_position_sees_the_future():
    torch.manual_seed(0)
    model, idx = awake(ModernGPT(SMALL)).eval(), random_ids(2, 16)
    before, _ = model(idx)
    for changed in (1, 8, 15):
        other = idx.clone()
        other[:, changed] = (other[:, changed] + 1) % 20
        after, _ = model(other)
        assert torch.equal(after[:, :changed], before[:, :changed])
        assert not torch.equal(after[:, changed], before[:, changed])


def test_before_training_the_loss_is_that_of_a_blind_guess():
    torch.manual_seed(0)
    model = ModernGPT(GPTConfig(vocab_size=65, n_embd=128))
    _, loss = model(random_ids(8, 64, vocab_size=65), random_ids(8, 64, vocab_size=65).flip(0))
    assert loss.item() == pytest.approx(math.log(65), abs=1e-5)


@pytest.mark.parametrize("block_size", [1, 2, 7, 8])
@pytest.mark.parametrize("settings", [dict(temperature=0.0), dict(seed=3)])
def test_cached_and_uncached_give_the_same_tokens(block_size, settings):
    torch.manual_seed(0)
    model = awake(ModernGPT(GPTConfig(9, block_size, n_layer=2, n_head=2, n_embd=16)))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name or "ln" in name), std=0.4)
    config = SampleConfig(max_new_tokens=40, **settings)
    for prompt in ([1], list(range(9)) * 3):
        cached = list(generate(model, prompt, config))
        wide = TorchReader(in_a_band(model), use_cache=False)
        assert cached == list(generate(wide, prompt[-block_size:], config))


def in_a_band(model: ModernGPT) -> ModernGPT:
    """The same weights without a ring: all of the text at once, each position masked to the block_size up to itself."""
    wide = ModernGPT(replace(model.config, block_size=1000)).eval()
    wide.load_state_dict(model.state_dict())

    def attend(q, k, v, seen):
        causal = causal_mask(q.shape[-2], k.shape[-2])
        return F.scaled_dot_product_attention(q, k, v, causal & ~causal.tril(-model.block_size))

    for block in wide.blocks:
        block.attn.attend = attend
    return wide


def test_beyond_the_context_tokens_are_read_one_by_one():
    model = ModernGPT(GPTConfig(9, 8, n_layer=1, n_head=1, n_embd=8))
    cache = model.make_cache()
    model(random_ids(1, 8, vocab_size=9), cache=cache)
    model(random_ids(1, 1, vocab_size=9), cache=cache)
    with pytest.raises(ValueError, match="11 tokens do not fit"):
        model(random_ids(1, 2, vocab_size=9), cache=cache)
    with pytest.raises(ValueError, match="9 tokens do not fit"):
        model(random_ids(1, 9, vocab_size=9))


def test_a_head_size_that_cannot_turn_is_refused_in_words():
    with pytest.raises(ValueError, match="n_embd / n_head is 3; rotary positions turn pairs"):
        ModernGPT(GPTConfig(n_embd=12, n_head=4))


# ---- the same model as transformers' -----------------------------------------------------------------------------------


def hf_qwen3(shape: dict, **details):
    """transformers' Qwen3 of a shape, far enough from where it starts that every weight counts."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    sizes = dict(
        vocab_size=shape["vocab_size"],
        max_position_embeddings=shape["block_size"],
        hidden_size=shape["n_embd"],
        intermediate_size=swiglu_width(shape["n_embd"]),
        num_hidden_layers=shape["n_layer"],
        num_attention_heads=shape["n_head"],
        num_key_value_heads=shape["n_head"],
        head_dim=shape["n_embd"] // shape["n_head"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
    )
    theirs = Qwen3ForCausalLM(Qwen3Config(**{**sizes, **details}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return theirs


@pytest.mark.parametrize("shape", SHAPES, ids=["small", "narrow", "odd"])
def test_it_equals_the_qwen3_of_transformers_forward_and_backward(shape, tmp_path):
    theirs = hf_qwen3(shape)
    theirs.save_pretrained(tmp_path)
    ours = ModernGPT.from_pretrained(tmp_path)
    idx = random_ids(2, shape["block_size"], vocab_size=shape["vocab_size"])

    logits, loss = ours(idx[:, :-1], idx[:, 1:])
    expected = theirs(idx, labels=idx)
    error = (logits - expected.logits[:, :-1]).abs().max() / expected.logits.abs().max()
    assert error.item() < 1e-5
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)

    loss.backward()
    expected.loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        expected_grad = torch.cat([gradients.pop(theirs_name) for theirs_name in qwen3_names(name)])
        assert (parameter.grad - expected_grad).abs().max() <= 1e-5 * max(1.0, expected_grad.abs().max().item()), name
    assert not gradients


@pytest.mark.parametrize("shape", SHAPES, ids=["small", "narrow", "odd"])
def test_what_we_write_is_read_by_transformers(shape, tmp_path):
    import safetensors.torch
    from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

    from minigpt.checkpoint import hf_config, weights_file
    from minigpt.files import to_json

    torch.manual_seed(0)
    ours = ModernGPT(GPTConfig(**shape)).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    (tmp_path / "config.json").write_bytes(to_json(hf_config(ours)))
    (tmp_path / "model.safetensors").write_bytes(weights_file(ours))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs) is Qwen3ForCausalLM
    assert set(safetensors.torch.load_file(tmp_path / "model.safetensors")) == {n for n, _ in theirs.named_parameters()}
    idx = random_ids(2, shape["block_size"], vocab_size=shape["vocab_size"])
    logits, expected = ours(idx)[0], theirs(idx).logits
    assert ((logits - expected).abs().max() / expected.abs().max()).item() < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(hidden_act="relu"), "hidden_act = relu"),
        (dict(num_key_value_heads=1), "num_key_value_heads = 1; only 2"),
        (dict(head_dim=16), "head_dim = 16"),
        (dict(intermediate_size=100), "intermediate_size = 100"),
        (dict(rope_parameters={"rope_type": "default", "rope_theta": 1e6}), "rope_parameters"),
        (dict(rms_norm_eps=1e-5), "rms_norm_eps"),
        (dict(attention_bias=True), "attention_bias"),
        (dict(tie_word_embeddings=True), "tie_word_embeddings"),
    ],
)
def test_a_qwen3_with_other_details_is_refused_by_name(change, message, tmp_path):
    hf_qwen3(dict(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=8), **change).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        ModernGPT.from_pretrained(tmp_path)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model, idx = awake(ModernGPT(GPTConfig(20, 16, 2, 2, 16, dropout=0.5))), random_ids(1, 16)
    a, b = (model.train()(idx)[0] for _ in range(2))
    assert not torch.equal(a, b)
    a, b = (model.eval()(idx)[0] for _ in range(2))
    assert torch.equal(a, b)


def test_every_parameter_is_named_once():
    names = list(itertools.chain.from_iterable(qwen3_names(name) for name, _ in ModernGPT(SMALL).named_parameters()))
    assert len(names) == len(set(names))
    assert F.cross_entropy(ModernGPT(SMALL)(random_ids(1, 4))[0][0], random_ids(4)).isfinite()
