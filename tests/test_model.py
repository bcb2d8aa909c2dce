import json
import math

import pytest
import torch

from minigpt import GPT, BigramLanguageModel, GPTConfig
from minigpt.block import Block
from minigpt.config import TrainConfig
from minigpt.hf import gpt2_name
from minigpt.optim import make_optimizer

SMALL = GPTConfig(vocab_size=20, block_size=16, n_layer=2, n_head=2, n_embd=16)
MODELS = [lambda: GPT(SMALL), lambda: BigramLanguageModel(20, 16)]


def random_ids(*shape: int, vocab_size: int = 20) -> torch.Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("make", MODELS, ids=["gpt", "bigram"])
def test_logits_have_one_score_for_each_token_at_each_position_with_and_without_targets(make):
    model, idx = make(), random_ids(3, 5)
    logits, loss = model(idx)
    assert logits.shape == (3, 5, 20)
    assert loss is None
    logits, loss = model(idx, random_ids(3, 5))
    assert logits.shape == (3, 5, 20)
    assert loss.shape == ()


@pytest.mark.parametrize("make", MODELS, ids=["gpt", "bigram"])
def test_the_loss_is_the_mean_surprise_at_the_right_token(make):
    model, idx, targets = make(), random_ids(2, 5), random_ids(2, 5)
    logits, loss = model(idx, targets)
    surprise = -logits.log_softmax(-1).gather(-1, targets[..., None])
    torch.testing.assert_close(loss, surprise.mean())


def test_no_position_sees_the_future():
    """Change a later token: everything before it stays bitwise the same, and it itself and later ones change."""
    torch.manual_seed(0)
    model, idx = GPT(SMALL).eval(), random_ids(2, 16)
    before, _ = model(idx)
    for changed in (1, 8, 15):
        other = idx.clone()
        other[:, changed] = (other[:, changed] + 1) % 20
        after, _ = model(other)
        assert torch.equal(after[:, :changed], before[:, :changed])
        assert not torch.equal(after[:, changed], before[:, changed])


def test_a_bigram_has_no_memory_and_a_gpt_has():
    torch.manual_seed(0)
    first, second = torch.tensor([[1, 2, 3]]), torch.tensor([[7, 9, 3]])  # the same last token
    for model, forgets in ((BigramLanguageModel(20), True), (GPT(SMALL), False)):
        a, b = model(first)[0][0, -1], model(second)[0][0, -1]
        assert torch.equal(a, b) == forgets


def test_without_positions_attention_is_a_bag_and_with_positions_it_is_not():
    """One layer: the last token answers the same whatever the order of those before it, until positions are added."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=20, block_size=16, n_layer=1, n_head=2, n_embd=16)).eval()
    for parameter in model.parameters():  # large weights, so that attention is far from even
        torch.nn.init.normal_(parameter, std=0.5)
    idx = torch.arange(10)[None]
    shuffled = torch.cat([idx[:, torch.randperm(9)], idx[:, 9:]], dim=1)

    torch.nn.init.zeros_(model.pos_emb.weight)
    torch.testing.assert_close(model(idx)[0][0, -1], model(shuffled)[0][0, -1], rtol=1e-4, atol=1e-4)
    torch.nn.init.normal_(model.pos_emb.weight, std=0.5)
    assert not torch.allclose(model(idx)[0][0, -1], model(shuffled)[0][0, -1], atol=0.1)


@pytest.mark.parametrize(("vocab_size", "n_embd"), [(65, 128), (65, 384), (256, 64)])
def test_before_training_the_loss_is_that_of_a_blind_guess(vocab_size, n_embd):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=vocab_size, n_embd=n_embd))
    ids = random_ids(8, 65, vocab_size=vocab_size)
    _, loss = model(ids[:, :-1], ids[:, 1:])
    assert abs(loss.item() - math.log(vocab_size)) < 0.15


def test_one_batch_can_be_learned_by_heart():
    torch.manual_seed(0)
    model = GPT(SMALL)
    optimizer = make_optimizer(model, TrainConfig(learning_rate=1e-2, weight_decay=0.0))
    ids = random_ids(4, 17)
    for _ in range(150):
        _, loss = model(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


@pytest.mark.parametrize(
    ("shape", "millions"),
    [
        (dict(block_size=64, n_layer=4, n_head=4, n_embd=128), 0.80),
        (dict(block_size=256, n_layer=6, n_head=6, n_embd=384), 10.65),
    ],
)
def test_parameter_counts_are_those_of_nanogpt_up_to_our_biases(shape, millions):
    """nanoGPT counts without positions and, in these configurations, has no biases."""
    config = GPTConfig(vocab_size=65, **shape)
    model = GPT(config)
    biases = sum(p.numel() for name, p in model.named_parameters() if name.endswith("bias"))
    total = sum(p.numel() for p in model.parameters())
    assert total == config.n_params
    assert (total - biases - model.pos_emb.weight.numel()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_the_output_table_is_the_token_embedding():
    model = GPT(SMALL)
    assert model.lm_head.weight is model.tok_emb.weight


def test_outputs_that_are_added_to_the_residual_start_smaller_with_depth():
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=8, n_embd=128))
    assert model.blocks[0].mlp.up.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.blocks[0].mlp.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert model.blocks[0].attn.proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)


def test_a_text_longer_than_the_context_is_refused_in_words():
    with pytest.raises(ValueError, match="17 tokens do not fit in a context of block_size 16"):
        GPT(SMALL)(random_ids(1, 17))


def test_a_block_adds_to_what_it_is_given():
    """With nothing to add (both outputs zero) a block passes its input on: the straight way for the gradient."""
    block = Block(16, 2)
    for layer in (block.attn.proj, block.mlp.down):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = torch.randn(2, 5, 16)
    assert torch.equal(block(x), x)


# ---- the same model as transformers' -------------------------------------------------------------------------------

SHAPES = [
    dict(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_embd=128),
    dict(vocab_size=300, block_size=32, n_layer=1, n_head=1, n_embd=24),
    dict(vocab_size=11, block_size=50, n_layer=3, n_head=6, n_embd=48),
]


def hf_gpt2(shape: dict):
    """transformers' GPT-2 of a shape, with larger random weights and biases than it starts with, so that all count."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_positions": shape["block_size"], **{k: v for k, v in shape.items() if k != "block_size"}}
    theirs = GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return theirs


