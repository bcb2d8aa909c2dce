"""torch.compile, with a folder for what it compiles that survives being interrupted.

A linker that is killed leaves half a library. torch would find it at every start from then on, and fail. So a file says
that a model is being compiled, and a folder in which such a file outlived its process is emptied. And where a compiler is
killed, torch goes on with what is left, other code and so other bits: an interruption ends compiling at once.

Next: machine.py
"""

import importlib
import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import torch.nn as nn

from .files import cache_folder
from .lock import try_lock
from .signals import interruptible, not_begun_if_interrupted

FOLDER = "TORCHINDUCTOR_CACHE_DIR"  # the variable by which torch is told where to keep what it compiles
OURS = "minigpt-compiled"  # a folder in that one, or in our cache
MARK = "compiling-"  # a file whose lock a process holds while it compiles


def compiled(model: nn.Module, try_step: Callable[[nn.Module], object]) -> nn.Module:
    """The same model, compiled: for batches, which keep their shape. Whoever evaluates or saves has the model itself.

    try_step: computes loss and gradient of a batch; a model is compiled when it is used, forwards and backwards. The
    gradient is forgotten. Where no compiler is there, the model itself, with a warning.
    """
    with suppress(ImportError):  # told below; a second, and neither where nobody compiles nor while it may be given up
        importlib.import_module("torch._dynamo")
    not_begun_if_interrupted()
    with whole_libraries():
        try:
            torch.compile(torch.neg)(torch.ones(1, device=next(model.parameters()).device))
        except Exception as error:  # whatever a compiler may raise, or its absence
            warnings.warn(
                f"torch.compile does not work here ({type(error).__name__}); training goes on without it", stacklevel=3
            )
            return model
        # Not dynamic: what is compiled for a shape must not depend on the shapes before it, or a resumed training would
        # get other bits.
        learner: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
        with warnings.catch_warnings(), suppress(torch.OutOfMemoryError):  # which the training will meet, and can handle
            warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")  # a pure one
            try_step(learner)
        model.zero_grad(set_to_none=True)
    return learner


@contextmanager
def whole_libraries() -> Iterator[None]:
    """From here on torch keeps what it compiles in a folder without half libraries; the mark stays if this is interrupted.

    Where nothing can be written, torch does as it likes.
    """
    named = Path(os.environ.get(FOLDER) or cache_folder())
    folder = _whole(named if named.name.startswith(OURS) else named / OURS)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, mark = tempfile.mkstemp(prefix=MARK, dir=folder)
    except OSError:
        yield
        return
    try_lock(descriptor)  # the system lets go when this process ends, however it ends
    os.environ[FOLDER] = str(folder)
    try:
        with interruptible():
            yield
    finally:
        os.close(descriptor)
    Path(mark).unlink(missing_ok=True)


def _whole(base: Path) -> Path:
    """The first of `base`, base-2, ... in which nobody was interrupted; emptied before, unless somebody compiles there."""
    for folder in itertools.chain([base], (base.with_name(f"{base.name}-{i}") for i in itertools.count(2))):
        alive = [_lives(mark) for mark in folder.glob(f"{MARK}*")]
        if not all(alive) and not any(alive):
            shutil.rmtree(folder, ignore_errors=True)
        if all(alive) or not any(alive):
            return folder
    raise AssertionError


def _lives(mark: Path) -> bool:
    """True if the process that made a mark still compiles."""
    try:
        descriptor = os.open(mark, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:  # it has ended well, this moment
        return True
    except OSError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)
