"""A run: the directory that holds a model, how it was made, and how to go on.

    runs/NAME/
      config.json  model.safetensors  generation_config.json     the best weights so far, as transformers reads them
      tokenizer.json  tokenizer_config.json
      README.md                                                   the model card
      metrics.jsonl  samples.jsonl                                what was measured and written on the way
      manifest.json                                               size and SHA-256 of the files that make up the model
      checkpoints/step-00000500/                                  a step: weights, optimizer, state, and a manifest

The directory is a Hugging Face model: AutoModelForCausalLM.from_pretrained("runs/NAME") opens it. No pickle anywhere.

How one is opened that may come from anyone is in saved.py.

Next: opening.py
"""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints
from warnings import warn

import safetensors.torch
import torch
import torch.nn as nn

from . import __version__
from .bigram import BigramLanguageModel, LanguageModel
from .card import SAMPLE, model_card, read_metrics, read_samples
from .config import SampleConfig, TrainConfig, from_dict
from .corpus import Corpus
from .files import (
    MANIFEST,
    append_line,
    check_space,
    checked,
    damage,
    make_folder,
    printable,
    read_json,
    read_tensors,
    remove_folder,
    remove_leftovers,
    sync_file,
    to_json,
    write_file,
    write_folder,
    write_into,
)
from .hf import check_blocks, sizes
from .lock import LOCK, InUse, check_free, hold, still_held
from .machine import fingerprint
from .model import GPT
from .modern import ModernGPT
from .rungs import Stack
from .saved import (
    FIXED,
    FORMAT,
    YOUNGER,
    check_settings,
    check_undamaged,
    finished_weights,
    fitting_tokenizer,
    read_run_config,
    run_damage,
    shapes_of,
)
from .tokenizer import CharTokenizer, Tokenizer, tokenizer_files
from .trainer import Metrics, NonFiniteLoss, TrainState
from .writing import start_ids, write

