"""Whatever a person gives that cannot be used is refused in a sentence or two, and leaves no trace."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from conftest import TINY

from minigpt.config import DataConfig, GPTConfig, SampleConfig, TrainConfig
from minigpt.corpus import READ_SIZE

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0"


@pytest.fixture
def refused(run_cli, tmp_path):
    """Check that a call is refused in plain words that name what is wrong, and that it changes no file."""

    def content(path):
        with open(path, "rb") as file:  # not os.open, which a test replaces
            return file.read()

    def files():
        return {path: content(path) if path.is_file() else None for path in tmp_path.rglob("*")}

    def call(*args, names=(), code=(1, 2), stdin=None) -> str:
        before = files()
        result = run_cli(*args, stdin=stdin)
        assert result.code in ((code,) if isinstance(code, int) else code), result
        assert "Traceback" not in result.err
        assert 1 <= len(result.err.strip().splitlines()) <= 3, result.err
        for name in (names,) if isinstance(names, str) else names:
            assert str(name) in result.err
        assert result.out == ""
        assert files() == before
        return result.err

    return call


# ---- texts -------------------------------------------------------------------------------------------------------------

WRONG_TEXTS = {
    "an empty file": (b"", ["odd.txt", "empty"]),
    "a byte order mark and nothing else": (b"\xef\xbb\xbf", ["odd.txt", "empty"]),
    "a PNG image": (PNG, ["odd.txt", "offset 0", "encoding"]),
    "NUL characters": (b"some text\0more", ["odd.txt", "NUL", "binary"]),
    "broken UTF-8": (b"0123456789\xff abc", ["odd.txt", "utf-8", "offset 10 ", "--encoding"]),
    "broken UTF-8 after a byte order mark": (b"\xef\xbb\xbf0123456789\xff abc", ["odd.txt", "offset 13 "]),
    "a cut character at the end": (b"0123456789\xe2\x82", ["odd.txt", "offset 10 "]),
    "broken UTF-8 far inside": (b"a" * READ_SIZE + b"bcd\xff", ["odd.txt", f"offset {READ_SIZE + 3:,} "]),
    "a cut character over a boundary": (b"a" * (READ_SIZE - 1) + b"\xe2\x82x", ["odd.txt", f"offset {READ_SIZE - 1:,} "]),
    "UTF-16 with its mark": ("Grüße".encode("utf-16"), ["odd.txt", "--encoding utf-16"]),
    "UTF-16 without a mark": ("Hello, world".encode("utf-16-le"), ["odd.txt", "NUL"]),
}


@pytest.mark.parametrize(("data", "names"), WRONG_TEXTS.values(), ids=WRONG_TEXTS)
def test_a_text_that_is_none_is_refused(refused, tmp_path, data, names):
    (tmp_path / "odd.txt").write_bytes(data)
    refused("train", "odd.txt", *TINY, code=1, names=names)


def test_a_file_that_is_not_there_is_named(refused):
    refused("train", "nowhere.txt", *TINY, code=1, names="nowhere.txt")


def test_a_folder_without_text_is_named(refused, tmp_path):
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "picture.png").write_bytes(PNG)
    refused("train", "books", *TINY, code=1, names=["books", ".txt"])


def test_empty_standard_input_is_named(refused):
    refused("train", "-", *TINY, code=1, names=["standard input", "empty"])


def test_a_file_of_spaces_only_is_a_text(run_cli, tmp_path):
    (tmp_path / "spaces.txt").write_text(" " * 500)
    assert run_cli("train", "spaces.txt", "--out", "run", *TINY).code == 0


def test_a_file_without_permission_is_named(refused, text_file, monkeypatch):
    opened = os.open

    def closed(path, *args, **kwargs):
        if path == pathlib.Path("my.txt"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", closed)
    refused("train", "my.txt", *TINY, code=1, names=["my.txt", "permission"])


@pytest.mark.parametrize("name", ["nonsense", "", "base64", "utf-99", "punycode"])
def test_an_encoding_that_is_none_is_named(refused, text_file, name):
    refused("train", "my.txt", "--encoding", name, *TINY, code=(1, 2), names=[repr(name), "utf-8"])


@pytest.mark.parametrize("length", [30, 100, 300, 640])
def test_a_text_too_short_for_its_block_names_a_block_size_that_works(refused, run_cli, tmp_path, text, length):
    (tmp_path / "short.txt").write_text(text[:length])
    error = refused(
        "train", "short.txt", *TINY, "--block-size", 64, code=1, names=["short.txt", f"{length} characters", "65"]
    )
    fits = int(re.search(r"block_size up to (\d+) would fit", error)[1])
    assert run_cli("train", "short.txt", "--out", "run", *TINY, "--block-size", fits).code == 0
    refused("train", "short.txt", *TINY, "--block-size", fits + 1, code=1, names=f"block_size {fits + 1}")


def test_a_text_too_short_for_anything_says_so(refused, tmp_path):
    (tmp_path / "short.txt").write_text("hello")
    refused("train", "short.txt", *TINY, code=1, names=["short.txt", "5 characters", "block_size 8", "no block size"])


def test_a_validation_part_too_short_is_told_with_its_share(refused, text_file):
    # 20,026 characters: 0.1 % of them are 21.
    error = refused(
        "train", "my.txt", *TINY, "--block-size", 64, "--val-fraction", "0.001", code=1, names=["validation", "65"]
    )
    assert re.search(r"\b2[01] of 20,026 characters", error)


# ---- numbers -----------------------------------------------------------------------------------------------------------


def wrong_numbers(*configs):
    """A flag and a value that it cannot have, for every field that is a number."""
    numbers = [f for config in configs for f in fields(config) if f.metadata["low"] is not None and f.name != "vocab_size"]
    values = ["-1", "nan", "inf", "-inf", "1e30", "9" * 31, "many", ""]
    pairs = [(f.name, value) for f in numbers for value in ["0"] * (f.metadata["low"] > 0) + values]
    return [pytest.param(name, value, id=f"{name}={value}") for name, value in pairs]


@pytest.mark.parametrize(("name", "value"), wrong_numbers(GPTConfig, TrainConfig, DataConfig))
def test_a_number_that_training_cannot_use_is_refused(refused, text_file, name, value):
    error = refused("train", "my.txt", f"--{name.replace('_', '-')}", value, code=2)
    assert name in error.replace("-", "_")


@pytest.mark.parametrize(("name", "value"), wrong_numbers(SampleConfig))
def test_a_number_that_writing_cannot_use_is_refused(refused, trained, name, value):
    error = refused("generate", trained, f"--{name.replace('_', '-')}", value, code=2)
    assert name in error.replace("-", "_")


@pytest.mark.parametrize("value", ["1", "1.5", "-0.1", "nan"])
def test_a_dropout_that_leaves_nothing_is_refused(refused, text_file, value):
    refused("train", "my.txt", "--dropout", value, code=2, names=["dropout", "0.99"])


@pytest.mark.parametrize(("n_embd", "n_head", "cure"), [(384, 5, "4 or 6"), (16, 3, "2 or 4"), (16, 32, "16")])
def test_heads_that_do_not_divide_the_channels_name_numbers_that_do(refused, text_file, n_embd, n_head, cure):
    names = [f"n_embd ({n_embd})", f"n_head ({n_head})", f"try n_head {cure}\n"]
    refused("train", "my.txt", "--n-embd", n_embd, "--n-head", n_head, code=2, names=names)


def test_a_final_learning_rate_above_the_peak_is_refused(refused, text_file):
    names = ["min_lr (0.1)", "learning_rate (0.01)"]
    refused("train", "my.txt", "--learning-rate", "0.01", "--min-lr", "0.1", code=2, names=names)


def test_a_model_larger_than_the_memory_is_refused(refused, text_file):
    args = ["--size", "small", "--n-layer", 1000, "--n-embd", 65536, "--device", "cpu"]
    refused("train", "my.txt", *args, code=2, names=["parameters", "GB", "n_embd"])


def test_values_that_suit_the_size_of_this_machine_are_not_measured_by_another_size(run_cli, text_file):
    """16 channels suit the 4 heads of the small size; that they do not suit the lecture's 6 is no matter on a processor."""
    args = ["--n-embd", 16, "--min-lr", "1e-3", "--max-iters", 2, "--device", "cpu", "--eval-tokens", 100]
    result = run_cli("train", "my.txt", "--out", "run", *args)
    assert result.code == 0, result.err


