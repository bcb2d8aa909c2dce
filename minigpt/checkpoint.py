"""A run: the directory that holds a model, how it was made, and how to go on.

    runs/NAME/
      config.json  model.safetensors  generation_config.json     the best weights so far, as transformers reads them
      tokenizer.json  tokenizer_config.json
      README.md                                                   the model card
      metrics.jsonl  samples.jsonl                                what was measured and written on the way
      checkpoints/step-00000500/                                  the last step: weights, optimizer, state

The directory is a Hugging Face model: AutoModelForCausalLM.from_pretrained("runs/NAME") opens it. No pickle anywhere.

Next: explain.py
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn as nn

from . import __version__
from .bigram import BigramLanguageModel, LanguageModel
from .card import SAMPLE, model_card
from .config import TrainConfig
from .corpus import Corpus
from .engine import write
from .files import append_line, damage, read_json, read_lines, read_tensors, to_json, write_file, write_folder
from .model import GPT
from .modern import ModernGPT
from .rungs import Stack
from .tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from .trainer import Metrics, TrainState

FORMAT = 1  # of config.json's part "minigpt", raised when an older package could not read a newer run
MODELS: dict[str, type[LanguageModel]] = {model.model_type: model for model in (BigramLanguageModel, GPT, ModernGPT, Stack)}
# fmt: off
TEXT = {  # what a run says of its text
    "name": str, "paths": list, "sha256": str, "characters": int, "tokens": int, "tokens_per_char": float,
    "tokenizer": str, "encoding": str, "val_fraction": float,
}
YOUNGER = {"minutes", "optimizer", "schedule"}  # fields of TrainConfig that came later: an older run has the defaults
BEGINNINGS = {  # what a run can have before its first weights are written
    "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
    "metrics.jsonl", "samples.jsonl", "checkpoints",
}
# fmt: on


class Run:
    """A run that is being trained: what must not be lost is on the disk after every evaluation."""

    def __init__(
        self,
        folder: Path,
        model: LanguageModel,
        tokenizer: Tokenizer,
        config: TrainConfig,
        state: TrainState,
        about: dict[str, Any],
    ) -> None:
        self.folder, self.model, self.tokenizer = folder, model, tokenizer
        self.config, self.state, self.about = config, state, about
        self.sample = ""  # the latest
        self.best_sample = ""  # that of the best step

    @classmethod
    def create(cls, folder: str | Path, model: LanguageModel, corpus: Corpus, config: TrainConfig) -> "Run":
        """Start a new run directory. Raises ValueError if there is something in it already."""
        folder = Path(folder)
        check_new(folder)
        about = {
            "format": FORMAT,
            "version": __version__,
            "train": asdict(config),
            "text": {
                "name": corpus.name,
                "paths": list(corpus.paths),
                "sha256": corpus.sha256,
                "characters": corpus.characters,
                "tokens": len(corpus.ids),
                "tokens_per_char": corpus.tokens_per_char,
                **asdict(corpus.config),
            },
        }
        state = TrainState.new(model, config)
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.iterdir():  # of a run that ended before its first checkpoint
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        write_file(folder / "config.json", to_json(hf_config(model) | {"minigpt": about}))
        save_tokenizer(corpus.tokenizer, folder, model.block_size)
        drawing = {"do_sample": True, "temperature": 1.0, "max_new_tokens": 200}
        write_file(folder / "generation_config.json", to_json(drawing))
        return cls(folder, model, corpus.tokenizer, config, state, about)

    @classmethod
    def resume(
        cls, folder: str | Path, device: str = "cpu", paths: Sequence[str] = (), **changes: Any
    ) -> tuple["Run", list[str]]:
        """Open a run at its last good checkpoint, with some of its training settings changed.

        paths: where its text is now, if it has moved. Nothing is written if there are no steps left to take.

        Returns the run and a sentence for each checkpoint that had to be skipped.
        Raises ValueError if there is none to go on from.
        """
        folder = Path(folder)
        config_file = read_run_config(folder)
        about = config_file["minigpt"]
        config = TrainConfig(**about["train"]).changed(changes)
        skipped = []
        for step_folder in sorted((folder / "checkpoints").glob("step-*"), reverse=True):
            if problem := damage(step_folder):
                skipped.append(f"Skipped {step_folder.name}: {problem}.")
                continue
            model = MODELS[config_file["model_type"]].from_hf(config_file, read_tensors(step_folder / "model.safetensors"))
            model.to(device)
            state = TrainState.new(model, config)
            _restore(
                state, model, read_json(step_folder / "state.json"), read_tensors(step_folder / "optimizer.safetensors")
            )
            if changes.keys() & {"max_iters", "minutes"}:  # where it ends now; the clock will know better
                state.last_step = round(state.step * 60 * config.minutes / max(state.seconds, 1e-9))
            about["train"] = asdict(config)
            if paths:
                about["text"]["paths"] = list(paths)
            run = cls(folder, model, fitting_tokenizer(folder, config_file), config, state, about)
            if state.step >= state.ends_at(config):
                return run, skipped
            for log in ("metrics.jsonl", "samples.jsonl"):  # forget what came after the checkpoint
                kept_lines = [line for line in read_lines(folder / log) if line.get("step", 0) <= state.step]
                best = [line["text"] for line in kept_lines if line.get("step") == state.best_step and "text" in line]
                run.best_sample = best[-1] if best else run.best_sample
                write_file(folder / log, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept_lines))
            write_file(folder / "config.json", to_json(config_file))
            return run, skipped
        raise ValueError(f"{folder} has no checkpoint to resume from. {' '.join(skipped)}".strip())

    def record(self, metrics: Metrics) -> None:
        """Keep what a step of training told: a line of metrics, and after an evaluation everything else."""
        told = {name: value for name, value in asdict(metrics).items() if value is not None and value is not False}
        append_line(self.folder / "metrics.jsonl", told)
        if metrics.val_loss is None:
            return
        self.sample = "".join(write(self.model, self.tokenizer, "", SAMPLE))
        append_line(
            self.folder / "samples.jsonl",
            {"step": metrics.step, "prompt": "", "seed": SAMPLE.seed, "text": self.sample},
        )
        if metrics.is_best:
            self.best_sample = self.sample
            write_file(self.folder / "model.safetensors", weights_file(self.model))
        card = model_card(self.folder, self.model, self.about, self.state, self.best_sample)
        write_file(self.folder / "README.md", card)
        self.save()

    def save(self) -> None:
        """Write a checkpoint of this step; the one before it goes only when the new one is safe."""
        checkpoints = self.folder / "checkpoints"
        path = checkpoints / f"step-{self.state.step:08d}"
        if path.exists() and not damage(path):
            return  # saved already, by the evaluation of this step
        checkpoints.mkdir(exist_ok=True)
        tensors, state = _collect(self.state, self.model)
        files = {
            "model.safetensors": weights_file(self.model),
            "optimizer.safetensors": safetensors.torch.save(tensors),
            "state.json": to_json(state),
        }
        write_folder(path, files)
        for old in checkpoints.iterdir():
            if old != path and old.is_dir():
                shutil.rmtree(old)


def check_new(folder: Path) -> None:
    """Raise ValueError or OSError unless a run can begin in this folder: a new or empty one, or one where none got going."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file; name a folder for the run, for example --out runs/mine")
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"no permission to write in {existing}")
    if has_begun(folder):
        raise ValueError(f"{folder} already holds a run; continue it with --resume, or choose another --out")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    kept = {name for name in names if not (name.startswith(".") and name.endswith(".tmp"))}
    if kept and not (kept <= BEGINNINGS and _is_ours(folder / "config.json")):
        raise ValueError(f"{folder} is not empty; choose another --out")


