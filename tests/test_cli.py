"""The command line as a person uses it: train, generate, eval, info."""

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from conftest import TINY

import minigpt
from minigpt import load
from minigpt.cli import cli
from minigpt.config import RECIPES, SIZES, DataConfig, GPTConfig, SampleConfig, TrainConfig, with_muon
from minigpt.hf import sizes
from minigpt.model import GPT

TRAIN_FIELDS = [f for config in (GPTConfig, TrainConfig, DataConfig) for f in fields(config) if f.name != "vocab_size"]


def settings_of(run):
    """Everything that a run's config.json says, as one mapping, the shape in our names."""
    config = json.loads((run / "config.json").read_text())
    shape = sizes(config, config["model_type"])
    return config | shape | config["minigpt"]["train"] | config["minigpt"]["text"]


def metrics_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def python(*args, **kwargs):
    return subprocess.run([sys.executable, *args], capture_output=True, check=False, timeout=120, **kwargs)


# ---- help and flags ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args", [["--help"], ["train", "--help"], ["generate", "-h"], ["--version"], ["train", "--n-layer", "0"]]
)
def test_help_and_refusals_load_nothing_heavy(args):
    code = (
        "import sys; from minigpt.cli import main\n"
        f"try: main(arguments={args})\n"
        "finally: print([name for name in ('torch', 'numpy', 'safetensors') if name in sys.modules])"
    )
    result = python("-c", code)
    assert result.stdout.splitlines()[-1] == b"[]", result


def test_importing_the_package_loads_no_torch():
    result = python("-c", "import sys, minigpt, minigpt.config, minigpt.cli; print('torch' in sys.modules)")
    assert result.stdout.strip() == b"False"


def test_the_module_runs_as_a_program():
    result = python("-m", "minigpt", "--version")
    assert result.stdout.decode().split() == ["minigpt", minigpt.__version__]


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_told(run_cli, flag):
    assert run_cli(flag) == (0, f"minigpt {minigpt.__version__}\n", "")


def test_help_names_every_command(run_cli):
    result = run_cli("--help")
    assert result.code == 0
    assert {"train", "generate", "eval", "info"} <= set(re.findall(r"^  (\w+)", result.out, re.MULTILINE))


@pytest.mark.parametrize("command", ["train", "plan", "generate"])
def test_every_field_has_a_flag_whose_help_tells_meaning_and_default(run_cli, command):
    told_of = {"train": TRAIN_FIELDS, "plan": [f for f in TRAIN_FIELDS if f.name not in ("minutes", "max_iters")]}
    taken = with_muon(RECIPES["laptop"], 128) if command in told_of else {}
    help_text = " ".join(run_cli(command, "--help").out.split())
    flags = {option.name: option for option in cli.commands[command].params}
    for f in told_of.get(command, fields(SampleConfig)):
        assert flags[f.name].opts == [f"--{f.name.replace('_', '-')}"]
        told = re.search(rf"{flags[f.name].opts[0]} (?:N|X|TEXT) (.*?)(?= --[a-z]|$)", help_text)[1]
        assert f.metadata["help"] in told
        assert "[default: " in told or "derived: " in told
        if taken.get(f.name, f.default) != f.default:  # no number is told that a run would not get
            assert f"[default: {f.default}]" not in told
        for choice in f.metadata["choices"]:
            assert choice in told


def test_every_flag_is_a_field_or_one_of_the_few_others():
    others = {"texts", "out", "resume", "other_text", "profile", "arch", "size", "device", "config_file"}
    assert {option.name for option in cli.commands["train"].params} - {f.name for f in TRAIN_FIELDS} == others


@pytest.mark.parametrize("flag", [["--n-layer", "3"], ["--n_layer", "3"], ["--n-layer=3"], ["--n_layer=3"]], ids=" ".join)
def test_a_flag_may_be_spelled_with_hyphens_or_as_its_field(run_cli, tmp_path, text_file, flag):
    assert run_cli("train", "my.txt", "--out", "run", *TINY, *flag).code == 0
    assert settings_of(tmp_path / "run")["n_layer"] == 3


@pytest.mark.parametrize("spelling", ["-", "_"])
def test_a_config_file_sets_flags_and_the_command_line_wins(run_cli, tmp_path, text_file, spelling):
    values = "n_layer = 2\nn_embd = 24\nn_head = 2\nblock_size = 8\nbatch_size = 4\nmax_iters = 3\nlearning_rate = 0.02\n"
    values = "\n".join(line.replace("_", spelling) for line in values.splitlines())
    (tmp_path / "my.toml").write_text(f'{values}\ndevice = "cpu"\nout = "from-file"\ntokenizer = "byte"\n')
    result = run_cli("train", "my.txt", "--config", "my.toml", "--n-embd", 16, "--max-iters", 2)
    assert result.code == 0, result.err
    settings = settings_of(tmp_path / "from-file")
    wanted = dict(n_layer=2, n_embd=16, max_iters=2, learning_rate=0.02, tokenizer="byte", min_lr=0.0)
    assert {name: settings[name] for name in wanted} == wanted