# ---- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["train", "my.txt", "--n-layers", "4"], ["--n-layers", "--n-layer"]),
        (["train", "my.txt", "--size", "smal"], ["size", "'smal'", "Did you mean small?"]),
        (["train", "my.txt", "--arch", "gtp"], ["arch", "'gtp'", "modern, gpt or bigram", "Did you mean gpt?"]),
        (["train", "my.txt", "--device", "toaster"], ["'toaster'", "cpu"]),
        (["train", "my.txt", "--device", "cuda:99"], ["'cuda:99'", "cpu"]),
        (["train", "my.txt", "--dtype", "float16"], ["dtype", "'float16'", "bfloat16"]),
        (["train", "my.txt", "--tokenizer", "word"], ["tokenizer", "'word'", "char or byte"]),
        (["train", "my.txt", "--out", ""], ["out", "text"]),
        (["trian"], ["trian"]),
        (["generate"], ["RUN"]),
        (["generate", "run", "--unknown", "skip"], ["unknown", "'skip'", "error or drop"]),
        (["generate", "run", "--num-samples", "0"], ["num_samples", "0"]),
        (["generate", "run", "--num-samples", "-3"], ["num_samples", "-3"]),
        (["generate", "run", "--num-samples", "two"], ["num_samples", "'two'", "whole number from 1 to 1,000,000"]),
        (["generate", "run", "--num-samples", "9" * 5000], ["num_samples", "from 1 to 1,000,000"]),
        (["generate", "run", "--stop", ""], ["--stop"]),
        (["generate", "run", "--device", "toaster"], ["'toaster'", "cpu"]),
        (["generate", "run", "--engine", "numpi"], ["engine", "'numpi'", "Did you mean numpy?"]),
        (["generate", "run", "--engine", "numpy", "--device", "cuda"], ["numpy", "cuda", "torch"]),
        (["generate", "run", "--dtype", "int4"], ["dtype", "'int4'", "float32 or int8"]),
        (["generate", "run", "--dtype", "int8", "--engine", "torch"], ["int8", "native"]),
        (["generate", "run", "--stop-id", "99"], ["stop_id", "99", "from 0 to "]),
        (["generate", "run", "--stop-id", "-1"], ["stop_id", "-1", "from 0 to "]),
        (["generate", "run", "--stop-id", "x"], ["stop_id", "'x'", "whole number from 0 to "]),
        (["generate", "run", "--prompt-file", "nowhere.txt"], ["nowhere.txt"]),
        (["generate", "run", "--prompt-file", "."], ["."]),
        (["generate", "run", "--prompt-file", "my.txt", "--prompt", "x"], ["--prompt", "--prompt-file"]),
        (["generate", "run", "--json", "--show-probs"], ["--json", "--show-probs"]),
        (["generate", "run", "--json", "--stream"], ["--json", "--stream"]),
        (["generate", "run", "--engine", "native", "--device", "toaster"], ["'toaster'", "cpu"]),
        (["chat", "run", "--temperature", "-1"], ["temperature", "-1"]),
        (["novelty", "run", "--num-samples", "0"], ["num_samples", "0"]),
        (["eval", "run", "--device", "toaster"], ["'toaster'", "cpu"]),
        (["eval", "run", "--unknown", "skip"], ["unknown", "'skip'"]),
        (["eval", "run", "nowhere.txt"], ["nowhere.txt"]),
        (["eval", "run", "--encoding", "latin-1"], ["--encoding", "no TEXT"]),
        (["eval", "run", "my.txt", "--encoding", "nonsense"], ["'nonsense'"]),
        (["info"], ["RUN"]),
        (["info", "run", "run"], ["run"]),
    ],
    ids=lambda value: " ".join(value) if "RUN" not in value else "",
)
def test_a_word_that_is_none_of_the_choices_is_named(refused, text_file, run, args, names):
    refused(*args, names=names)


