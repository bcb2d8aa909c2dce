import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from conftest import TINY, awake

from minigpt import GPT, ModernGPT, SampleConfig, load, native_engine, opening, saved
from minigpt.bigram import BigramLanguageModel
from minigpt.checkpoint import MODELS, hf_config
from minigpt.config import GPTConfig
from minigpt.engine import generate, reader_of, steps
from minigpt.hf import as_written
from minigpt.native_engine import NativeModel, NoCompiler
from minigpt.numpy_engine import NUMPY_MODELS, NumpyBigram, NumpyGPT2, NumpyQwen3
from minigpt.opening import open_run
from minigpt.saved import open_arrays

CONFIG = SampleConfig(max_new_tokens=60, temperature=0.9)


@pytest.fixture(scope="session")
def runs(trained, tmp_path_factory):
    """A run of each architecture."""
    from minigpt.cli import main

    folder = tmp_path_factory.mktemp("runs")
    for arch in ("gpt", "bigram"):
        shape = ["--block-size=8"] if arch == "bigram" else TINY
        arguments = ["train", str(trained.parent / "my.txt"), f"--arch={arch}", f"--out={folder / arch}", "--max-iters=2"]
        with pytest.raises(SystemExit):
            main([*arguments, *(flag for flag in shape if "iters" not in flag)])
    return {"modern": trained, "gpt": folder / "gpt", "bigram": folder / "bigram"}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Nobody else computes, and there are two processors."""
    monkeypatch.setattr(opening, "others_computing", lambda: 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


@pytest.fixture
def no_compiler(monkeypatch):
    def none():
        raise NoCompiler("there is no C compiler")

    monkeypatch.setattr(native_engine, "library", none)


def text(opened) -> list[int]:
    return list(generate(opened.model, [1, 2], CONFIG))


@pytest.mark.parametrize("arch", ["modern", "gpt", "bigram"])
def test_every_engine_writes_the_same_text(runs, arch):
    expected = text(open_run(runs[arch], "torch"))
    assert text(open_run(runs[arch], "numpy")) == expected
    assert text(open_run(runs[arch])) == expected


@pytest.mark.parametrize("arch", ["modern", "gpt"])
@pytest.mark.parametrize("engine", ["torch", "numpy", "native"])
def test_every_engine_gives_the_scores_and_the_greedy_text_of_transformers(runs, compiler, arch, engine):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(runs[arch]).eval()
    model = open_run(runs[arch], engine).model
    tokens = np.random.default_rng(0).integers(model.vocab_size, size=model.block_size // 2).tolist()
    with torch.no_grad():
        np.testing.assert_allclose(reader_of(model).read(tokens), theirs(torch.tensor([tokens])).logits[0, -1], atol=1e-4)
    length = model.block_size - len(tokens)
    mine = list(generate(model, tokens, SampleConfig(max_new_tokens=length, temperature=0)))
    with torch.no_grad():
        scores = theirs(torch.tensor([tokens + mine])).logits[0, len(tokens) - 1 : -1]  # a token each, which we chose
    chosen = scores.gather(1, torch.tensor(mine)[:, None])[:, 0]
    assert (scores.max(-1).values - chosen).max() < 1e-4  # the likeliest, or as likely: some scores are nearly equal


def test_what_is_chosen_is_told(runs, compiler):
    assert open_run(runs["gpt"], "torch").engine == "torch, float32, cpu"
    assert open_run(runs["bigram"]).engine == "numpy, float32"
    opened = open_run(runs["modern"])
    assert (type(opened.model), opened.engine) == (NativeModel, "native, float32, 1 thread")
    opened = open_run(runs["gpt"], dtype="int8")
    assert (opened.model.int8, opened.engine) == (True, "native, int8, 1 thread")


@pytest.mark.parametrize(
    ("machine", "allowed", "others", "small", "threads"),
    [(2, 2, 0, 0, 2), (2, 2, 1, 0, 1), (2, 2, 9, 0, 1), (6, 6, 1, 0, 5), (16, 16, 1, 0, 8), (16, 16, 0, 0, 8),
     (64, 4, 9, 0, 4), (16, 16, 1, 10**6, 1)],
)  # fmt: skip
def test_as_many_threads_are_used_as_processors_are_free(
    run, monkeypatch, compiler, machine, allowed, others, small, threads
):
    monkeypatch.setattr(native_engine, "cores", lambda: allowed)
    monkeypatch.setattr(native_engine.os, "cpu_count", lambda: machine)
    monkeypatch.setattr(native_engine, "SMALL", small)
    monkeypatch.setattr(opening, "others_computing", lambda: others)
    assert open_run(run).engine == f"native, float32, {threads} thread{'s' * (threads > 1)}"


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_numpy_reads_on(runs):
    kinds = {"modern": NumpyQwen3, "gpt": NumpyGPT2, "bigram": NumpyBigram}
    for arch, kind in kinds.items():
        assert isinstance(open_run(runs[arch]).model, kind)
    assert open_run(runs["gpt"]).engine == "numpy, float32 (there is no C compiler)"
    for settings in (dict(engine="native"), dict(dtype="int8")):
        with pytest.raises(ValueError, match="native is not to be had here: there is no C compiler"):
            open_run(runs["gpt"], **settings)


def test_a_rung_of_the_ladder_is_read_by_torch(tmp_path, text_file, run_cli):
    arguments = ["--rung", "rmsnorm", "--budget", 2, "--out", "ladder"]
    assert run_cli("ladder", "my.txt", *arguments).code == 0
    rung = next((tmp_path / "ladder").glob("*rmsnorm*"))
    assert open_run(rung).engine.startswith("torch")
    for settings, words in ((dict(engine="numpy"), "only be read by torch"), (dict(dtype="int8"), "int8 is for")):
        with pytest.raises(ValueError, match=words):
            open_run(rung, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(engine="numpy", device="cuda"), "computes on the processor"),
        (dict(engine="native", device="mps"), "computes on the processor"),
        (dict(engine="torch", dtype="int8"), "int8 is for the engine native"),
        (dict(device="cuda", dtype="int8"), "int8 is for the engine native"),
        (dict(engine="nativ"), "engine is 'nativ'; it must be one of auto, torch"),
        (dict(dtype="int4"), "dtype is 'int4'; it must be one of float32, int8"),
    ],
)
def test_what_cannot_go_together_is_said(runs, settings, words):
    with pytest.raises(ValueError, match=words):
        open_run(runs["gpt"], **settings)


def test_int8_and_native_are_nothing_for_a_bigram(runs):
    for settings in (dict(engine="native"), dict(dtype="int8")):
        with pytest.raises(ValueError, match="is a bigram: a table"):
            open_run(runs["bigram"], **settings)


@pytest.mark.parametrize("arch", ["modern", "gpt", "bigram"])
@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("token", [-1, 10**6, 2**40])
def test_a_token_that_there_is_not_is_refused(runs, arch, engine, token):
    model = open_run(runs[arch], engine).model
    for prompt in ([1, token], [token] + [1] * model.block_size):  # also where it would not be read
        with pytest.raises(ValueError, match=f"there is no token {token}; this model has 0 to"):
            next(generate(model, prompt, CONFIG))


@pytest.mark.parametrize("arch", ["modern", "gpt", "bigram"])
def test_arrays_are_those_of_the_file_and_cannot_be_changed(runs, arch):
    config, tensors, tokenizer = open_arrays(runs[arch])
    model, same_tokenizer = load(runs[arch])
    ours = model.to_hf()[1]
    assert config["model_type"] == model.model_type
    assert tensors.keys() == ours.keys()
    assert all(torch.equal(torch.tensor(tensors[name]), ours[name]) for name in ours)
    assert tokenizer.to_hf() == same_tokenizer.to_hf()
    with pytest.raises(ValueError, match="read-only"):
        next(iter(tensors.values()))[0] = 1


@pytest.mark.parametrize("arch", ["modern", "gpt", "bigram"])
def test_without_torch_a_model_is_known_as_well_as_with_it(arch):
    """Names, shapes and settings that saved.py compares with are those that the models themselves write."""
    shape = GPTConfig(vocab_size=11, block_size=16, n_layer=3, n_head=2, n_embd=20, dropout=0.1)
    kinds = {kind.model_type: kind for kind in MODELS.values()}
    kind = kinds[{"modern": "qwen3", "gpt": "gpt2", "bigram": "minigpt-bigram"}[arch]]
    model = kind(11, 16) if kind is BigramLanguageModel else kind(shape)
    config, shapes = as_written(hf_config(model))
    assert config == hf_config(model)
    assert shapes == {name: tuple(tensor.shape) for name, tensor in model.to_hf()[1].items()}


def test_one_line_is_enough(runs):
    loaded = load(runs["modern"])
    text = loaded.generate("the ", max_new_tokens=20, seed=3)
    assert len(text) == 20
    assert text == load(runs["modern"]).generate("the ", max_new_tokens=20, seed=3)
    assert loaded.generate("the ", max_new_tokens=20, seed=3, stop=[text[5]]) == text[: text.index(text[5])]
    with pytest.raises(ValueError, match="temperature is -1"):
        loaded.generate(temperature=-1)
    with pytest.raises(ValueError, match="there is no token 999 to stop at; this model has 0 to"):
        loaded.generate(stop_ids=[999])
    block_size = loaded.model.block_size
    with pytest.warns(UserWarning, match=rf"the prompt has {2 * block_size} tokens; the model reads the last {block_size}"):
        loaded.generate("th" * block_size, max_new_tokens=1)


@pytest.mark.parametrize("beside", [0, 1 << 25])
def test_damaged_weights_are_noticed_whether_they_are_looked_at_before_or_beside(run, monkeypatch, beside):
    monkeypatch.setattr(saved, "BESIDE", beside)
    open_run(run)
    data = bytearray((run / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (run / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"is damaged: model.safetensors is not what was written"):
        open_run(run)


@pytest.mark.parametrize("command", ["generate", "novelty", "chat"])
def test_no_torch_is_needed_to_write(runs, tmp_path, command):
    code = f"""
