"""A run, opened to write: by the engine that suits it, and without torch where that is possible.

    model, tokenizer, engine = open_run("runs/my")          # native: starts at once and is the fastest on a processor
    model, tokenizer, engine = open_run("runs/my", "torch", "cuda")

With float32 all engines give the same text from the same seed, up to rounding: they could part only where a random number
falls on the border between two tokens.

Next: novelty.py
"""

from pathlib import Path
from typing import Any, NamedTuple

from .cores import others_computing
from .native_engine import NativeModel, NoCompiler
from .numpy_engine import NUMPY_MODELS, NumpyTransformer
from .saved import check_meanwhile, open_arrays, read_run_config
from .tokenizer import Tokenizer

ENGINES = ("auto", "torch", "numpy", "native")
PRECISIONS = ("float32", "int8")
PROCESSOR = ("auto", "cpu")  # devices


class Opened(NamedTuple):
    """A model that writes, its tokenizer, and what runs it, in words."""

    model: Any
    tokenizer: Tokenizer
    engine: str


def open_run(folder: str | Path, engine: str = "auto", device: str = "auto", dtype: str = "float32") -> Opened:
    """Open the best model of a run.

    engine: auto is native on a processor where there is a C compiler, else numpy; torch on any other device, for rungs of
    the ladder, and when it is asked for. dtype: int8 rounds the weights of the native engine.

    Raises ValueError for whatever is no whole run, and for what an engine cannot do.
    """
    folder = Path(folder)
    if problem := impossible(engine, device, dtype):
        raise ValueError(problem)
    kind = read_run_config(folder)["model_type"]
    if engine == "auto" and (device not in PROCESSOR or kind not in NUMPY_MODELS):
        engine = "torch"
        if problem := impossible(engine, device, dtype):
            raise ValueError(f"{folder} is read by torch: {problem}")
    if engine == "torch":
        return _by_torch(folder, device)

    # Threads meet a hundred times a token: where another program takes one of their cores, all wait for it each time. Asked
    # before a thread of our own computes.
    others = others_computing()
    with check_meanwhile(folder):
        config, tensors, tokenizer = open_arrays(folder)
        model = NUMPY_MODELS[config["model_type"]](config, tensors)
        if (engine == "native" or dtype == "int8") and not isinstance(model, NumpyTransformer):
            raise ValueError(f"{folder} is a bigram: a table, which neither the engine native nor int8 makes faster")
        why = ""
        if engine != "numpy" and isinstance(model, NumpyTransformer):
            try:
                model = NativeModel(model, dtype == "int8", others=others)
            except NoCompiler as error:
                if engine == "native" or dtype == "int8":
                    raise ValueError(f"the engine native is not to be had here: {error}") from None
                why = f" ({error})"
    if isinstance(model, NativeModel):
        return Opened(model, tokenizer, f"native, {dtype}, {model.threads} thread{'s' * (model.threads > 1)}")
    return Opened(model, tokenizer, f"numpy, {dtype}{why}")


def impossible(engine: str, device: str, dtype: str) -> str:
    """What cannot be, or cannot go together, in words."""
    for name, value, allowed in (("engine", engine, ENGINES), ("dtype", dtype, PRECISIONS)):
        if value not in allowed:
            return f"{name} is {value!r}; it must be one of {', '.join(allowed)}"
    if engine in ("numpy", "native") and device not in PROCESSOR:
        return f"the engine {engine} computes on the processor; for the device {device} use torch"
    if dtype == "int8" and (engine in ("torch", "numpy") or device not in PROCESSOR):
        return "int8 is for the engine native, on the processor"
    return ""


def _by_torch(folder: Path, device: str) -> Opened:
    from .checkpoint import load
    from .trainer import best_device

    device = best_device() if device == "auto" else device
    model, tokenizer = load(folder, device)
    return Opened(model, tokenizer, f"torch, float32, {device}")