def _is_ours(path: Path) -> bool:
    """True for the config.json of a run: the first file that is written, so the mark of a folder that is ours."""
    try:
        return "minigpt" in read_json(path)
    except (OSError, ValueError):
        return False


def has_begun(folder: Path) -> bool:
    """True if there is something of a run to lose here."""
    return (folder / "model.safetensors").exists() or any((folder / "checkpoints").glob("step-*"))


def free_folder(folder: str | Path) -> Path:
    """The folder itself if a run can begin there, else the first of NAME-2, NAME-3, ... that does not exist yet."""
    folder = Path(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        check_new(folder)
        return folder
    return next(path for i in range(2, 10**6) if not (path := folder.with_name(f"{folder.name}-{i}")).exists())


def load(folder: str | Path, device: str = "cpu") -> tuple[LanguageModel, Tokenizer]:
    """Open a run for use: its best model, ready to generate, and its tokenizer."""
    folder = Path(folder)
    config = read_run_config(folder)
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise ValueError(f"{folder} is incomplete: it has no model.safetensors yet")
    model = MODELS[config["model_type"]].from_hf(config, read_tensors(weights))
    return model.to(device).eval(), fitting_tokenizer(folder, config)


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


def read_run_config(folder: Path) -> dict[str, Any]:
    """The config.json of a run. Raises ValueError in plain words if this is no run, or one that cannot be read."""
    path = folder / "config.json"
    if not folder.exists():
        raise ValueError(f"there is no run {folder}; minigpt train makes one")
    if not path.is_file():
        raise ValueError(f"{folder} is not a run: it has no config.json")
    config = read_json(path)
    about = config.get("minigpt")
    if not isinstance(about, dict) or not isinstance(about.get("format"), int):
        raise ValueError(f"{folder} was not made by minigpt: its config.json says nothing of it")
    if about["format"] > FORMAT:
        raise ValueError(
            f"{folder} has format {about['format']}; minigpt {__version__} reads formats up to {FORMAT}, so upgrade minigpt"
        )
    train, text = about.get("train"), about.get("text")
    for name, kind in TEXT.items():
        if not isinstance(text, dict) or not isinstance(text.get(name), kind):
            raise ValueError(f"{path} is damaged: its part minigpt / text lacks {name}")
    if not isinstance(train, dict) or {f.name for f in fields(TrainConfig)} - YOUNGER != set(train) - YOUNGER:
        raise ValueError(f"{path} is damaged: its part minigpt / train is not what this version writes")
    about["train"] = asdict(TrainConfig(**train))
    if config.get("model_type") not in MODELS:
        raise ValueError(f"{path} names the model type {config.get('model_type')!r}; known are {', '.join(MODELS)}")
    return config


def hf_config(model: LanguageModel) -> dict[str, Any]:
    """The config.json of a model, with its type, as transformers reads it."""
    return {"model_type": model.model_type, **model.to_hf()[0]}


def weights_file(model: LanguageModel) -> bytes:
    """model.safetensors, in transformers' names and layouts."""
    tensors = {name: tensor.to("cpu", torch.float32) for name, tensor in model.to_hf()[1].items()}
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def _collect(state: TrainState, model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A training state as tensors by name, and everything else as JSON."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    plain = {f.name: getattr(state, f.name) for f in fields(state) if f.name != "optimizer"}
    return tensors, {"format": FORMAT, **plain}


def _restore(state: TrainState, model: nn.Module, plain: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of _collect."""
    parameters = dict(model.named_parameters())
    for stored, value in tensors.items():
        key, name = stored.split(".", 1)
        parameter = parameters[name]
        state.optimizer.state[parameter][key] = value.to(parameter.device, copy=True)
    for f in fields(state):
        if f.name in plain:
            setattr(state, f.name, plain[f.name])
