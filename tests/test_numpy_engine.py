import ast
import contextlib
import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import awake

from minigpt import GPT, BigramLanguageModel, GPTConfig, ModernGPT, generate, numpy_engine
from minigpt.checkpoint import hf_config
from minigpt.config import SampleConfig
from minigpt.native_engine import NativeModel, NoCompiler
from minigpt.numpy_engine import NUMPY_MODELS, NumpyModel, NumpyTransformer
from minigpt.torch_engine import TorchReader

SHAPES = [
    GPTConfig(11, block_size=16, n_layer=1, n_head=1, n_embd=8),
    GPTConfig(65, block_size=32, n_layer=3, n_head=4, n_embd=32),
    GPTConfig(300, block_size=8, n_layer=2, n_head=3, n_embd=48),
]
ARCHITECTURES = {"gpt": GPT, "modern": ModernGPT, "bigram": lambda c: BigramLanguageModel(c.vocab_size, c.block_size)}


def both(arch: str, shape: GPTConfig) -> tuple[torch.nn.Module, NumpyModel]:
    """The same weights in torch and in NumPy; far from the quiet start, so that every part has something to say."""
    torch.manual_seed(0)
    model = awake(ARCHITECTURES[arch](shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    tensors = {name: tensor.numpy() for name, tensor in model.to_hf()[1].items()}
    return model, NUMPY_MODELS[model.model_type](hf_config(model), tensors)


@pytest.fixture(params=itertools.product(ARCHITECTURES, range(len(SHAPES))), ids=str)
def pair(request):
    return both(request.param[0], SHAPES[request.param[1]])


def test_scores_are_those_of_torch_however_the_text_is_cut(pair, monkeypatch):
    monkeypatch.setattr(numpy_engine, "AT_ONCE", 5)
    model, ours = pair
    tokens = np.random.default_rng(0).integers(model.to_hf()[0]["vocab_size"], size=model.block_size).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([tokens]))[0][0].numpy()  # (T, V)
    for cuts in ([len(tokens)], [1] * len(tokens), [3, 1, len(tokens) - 4]):
        ours.forget()
        read = 0
        for length in cuts:
            scores = ours.read(tokens[read : read + length])
            read += length
            np.testing.assert_allclose(scores, expected[read - 1], atol=1e-4)
    assert scores.dtype == np.float32


@pytest.mark.parametrize(
    "settings", [dict(temperature=0), dict(seed=5), dict(temperature=0.7, top_k=6, repetition_penalty=1.2)]
)
def test_text_is_that_of_torch_beyond_the_context_too(pair, settings):
    """Greedy or drawn: one seed, one text, whichever engine."""
    model, ours = pair
    config = SampleConfig(max_new_tokens=3 * model.block_size, **settings)
    for first in range(3):
        assert list(generate(ours, [first], config)) == list(generate(model, [first], config))


def test_two_texts_can_be_written_at_once():
    _, ours = both("modern", SHAPES[1])
    config = SampleConfig(max_new_tokens=20)
    alone = [list(generate(ours, [1], config, sample)) for sample in (0, 1)]
    together = zip(*(generate(ours, [1], config, sample) for sample in (0, 1)), strict=True)
    assert [list(tokens) for tokens in zip(*together, strict=True)] == alone


def test_more_than_fits_is_refused():
    _, ours = both("gpt", SHAPES[0])
    ours.read([1] * 16)
    with pytest.raises(ValueError, match="17 tokens do not fit"):
        ours.read([1])


def test_beyond_the_context_a_model_reads_on_one_by_one():
    _, ours = both("modern", SHAPES[0])
    ours.read([1] * 16)
    ours.read([1])
    with pytest.raises(ValueError, match="19 tokens do not fit"):
        ours.read([1, 2])


def test_the_millionth_position_is_as_good_as_the_first():
    """A text from position 1,000,000 on gets the scores of the same text from 0 on, once all before it is out of sight."""
    model, ours = both("modern", SHAPES[1])
    readers = [TorchReader(model), ours]
    with contextlib.suppress(NoCompiler):
        readers.append(NativeModel(ours).reader())
    text = np.random.default_rng(0).integers(65, size=(model.config.n_layer + 1) * model.block_size).tolist()
    for reader in readers:
        near, far = ([reader.read([token]) for token in text][-1] for reader in (begun(reader, 0), begun(reader, 10**6)))
        np.testing.assert_allclose(far, near, atol=1e-4)


def begun(reader, length: int):
    """The reader after so many tokens of which it knows nothing."""
    reader.forget()
    if isinstance(reader, NumpyTransformer):
        reader.make_cache()
    for memory in reader.cache if isinstance(reader, TorchReader) else [reader]:
        memory.keys[:], memory.values[:], memory.length = 0, 0, length
    return reader


@pytest.mark.parametrize("arch", ["gpt", "modern"])
def test_memory_does_not_grow_with_the_text(arch):
    """What Python holds of a text of 3,000 tokens is what it holds of one of 500; a list of the tokens would take 20 kB."""
    writing = generate(both(arch, SHAPES[0])[1], [1], SampleConfig(max_new_tokens=10**6))
    held = []
    tracemalloc.start()
    try:
        for tokens in (500, 2500):
            for _ in itertools.islice(writing, tokens):
                pass
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[1] - held[0] < 10_000


def test_it_needs_no_torch():
    tree = ast.parse(Path(numpy_engine.__file__).read_text())
    imported = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)}
    assert not any("torch" in line or "from ." in line for line in imported)


@pytest.mark.parametrize("arch", ["gpt", "modern"])
def test_what_is_refused_changes_nothing(arch):
    model = both(arch, SHAPES[0])[1]
    expected = model.reader().read([1])
    reader = model.reader()
    for wrong in ([1] * 17, [], [11], [-1]):
        with pytest.raises(ValueError, match=r"do not fit|no token"):
            reader.read(wrong)
    np.testing.assert_array_equal(reader.read([1]), expected)