@pytest.mark.parametrize("flag", ["engine", "dtype", "unknown", "device", "num-samples", "stop-id", "temperature"])
def test_a_value_of_thousands_of_characters_does_not_fill_the_screen(refused, run, flag):
    assert len(refused("generate", "run", f"--{flag}", "x" * 5000, names=["xxx"])) < 500


def test_a_prompt_that_is_no_text_is_refused(refused, run, tmp_path):
    (tmp_path / "odd.txt").write_bytes(b"abc\xff")
    refused("generate", "run", "--prompt-file", "odd.txt", code=1, names=["--prompt-file", "odd.txt", "UTF-8", "offset 3"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_where_there_is_none_is_refused(refused, text_file, name):
    refused("train", "my.txt", "--device", name, code=2, names=[f"'{name}'", "cpu"])


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("n_layers = 4", ["my.toml", "'n_layers'", "'n_layer'"]),
        ("colour = 'red'", ["my.toml", "'colour'"]),
        ("n_layer = ", ["my.toml", "TOML"]),
        (b"# \xff\n", ["my.toml", "TOML"]),
        ("n_layer = '4'", ["n_layer", "whole number"]),
        ("n_layer = 4.0", ["n_layer", "whole number"]),
        ("n_layer = true", ["n_layer", "whole number"]),
        ("n_layer = [4]", ["n_layer", "whole number"]),
        ("[n_layer]\nn = 4", ["n_layer", "whole number"]),
        ("learning_rate = nan", ["learning_rate", "number"]),
        ("learning_rate = '1e-3'", ["learning_rate", "number"]),
        ("dtype = 32", ["dtype", "32"]),
        ("encoding = 8", ["encoding", "8"]),
        ("tokenizer = ['char']", ["tokenizer", "char"]),
        ("out = 3", ["out", "3"]),
        ("size = 1", ["size", "1"]),
        ("arch = ['gpt']", ["arch", "gpt"]),
        ("device = 0", ["device", "0"]),
        ("resume = 'no'", ["resume", "'no'"]),
        ("resume = true\nout = 3", ["out", "3"]),
    ],
)
def test_a_value_in_a_config_file_that_cannot_be_is_named(refused, tmp_path, text_file, content, names):
    (tmp_path / "my.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused("train", "my.txt", "--config", "my.toml", code=2, names=names)


def test_a_folder_as_config_file_is_named(refused, tmp_path, text_file):
    (tmp_path / "settings").mkdir()
    refused("train", "my.txt", "--config", "settings", code=2, names="settings")


def test_a_config_file_that_is_not_there_is_named(refused, text_file):
    refused("train", "my.txt", "--config", "nowhere.toml", code=2, names="nowhere.toml")


# ---- where a run goes --------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_a_run_is_not_overwritten(refused, text_file, run):
    refused("train", "my.txt", "--out", "run", *TINY, code=1, names=["run", "--resume"])


def test_a_file_is_not_taken_for_the_folder_of_a_run(refused, text_file):
    refused("train", "my.txt", "--out", "my.txt", *TINY, code=1, names=["my.txt", "is a file"])


def test_a_folder_with_other_things_in_it_is_left_alone(refused, tmp_path, text_file):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "picture.png").write_bytes(PNG)
    refused("train", "my.txt", "--out", "holiday", *TINY, code=1, names=["holiday", "not empty"])