def test_a_whole_number_in_a_config_file_serves_where_a_number_is_wanted(run_cli, tmp_path, text_file):
    (tmp_path / "my.toml").write_text("grad_clip = 2\ndropout = 0\n")
    assert run_cli("train", "my.txt", "--config", "my.toml", "--out", "run", *TINY).code == 0
    assert settings_of(tmp_path / "run")["grad_clip"] == 2


@pytest.mark.parametrize(("args", "steps"), [([], 3), (["--max-iters", "2"], 2)], ids=["alone", "beside the flag"])
def test_the_environment_shortens_a_training_unless_a_flag_says_otherwise(
    run_cli, tmp_path, monkeypatch, text_file, args, steps
):
    monkeypatch.setenv("MINIGPT_MAX_ITERS", "3")
    tiny = [arg for arg in TINY if "max-iters" not in arg]
    assert run_cli("train", "my.txt", "--out", "run", *tiny, *args).code == 0
    assert settings_of(tmp_path / "run")["max_iters"] == steps
    assert metrics_of(tmp_path / "run")[-1]["step"] == steps


def test_a_wrong_number_in_the_environment_is_named(run_cli, monkeypatch, text_file):
    monkeypatch.setenv("MINIGPT_MAX_ITERS", "soon")
    result = run_cli("train", "my.txt")
    assert result.code == 2
    assert "max_iters is 'soon'" in result.err


@pytest.mark.parametrize("arch", ["modern", "gpt"])
@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_a_recipe_over_which_single_values_win(run_cli, tmp_path, text_file, size, arch):
    args = [
        "--size",
        size,
        "--arch",
        arch,
        "--max-iters",
        1,
        "--n-layer",
        1,
        "--n-embd",
        48,
        "--block-size",
        16,
        "--batch-size",
        2,
    ]
    assert run_cli("train", "my.txt", "--out", "run", *args, "--device", "cpu", "--eval-tokens", 64).code == 0
    settings, recipe = settings_of(tmp_path / "run"), with_muon(RECIPES[size], 48) if arch == "modern" else RECIPES[size]
    assert (settings["n_layer"], settings["n_embd"], settings["block_size"]) == (1, 48, 16)
    for name in ("n_head", "dropout", "learning_rate"):
        assert settings[name] == recipe[name]


@pytest.mark.parametrize(("arch", "size"), [("modern", "laptop"), ("gpt", "small")])
def test_without_a_size_a_processor_trains_what_suits_the_architecture(run_cli, tmp_path, text_file, arch, size):
    args = ["--arch", arch, "--max-iters", 1, "--n-layer", 1, "--device", "cpu", "--eval-tokens", 64]
    assert run_cli("train", "my.txt", "--out", "run", *args).code == 0
    settings = settings_of(tmp_path / "run")
    for name in ("n_embd", "n_head", "block_size", "batch_size"):
        assert settings[name] == RECIPES[size][name]


# ---- training ----------------------------------------------------------------------------------------------------------


