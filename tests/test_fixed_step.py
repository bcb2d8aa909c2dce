"""A step of generation that a GPU records once and repeats."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import awake
from recorder import play_gpu
from test_engine import make_gpt

from minigpt import GPTConfig, ModernGPT, SampleConfig, recording
from minigpt.engine import generate
from minigpt.tokenizer import CharTokenizer
from minigpt.torch_engine import FixedStep, TorchReader
from minigpt.writing import Text, write_many


@pytest.fixture
def gpu(monkeypatch):
    return play_gpu(monkeypatch)


def make_modern(block_size: int = 8) -> ModernGPT:
    torch.manual_seed(0)
    return awake(ModernGPT(GPTConfig(9, block_size, n_layer=2, n_head=2, n_embd=16)))


@pytest.mark.parametrize("make", [make_gpt, make_modern])
@pytest.mark.parametrize("block_size", [1, 2, 7, 8])
@pytest.mark.parametrize("prompt", [[1], [1, 2, 3], list(range(9)) * 3])
def test_recorded_steps_write_what_growing_ones_do(gpu, make, block_size, prompt):
    model = make(block_size)
    for config in (SampleConfig(max_new_tokens=60, temperature=0), SampleConfig(max_new_tokens=60, seed=3)):
        plain = list(generate(TorchReader(model, in_fixed_steps=False), prompt, config))
        assert list(generate(model, prompt, config)) == plain
    always_two = make is make_gpt and block_size == 2 and len(prompt) > 1  # are read again at every slide
    assert len(gpu) == 2 * (not always_two)
    assert all(len(graph.done) > 20 for graph in gpu)


@pytest.mark.parametrize("make", [make_gpt, make_modern])
def test_fixed_steps_that_are_not_recorded_write_the_same(make):
    model, config = make(7), SampleConfig(max_new_tokens=40, seed=3)
    fixed = list(generate(TorchReader(model, in_fixed_steps=True), [1, 2], config))
    assert fixed == list(generate(model, [1, 2], config))


@pytest.mark.parametrize("make", [make_gpt, make_modern])
def test_scores_and_lengths_are_those_of_growing_steps(gpu, make):
    model = make(16)
    plain, recorded = TorchReader(model, in_fixed_steps=False), TorchReader(model)
    for tokens in ([1, 2, 3], [4], [5], [6, 7], [8], [0]):
        np.testing.assert_allclose(recorded.read(tokens), plain.read(tokens), atol=1e-5)
        assert recorded.length == plain.length
    recorded.forget()
    plain.forget()
    np.testing.assert_allclose(recorded.read([3]), plain.read([3]), atol=1e-5)


def test_what_the_memory_held_before_it_was_written_to_does_not_matter(gpu):
    model = make_gpt(8)
    reader = TorchReader(model)
    for layer in reader.cache:
        layer.keys[:, :, 3:], layer.values[:, :, 3:] = 1e4, -1e4
    np.testing.assert_allclose(reader.read([2]), TorchReader(model, in_fixed_steps=False).read([2]), atol=1e-5)


def test_several_texts_are_recorded_as_one(gpu, monkeypatch):
    """Rows that begin alike, end apart, and differ in between."""
    model, config = make_modern(8), SampleConfig(max_new_tokens=30, seed=1)
    tokenizer = CharTokenizer("\nabcdefgh")

    def texts() -> list[str]:
        found = [Text(tokenizer, stop_ids=[7]) for _ in range(5)]
        write_many(model, [1, 2], config, found)
        return [text.text for text in found]

    recorded = texts()
    monkeypatch.setattr(recording, "DEVICES", {"cuda"})
    assert texts() == recorded
    assert len({len(text) for text in recorded}) > 1
    assert len(gpu) == 1


def test_more_tokens_than_fit_are_refused_after_recording_too(gpu):
    reader = TorchReader(make_gpt(4))
    for token in (1, 2, 3, 4):
        reader.read([token])
    with pytest.raises(ValueError, match="5 tokens do not fit in a context of block_size 4"):
        reader.read([5])


def test_where_recording_fails_the_text_is_the_same_with_a_warning(gpu, monkeypatch):
    model, config = make_gpt(), SampleConfig(max_new_tokens=20, temperature=0)
    plain = list(generate(TorchReader(model, in_fixed_steps=False), [1], config))

    @contextmanager
    def failing(graph, stream):
        yield
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", failing)
    with pytest.warns(UserWarning, match="could not be recorded on this GPU .operation not permitted"):
        written = list(generate(model, [1], config))
    assert written == plain


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of NVIDIA")
@pytest.mark.parametrize("make", [make_gpt, make_modern])
def test_a_real_gpu_writes_what_it_writes_without_recording(make):
    model, config = make(8).cuda(), SampleConfig(max_new_tokens=60, temperature=0)
    reader = TorchReader(model)
    assert isinstance(reader.step, FixedStep)
    assert list(generate(reader, [1, 2, 3], config)) == list(
        generate(TorchReader(model, in_fixed_steps=False), [1, 2, 3], config)
    )