def test_an_empty_folder_is_a_place_for_a_run(run_cli, tmp_path, text_file):
    (tmp_path / "empty").mkdir()
    assert run_cli("train", "my.txt", "--out", "empty", *TINY).code == 0


# ---- damaged runs ------------------------------------------------------------------------------------------------------


def change(path, **values):
    """Set keys of a JSON file; those set to None are removed."""
    content = json.loads(path.read_text()) | values
    gone = {name for name, value in values.items() if value is None}
    path.write_text(json.dumps({name: value for name, value in content.items() if name not in gone}))


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


DAMAGES = {
    "no folder": (shutil.rmtree, ["run"]),
    "no config": (lambda run: (run / "config.json").unlink(), ["run", "config.json"]),
    "broken JSON": (lambda run: cut(run / "config.json"), ["config.json", "JSON"]),
    "a list": (lambda run: (run / "config.json").write_text("[1]"), ["config.json", "list"]),
    "a number": (lambda run: (run / "config.json").write_text("1"), ["config.json", "int"]),
    "not text": (lambda run: (run / "config.json").write_bytes(b"\xff\xfe\xfd"), ["config.json", "JSON"]),
    "another maker": (lambda run: change(run / "config.json", minigpt=None), ["run", "minigpt"]),
    "a newer format": (lambda run: change(run / "config.json", minigpt={"format": 99}), ["run", "99", "upgrade"]),
    "an unknown type": (lambda run: change(run / "config.json", model_type="llama"), ["config.json", "'llama'"]),
    "no type": (lambda run: change(run / "config.json", model_type=None), ["config.json", "None"]),
    "no width": (lambda run: change(run / "config.json", hidden_size=None), ["hidden_size"]),
    "no context": (lambda run: change(run / "config.json", max_position_embeddings=None), ["max_position_embeddings"]),
    "a width as text": (lambda run: change(run / "config.json", hidden_size="16"), ["n_embd", "'16'"]),
    "another width": (lambda run: change(run / "config.json", hidden_size=32), ["config.json", "head_dim is 8"]),
    "another number of layers": (
        lambda run: change(run / "config.json", num_hidden_layers=2),
        ["model.safetensors", "bytes"],
    ),
    "another vocabulary": (lambda run: change(run / "config.json", vocab_size=40), ["run"]),
    "another activation": (lambda run: change(run / "config.json", hidden_act="relu"), ["relu"]),
    "no tokenizer": (lambda run: (run / "tokenizer.json").unlink(), ["tokenizer.json"]),
    "a broken tokenizer": (lambda run: cut(run / "tokenizer.json"), ["tokenizer.json", "JSON"]),
    "an empty tokenizer": (lambda run: (run / "tokenizer.json").write_text("{}"), ["tokenizer.json", "character"]),
    "no weights": (lambda run: (run / "model.safetensors").unlink(), ["run", "model.safetensors"]),
    "cut weights": (lambda run: cut(run / "model.safetensors"), ["model.safetensors"]),
    "empty weights": (lambda run: (run / "model.safetensors").write_bytes(b""), ["model.safetensors"]),
}
BEST_MODEL_ONLY = ("no weights", "cut weights", "empty weights")  # resuming reads those of the checkpoint