def test_a_run_holds_exactly_the_documented_files(trained):
    found = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    checkpoint = {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"}
    assert found == {
        "config.json",
        "model.safetensors",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "metrics.jsonl",
        "samples.jsonl",
        "manifest.json",
        ".lock",
        *(f"checkpoints/step-{step:08d}/{name}" for step in (1, 2) for name in checkpoint),
    }


def test_training_talks_on_stderr_only_and_says_what_is_next(run_cli, text_file):
    result = run_cli("train", "my.txt", *TINY)
    assert (result.code, result.out) == (0, "")
    for words in (
        "my.txt: 20,026 characters",
        "ModernGPT, 4,640 parameters",
        "step      2/2",
        "Run: runs/my",
        "generate runs/my",
    ):
        assert words in result.err


def test_runs_are_named_after_their_text_and_never_overwritten(run_cli, tmp_path, text_file):
    (tmp_path / "Mein Buch.txt").write_bytes(text_file.read_bytes())
    for text, out in [("my.txt", "my"), ("my.txt", "my-2"), ("my.txt", "my-3"), ("Mein Buch.txt", "mein-buch")]:
        assert run_cli("train", text, *TINY).code == 0
        assert (tmp_path / "runs" / out / "model.safetensors").is_file()


def test_training_learns(run_cli, tmp_path, text_file):
    args = ["--max-iters", 60, "--learning-rate", "0.01", "--batch-size", 16]
    assert run_cli("train", "my.txt", "--out", "run", *TINY, *args).code == 0
    losses = [m["val_loss"] for m in metrics_of(tmp_path / "run") if "val_loss" in m]
    assert losses[-1] < losses[0] - 0.5


def test_the_same_seed_trains_the_same_model_and_another_seed_another(run_cli, tmp_path, text_file):
    for out, seed in [("a", 1), ("b", 1), ("c", 2)]:
        assert run_cli("train", "my.txt", "--out", out, "--seed", seed, *TINY).code == 0
    a, b, c = ((tmp_path / out / "model.safetensors").read_bytes() for out in "abc")
    assert a == b != c


def test_standard_input_and_bytes_can_be_trained_on(run_cli, tmp_path, text):
    result = run_cli("train", "-", "--tokenizer", "byte", "--out", "run", *TINY, stdin="é—" * 500 + text)
    assert result.code == 0, result.err
    assert settings_of(tmp_path / "run")["vocab_size"] == 256
    assert "standard input" in result.err


@pytest.mark.parametrize("out", [[], ["--out", "mine"]], ids=["named by itself", "named"])
def test_a_bigram_is_trained_and_used_like_a_gpt(run_cli, tmp_path, text_file, out):
    result = run_cli("train", "my.txt", "--arch", "bigram", "--max-iters", 3, "--device", "cpu", *out)
    assert result.code == 0, result.err
    run = tmp_path / (out[1] if out else "runs/my-bigram")
    assert settings_of(run)["model_type"] == "minigpt-bigram"
    assert "BigramLanguageModel, 1,521 parameters" in run_cli("info", run).out
    assert len(run_cli("generate", run, "--prompt", "the ", "--max-new-tokens", 20).out) == 4 + 20 + 1
    assert f"{min(m['val_loss'] for m in metrics_of(run)):.4f} nats/token" in run_cli("eval", run).out
    assert run_cli("train", "--resume", "--out", run, "--max-iters", 4).code == 0
    assert metrics_of(run)[-1]["step"] == 4


@pytest.mark.parametrize(
    ("arch", "folder", "kind", "parts"),
    [
        ("modern", "my", "Qwen3", ["ModernGPT", "NormedAttention, 2 heads", "SwiGLU", "RMSNorm", "optimizer muon"]),
        ("gpt", "my-gpt", "GPT-2", ["GPT, 4,064", "MultiHeadAttention, 2 heads", "FeedForward", "optimizer adamw"]),
    ],
)
def test_both_kinds_of_gpt_are_trained_and_used_alike(run_cli, tmp_path, text_file, arch, folder, kind, parts):
    result = run_cli("train", "my.txt", "--arch", arch, *TINY)
    assert result.code == 0, result.err
    run = tmp_path / "runs" / folder
    told = run_cli("info", run).out
    for part in parts:
        assert part in told
    assert len(run_cli("generate", run, "--prompt", "the ", "--max-new-tokens", 20).out) == 4 + 20 + 1
    assert "nats/token" in run_cli("eval", run).out
    assert f"It is a {kind} in transformers' format" in (run / "README.md").read_text()
    assert run_cli("train", "--resume", "--out", run, "--arch", arch, "--n-embd", 16, "--max-iters", 4).code == 0
    assert metrics_of(run)[-1]["step"] == 4
    refused = run_cli("train", "--resume", "--out", run, "--arch", "bigram", "--max-iters", 5)
    assert refused.code == 2
    assert f"arch is {arch}" in refused.err


# ---- resuming ----------------------------------------------------------------------------------------------------------


def test_a_finished_run_says_so_when_resumed(run_cli, run):
    result = run_cli("train", "--resume", "--out", "run")
    assert result.code == 0
    assert "already at step 2 of 2" in result.err
    assert "--max-iters" in result.err
    assert metrics_of(run)[-1]["step"] == 2


@pytest.mark.parametrize("out", [["--out", "run"], []], ids=["named", "the latest under runs"])
def test_a_run_goes_on_to_more_steps(run_cli, tmp_path, run, out):
    if not out:
        (tmp_path / "runs").mkdir()
        run = run.rename(tmp_path / "runs" / "mine")
    result = run_cli("train", "--resume", *out, "--max-iters", 4)
    assert result.code == 0, result.err
    assert "max_iters: 2 -> 4" in result.err
    assert [m["step"] for m in metrics_of(run)] == [0, 1, 2, 3, 4]
    assert settings_of(run)["max_iters"] == 4
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]


def test_a_run_trained_in_two_parts_equals_one_trained_at_once(run_cli, tmp_path, text_file):
    args = ["--dropout", "0.2", "--warmup-iters", 1, "--min-lr", "0.001", "--learning-rate", "0.001", "--eval-interval", 1]
    assert run_cli("train", "my.txt", "--out", "whole", *TINY, *args, "--max-iters", 4).code == 0
    assert run_cli("train", "my.txt", "--out", "parts", *TINY, *args, "--max-iters", 2).code == 0
    assert run_cli("train", "--resume", "--out", "parts", "--max-iters", 4).code == 0
    whole, parts = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("whole", "parts"))
    assert whole == parts


