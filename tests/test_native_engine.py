import itertools
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import awake, side_by_side

from minigpt import GPT, CharTokenizer, GPTConfig, ModernGPT, generate, native_engine
from minigpt.checkpoint import hf_config
from minigpt.config import SampleConfig
from minigpt.native_engine import NativeModel, NoCompiler, library
from minigpt.numpy_engine import NUMPY_MODELS, NumpyTransformer
from minigpt.writing import Text, write_many

# Sizes that fill panels of 32 rows, that do not, and that are smaller than one.
SHAPES = [
    GPTConfig(11, block_size=16, n_layer=1, n_head=1, n_embd=8),
    GPTConfig(65, block_size=37, n_layer=3, n_head=4, n_embd=32),
    GPTConfig(300, block_size=8, n_layer=2, n_head=3, n_embd=48),
    GPTConfig(65, block_size=70, n_layer=2, n_head=2, n_embd=200),
    GPTConfig(500, block_size=130, n_layer=2, n_head=4, n_embd=128),
]
ARCHITECTURES = {"gpt": GPT, "modern": ModernGPT}


@pytest.fixture(autouse=True)
def compiled(own_folder, compiler):
    library()


def both(arch: str, shape: GPTConfig) -> tuple[torch.nn.Module, NumpyTransformer]:
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


def some_tokens(model: torch.nn.Module) -> list[int]:
    """As many as fit, and no two alike where there are enough different ones."""
    return np.random.default_rng(0).integers(model.config.vocab_size, size=model.block_size).tolist()


def scores_of_torch(model: torch.nn.Module, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([tokens]))[0][0].numpy()  # (T, V)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_smallest_model_that_there_can_be_writes_its_only_token(arch):
    model, numpy_model = both(arch, GPTConfig(1, block_size=1, n_layer=1, n_head=1, n_embd=2))
    for reads in (model, numpy_model, NativeModel(numpy_model)):
        assert list(generate(reads, [0, 0], SampleConfig(max_new_tokens=5))) == [0] * 5


@pytest.mark.parametrize("threads", [1, 2])
def test_scores_are_those_of_torch_however_the_text_is_cut(pair, threads):
    model, numpy_model = pair
    ours, tokens = NativeModel(numpy_model, threads=threads), some_tokens(model)
    expected = scores_of_torch(model, tokens)
    reader = ours.reader()
    for cuts in ([len(tokens)], [1] * len(tokens), [3, 1, len(tokens) - 4]):
        reader.forget()
        read = 0
        for length in cuts:
            scores = reader.read(tokens[read : read + length])
            read += length
            np.testing.assert_allclose(scores, expected[read - 1], atol=1e-4)
    assert scores.dtype == np.float32


def test_one_thread_and_two_give_the_same_bits(pair):
    model, numpy_model = pair
    scores = [NativeModel(numpy_model, threads=threads).reader().read(some_tokens(model)) for threads in (1, 2)]
    np.testing.assert_array_equal(*scores)


def test_int8_gives_what_its_rounded_weights_give(pair):
    """The matrices are rounded, row by row, and nothing else is. A weight in the middle of two numbers may go either way."""
    model, numpy_model = pair
    tokens = some_tokens(model)
    scores = NativeModel(numpy_model, int8=True, threads=1).reader().read(tokens)
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    embedding = model.tok_emb.weight.detach().clone()  # tied to the last of them in a GPT, and read as it is
    model.tok_emb.weight = torch.nn.Parameter(embedding)
    with torch.no_grad():
        for layer in linear:
            scale = layer.weight.abs().amax(1, keepdim=True) / 127
            layer.weight.copy_((layer.weight / scale).round() * scale)
    np.testing.assert_allclose(scores, scores_of_torch(model, tokens)[-1], atol=5e-3)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_activations_may_be_far_from_zero(arch):
    """Of a large negative number GELU and SiLU make nearly nothing, by an exponential that float32 cannot hold."""
    model, _ = both(arch, SHAPES[1])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(200 if ".up." in name or ".gate." in name else 1e-3 if ".down." in name else 1)
    tensors = {name: tensor.numpy() for name, tensor in model.to_hf()[1].items()}
    ours = NativeModel(NUMPY_MODELS[model.model_type](hf_config(model), tensors), threads=1)
    tokens = some_tokens(model)
    np.testing.assert_allclose(ours.reader().read(tokens), scores_of_torch(model, tokens)[-1], atol=1e-3)


