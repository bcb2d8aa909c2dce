"""Does this device compute what it should? The same three training steps twice: on the device, and by the plainest way.

A device that computes wrongly does not say so. The loss falls, only less far, and nobody knows why. So it is asked before it
is trusted: two small models, the same weights and batches, and beside it the processor, in float32 and without the
shortcuts of speed.py. Rounding is expected; what is more than rounding is a fault.

Next: program.py
"""

import contextlib
import copy
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal

import torch
import torch.nn as nn
from torch import Tensor

from . import __version__
from .bigram import LanguageModel
from .config import GPTConfig, TrainConfig
from .corpus import is_shakespeare
from .files import cache_folder, make_folder, read_json, to_json, write_file
from .gradient import autocast_on
from .machine import available_memory, fingerprint
from .model import GPT
from .modern import ModernGPT
from .optim import make_optimizer
from .speed import speed_up

STEPS, BATCH = 3, 8
SHAPE = GPTConfig(vocab_size=65, block_size=64, n_layer=2, n_head=4, n_embd=128)
MODELS: dict[str, tuple[type[GPT], TrainConfig]] = {  # all that differs between architectures: two cover it
    "gpt": (GPT, TrainConfig(max_iters=STEPS)),
    "modern": (ModernGPT, TrainConfig(max_iters=STEPS, optimizer="muon")),
}
# How far the loss, and the gradient of any one parameter, may be from what they should be. Processors come to 2e-7 and 3e-6
# in float32, to 3e-4 and 3e-2 in bfloat16.
TOLERANCES = {"float32": (1e-5, 1e-4), "bfloat16": (1e-3, 8e-2)}
REMEMBERED = "devices.json"  # in the cache

Step = tuple[float, dict[str, Tensor]]  # the loss, and the gradient of each parameter
Way = Callable[[LanguageModel, TrainConfig], list[Step]]  # how three steps are taken from a model, which stays as it is
Answer = Literal["fit", "limited", "unfit"]


@dataclass(frozen=True)
class Comparison:
    """How far two ways to take the same steps are apart: the largest of all steps, relative."""

    arch: str
    dtype: str
    loss: float = 0.0
    gradient: float = 0.0  # of the parameter where it is largest
    where: str = ""  # that parameter
    problem: str = ""  # why there is nothing to compare, in words

    def within(self, dtype: str) -> bool:
        """True if rounding in this arithmetic explains the difference."""
        loss, gradient = TOLERANCES[dtype]
        return not self.problem and self.loss <= loss and self.gradient <= gradient

    def __str__(self) -> str:
        if self.problem:
            return f"{self.arch} in {self.dtype}: {self.problem}"
        return (
            f"{self.arch} in {self.dtype}: the loss is off by {self.loss:.1e} of itself, the gradient of {self.where} "
            f"by {self.gradient:.1e}"
        )


@dataclass(frozen=True)
class Verdict:
    """What to make of a device."""

    answer: Answer
    reasons: tuple[str, ...] = ()  # sentences


def examine(device: torch.device) -> Iterator[Comparison]:
    """Compare a device, as training uses it, with the plain way on the processor."""
    usual = isinstance(autocast_on(device), torch.autocast)
    for dtype in ("float32", "bfloat16") if usual else ("float32",):
        for arch in MODELS:
            yield compare(arch, dtype, way_on(torch.device("cpu"), plain=True), way_on(device, dtype))


def compare(arch: str, dtype: str, plain: Way, other: Way) -> Comparison:
    """Take the same steps by a way that is trusted and by another, which may fail."""
    kind, config = MODELS[arch]
    model = _that_has_learned(kind)
    expected = plain(model, config)
    try:
        found = other(model, config)
    except Exception as error:  # whatever a device may raise
        line = (str(error).splitlines() or [""])[0][:200]
        return Comparison(arch, dtype, problem=f"it fails ({type(error).__name__}: {line})")
    if not all(torch.tensor(loss).isfinite() and all(g.isfinite().all() for g in grads.values()) for loss, grads in found):
        return Comparison(arch, dtype, problem="a loss or a gradient is infinite or NaN")
    pairs = list(zip(found, expected, strict=True))
    loss = max(abs(ours - theirs) / theirs for (ours, _), (theirs, _) in pairs)
    gradient, where = max(_farthest(ours, theirs) for (_, ours), (_, theirs) in pairs)
    return Comparison(arch, dtype, loss, gradient, where)


def way_on(device: torch.device, dtype: str = "float32", plain: bool = False) -> Way:
    """Three steps as training takes them on a device; plain: without the shortcuts of speed.py."""

    def three_steps(model: LanguageModel, config: TrainConfig) -> list[Step]:
        model = copy.deepcopy(model).to(device)
        if not plain:
            speed_up(model, device)
        optimizer, steps = make_optimizer(model, config), []
        for step in range(STEPS):
            idx, targets = (ids.to(device) for ids in _batch(step))
            with autocast_on(device, dtype):
                _, loss = model(idx, targets)
            loss.backward()
            grads = {name: p.grad.to("cpu", copy=True) for name, p in model.named_parameters() if p.grad is not None}
            steps.append((loss.item(), grads))
            nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
            optimizer.step()
            optimizer.zero_grad()
        return steps

    return three_steps