@pytest.mark.parametrize("shape", SHAPES, ids=["small", "narrow", "odd"])
def test_it_equals_the_gpt2_of_transformers_forward_and_backward(shape, tmp_path):
    theirs = hf_gpt2(shape)
    theirs.save_pretrained(tmp_path)
    ours = GPT.from_pretrained(tmp_path)
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
        theirs_name, transposed = gpt2_name(name)
        grad = parameter.grad.T if transposed else parameter.grad
        expected_grad = gradients.pop(theirs_name)
        assert (grad - expected_grad).abs().max() <= 1e-5 * max(1.0, expected_grad.abs().max().item()), name
    assert not gradients


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(activation_function="relu"), "activation_function = relu"),
        (dict(n_inner=100), "n_inner = 100"),
        (dict(layer_norm_epsilon=1e-6), "layer_norm_epsilon"),
        (dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
        (dict(tie_word_embeddings=False), "tie_word_embeddings"),
    ],
)
def test_a_gpt2_with_other_details_is_refused_by_name(change, message, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = dict(vocab_size=11, n_positions=8, n_layer=1, n_head=1, n_embd=8)
    GPT2LMHeadModel(GPT2Config(**sizes, **change)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        GPT.from_pretrained(tmp_path)


def test_the_names_of_the_first_gpt2_files_are_understood():
    """They lack the prefix, keep the causal mask, and may hold the tied table twice."""
    model = GPT(SMALL)
    config, tensors = model.to_hf()
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old |= {"h.0.attn.bias": torch.ones(1, 1, 16, 16), "lm_head.weight": old["wte.weight"]}
    again = GPT.from_hf(config, old)
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("make", MODELS, ids=["gpt", "bigram"])
def test_a_model_survives_the_way_to_a_file_and_back(make):
    model = make()
    config, tensors = model.to_hf()
    again = type(model).from_hf(config, tensors)
    assert torch.equal(model(random_ids(1, 8))[0], again(random_ids(1, 8))[0])
    assert all(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize("make", MODELS, ids=["gpt", "bigram"])
def test_weights_that_do_not_fit_are_named(make):
    config, tensors = make().to_hf()
    name = next(iter(tensors))
    with pytest.raises(ValueError, match="is missing"):
        type(make()).from_hf(config, {k: v for k, v in tensors.items() if k != name})
    with pytest.raises(ValueError, match="is not part of this model"):
        type(make()).from_hf(config, tensors | {"stranger": torch.ones(1)})
    with pytest.raises(ValueError, match="should be"):
        type(make()).from_hf(config, tensors | {name: torch.ones(3, 3)})


def test_a_file_of_far_too_many_tensors_is_refused_before_they_are_read(tmp_path):
    from safetensors.torch import save_file

    config, tensors = GPT(SMALL).to_hf()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", **config}))
    save_file(tensors | {f"x{i}": torch.zeros(1) for i in range(100)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"{len(tensors) + 100} tensors; a model of this shape has at most"):
        GPT.from_pretrained(tmp_path)