@pytest.mark.parametrize("settings", [dict(temperature=0), dict(seed=5), dict(temperature=0.7, top_k=6)])
def test_text_is_that_of_torch_beyond_the_context_too(pair, settings):
    model, numpy_model = pair
    ours, config = NativeModel(numpy_model, threads=1), SampleConfig(max_new_tokens=2 * model.block_size + 3, **settings)
    for prompt in ([1], some_tokens(model) * 2):
        assert list(generate(ours, prompt, config)) == list(generate(model, prompt, config))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("int8", [False, True])
def test_many_texts_at_once_are_what_each_is_alone(arch, int8):
    """More of them than are taken together, of different lengths, beyond the context."""
    ours = NativeModel(both(arch, SHAPES[1])[1], int8=int8, threads=1)
    config = SampleConfig(max_new_tokens=50, temperature=0.8)
    prompts = [[i % 65] * (1 + 5 * i % 40) for i in range(11)]
    assert side_by_side(ours, prompts, config) == [
        list(generate(ours, prompt, config, i)) for i, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 17])
def test_a_text_gets_the_same_bits_alone_among_others_and_token_by_token(arch, int8, count):
    """So the same text, whoever stops when. The kernels that do this are different ones."""
    ours = NativeModel(both(arch, SHAPES[3])[1], int8=int8, threads=2)
    texts = [[(7 * i + 3 * j) % 65 for j in range(12)] for i in range(count)]
    readers = [ours.reader() for _ in texts]
    for reader, text in zip(readers, texts, strict=True):
        reader.read(text[:-1])
    together = ours.read_all(readers, [text[-1:] for text in texts])
    for text, scores in zip(texts, together, strict=True):
        alone = ours.reader()
        one_by_one = [alone.read([token]) for token in text]
        np.testing.assert_array_equal(scores, one_by_one[-1])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_one_prompt_of_many_texts_is_read_once(arch, monkeypatch):
    ours, tokenizer = NativeModel(both(arch, SHAPES[1])[1], threads=1), CharTokenizer("".join(map(chr, range(32, 97))))
    config, prompt, read = SampleConfig(max_new_tokens=30, temperature=0.8), [*range(30)], []
    real = NativeModel.read_all
    monkeypatch.setattr(NativeModel, "read_all", lambda m, r, new: (read.extend(map(len, new)), real(m, r, new))[1])
    texts = [Text(tokenizer) for _ in range(11)]
    write_many(ours, prompt, config, texts)
    assert read.count(30) == 1
    assert [text.ids for text in texts] == [list(generate(ours, prompt, config, i)) for i in range(11)]


def test_two_threads_may_write_with_one_model():
    ours, config = NativeModel(both("modern", SHAPES[4])[1], threads=1), SampleConfig(max_new_tokens=200)
    alone = [list(generate(ours, [i], config, i)) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: list(generate(ours, [i], config, i)), range(4))) == alone


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused_wherever_they_are(arch, int8, bad):
    """Though C is compiled to take for granted that there are none, and would hide what comes of them."""
    model = both(arch, SHAPES[0])[1]
    for name, good in model.tensors.items():
        model.tensors[name] = good.copy()
        model.tensors[name].flat[-1] = bad
        with pytest.raises(ValueError, match="not finite"):
            NativeModel(model, int8=int8)
        model.tensors[name] = good


def test_more_than_fits_is_refused():
    reader = NativeModel(both("gpt", SHAPES[0])[1]).reader()
    reader.read([1] * 16)
    with pytest.raises(ValueError, match="17 tokens do not fit"):
        reader.read([1])


def test_beyond_the_context_a_model_reads_on_one_by_one():
    reader = NativeModel(both("modern", SHAPES[0])[1]).reader()
    reader.read([1] * 16)
    reader.read([1])
    with pytest.raises(ValueError, match="19 tokens do not fit"):
        reader.read([1, 2])


# ---- the compiler -------------------------------------------------------------------------------------------------------