def test_a_run_goes_on_with_another_text_only_if_that_is_wanted(run_cli, tmp_path, run, text):
    (tmp_path / "other.txt").write_bytes((text[::-1] + "ж").encode("cp1251"))
    resume = ["train", "other.txt", "--resume", "--out", "run", "--max-iters", 4]
    encoding = ["--encoding", "cp1251"]
    assert run_cli(*resume, *encoding).code == 2
    result = run_cli(*resume, *encoding, "--other-text")
    assert result.code == 0, result.err
    for words in ("dropped 1 characters", "'ж'", "From here on it learns from other.txt (20,027 characters, 20,026 tokens"):
        assert words in result.err
    told = run_cli("info", run).out
    assert "text      other.txt: 20,027 characters" in told
    assert "up to step 2 my.txt: SHA-256" in told
    best = min((m for m in metrics_of(run) if m["step"] > 2 and "val_loss" in m), key=lambda m: m["val_loss"])
    assert f"best val {best['val_loss']:.4f} nats/token at step {best['step']}" in told
    assert f"{best['val_loss']:.4f} nats/token" in run_cli("eval", run).out
    assert run_cli("train", "--resume", "--out", "run", "--max-iters", 5).code == 0


def test_another_text_is_for_a_run_that_goes_on(run_cli, text_file):
    result = run_cli("train", "my.txt", "--other-text", *TINY)
    assert result.code == 2
    assert "add --resume" in result.err


# ---- generating --------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(run_cli, trained):
    """The text that a call writes, after checking that nothing else happened."""

    def call(*args):
        result = run_cli("generate", trained, "--max-new-tokens", 40, *args)
        assert (result.code, re.sub(r"^The prompt has \d+ tokens; .*\n$", "", result.err)) == (0, "")
        assert result.out.endswith("\n")
        return result.out[:-1]

    return call


def test_the_same_seed_writes_the_same_text_and_another_seed_another(written):
    assert written("--seed", 3) == written("--seed", 3) != written("--seed", 4)


def test_a_text_begins_with_its_prompt(written):
    text = written("--prompt", "Dora sees")
    assert text.startswith("Dora sees")
    assert len(text) == 9 + 40


def test_several_texts_differ_and_the_first_is_the_single_one(written):
    first, second, third = written("--prompt", "the ", "--num-samples", 3).split("\n" + "-" * 40 + "\n")
    assert len({first, second, third}) == 3
    assert first == written("--prompt", "the ")


def test_temperature_0_writes_one_text_whatever_the_seed(written):
    texts = written("--temperature", 0, "--seed", 1), written("--temperature", 0, "--seed", 2), written("--top-p", 0)
    assert texts[0] == texts[1] == texts[2] != written()


def test_a_text_ends_before_the_stop_string(written):
    whole = written("--prompt", "the ")
    stop = whole[20:22]
    assert written("--prompt", "the ", "--stop", stop) == whole[: whole.index(stop, 4)]
    assert written("--prompt", "the ", "--stop", "never", "--stop", stop) == whole[: whole.index(stop, 4)]


def test_a_stop_string_may_be_a_line_end_in_writing(written):
    whole = written("--max-new-tokens", 400)
    assert written("--max-new-tokens", 400, "--stop", "\\n") == whole[: whole.index("\n")]


@pytest.mark.parametrize("n", [0, 1, 8, 9, 100])
def test_a_text_may_be_longer_than_the_context(written, n):
    assert len(written("--max-new-tokens", n)) == n


def test_a_prompt_may_be_longer_than_the_context(written):
    """Only the last block_size = 8 characters of it are read."""
    assert written("--prompt", "a fox sees the river")[20:] == written("--prompt", "he river")[8:]


def test_the_prompt_may_come_from_a_file_or_from_standard_input(run_cli, trained, tmp_path, written):
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbfDora\r\nsees ")
    expected = written("--prompt", "Dora\nsees ")
    assert written("--prompt-file", tmp_path / "prompt.txt") == expected
    result = run_cli("generate", trained, "--max-new-tokens", 40, "--prompt-file", "-", stdin="Dora\nsees ")
    assert result.out[:-1] == expected


def test_a_prompt_that_is_too_long_is_told(run_cli, trained):
    result = run_cli("generate", trained, "--prompt", "a fox sees the river", "--max-new-tokens", 5)
    assert result.err == "The prompt has 20 tokens; the model reads the last 8.\n"


def test_json_tells_texts_tokens_and_how_likely_they_were(run_cli, trained, written):
    result = run_cli("generate", trained, "--prompt", "the ", "--num-samples", 3, "--max-new-tokens", 40, "--json")
    assert (result.code, result.err) == (0, "")
    lines = [json.loads(line) for line in result.out.splitlines()]
    texts = written("--prompt", "the ", "--num-samples", 3).split("\n" + "-" * 40 + "\n")
    assert [line["prompt"] + line["text"] for line in lines] == texts
    model, tokenizer = load(trained)
    for number, line in enumerate(lines):
        assert (line["sample"], line["ended"]) == (number, "length")
        assert tokenizer.decode(line["prompt_ids"]) == "the "
        assert tokenizer.decode(line["ids"]) == line["text"]
        ids = torch.tensor([(line["prompt_ids"] + line["ids"])[:8]])  # what fits into the context
        with torch.no_grad():
            expected = model(ids)[0][0, 3:-1].log_softmax(-1)[range(4), line["ids"][:4]]
        assert line["logprobs"][:4] == pytest.approx(expected.tolist(), abs=1e-4)