def judge(comparisons: list[Comparison]) -> Verdict:
    """What the comparisons come to. Every reason is a sentence."""
    single = [c for c in comparisons if c.dtype == "float32"]
    half = [c for c in comparisons if c.dtype == "bfloat16"]
    if wrong := [c for c in single if not c.within("bfloat16")]:
        return Verdict("unfit", tuple(f"{c}." for c in wrong))
    reasons = [
        f"{c}. That is no more exact than bfloat16: it learns, but compare its losses with those of this device only."
        for c in single
        if not c.within("float32")
    ]
    reasons += [f"{c}. Train with --dtype float32." for c in half if not c.within("bfloat16")]
    return Verdict("limited" if reasons else "fit", tuple(reasons))


def _that_has_learned(kind: type[GPT]) -> LanguageModel:
    """A model with weights of the size that training gives them. A new one adds nothing to the residual, and its attention
    looks everywhere alike: most faults would not show."""
    generator = torch.Generator().manual_seed(1337)
    with torch.random.fork_rng([]):
        model = kind(SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * parameter.shape[1] ** -0.5 if parameter.dim() == 2 else parameter + 0.1 * noise)
    return model


def _batch(step: int) -> tuple[Tensor, Tensor]:
    ids = torch.randint(SHAPE.vocab_size, (BATCH, SHAPE.block_size + 1), generator=torch.Generator().manual_seed(step))
    return ids[:, :-1], ids[:, 1:]


def _farthest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative difference of a parameter's gradients, and the parameter. Of what is nearly zero, beside all."""
    norms = {name: float(grad.norm()) for name, grad in theirs.items()}
    least = 1e-3 * sum(norm**2 for norm in norms.values()) ** 0.5
    return max((float((ours[name] - theirs[name]).norm()) / max(norms[name], least), name) for name in theirs)


# ---- the first time ----------------------------------------------------------------------------------------------------


def first_look(device: torch.device) -> Verdict:
    """The verdict on a device, from its first training with these versions; remembered in the cache."""
    known = _remembered().get(_key(device))
    if isinstance(known, dict) and known.keys() == {"answer", "reasons"} and known["answer"] in ("fit", "limited", "unfit"):
        return Verdict(known["answer"], tuple(known["reasons"]))
    verdict = judge(list(examine(device)))
    remember(device, verdict)
    return verdict


def remember(device: torch.device, verdict: Verdict) -> None:
    """Keep a verdict in the cache; where that cannot be written, do not."""
    with contextlib.suppress(OSError):
        make_folder(cache_folder())
        write_file(cache_folder() / REMEMBERED, to_json(_remembered() | {_key(device): asdict(verdict)}))


def _remembered() -> dict[str, Any]:
    try:
        return read_json(cache_folder() / REMEMBERED)
    except (OSError, ValueError):  # not there, or spoiled
        return {}


def _key(device: torch.device) -> str:
    return ", ".join(f"{name} {value}" for name, value in fingerprint(device).items())


# ---- what else is to be known --------------------------------------------------------------------------------------------


def surroundings(device: torch.device) -> dict[str, str]:
    """Versions, device, memory, compiler, cache and disk, by name, in words."""
    about, memory = fingerprint(device), available_memory(device)
    named = about.get("gpu") or f"{about['processor'] or 'processor'}, {about['instructions']}, {about['threads']} threads"
    return {
        "minigpt": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, numpy {version('numpy')}, safetensors {version('safetensors')}",
        "device": f"{device}: {named}",
        "memory": "unknown" if memory is None else f"{memory / 2**30:.1f} GB available",
        "compiler": _compiler(device),
        "cache": _cache(),
        "disk": f"{shutil.disk_usage('.').free / 2**30:.1f} GB free here",
    }


def _compiler(device: torch.device) -> str:
    """What torch.compile needs, looked for without compiling: half a minute is too long for a question."""
    if device.type == "cuda":
        found = "triton" if importlib.util.find_spec("triton") else ""
    else:
        names = (os.environ.get("CXX", ""), "g++", "clang++", "cl")
        found = next((path for name in names if name and (path := shutil.which(name))), "")
    return f"{found}: --compile on can work" if found else "none found: --compile on would go on without"


def _cache() -> str:
    folder = cache_folder()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    writable = "writable" if os.access(existing, os.W_OK) else "not writable"
    text = "with" if is_shakespeare(folder / "tinyshakespeare.txt") else "without"
    return f"{folder}: {size / 2**20:.1f} MB, {writable}, {text} tiny Shakespeare"