@pytest.fixture
def new_home(tmp_path, monkeypatch) -> Path:
    """An empty cache, nothing loaded yet, and a compiler that need not hurry what it makes."""
    monkeypatch.setenv("MINIGPT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(native_engine, "FLAGS", ("-O0", "-march=native", "-std=gnu11", "-shared", "-fPIC"))
    monkeypatch.setattr(native_engine, "library", lru_cache(maxsize=1)(library.__wrapped__))
    return tmp_path / "home"


def compiler(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_loading_it_leaves_the_arithmetic_of_the_process_alone():
    """With -ffast-math gcc makes every number below 1e-38 (or 1e-308) a zero, in all of the process."""
    code = """
import numpy as np
from minigpt.native_engine import library
library()
tiny = 5e-324
print(tiny * 1.0, np.float32(1e-40) * np.float32(0.9))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [float(word) > 0 for word in done.stdout.split()] == [True, True]


@pytest.mark.parametrize(("channels", "threads"), [(200, 3), (36, 1)])
def test_a_second_thread_is_for_larger_models(monkeypatch, channels, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    model = both("gpt", GPTConfig(65, block_size=8, n_layer=2, n_head=2, n_embd=channels))[1]
    assert NativeModel(model).threads == threads


def test_it_is_compiled_once(new_home, monkeypatch):
    native_engine.library()
    (made,) = new_home.iterdir()
    native_engine.library.cache_clear()
    monkeypatch.setattr(native_engine, "_compile", lambda *_: pytest.fail("compiled again"))
    native_engine.library()
    assert list(new_home.iterdir()) == [made]


def test_two_programs_may_compile_at_once(new_home):
    program = [sys.executable, "-c", "from minigpt.native_engine import library; library().room"]
    processes = [subprocess.Popen(program, cwd=Path(__file__).parent.parent) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert {path.suffix for path in new_home.iterdir()} == {".so"}


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"no library", lambda data: data[: len(data) // 2]])
def test_a_damaged_library_is_made_anew(new_home, damage):
    native_engine.library()
    (made,) = new_home.iterdir()
    data = made.read_bytes()
    made.unlink()  # another file of this name: this process still uses the old one
    made.write_bytes(damage(data))
    native_engine.library.cache_clear()
    assert native_engine.library().room
    assert made.read_bytes() == data


@pytest.mark.parametrize("cc", [None, "", "no-such-compiler", "/", 'gcc "'])
def test_without_a_compiler_it_says_so(new_home, monkeypatch, cc):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    if cc is not None:
        monkeypatch.setenv("CC", cc)
    with pytest.raises(NoCompiler):
        native_engine.library()


@pytest.mark.parametrize(
    "script", ["echo it is broken >&2; exit 1", "exit 0", 'while [ "$1" != -o ]; do shift; done; echo x >$2']
)
def test_a_compiler_that_fails_is_no_compiler(new_home, monkeypatch, tmp_path, script):
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", script))
    assert native_engine.needs_compiling()
    with pytest.raises(NoCompiler, match="cc"):
        native_engine.library()
    monkeypatch.setattr(native_engine, "_compile", lambda *_: pytest.fail("compiled again"))
    with pytest.raises(NoCompiler, match="cc could not compile"):  # for a day that is remembered
        native_engine.library()
    assert not native_engine.needs_compiling()
    (failure,) = new_home.glob("*.failed")
    os.utime(failure, (0, 0))
    assert native_engine.needs_compiling()


def test_a_compiler_without_openmp_will_do(new_home, monkeypatch, tmp_path):
    real = shlex.join(native_engine.find_compiler())
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", f'case "$*" in *-fopenmp*) exit 1;; esac; exec {real} "$@"'))
    model, numpy_model = both("gpt", SHAPES[1])
    native = NativeModel(numpy_model, threads=2)
    assert native.threads == 1
    scores = native.reader().read([1, 2, 3])
    np.testing.assert_allclose(scores, scores_of_torch(model, [1, 2, 3])[-1], atol=1e-4)


def test_who_would_wait_for_the_compiler_is_told_and_nobody_else(new_home, monkeypatch):
    assert native_engine.needs_compiling()
    native_engine.library()
    assert not native_engine.needs_compiling()  # loaded
    native_engine.library.cache_clear()
    assert not native_engine.needs_compiling()  # kept
    monkeypatch.setenv("CC", "no-such-compiler")
    assert not native_engine.needs_compiling()  # nobody can


def test_a_cache_that_cannot_be_written_is_no_compiler(new_home):
    new_home.write_text("a file where the folder should be")
    assert not native_engine.needs_compiling()
    with pytest.raises(NoCompiler):
        native_engine.library()