MODELS: dict[str, type[LanguageModel]] = {model.model_type: model for model in (BigramLanguageModel, GPT, ModernGPT, Stack)}
BEGINNINGS = {*FIXED, MANIFEST, "metrics.jsonl", "samples.jsonl", "checkpoints"}  # before the first weights are written
KEPT = 2  # checkpoints: the one before the last is there in case that the disk spoils the last


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
            "text": _about_text(corpus),
        }
        state = TrainState.new(model, config)
        files = {
            "config.json": to_json(hf_config(model) | {"minigpt": about}),
            **tokenizer_files(corpus.tokenizer, model.block_size),
            "generation_config.json": to_json({"do_sample": True, "temperature": 1.0, "max_new_tokens": 200}),
        }
        check_space(folder, 3 * _checkpoint_bytes(model))
        make_folder(folder)
        hold(folder)
        check_new(folder)  # again: until a moment ago it could have become another's
        # What is left of a run that ended before its first checkpoint goes, and last what shows that it was one.
        for leftover in sorted(folder.iterdir(), key=lambda path: (path.name == MANIFEST, path.name == "config.json")):
            if leftover.name != LOCK:
                shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
        write_into(folder, files)
        make_folder(folder / "checkpoints")
        return cls(folder, model, corpus.tokenizer, config, state, about)

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        device: str = "cpu",
        corpus: Corpus | None = None,
        other_text: bool = False,
        **changes: Any,
    ) -> tuple["Run", list[str]]:
        """Open a run at its last good checkpoint, with some of its training settings changed.

        corpus: the text to go on with, read with the tokenizer of the run: its own, wherever that is now, or with
        `other_text` another one. Nothing is written if there are no steps left to take.

        Returns the run and sentences: of each checkpoint that had to be skipped, and of what can change the bits.
        Raises ValueError if there is none to go on from, or if text or tokenizer are others than before.
        """
        folder = Path(folder)
        config_file = read_run_config(folder)
        about = config_file["minigpt"]
        tokenizer = fitting_tokenizer(folder, config_file)
        check_undamaged(folder, ["config.json"])
        if corpus:
            _check_text(folder, about, corpus, tokenizer, other_text)
        check_undamaged(folder, FIXED)
        if (folder / "checkpoints").is_symlink():  # what is written and removed there has to be in this folder
            raise ValueError(f"{folder / 'checkpoints'} is a link; a run keeps its checkpoints in its own folder")
        hold(folder)
        for part in (folder, folder / "checkpoints"):
            remove_leftovers(part)
        config = TrainConfig(**about["train"]).changed(changes)
        notes = []
        for step_folder in reversed(_steps(folder)):
            if problem := damage(step_folder):
                notes.append(f"Skipped {step_folder.name}: {problem}.")
                continue
            plain = _read_state(step_folder / "state.json")
            model = _read_model(config_file, step_folder / "model.safetensors").to(device)
            state = TrainState.new(model, config)
            _restore(state, model, plain, step_folder / "optimizer.safetensors")
            if changes.keys() & {"max_iters", "minutes"}:  # where it ends now; the clock will know better
                state.last_step = round(state.step * 60 * config.minutes / max(state.seconds, 1e-9))
            about["train"] = asdict(config)
            run = cls(folder, model, tokenizer, config, state, about)
            if state.is_over(config):
                return run, notes
            if corpus:
                corpus.check(model.block_size)
                notes += _change_text(about, _about_text(corpus), state.step)
            if about.get("earlier") and state.step <= about["earlier"][-1]["until_step"]:
                _forget_text(state)
            notes += _other_machine(plain["machine"], fingerprint(torch.device(device), model))
            if not state.step or not (folder / "model.safetensors").exists() or run_damage(folder, ["model.safetensors"]):
                state.best_val_loss = math.inf  # there is no best model yet, or not any more: the next one is
            run._forget_later()
            write_into(folder, {"config.json": to_json(config_file)})
            return run, notes
        raise ValueError(f"{folder} has no checkpoint to resume from. {' '.join(notes)}".strip())

    def record(self, metrics: Metrics) -> None:
        """Keep what a step of training told: a line of metrics, and after an evaluation everything else."""
        self._check_here()
        told = {name: value for name, value in asdict(metrics).items() if value is not None and value is not False}
        append_line(self.folder / "metrics.jsonl", told)
        if metrics.val_loss is None:
            return
        self.sample = "".join(write(self.model, self.tokenizer, "", SAMPLE))
        append_line(
            self.folder / "samples.jsonl",
            {"step": metrics.step, "prompt": "", "seed": SAMPLE.seed, "text": self.sample},
        )
        if metrics.step == 0:
            self.save()  # before the weights: where there are any, there is a checkpoint to go on from
        if metrics.is_best:
            self.best_sample = self.sample
            write_into(self.folder, {"model.safetensors": weights_file(self.model)})
        card = model_card(self.folder, self.model, self.about, self.state, self.best_sample)
        write_file(self.folder / "README.md", card)
        self.save()

    def evaluations(self) -> list[Metrics]:
        """What was measured so far at the evaluations, on the text that it learns from now."""
        before, needed = [text["until_step"] for text in self.about.get("earlier", [])], {"last_step": 0, "seconds": 0.0}
        lines = [line for line in read_metrics(self.folder) if "val_loss" in line and line["step"] > max(before, default=-1)]
        return [from_dict(Metrics, needed | line) for line in lines]

    def save(self) -> None:
        """Write a checkpoint of this step; older ones go only when it is safe.

        Raises NonFiniteLoss instead of saving weights that are spoiled, and OSError where it cannot write.
        """
        self._check_here()
        checkpoints = self.folder / "checkpoints"
        path = checkpoints / f"step-{self.state.step:08d}"
        tensors, state = _collect(self.state, self.model)
        if path.exists() and not damage(path):  # saved already, by the evaluation of this step or before it was interrupted
            if not self.state.owed and _read_state(path / "state.json")["owed"]:
                write_into(path, {"state.json": to_json(state)})
            return
        _check_finite(self.state.step, {**dict(self.model.named_parameters()), **tensors})
        check_space(self.folder, _checkpoint_bytes(self.model))
        for log in ("metrics.jsonl", "samples.jsonl"):
            if (self.folder / log).exists():
                sync_file(self.folder / log)
        files = {
            "model.safetensors": weights_file(self.model),
            "optimizer.safetensors": safetensors.torch.save(tensors),
            "state.json": to_json(state),
        }
        write_folder(path, files)
        remove_leftovers(checkpoints)
        steps = _steps(self.folder)
        earlier = [old for old in steps if old < path]
        for old in steps:
            if old != path and old not in earlier[-KEPT + 1 :]:
                remove_folder(old)
        self._check_here()  # still: what was removed last could be in a folder that is elsewhere by now

    def _forget_later(self) -> None:
        """Leave out of the logs what came after this state: it will be measured and written again."""
        until = self.state.step - self.state.begins_with_evaluation
        for log, read in (("metrics.jsonl", read_metrics), ("samples.jsonl", read_samples)):
            lines = [line for line in read(self.folder) if line["step"] <= until]
            best = [line["text"] for line in lines if line["step"] == self.state.best_step and "text" in line]
            self.best_sample = best[-1] if best else self.best_sample
            write_file(self.folder / log, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def _check_here(self) -> None:
        """Raise FileNotFoundError if the folder of the run is not there any more."""
        if not still_held(self.folder):
            raise FileNotFoundError(2, "the folder of this run was moved or removed while it was trained", str(self.folder))


def _steps(folder: Path) -> list[Path]:
    """The folders of the checkpoints of a run, the earliest first. A link is none: it may lead anywhere."""
    found = (folder / "checkpoints").glob("step-*")
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def check_new(folder: Path) -> None:
    """Raise ValueError or OSError unless a run can begin in this folder: a new or empty one, or one where none got going."""
    check_free(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file; name a folder for the run, for example --out runs/mine")
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"no permission to write in {existing}")
    if has_begun(folder):
        check_free(folder)  # again: perhaps it has begun since
        raise ValueError(f"{folder} already holds a run; continue it with --resume, or choose another --out")
    there = _contents(folder) if folder.exists() else set()
    if there and not (there <= BEGINNINGS and _is_ours(folder)):
        raise ValueError(f"{folder} is not empty; choose another --out")


def _contents(folder: Path) -> set[str]:
    """The names in a folder, but for the lock and what a process that was killed left half written."""
    names = {path.name for path in folder.iterdir()} - {LOCK}
    return {name for name in names if not (name.startswith(".") and name.endswith(".tmp"))}


def _is_ours(folder: Path) -> bool:
    """True for the folder of a run that had no time for weights: the first files are the manifest and config.json."""
    try:
        if (folder / "config.json").exists():
            return "minigpt" in read_json(folder / "config.json")
        return read_json(folder / MANIFEST)["files"].keys() == set(FIXED)
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def has_begun(folder: Path) -> bool:
    """True if there is something of a run to lose here."""
    return (folder / "model.safetensors").exists() or any((folder / "checkpoints").glob("step-*"))


def free_folder(folder: str | Path) -> Path:
    """The folder itself if a run can begin there, else the first of NAME-2, NAME-3, ... that does not exist yet.

    It is there then, and belongs to this process: of many that ask at once, each gets a folder of its own.
    """
    folder = Path(folder)
    if not folder.is_dir() or not _contents(folder):
        with contextlib.suppress(InUse):
            check_new(folder)
            make_folder(folder)
            hold(folder)
            return folder
    for path in (folder.with_name(f"{folder.name}-{i}") for i in range(2, 10**6)):
        with contextlib.suppress(FileExistsError, InUse):
            path.mkdir()
            hold(path)
            return path
    raise ValueError(f"there are a million folders like {folder}; choose another --out")


class Loaded(NamedTuple):
    """A model and its tokenizer: `model, tokenizer = load(run)`."""

    model: LanguageModel
    tokenizer: Tokenizer

    def generate(
        self, prompt: str = "", sample: int = 0, stop: Sequence[str] = (), stop_ids: Sequence[int] = (), **settings: Any
    ) -> str:
        """The text that follows a prompt: load(run).generate("ROMEO:", max_new_tokens=200).

        settings: fields of SampleConfig. Raises ValueError for values that cannot be, and characters that are unknown.
        Warns where the prompt is longer than the context.
        """
        tokens = len(start_ids(self.tokenizer, prompt))
        if tokens > self.model.block_size:
            warn(f"the prompt has {tokens:,} tokens; the model reads the last {self.model.block_size:,}", stacklevel=2)
        return "".join(write(self.model, self.tokenizer, prompt, SampleConfig(**settings), sample, stop, stop_ids))


def load(folder: str | Path, device: str = "cpu") -> Loaded:
    """Open a run for use: its best model, ready to generate, and its tokenizer.

    Raises ValueError in plain words for whatever is no whole run; nothing in it is executed.
    """
    folder = Path(folder)
    config = read_run_config(folder)
    weights = finished_weights(folder)
    check_undamaged(folder, [*FIXED, "model.safetensors"])
    return Loaded(_read_model(config, weights).to(device).eval(), fitting_tokenizer(folder, config))


def _about_text(corpus: Corpus) -> dict[str, Any]:
    """What config.json says of a text (TEXT)."""
    return {
        "name": corpus.name,
        "paths": list(corpus.paths),
        "sha256": corpus.sha256,
        "characters": corpus.characters,
        "tokens": len(corpus.ids),
        "tokens_per_char": corpus.tokens_per_char,
        **asdict(corpus.config),
    }


def _check_text(folder: Path, about: dict[str, Any], corpus: Corpus, tokenizer: Tokenizer, other_text: bool) -> None:
    """Raise ValueError, with what was and what is, if text or tokenizer are not those that a run was trained with."""
    before, now = about["text"], _about_text(corpus)
    if before["sha256"] != now["sha256"]:
        if not other_text:
            raise ValueError(
                f"{folder} was trained on {_identity(before)}, but {_identity(now)} is another text; "
                "name the old one, go on with this one by --other-text, or start a new run"
            )
    elif isinstance(tokenizer, CharTokenizer) and "earlier" not in about:  # made from this very text
        own, given = "".join(sorted(corpus.alphabet)), tokenizer.chars
        if own != given:
            came, went = ("".join(sorted(set(a) - set(b))) for a, b in ((given, own), (own, given)))
            what = f"{came!r} came and {went!r} went" if came or went else "its characters are in another order"
            raise ValueError(f"{folder} does not fit together: tokenizer.json is not that of its text; {what}")


def _identity(text: dict[str, Any]) -> str:
    """A text in words that tell it from others."""
    return f"{text['name']} ({text['characters']:,} characters, {text['tokens']:,} tokens, SHA-256 {text['sha256'][:12]})"


def _change_text(about: dict[str, Any], text: dict[str, Any], step: int) -> list[str]:
    """Let a run say that it learns from this text after a step -> a sentence, if it is another one than before."""
    before, about["text"] = about["text"], text
    if before["sha256"] == text["sha256"]:
        return []
    about["earlier"] = [*about.get("earlier", []), before | {"until_step": step}]
    return [f"From here on it learns from {_identity(text)}, no more from {_identity(before)}."]


def _forget_text(state: TrainState) -> None:
    """Let a state forget what it knows of an earlier text. The best loss on that says nothing of the next one."""
    state.best_val_loss, state.evaluations_since_best = math.inf, 0
    state.loss_sum, state.loss_count, state.recent = 0.0, 0, []


def _read_model(config: dict[str, Any], path: Path) -> LanguageModel:
    """The model of a run's configuration, with the weights of a file. Raises ValueError unless both fit, to the last key."""
    kind = MODELS[config["model_type"]]
    if kind is Stack:
        check_blocks(sizes(config, kind.model_type)["n_layer"], checked(path).stat().st_size)
        blank = kind.blank(config)
        check_settings(config, hf_config(blank), path.parent)
        shapes = {name: tuple(tensor.shape) for name, tensor in blank.to_hf()[1].items()}
    else:
        shapes = shapes_of(config, path)
    return kind.from_hf(config, read_tensors(path, shapes))


def hf_config(model: LanguageModel) -> dict[str, Any]:
    """The config.json of a model, with its type, as transformers reads it."""
    return {"model_type": model.model_type, **model.to_hf()[0]}


def weights_file(model: LanguageModel) -> bytes:
    """model.safetensors, in transformers' names and layouts."""
    tensors = {name: tensor.to("cpu", torch.float32) for name, tensor in model.to_hf()[1].items()}
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def _checkpoint_bytes(model: nn.Module) -> int:
    """About what a checkpoint takes: the weights, the optimizer's two numbers for each, and a little more."""
    return 12 * sum(p.numel() for p in model.parameters()) + 2**16


def _check_finite(step: int, tensors: dict[str, torch.Tensor]) -> None:
    """Raise NonFiniteLoss naming what is spoiled."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise NonFiniteLoss(
                f"after step {step} {name} is not finite, so it was not saved; go on from the last checkpoint"
            )


def _collect(state: TrainState, model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A training state as tensors by name, and everything else as JSON."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    plain = {f.name: getattr(state, f.name) for f in fields(state) if f.name != "optimizer"}
    plain["best_val_loss"] = plain["best_val_loss"] if math.isfinite(plain["best_val_loss"]) else None
    return tensors, {"format": FORMAT, "machine": fingerprint(next(model.parameters()).device, model), **plain}


def _read_state(path: Path) -> dict[str, Any]:
    """What _collect made of a state beside its tensors. Raises ValueError for anything else."""
    plain = read_json(path)
    kinds = {name: kind for name, kind in get_type_hints(TrainState).items() if name != "optimizer"}
    if plain.pop("format", None) != FORMAT or not kinds.keys() - YOUNGER <= plain.keys() - {"machine"} <= kinds.keys():
        raise ValueError(f"{path} is not the state of a training, or not of format {FORMAT}")
    machine = plain.setdefault("machine", {})
    plain["best_val_loss"] = math.inf if plain["best_val_loss"] is None else plain["best_val_loss"]
    if not isinstance(machine, dict) or not all(isinstance(value, str) for value in machine.values()):
        raise ValueError(f"{path} is damaged: machine is {str(machine)[:50]!r}")
    recent, owed = plain.setdefault("recent", []), plain.setdefault("owed", [])
    if not isinstance(recent, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in recent):
        raise ValueError(f"{path} is damaged: recent is {str(recent)[:50]!r}")
    if not isinstance(owed, list) or len(owed) not in (0, 4):
        raise ValueError(f"{path} is damaged: owed is {str(owed)[:50]!r}")
    values = [(name, plain[name]) for name in kinds if name in plain and name not in ("recent", "owed")]
    values += [("recent", value) for pair in recent for value in pair] + [("owed", value) for value in owed]
    for name, value in values:
        if type(value) not in ((int,) if kinds[name] is int else (int, float)) or not value >= 0:
            raise ValueError(f"{path} is damaged: {name} is {str(value)[:50]!r}")
    return plain


def _restore(state: TrainState, model: nn.Module, plain: dict[str, Any], path: Path) -> None:
    """The inverse of _collect: give a new state the numbers, and its optimizer the tensors of a file."""
    for f in fields(state):
        if f.name in plain:
            setattr(state, f.name, plain[f.name])
    parameters = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    expected: dict[str, tuple[int, ...]] = {}
    for group in state.optimizer.param_groups if state.step else ():
        for parameter in group["params"]:
            name, shape = names[id(parameter)], tuple(parameter.shape)
            by_muon = {f"momentum.{name}": shape}
            by_adam = {f"step.{name}": (), f"exp_avg.{name}": shape, f"exp_avg_sq.{name}": shape}
            expected |= by_muon if group["orthogonal"] else by_adam
    for stored, value in read_tensors(path, expected).items():
        key, name = stored.split(".", 1)
        parameter = parameters[name]
        state.optimizer.state[parameter][key] = value.to(parameter.device, copy=True)


def _other_machine(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """A sentence on what is not as it was when the checkpoint was made, if that can change the bits."""
    changed = [
        f"{name} {printable(before[name])[:60]} -> {now[name]}" for name in now if before.get(name, now[name]) != now[name]
    ]
    return [f"Not as before: {', '.join(changed)}. It goes on as well, but not to the same bits."] if changed else []