def test_json_says_why_a_text_ended(run_cli, trained, written):
    stop = written("--prompt", "the ")[20:22]
    result = run_cli("generate", trained, "--prompt", "the ", "--max-new-tokens", 40, "--json", "--stop", stop)
    assert json.loads(result.out)["ended"] == "stop"


def test_a_text_ends_before_a_stop_id(written, trained):
    whole = written("--prompt", "the ")
    _, tokenizer = load(trained)
    stop = tokenizer.encode(whole[20])[0]
    assert written("--prompt", "the ", "--stop-id", stop) == whole[: whole.index(whole[20], 4)]


@pytest.mark.parametrize("engine", ["torch", "numpy", "auto"])
def test_the_engine_changes_nothing_and_neither_does_writing_several_texts_at_once(written, engine):
    args = ["--num-samples", 3, "--max-new-tokens", 60]
    expected = written(*args)
    assert written(*args, "--engine", engine) == expected
    assert written(*args, "--engine", engine, "--no-stream") == expected


def test_statistics_are_told_on_stderr(run_cli, trained):
    result = run_cli("generate", trained, "--max-new-tokens", 30, "--engine", "numpy", "-v")
    assert len(result.out) == 31
    told = r"\nEngine: numpy, float32\. 30 tokens in [\d.]+ s, [\d,]+ tokens/s; the first text [\d.]+ s after the start\."
    assert re.match(told, result.err)