@pytest.mark.parametrize("command", ["generate", "eval", "info"])
@pytest.mark.parametrize(("damage", "names"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_is_told_in_words(refused, run, damage, names, command):
    damage(run)
    (run / "manifest.json").unlink(missing_ok=True)  # which would only say that something is not as it was
    refused(command, "run", code=1, names=names)


def test_a_file_that_is_not_what_was_written_is_told_whatever_it_holds(refused, run):
    config = (run / "config.json").read_bytes()
    (run / "config.json").write_bytes(config.replace(b'"seed": 1337', b'"seed": 1338'))
    refused("generate", "run", code=1, names=["config.json", "SHA-256", "manifest.json"])


@pytest.mark.parametrize(
    ("damage", "names"),
    [value for name, value in DAMAGES.items() if name not in BEST_MODEL_ONLY],
    ids=[name for name in DAMAGES if name not in BEST_MODEL_ONLY],
)
def test_a_damaged_run_is_not_resumed(refused, run, damage, names):
    damage(run)
    (run / "manifest.json").unlink(missing_ok=True)
    refused("train", "--resume", "--out", "run", code=1, names=names)


@pytest.mark.parametrize(
    ("part", "command"),
    [("text", "eval run"), ("text", "info run"), ("train", "info run")]
    + [(part, "train --resume --out run") for part in ("text", "train")],
)
def test_a_run_whose_history_is_gone_is_told_in_words(refused, run, part, command):
    about = json.loads((run / "config.json").read_text())["minigpt"]
    del about[part]
    change(run / "config.json", minigpt=about)
    refused(*command.split(), code=1, names=["config.json", part])


@pytest.mark.parametrize("command", ["generate", "eval"])
def test_the_tokenizer_of_another_run_is_refused(refused, run_cli, tmp_path, run, command):
    (tmp_path / "other.txt").write_text("".join(map(chr, range(32, 127))) * 20)
    assert run_cli("train", "other.txt", "--out", "other", *TINY).code == 0
    shutil.copy(tmp_path / "other" / "tokenizer.json", run / "tokenizer.json")
    (run / "manifest.json").unlink()
    args = ["--prompt", "~~~"] if command == "generate" else ["other.txt"]
    refused(command, "run", *args, code=1, names=["tokenizer", "95", "39"])


# ---- prompts -----------------------------------------------------------------------------------------------------------


def test_an_unknown_character_of_the_prompt_is_named_with_its_position(refused, run):
    refused("generate", "run", "--prompt", "Dora β", code=1, names=["'β'", "U+03B2", "position 5", "--unknown drop"])


@pytest.mark.parametrize("prompt", ["Dora β", "β"])
def test_an_unknown_character_is_dropped_when_asked_for(run_cli, trained, prompt):
    result = run_cli("generate", trained, "--prompt", prompt, "--unknown", "drop", "--max-new-tokens", 5)
    assert result.code == 0
    assert "Warning" in result.err
    assert "β" in result.err
    assert result.out.startswith(prompt.replace("β", ""))
    assert len(result.out) == len(prompt.replace("β", "")) + 5 + 1


def test_an_empty_prompt_starts_a_text(run_cli, trained):
    result = run_cli("generate", trained, "--prompt", "", "--max-new-tokens", 5)
    assert result.code == 0
    assert len(result.out) == 5 + 1


def test_an_unknown_character_of_another_text_is_named_with_its_position(refused, tmp_path, run):
    (tmp_path / "greek.txt").write_text("the king sees β", encoding="utf-8")
    refused("eval", "run", "greek.txt", code=1, names=["'β'", "position 14"])


def test_a_text_too_short_to_measure_is_refused(refused, tmp_path, run):
    (tmp_path / "one.txt").write_text("t")
    refused("eval", "run", "one.txt", code=1, names=["one.txt", "at least 2"])


# ---- resuming ----------------------------------------------------------------------------------------------------------


def test_there_may_be_no_run_to_resume(refused):
    refused("train", "--resume", code=2, names=["runs/", "--out"])


def test_the_run_to_resume_may_not_be_there(refused):
    refused("train", "--resume", "--out", "nowhere", code=1, names="nowhere")


@pytest.mark.parametrize(
    ("flag", "value", "before"),
    [
        ("--n-layer", 2, "1"),
        ("--n-head", 4, "2"),
        ("--n-embd", 32, "16"),
        ("--block-size", 16, "8"),
        ("--dropout", 0.5, "0.0"),
        ("--tokenizer", "byte", "char"),
        ("--val-fraction", 0.2, "0.1"),
        ("--encoding", "latin-1", "utf-8"),
        ("--arch", "bigram", "modern"),
    ],
)
def test_what_a_run_is_made_of_cannot_be_changed_on_resuming(refused, run, flag, value, before):
    names = [flag[2:].replace("-", "_"), before, value]
    refused("train", "--resume", "--out", "run", flag, value, "--max-iters", 5, code=2, names=names)


def test_a_run_is_not_resumed_with_another_text(refused, tmp_path, run):
    (tmp_path / "other.txt").write_text("the king sees a fox.\n" * 100)
    names = ["my.txt", "other.txt", "another text"]
    refused("train", "other.txt", "--resume", "--out", "run", code=1, names=names)


def test_a_refused_resume_changes_no_settings(run_cli, tmp_path, run):
    (tmp_path / "other.txt").write_text("the king sees a fox.\n" * 100)
    before = (run / "config.json").read_bytes()
    assert run_cli("train", "other.txt", "--resume", "--out", "run", "--max-iters", 5).code == 1
    assert (run / "config.json").read_bytes() == before


def test_a_run_whose_text_is_gone_names_it(refused, tmp_path, run):
    about = json.loads((run / "config.json").read_text())["minigpt"]
    about["text"]["paths"] = [str(tmp_path / "gone.txt")]
    change(run / "config.json", minigpt=about)
    (run / "manifest.json").unlink()
    refused("train", "--resume", "--out", "run", code=1, names="gone.txt")
    refused("eval", "run", code=1, names="gone.txt")


def test_a_run_with_only_damaged_checkpoints_says_which_and_why(refused, run):
    for step in (1, 2):
        cut(run / "checkpoints" / f"step-{step:08d}" / "optimizer.safetensors")
    names = ["no checkpoint", "step-00000001", "step-00000002", "optimizer.safetensors", "bytes"]
    refused("train", "--resume", "--out", "run", "--max-iters", 5, code=1, names=names)


# ---- what a critical reader tried ------------------------------------------------------------------------------------


def test_a_folder_where_a_run_never_got_going_can_be_used_again(run_cli, text_file, tmp_path):
    dead = tmp_path / "dead"
    (dead / "checkpoints").mkdir(parents=True)
    (dead / "config.json").write_text('{"minigpt": {}}')
    for name in (".tokenizer.json.123.tmp", "metrics.jsonl"):
        (dead / name).write_text("{")
    assert run_cli("train", text_file, "--out", dead, *TINY).code == 0
    assert (dead / "model.safetensors").exists()
    assert not (dead / ".tokenizer.json.123.tmp").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "notes.txt"])
