import itertools

import pytest
import torch
from conftest import awake

from minigpt import GPT, RUNGS, BigramLanguageModel, GPTConfig, ModernGPT
from minigpt.checkpoint import MODELS
from minigpt.rungs import STACKS, Heads, Residual, Stack, TokenAndPosition

SMALL = GPTConfig(vocab_size=20, block_size=16, n_layer=3, n_head=2, n_embd=16)
NAMES = list(RUNGS)


def make(name: str):
    torch.manual_seed(0)
    return awake(RUNGS[name].model(SMALL))


def random_ids(*shape: int) -> torch.Tensor:
    return torch.randint(20, shape, generator=torch.Generator().manual_seed(1))


def kinds(name: str) -> list[str]:
    """The classes of everything a rung is made of."""
    return [type(module).__name__ for module in make(name).modules()]


def test_there_are_sixteen_in_the_order_of_the_lecture_and_then_of_history():
    assert [rung.number for rung in RUNGS.values()] == list(range(1, 17))
    assert [
        *("bigram", "embedding", "positions", "head", "heads", "feedforward", "blocks", "residual", "layernorm", "init"),
        *("gpt", "rotary", "rmsnorm", "swiglu", "modern", "muon"),
    ] == NAMES
    assert all(len(rung.idea.split()) <= 6 for rung in RUNGS.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_rung_keeps_the_contract(name):
    model, idx = make(name), random_ids(3, 5)
    logits, loss = model(idx)
    assert logits.shape == (3, 5, 20)
    assert loss is None
    logits, loss = model(idx, random_ids(3, 5))
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits.flatten(0, 1), random_ids(3, 5).flatten()))
    assert model.block_size == 16
    assert model(random_ids(1, 16))[0].shape == (1, 16, 20)


@pytest.mark.parametrize("name", NAMES)
def test_no_rung_sees_the_future(name):
    model, idx = make(name).eval(), random_ids(2, 16)
    before, _ = model(idx)
    other = idx.clone()
    other[:, 9] = (other[:, 9] + 1) % 20
    after, _ = model(other)
    assert torch.equal(after[:, :9], before[:, :9])
    assert not torch.equal(after[:, 9], before[:, 9])


@pytest.mark.parametrize("name", NAMES)
def test_a_rung_looks_back_from_the_first_head_on(name):
    model = make(name).eval()
    first, second = random_ids(1, 8), random_ids(1, 8)
    second[0, :6] = (second[0, :6] + 1) % 20
    same = torch.equal(model(first)[0][0, -1], model(second)[0][0, -1])
    assert same == (RUNGS[name].number < RUNGS["head"].number)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_a_rung_learns(name):
    model = make(name)
    _, loss = model(random_ids(4, 16), random_ids(4, 16).flip(0))
    loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0 or "key.bias" in parameter_name, parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_a_rung_survives_the_way_to_a_file_and_back(name):
    model = make(name).eval()
    config, tensors = model.to_hf()
    again = MODELS[model.model_type].from_hf(config, tensors).eval()
    assert torch.equal(model(random_ids(1, 8))[0], again(random_ids(1, 8))[0])
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())
    assert all(p.requires_grad and p.device.type == "cpu" for p in again.parameters())


def test_an_unknown_rung_in_a_file_is_named():
    config, tensors = make("head").to_hf()
    with pytest.raises(ValueError, match="names the rung 'ghost'; known are embedding"):
        Stack.from_hf(config | {"rung": "ghost"}, tensors)


def test_each_rung_adds_what_its_idea_says():
    """The parts that are new, rung by rung."""
    assert "Embedding" in kinds("bigram")
    assert "Linear" in kinds("embedding")
    assert "TokenAndPosition" not in kinds("embedding")
    assert "TokenAndPosition" in kinds("positions")
    assert kinds("head").count("Head") == 1
    assert kinds("heads").count("Head") == 2
    assert "FeedForward" in kinds("feedforward")
    assert kinds("blocks").count("FeedForward") == 3
    assert "Residual" not in kinds("blocks")
    assert kinds("residual").count("Residual") == 6
    assert "LayerNorm" not in kinds("residual")
    assert kinds("layernorm").count("LayerNorm") == 7
    assert kinds("rotary").count("RotaryAttention") == 3
    assert "TokenAndPosition" not in kinds("rotary")
    assert "LayerNorm" not in kinds("rmsnorm")
    assert kinds("rmsnorm").count("NormedAttention") == 3
    assert kinds("swiglu").count("SwiGLU") == 3
    assert "TiedScores" in kinds("swiglu")
    assert kinds("modern") == kinds("muon")
    assert [rung.optimizer for rung in RUNGS.values()] == ["adamw"] * 15 + ["muon"]


def test_the_ends_of_the_ladder_are_the_models_themselves():
    assert type(make("bigram")) is BigramLanguageModel
    assert type(make("gpt")) is GPT
    assert type(make("modern")) is ModernGPT
    assert type(make("muon")) is ModernGPT
    assert set(NAMES) - set(STACKS) == {"bigram", "gpt", "modern", "muon"}


def test_initial_weights_are_the_only_difference_between_layernorm_and_init():
    a, b = make("layernorm"), make("init")
    assert [(n, p.shape) for n, p in a.named_parameters()] == [(n, p.shape) for n, p in b.named_parameters()]
    assert b.parts[0].tokens.weight.std() < 0.03 < a.parts[0].tokens.weight.std()


def test_rotary_differs_from_the_gpt_only_in_positions_and_swiglu_from_modern_only_in_its_start_and_ties():
    """With the same weights in the same places, the outputs agree."""
    modern, stack = make("modern").eval(), make("swiglu").eval()
    with torch.no_grad():
        modern.lm_head.weight.copy_(modern.tok_emb.weight)
        stack.parts[0].weight.copy_(modern.tok_emb.weight)
        for i, block in enumerate(modern.blocks):
            attention, gate = stack.parts[2 + i]
            attention.parts[1].load_state_dict(block.attn.state_dict())
            gate.parts[1].load_state_dict(block.mlp.state_dict())
    torch.testing.assert_close(modern(random_ids(2, 9))[0], stack(random_ids(2, 9))[0])
    gpt, rotary = make("gpt"), make("rotary")
    table = gpt.pos_emb.weight.numel()
    assert sum(p.numel() for p in gpt.parameters()) - table == sum(p.numel() for p in rotary.parameters())


def test_heads_side_by_side_are_each_head_alone():
    heads = Heads(head for head in (make("head").parts[1], make("head").parts[1]))
    x = torch.randn(2, 5, 16)
    assert torch.equal(heads(x), torch.cat([heads[0](x), heads[1](x)], -1))


def test_a_residual_passes_its_input_on():
    zero = torch.nn.Linear(4, 4)
    torch.nn.init.zeros_(zero.weight)
    torch.nn.init.zeros_(zero.bias)
    x = torch.randn(3, 4)
    assert torch.equal(Residual(zero)(x), x)


def test_positions_are_added_to_tokens():
    part, idx = TokenAndPosition(SMALL), random_ids(1, 4)
    torch.testing.assert_close(part(idx), part.tokens(idx) + part.positions.weight[:4])


def test_neighbours_differ():
    shapes = {name: [tuple(p.shape) for p in make(name).parameters()] for name in NAMES}
    for a, b in itertools.pairwise(NAMES):
        assert shapes[a] != shapes[b] or b in ("head", "heads", "init", "muon"), (a, b)