def test_each_character_is_coloured_by_how_likely_it_was(run_cli, trained, written, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = run_cli("generate", trained, "--max-new-tokens", 40, "--show-probs")
    legend, _, text = result.out.partition("\n")
    assert "50% and more" in legend
    colours = re.findall(r"\x1b\[(\d+)m([^\x1b])", text)
    lines = run_cli("generate", trained, "--max-new-tokens", 40, "--json").out
    expected = [
        next(colour for least, colour in ((0.5, 32), (0.2, 36), (0.05, 33), (0.01, 35), (0, 31)) if math.exp(x) >= least)
        for char, x in zip(json.loads(lines)["text"], json.loads(lines)["logprobs"], strict=True)
    ]
    assert re.sub(r"\x1b\[\d*m", "", text) == json.loads(lines)["text"] + "\n"
    assert len({int(colour) for colour, _ in colours} & set(expected)) == len(set(expected))
    assert int(colours[0][0]) == expected[0]


@pytest.mark.parametrize("flags", [[], ["--show-probs"], ["--json"], ["--no-stream"]], ids=str)
def test_a_pipe_that_nobody_reads_any_more_ends_it_quietly(trained, flags):
    command = [sys.executable, "-m", "minigpt", "generate", trained, "--max-new-tokens", 3000, "--num-samples", 200, *flags]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen(list(map(str, command)), env=os.environ | {"FORCE_COLOR": "1"}, **pipes) as process:
        assert len(process.stdout.read(5)) == 5
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_without_a_terminal_colours_are_left_out_and_that_is_told(run_cli, trained, written, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    result = run_cli("generate", trained, "--max-new-tokens", 40, "--show-probs")
    assert result.out[:-1] == written()
    assert "terminal" in result.err


def test_where_colours_are_not_wanted_that_is_told(run_cli, trained, written, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    result = run_cli("generate", trained, "--max-new-tokens", 40, "--show-probs")
    assert result.out[:-1] == written()
    assert result.err == "NO_COLOR is set; without colours:\n"


def test_a_tab_stays_a_tab_in_colours(run_cli, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    (tmp_path / "tabs.txt").write_text("a\tb\n" * 500)
    assert run_cli("train", "tabs.txt", "--out", "run", *TINY).code == 0
    result = run_cli("generate", "run", "--prompt", "a\tb", "--max-new-tokens", 100, "--show-probs")
    plain = run_cli("generate", "run", "--prompt", "a\tb", "--max-new-tokens", 100)
    assert "\t" in plain.out[4:]
    assert re.sub(r"\x1b\[[\d;]*m", "", result.out.partition("\n")[2]) == plain.out


def test_a_name_that_is_no_text_can_be_told_to_a_pipe(tmp_path, run):
    odd = run.rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/no \xff")))
    done = subprocess.run([sys.executable, "-m", "minigpt", "info", os.fsencode(odd)], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_file_gets_utf8_wherever_it_is_written(tmp_path):
    text = "über größe öl\n" * 300
    (tmp_path / "german.txt").write_text(text, encoding="utf-8")
    program, narrow = (
        [sys.executable, "-m", "minigpt"],
        {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    )
    subprocess.run([*program, "train", "german.txt", "--out", "run", *TINY], check=True, capture_output=True)
    done = subprocess.run([*program, "generate", "run", "--prompt", "größe"], check=True, capture_output=True, env=narrow)
    assert done.stdout.decode().startswith("größe")


def test_a_conversation(run_cli, trained):
    result = run_cli("chat", trained, "--max-new-tokens", 10, stdin="the fox\n/temperature 0\n/retry\n/nonsense\n/quit\n")
    assert result.code == 0
    assert "temperature is 0.0" in result.out
    assert "there is no /nonsense" in result.err


def test_novelty_is_told_and_goes_into_the_card(run_cli, run):
    for _ in range(2):  # the second one replaces what the first one wrote
        result = run_cli("novelty", run, "--num-samples", 2, "--max-new-tokens", 100, "--seed", 1234567)
        assert (result.code, result.err) == (0, "")
        verdict = result.out.splitlines()[-1]
        card = (run / "README.md").read_text()
        assert "(200 characters in 2 texts; max_new_tokens 100, temperature 1.0," in verdict
        assert "seed 1234567, weights float32.)" in verdict
        assert card.count(f"## Is it quoting?\n\n{verdict}\n\n## What it writes\n") == 1
        assert card.count("## Is it quoting?") == 1
    same = ("--num-samples", 2, "--max-new-tokens", 100, "--seed", 1234567)
    figures = json.loads(run_cli("novelty", run, *same, "--json").out)
    assert f"{figures['verdict']} {figures['how']}" == verdict


def test_novelty_needs_the_training_text_and_enough_of_the_models(run_cli, run, trained, tmp_path):
    moved = tmp_path / "moved.txt"
    moved.write_bytes((trained.parent / "my.txt").read_bytes())
    assert run_cli("novelty", run, moved, "--max-new-tokens", 50).code == 0
    (tmp_path / "other.txt").write_text("the king and the fox " * 100)
    assert "is not here or has changed" in run_cli("novelty", run, tmp_path / "other.txt").err
    assert "0 characters are too few to tell" in run_cli("novelty", run, "--max-new-tokens", 0).out
    for odd in (b"", b"\xff\xfe", b"# mine\n\n## Is it quoting?\n\nno\n"):  # a card that is none is left alone
        (run / "README.md").write_bytes(odd)
        assert run_cli("novelty", run, "--max-new-tokens", 50).code == 0
        assert (run / "README.md").read_bytes() == odd


def test_a_longer_text_begins_like_a_shorter_one(written):
    assert written("--max-new-tokens", 50).startswith(written("--max-new-tokens", 20))


@pytest.mark.skipif(os.name == "nt", reason="pipes break differently there")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_ends_writing_quietly(trained, unbuffered):
    command = [sys.executable, "-m", "minigpt", "generate", str(trained), "--max-new-tokens", "100000"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    try:
        assert len(writer.stdout.read(10)) == 10
        writer.stdout.close()
        assert writer.stderr.read() == b""
        assert writer.wait(60) == 0
    finally:
        writer.kill()
        writer.wait()
        writer.stderr.close()


# ---- measuring ---------------------------------------------------------------------------------------------------------


def test_measuring_a_run_gives_its_best_validation_loss(run_cli, trained):
    result = run_cli("eval", trained)
    best = min(m["val_loss"] for m in metrics_of(trained))
    assert result.code == 0
    assert result.out.startswith(f"{best:.4f} nats/token, {best / 0.6931471805599453:.4f} bits/character, perplexity ")
    assert "(2,002 tokens of the validation part of my.txt)" in result.out


def test_another_text_can_be_measured(run_cli, tmp_path, trained):
    (tmp_path / "other.txt").write_text("the king sees a fox.\n" * 10)
    result = run_cli("eval", trained, "other.txt")
    assert result.code == 0
    assert "(209 tokens of other.txt)" in result.out
    assert float(result.out.split()[0]) > 0


def test_measuring_can_drop_unknown_characters(run_cli, tmp_path, trained):
    (tmp_path / "other.txt").write_text("the king sees β and β.\n", encoding="utf-8")
    result = run_cli("eval", trained, "other.txt", "--unknown", "drop")
    assert result.code == 0
    assert "(20 tokens of other.txt)" in result.out
    assert "dropped 2" in result.err


def test_bytes_are_measured_per_character(run_cli, tmp_path):
    (tmp_path / "greek.txt").write_text("αβγδ" * 300, encoding="utf-8")
    assert run_cli("train", "greek.txt", "--tokenizer", "byte", "--out", "run", *TINY).code == 0
    nats, bits = map(float, re.findall(r"(\d+\.\d+) (?:nats|bits)", run_cli("eval", "run").out))
    assert bits == pytest.approx(2 * nats / 0.6931471805599453, rel=1e-3)


def test_a_run_tells_its_architecture_its_text_and_its_best_loss(run_cli, trained):
    result = run_cli("info", trained)
    assert (result.code, result.err) == (0, "")
    best = min(metrics_of(trained), key=lambda m: m.get("val_loss", 9))
    settings = settings_of(trained)
    for words in (
        "ModernGPT, 4,640 parameters",
        "blocks: 1 x ModernBlock",
        "2 heads",
        f"my.txt: 20,026 characters, {settings['tokens']:,} tokens",
        settings["sha256"],
        "max_iters 2",
        f"best val {best['val_loss']:.4f} nats/token at step {best['step']}",
    ):
        assert words in result.out


# ---- so many minutes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def begins_now(monkeypatch):
    """The minutes of a program begin with its start: here with the test."""
    monkeypatch.setattr("minigpt.program._started", time.perf_counter())


@pytest.mark.parametrize("arch", ["modern", "gpt"])
def test_a_training_of_some_minutes_is_planned_told_and_ends_in_time(run_cli, tmp_path, text_file, begins_now, arch):
    result = run_cli("train", "my.txt", "--out", "run", "--minutes", 0.1, "--arch", arch, "--device", "cpu")
    assert result.code == 0
    for part in ("plan of 0.1 minutes", "blocks of", "expected", "by heart", "ends      at"):
        assert part in result.err
    settings, metrics = settings_of(tmp_path / "run"), metrics_of(tmp_path / "run")
    assert 0 < settings["minutes"] <= 0.1  # less, if the text would only be learned by heart
    last = metrics[-1]
    assert last["step"] == last["last_step"]
    assert last["val_loss"] < metrics[0]["val_loss"] - 1
    assert last["seconds"] < 20  # of a machine that is busy with other things


def test_a_size_with_minutes_keeps_its_shape(run_cli, tmp_path, text_file, begins_now):
    args = ["--size", "quick", "--minutes", 0.02, "--device", "cpu", "--block-size", 16]
    result = run_cli("train", "my.txt", "--out", "run", *args)
    assert result.code == 0
    assert "plan of" not in result.err
    assert settings_of(tmp_path / "run")["n_embd"] == RECIPES["quick"]["n_embd"]
    assert metrics_of(tmp_path / "run")[-1]["step"] < RECIPES["quick"]["max_iters"]


def test_more_minutes_make_a_run_go_on(run_cli, tmp_path, text_file, begins_now):
    assert run_cli("train", "my.txt", "--out", "run", "--minutes", 0.03, *TINY[:-2], "--device=cpu").code == 0
    ended = metrics_of(tmp_path / "run")[-1]
    again = run_cli("train", "--resume", "--out", "run")
    assert "already at step" in again.err
    assert "--minutes" in again.err
    assert run_cli("train", "--resume", "--out", "run", "--minutes", 1e-2 + ended["seconds"] / 60).code == 0
    assert metrics_of(tmp_path / "run")[-1]["step"] > ended["step"]


def test_a_plan_is_told_without_training(run_cli, tmp_path, text_file, begins_now):
    flags = ["--n-layer", 1, "--n-embd", 16, "--batch-size", 3, "--seed", 5]
    result = run_cli("plan", "my.txt", "--minutes", 2, "--device", "cpu", *flags)
    assert result.code == 0
    assert "1 blocks of 16 channels" in result.err
    assert re.search(r"steps of 3 x \d+", result.err)
    command = result.err.splitlines()[-1].strip()
    assert command == "minigpt train my.txt --minutes 2 --device cpu --n-layer 1 --n-embd 16 --batch-size 3 --seed 5"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("flags", [["--n-head", 3], ["--n-embd", 50], ["--n-head", 5, "--arch", "gpt"]])
def test_heads_and_channels_may_be_given_to_a_plan_alone(run_cli, text_file, begins_now, flags):
    result = run_cli("train", "my.txt", "--minutes", 0.03, "--device", "cpu", "--n-layer", 1, "--block-size", 16, *flags)
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    "args", [["my.txt", "--minutes", 1, "--max-iters", 5], ["--resume", "--out", "run", "--max-iters", 10**6]]
)
def test_minutes_and_steps_do_not_both_say_when_to_end(run_cli, text_file, begins_now, args):
    assert run_cli("train", "my.txt", "--out", "run", "--minutes", 0.01, *TINY[:-2], "--device=cpu").code == 0
    result = run_cli("train", *args)
    assert result.code == 2
    assert "minutes and max_iters both say when to end" in result.err
    assert run_cli("train", "--resume", "--out", "run", "--max-iters", 10, "--minutes", 0).code == 0


def test_what_takes_minutes_to_begin_is_refused_for_less(run_cli, text_file):
    result = run_cli("train", "my.txt", "--minutes", 2, "--compile", "on")
    assert result.code == 2
    assert "compile is for 10 minutes and more" in result.err


def test_a_run_that_goes_on_keeps_its_optimizer(run_cli, text_file):
    assert run_cli("train", "my.txt", "--out", "run", *TINY).code == 0
    result = run_cli("train", "--resume", "--out", "run", "--optimizer", "adamw")
    assert result.code == 2
    assert "optimizer is muon in run and cannot become adamw; start a new run for that" in result.err


@pytest.mark.parametrize(("args", "words"), [(["--minutes", 0], "above 0"), (["--minutes", -1], "above 0"), ([], "Missing"),
                                             (["--minutes", 1, "--n-layer", 0], "n_layer is 0"),
                                             (["--minutes", "inf"], "minutes is inf; it must be a number from 0 to"),
                                             (["--minutes", 1, "--compile", "on"], "compile is for 10 minutes and more"),
                                             (["--minutes", 1, "--arch", "bigram"], "modern or gpt")])  # fmt: skip
def test_a_plan_that_cannot_be_is_refused(run_cli, text_file, args, words):
    result = run_cli("plan", "my.txt", *args)
    assert result.code == 2
    assert words in result.err


# ---- where the time goes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("interval", "among"), [(18, True), (19, False)])
def test_a_profile_is_a_table_and_a_trace(run_cli, tmp_path, text_file, interval, among):
    """It is of steps 9 to 18."""
    flags = [*TINY[:-2], "--device=cpu", "--max-iters=19", f"--eval-interval={interval}", "--eval-tokens=64", "--profile"]
    result = run_cli("train", "my.txt", "--out", "run", *flags)
    assert result.code == 0
    assert ("an evaluation among them" in result.err) == among
    for kind in ("matrix products", "attention", "norms", "optimizer", "clipping, and a look at every number"):
        assert re.search(rf"{kind} +[\d.]+ ms +\d+%", result.err)
    trace = json.loads((tmp_path / "run" / "trace.json").read_text())
    assert any("mm" in event.get("name", "") for event in trace["traceEvents"])


def test_a_training_too_short_for_a_profile_says_so(run_cli, text_file):
    result = run_cli("train", "my.txt", "--out", "run", *TINY, "--profile")
    assert result.code == 0
    assert "No profile: it records steps 9 to 18" in result.err


def test_info_tells_where_the_time_went(run_cli, trained):
    out = run_cli("info", trained).out
    assert re.search(r"time +\d+ s: data \d+%, model \d+%, optimizer \d+%, evaluation \d+%, rest \d+%", out)
    assert re.search(r"speed +[\d,]+ tokens/s, \d+% of what", out)


def test_a_training_that_ends_in_nan_names_its_step_and_a_command_that_goes_on(run_cli, text_file, tmp_path, monkeypatch):
    real, passes = GPT.forward, []

    def forward(self, idx, targets=None, cache=None):
        logits, loss = real(self, idx, targets, cache)
        passes.append(self.training)
        return logits, loss * float("nan") if self.training and sum(passes) == 5 else loss

    monkeypatch.setattr(GPT, "forward", forward)
    flags = [*TINY, "--max-iters=8", "--eval-interval=3", "--learning-rate=0.03", "--out=runs/a b"]
    code, _, err = run_cli("train", text_file, *flags)
    assert code == 1
    assert "Traceback" not in err
    assert "at step 5 the loss is nan" in err
    *_, sentence, command = err.splitlines()
    assert "What was saved before is whole" in sentence
    arguments = shlex.split(command)
    assert arguments[-1] == "0.01"
    code, _, err = run_cli(*arguments[arguments.index("train") :])
    assert code == 0, err
    assert "at step 3 of 8" in err
    assert "learning_rate: 0.03 -> 0.01" in err


def test_a_chat_goes_on_from_what_was_written_and_obeys(run_cli, run):
    result = run_cli("chat", run, "--max-new-tokens", 5, stdin="The king\n/temprature 1\n/text\n/quit\nnever read\n")
    assert result.code == 0
    turns = result.out.split("> ")
    assert len(turns) == 5
    assert turns[3] == f"The king{turns[1].removesuffix(chr(10))}\n"
    assert "did you mean /temperature" in result.err


def test_a_chat_ends_with_its_input(run_cli, run):
    assert run_cli("chat", run, "--max-new-tokens", 3, stdin="The\n").code == 0


@pytest.mark.skipif(os.name == "nt", reason="signals are sent differently there")
def test_ctrl_c_stops_an_answer_and_not_the_chat(run):
    command = [sys.executable, "-m", "minigpt", "chat", str(run), "--max-new-tokens", str(10**9)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, **pipes) as process:
        process.stdin.write("/stop\nThe\n")
        process.stdin.flush()
        begun = process.stdout.read(200)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate("/max_new_tokens 3\n/quit\n", timeout=60)
    assert "An answer ends after max_new_tokens" in begun
    assert "max_new_tokens is 3" in out
    assert process.returncode == 0
    assert "Traceback" not in err


def test_a_chat_survives_bytes_that_are_no_text(run):
    command = [sys.executable, "-m", "minigpt", "chat", str(run), "--max-new-tokens", "3"]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, input=b"The\xff\nThe\n/quit\n", capture_output=True, check=False, env=environment)
    assert done.returncode == 0
    assert done.stdout.count(b"> ") == 3
    assert b"codec" not in done.stderr


def test_novelty_compares_with_the_text_of_the_run(run_cli, run):
    result = run_cli("novelty", run, "--num-samples", 2, "--max-new-tokens", 40)
    assert result.code == 0
    assert "quote" in result.out.splitlines()[-1]
    figures = json.loads(run_cli("novelty", run, "--num-samples", 2, "--max-new-tokens", 40, "--json").out)
    assert figures["characters"] == 80
    assert run_cli("novelty", run, "--num-samples", 0).code == 2