def test_a_folder_with_files_of_somebody_else_is_left_alone(refused, text_file, tmp_path, name):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / name).write_text('{"model_type": "gpt2"}')
    refused("train", text_file, "--out", "theirs", *TINY, names=["theirs is not empty"])


def test_an_output_folder_below_a_file_is_refused_before_anything_is_read(refused, text_file):
    error = refused("train", text_file, "--out", text_file / "run", *TINY, names=["my.txt is a file"])
    assert "training tokens" not in error


def test_a_cure_that_is_offered_works(run_cli, text_file):
    """Without a size, n_head 5 is answered for the shape that this machine would use."""
    error = run_cli("train", text_file, "--n-head", 5, "--device", "cpu").err
    offered = re.search(r"try n_head (\d+) or (\d+)", error)
    for n_head in offered.groups():
        assert run_cli("train", text_file, "--n-head", n_head, "--max-iters", 1, "--device", "cpu").code == 0


def test_a_bigram_is_not_given_what_only_a_gpt_has(refused, run_cli, text_file, tmp_path):
    refused("train", text_file, "--arch", "bigram", "--n-layer", 6, code=2, names=["bigram", "n_layer"])
    assert run_cli("train", text_file, "--arch", "bigram", "--max-iters", 2, "--out", tmp_path / "b").code == 0
    refused("train", "--resume", "--out", tmp_path / "b", "--n-layer", 6, code=2, names=["bigram", "n_layer"])


