"""A run that is opened, with doubt and without torch. It may come from anyone.

Its configuration has to be one that this package would have written, down to the last key; its files have to be those of
its manifest; and its weights have to be those of that configuration, before a single one is read.

Next: corpus.py
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .config import DataConfig, TrainConfig, from_dict
from .files import MANIFEST, checked, damage, map_tensors, printable, read_json
from .hf import SIZES, Shapes, as_written, check_blocks, sizes
from .tokenizer import Tokenizer, load_tokenizer

FORMAT = 1  # of config.json's part "minigpt", raised when an older package could not read a newer run
# fmt: off
TEXT = {  # what a run says of its text
    "name": str, "paths": list, "sha256": str, "characters": int, "tokens": int, "tokens_per_char": float,
    "tokenizer": str, "encoding": str, "val_fraction": float,
}
EARLIER_TEXT = TEXT | {"until_step": int}  # of a text that it learned from before another one
# Fields of TrainConfig and of TrainState that came later: an older run has the defaults.
YOUNGER = {"minutes", "optimizer", "schedule", "compile", "skip_spikes"}
YOUNGER |= {"seconds", "last_step", "recent", "owed", "evaluation_s"}
FIXED = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
# fmt: on
BESIDE = 1 << 25  # bytes of weights, from which on a thread of its own pays for reading them


def open_arrays(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], Tokenizer]:
    """The best model of a run as arrays in its file: config.json, tensors by their names there, and the tokenizer.

    Whether the files are those of the manifest is for check_meanwhile to say, as that reads all of them.

    Raises ValueError in plain words for whatever is no whole run, and for a rung of the ladder, which only torch can open.
    """
    config = read_run_config(folder)
    weights = finished_weights(folder)
    return config, map_tensors(weights, shapes_of(config, weights)), fitting_tokenizer(folder, config)


def shapes_of(config: Mapping[str, Any], weights: Path) -> Shapes:
    """The tensors that a file of weights has to hold. Raises ValueError unless config.json is as this package writes it."""
    check_blocks(sizes(config, config["model_type"]).get("n_layer"), checked(weights).stat().st_size)
    ours, shapes = as_written(config)
    check_settings(config, ours, weights.parent)
    return shapes


def read_run_config(folder: Path) -> dict[str, Any]:
    """The config.json of a run. Raises ValueError in plain words if this is no run, or one that cannot be read."""
    path = folder / "config.json"
    if not folder.exists():
        raise ValueError(f"there is no run {folder}; minigpt train makes one")
    if not path.is_file():
        raise ValueError(f"{folder} is not a run: it has no config.json")
    config = read_json(path)
    about = config.get("minigpt")
    if not isinstance(about, dict) or type(about.get("format")) is not int or about["format"] < 1:
        raise ValueError(f"{folder} was not made by minigpt: its config.json says nothing of it")
    if about["format"] > FORMAT:
        raise ValueError(
            f"{folder} has format {about['format']}; minigpt {__version__} reads formats up to {FORMAT}, so upgrade minigpt"
        )
    if config.get("model_type") not in list(SIZES):
        raise ValueError(f"{path} names the model type {str(config.get('model_type'))[:50]!r}; known are {', '.join(SIZES)}")
    try:
        _check_about(about)
    except ValueError as error:
        raise ValueError(f"{path} is damaged in its part minigpt: {error}") from None
    about["train"] = asdict(TrainConfig(**about["train"]))
    return config


def _check_about(about: dict[str, Any]) -> None:
    """Raise ValueError unless this is what `create` writes into config.json of the text and the training."""
    train, text = about.get("train"), about.get("text")
    parts, earlier = about.keys() - {"earlier"}, about.get("earlier", [])
    if parts != {"format", "version", "train", "text"} or not isinstance(train, dict) or not isinstance(text, dict):
        raise ValueError("it should hold format, version, train, text, perhaps earlier texts, and nothing else")
    if not isinstance(about["version"], str) or not re.fullmatch(r"[\w.+!-]{1,64}", about["version"]):
        raise ValueError("the version is none")
    known = {f.name for f in fields(TrainConfig)}
    if not known - YOUNGER <= train.keys() <= known:
        raise ValueError(
            f"train lacks or adds {', '.join(map(printable, sorted(known - YOUNGER ^ train.keys() - YOUNGER)[:3]))}"
        )
    TrainConfig(**train)
    if not isinstance(earlier, list) or not all(isinstance(one, dict) for one in earlier):
        raise ValueError("earlier should be a list of texts")
    for one, form in [(text, TEXT), *((one, EARLIER_TEXT) for one in earlier)]:
        _check_about_text(one, form)


def _check_about_text(text: dict[str, Any], form: dict[str, type]) -> None:
    """Raise ValueError unless this says of a text what the form lists, and nothing else."""
    if text.keys() != form.keys():
        raise ValueError(f"text lacks or adds {', '.join(map(printable, sorted(text.keys() ^ form.keys())[:3]))}")
    for name, kind in form.items():
        if type(text[name]) is not kind or (kind is int and not 0 <= text[name] < 2**53):
            raise ValueError(f"{name} of the text is {str(text[name])[:50]!r}")
    if not all(isinstance(path, str) for path in text["paths"]) or not re.fullmatch("[0-9a-f]{64}", text["sha256"]):
        raise ValueError("paths or sha256 of the text are none")
    if not 0 < text["tokens_per_char"] <= 4:
        raise ValueError(f"tokens_per_char of the text is {text['tokens_per_char']}")
    from_dict(DataConfig, text)


def check_settings(config: Mapping[str, Any], ours: Mapping[str, Any], folder: Path) -> None:
    """Raise ValueError naming the first key of a config.json that is not as this package writes it."""
    for key in sorted(ours.keys() | config.keys() - {"minigpt"}):
        if key not in ours or key not in config or (ours[key], type(ours[key])) != (config[key], type(config[key])):
            there = printable(repr(config[key]))[:100] if key in config else "missing"
            wanted = repr(ours[key]) if key in ours else "absent"
            raise ValueError(f"{folder}: in config.json {printable(key)[:100]} is {there}; it should be {wanted}")


def finished_weights(folder: Path) -> Path:
    """Where the weights of a run are. Raises ValueError for one that has none yet."""
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise ValueError(f"{folder} is incomplete: it has no model.safetensors yet")
    return weights


def check_undamaged(folder: Path, names: Iterable[str]) -> None:
    """Raise ValueError unless these files of a run are as its manifest says. Runs of old have none."""
    if problem := run_damage(folder, names):
        raise ValueError(
            f"{folder} is damaged: {problem}. If you changed it yourself and know what you did, remove its {MANIFEST}"
        )


@contextmanager
def check_meanwhile(folder: Path) -> Iterator[None]:
    """check_undamaged of the best model, beside what is done inside where that saves time: it may raise at the end only."""
    names, weights = [*FIXED, "model.safetensors"], folder / "model.safetensors"
    if not weights.is_file() or weights.stat().st_size < BESIDE:
        check_undamaged(folder, names)
        yield
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        undamaged = pool.submit(check_undamaged, folder, names)
        yield
        undamaged.result()


def run_damage(folder: Path, names: Iterable[str]) -> str:
    """What is wrong with these files of a run, in words; nothing if they are as its manifest says. Runs of old have none."""
    return damage(folder, names) if os.path.lexists(folder / MANIFEST) else ""


def fitting_tokenizer(folder: Path, config: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a run. Raises ValueError if it is not the one that the model was trained with."""
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} is incomplete: it has no tokenizer.json")
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size != config.get("vocab_size"):
        raise ValueError(
            f"{folder} does not fit together: tokenizer.json has {tokenizer.vocab_size} tokens, "
            f"config.json says vocab_size {config.get('vocab_size')}"
        )
    return tokenizer


def text_paths(run: Path, about: dict[str, Any]) -> list[str]:
    """Where the text of a run is. Raises ValueError if it is not to be found there."""
    name, paths = about["text"]["name"], about["text"]["paths"]
    for path in paths:
        if path == "-" or not Path(path).exists():
            where = "came from standard input" if path == "-" else f"is not at {path} (seen from this folder)"
            raise ValueError(f"the text that {run} was trained on ({name}) {where}; name it after RUN, or - to pipe it in")
    return paths