import sys
sys.modules["torch"] = None
from minigpt.cli import main
main([{command!r}, {str(runs["modern"])!r}, "--max-new-tokens", "20"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, input="the fox\n", env=os.environ, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert len(done.stdout) > 20


@cache
def plain(arch: str):
    """A model, and the greedy texts and scores of its plain forward pass: everything read again for every token."""
    torch.manual_seed(1)
    shape = GPTConfig(40, block_size=516, n_layer=2, n_head=2, n_embd=16)
    kinds = {"gpt": GPT, "modern": ModernGPT, "bigram": lambda c: BigramLanguageModel(c.vocab_size, c.block_size)}
    model = awake(kinds[arch](shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    texts, scores = torch.randint(40, (20, 16)), []
    with torch.inference_mode():
        for _ in range(500):
            scores.append(model(texts)[0][:, -1])
            texts = torch.cat([texts, scores[-1].argmax(-1, keepdim=True)], dim=1)
    return model, texts.tolist(), torch.stack(scores)[:, 0].numpy()


@pytest.mark.parametrize("engine", ["torch", "numpy", "native"])
@pytest.mark.parametrize("arch", ["gpt", "modern", "bigram"])
def test_500_greedy_tokens_after_20_prompts_are_those_of_the_plain_forward_pass(arch, engine, request):
    """And the scores of one text are, within 1e-4."""
    ours, texts, scores = plain(arch)
    if engine != "torch":
        tensors = {name: tensor.numpy() for name, tensor in ours.to_hf()[1].items()}
        ours = NUMPY_MODELS[ours.model_type](hf_config(ours), tensors)
    if engine == "native":
        if arch == "bigram":
            pytest.skip("a table gains nothing from C")
        request.getfixturevalue("compiler")
        ours = NativeModel(ours)
    config = SampleConfig(max_new_tokens=500, temperature=0)
    for text in texts[1:]:
        assert list(generate(ours, text[:16], config)) == text[16:]
    first = list(steps(ours, texts[0][:16], config))
    assert [step.token for step in first] == texts[0][16:]
    np.testing.assert_allclose([step.scores for step in first], scores, atol=1e-4)