def test_a_run_from_standard_input_says_that_its_text_is_needed(run_cli, refused, text, tmp_path):
    out = tmp_path / "piped"
    assert run_cli("train", "-", "--out", out, *TINY, stdin=text).code == 0
    refused("eval", out, code=1, names=["standard input"])
    refused("train", "--resume", "--out", out, "--max-iters", 4, code=1, names=["standard input"])
    assert "validation part" in run_cli("eval", out, "-", stdin=text).out
    assert run_cli("train", "-", "--resume", "--out", out, "--max-iters", 4, stdin=text).code == 0


def test_a_text_that_has_moved_is_told_and_can_be_named(run_cli, refused, run, text, tmp_path):
    config = json.loads((run / "config.json").read_text())
    config["minigpt"]["text"]["paths"] = ["gone.txt"]
    (run / "config.json").write_text(json.dumps(config))
    (run / "manifest.json").unlink()
    refused("eval", run, code=1, names=["my.txt", "gone.txt"])
    (tmp_path / "there.txt").write_text(text)
    assert run_cli("train", "there.txt", "--resume", "--out", run, "--max-iters", 3).code == 0
    assert run_cli("eval", run).code == 0


def test_resuming_with_a_lower_learning_rate_lowers_the_last_one_too(run_cli, run):
    assert run_cli("train", "--resume", "--out", run, "--max-iters", 3, "--min-lr", "0.08").code == 0  # half of the peak
    assert run_cli("train", "--resume", "--out", run, "--max-iters", 4, "--learning-rate", "1e-5").code == 0
    train = json.loads((run / "config.json").read_text())["minigpt"]["train"]
    assert (train["learning_rate"], train["min_lr"]) == (1e-5, pytest.approx(5e-6))


def test_resuming_a_finished_run_changes_nothing(refused, run, tmp_path, run_cli):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert "already at step 2 of 1" in run_cli("train", "--resume", "--out", run, "--max-iters", 1).err
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_dropped_characters_do_not_count_in_bits_per_character(run_cli, trained, text, tmp_path):
    (tmp_path / "plain.txt").write_text(text[:500])
    (tmp_path / "mixed.txt").write_text(text[:500] + "αβγ" * 500)
    plain, mixed = (run_cli("eval", trained, name, "--unknown", "drop").out for name in ("plain.txt", "mixed.txt"))
    assert plain.split("perplexity")[0] == mixed.split("perplexity")[0]


@pytest.mark.parametrize("arguments", [["train", "my.txt", *TINY], ["--version"], ["info", "run"]])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_reason_to_fail(arguments, closed, run, text_file):
    command = f"{sys.executable} -m minigpt {' '.join(map(str, arguments))} --out closed {closed}"
    command = command if arguments[0] == "train" else command.replace("--out closed ", "")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="pipes break differently there")
def test_training_goes_on_when_nobody_reads_its_progress_any_more(text_file, tmp_path):
    command = [sys.executable, "-m", "minigpt", "train", "my.txt", "--out", "run", *map(str, TINY)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    process.stderr.close()
    assert process.wait(60) == 0
    assert (tmp_path / "run" / "checkpoints" / "step-00000002").exists()


def test_commands_that_are_shown_can_be_pasted(run_cli, text_file, tmp_path):
    shown = run_cli("train", text_file, "--out", tmp_path / "my run é", *TINY).err
    command = next(line for line in shown.splitlines() if " generate " in line)
    assert shlex.split(command.split(" generate ")[1])[0] == str(tmp_path / "my run é")
    assert "minigpt generate 'my run é'" in (tmp_path / "my run é" / "README.md").read_text(encoding="utf-8")
