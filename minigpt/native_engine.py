"""The third telling of how a GPT runs, for speed: native.c, compiled on this machine when it is first needed.

A plain install needs no compiler: where there is none, NumPy reads on. Weights may be rounded to int8, a scale for each
row: a quarter of the memory, and the memory is what the time goes into.

    model = NativeModel(NumpyQwen3(config, tensors))                  # or NativeModel(..., int8=True)
    for token in generate(model, ids, SampleConfig()): ...

Next: engine.py
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from ctypes import POINTER, Structure, c_float, c_int, c_long, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .cores import cores
from .files import cache_folder, unload, write_file
from .numpy_engine import Array, NumpyGPT2, NumpyQwen3, NumpyTransformer, check_ids

SOURCE = Path(__file__).with_name("native.c")
# Sums in any order, and no NaN; not -ffast-math, with which loading the library would change the arithmetic of the whole
# process: gcc lets numbers below 1e-38 become 0 everywhere then.
FAST = ("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")
FLAGS = ("-O3", "-march=native", *FAST, "-ffinite-math-only", "-std=gnu11", "-shared", "-fPIC")
FIRST_PLACES = 64  # that a text has room for at first
LARGE = 8_000_000  # bytes of weights: above, the caches of the cores do not hold them until the next token
PIECE = 2**25  # bytes
MOST_THREADS = 8
AGAIN_S = 3600  # after which a compiler that failed is asked again
SMALL = 800_000  # bytes of weights: below, a second thread waits longer than it helps


class NoCompiler(RuntimeError):
    """native.c cannot be compiled here."""


class _Matrix(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("f", "q", "scale", "bias")),
        *((name, c_int) for name in ("rows", "cols", "far")),
    )


class _Layer(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("norm_1", "norm_1_bias", "norm_2", "norm_2_bias", "q_norm", "k_norm")),
        *((name, _Matrix) for name in ("qkv", "proj", "gate", "up", "down")),
    )


class _Memory(Structure):
    _fields_ = (("keys", c_void_p), ("values", c_void_p), ("places", c_int))


class _Model(Structure):
    _fields_ = (
        *((name, c_int) for name in ("n_layer", "n_head", "n_embd", "block_size", "modern")),
        ("eps", c_float),
        *((name, c_void_p) for name in ("tok_emb", "pos_emb", "norm", "norm_bias", "frequencies")),
        ("head", _Matrix),
        ("layers", POINTER(_Layer)),
    )


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """native.c, compiled: from the cache, or now. Raises NoCompiler."""
    compiler = find_compiler()
    try:
        kept = _kept(compiler)
        if not kept and (failed := _failed(compiler)):
            raise OSError(f"{failed} (it is tried again after an hour, or when {_failure(compiler)} is removed)")
        lib = ctypes.CDLL(str(kept)) if kept else _compile(compiler)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise NoCompiler(f"{' '.join(compiler)} could not compile {SOURCE.name}: {error}") from None
    lib.panel_size.restype = lib.room.restype = c_long
    return lib


def needs_compiling() -> bool:
    """True if `library` will take its time: where it is neither loaded nor kept, and can be."""
    if library.cache_info().currsize:
        return False
    folder = cache_folder().absolute()
    try:
        compiler = find_compiler()
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        possible = shutil.which(compiler[0]) and existing.is_dir() and os.access(existing, os.W_OK)
        return bool(possible) and not _kept(compiler) and not _failed(compiler)
    except (NoCompiler, OSError):
        return False


def _name(compiler: list[str]) -> str:
    """What a library is kept under: all that it depends on."""
    made_for = " ".join([SOURCE.read_text(encoding="utf-8"), *compiler, *FLAGS, platform.platform(), _processor()])
    return f"native-{hashlib.sha256(made_for.encode()).hexdigest()[:16]}"


def _kept(compiler: list[str]) -> Path | None:
    """The library, if it was compiled before and is whole."""
    name = _name(compiler)
    return next((path for path in cache_folder().glob(f"{name}-*.so") if path.stem == _signed(name, path)), None)


def _failure(compiler: list[str]) -> Path:
    """Where is written what went wrong when it was compiled."""
    return cache_folder() / f"{_name(compiler)}.failed"


def _failed(compiler: list[str]) -> str:
    """What went wrong when it was compiled, if that was lately."""
    with suppress(OSError, ValueError):
        if time.time() - _failure(compiler).stat().st_mtime < AGAIN_S:
            return _failure(compiler).read_text(encoding="utf-8")
    return ""


def find_compiler() -> list[str]:
    """The command of a C compiler: $CC, or the first that is there. Raises NoCompiler."""
    try:
        compiler = shlex.split(os.environ.get("CC", "")) or list(filter(shutil.which, ("cc", "gcc", "clang")))[:1]
    except ValueError as error:
        raise NoCompiler(f"CC is no command: {error}") from None
    if sys.platform == "win32":
        raise NoCompiler("no compiler is used on Windows")
    if not compiler:
        raise NoCompiler("there is no C compiler")
    return compiler


def _compile(compiler: list[str]) -> ctypes.CDLL:
    """With OpenMP where the compiler knows it, else for one thread. Kept only if it can be loaded."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        made = Path(folder, "native.so")
        for openmp in (["-fopenmp"], []):
            command = [*compiler, *FLAGS, *openmp, str(SOURCE), "-o", str(made), "-lm"]
            done = subprocess.run(command, capture_output=True, check=False, timeout=120)
            problem = done.stderr.decode("utf-8", "replace").strip()[:200]
            if done.returncode == 0:
                try:
                    lib = ctypes.CDLL(str(made))
                except OSError as error:
                    problem = str(error)
                    continue
                os.replace(made, cache_folder() / f"{_signed(_name(compiler), made)}.so")
                return lib
            if done.returncode < 0:
                raise OSError("it was interrupted")
    with suppress(OSError):
        write_file(_failure(compiler), problem)
    raise OSError(problem)


def _signed(name: str, library: Path) -> str:
    """The name that a library is kept under: it tells whether the file is whole, for half a library can end a program."""
    return f"{name}-{hashlib.sha256(library.read_bytes()).hexdigest()[:16]}"


def _processor() -> str:
    """What -march=native depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    return (
        " ".join(sorted({line for line in lines if line.startswith(("model name", "flags", "CPU ", "Features"))}))
        or platform.processor()
    )


class NativeModel:
    """A GPT-2 or a Qwen3 that reads on in C. Raises NoCompiler where that cannot be, ValueError for weights that are NaN."""

    def __init__(self, model: NumpyTransformer, int8: bool = False, threads: int | None = None, others: int = 0) -> None:
        """threads: so many; None = as suit the model and this machine, where `others` threads compute besides."""
        self.lib, self.int8 = library(), int8
        self.side = self.lib.panel_size(1, 1)  # rows in a panel
        self.vocab_size, self.block_size, self.reads_on = model.vocab_size, model.block_size, model.reads_on
        self.numpy = model
        self.kept: list[np.ndarray] = []  # what C holds pointers to
        self.free = self.end = self.bytes = 0  # where the next matrix goes, where its piece ends; how much there is
        free = min(cores(), MOST_THREADS)
        if others:
            free = max(1, min(free, (os.cpu_count() or 1) - others))
        self.cores = (threads or free) if self.lib.has_threads() else 1
        self.far = int(sum(array.nbytes for array in model.tensors.values()) / (4 if int8 else 1) > LARGE)
        self.model = self._describe(model)
        self.threads = 1 if self.bytes < SMALL and not threads else self.cores

    def reader(self) -> "NativeReader":
        """One text that is written with this model."""
        return NativeReader(self)

    def read_all(self, readers: Sequence["NativeReader"], new: Sequence[Sequence[int]]) -> Array:
        """Read on in several texts at once: the new tokens of each -> scores (texts, V)."""
        for reader, tokens in zip(readers, new, strict=True):
            check_ids(tokens, self.vocab_size)
            if reader.length + len(tokens) > reader.places:
                reader.make_room(len(tokens))
        # Last tokens last: theirs are the scores that are wanted. Keys and values of all are there before anyone looks.
        texts = [(reader, tokens, reader.length) for reader, tokens in zip(readers, new, strict=True)]
        todo = [(r, token, start + i) for r, tokens, start in texts for i, token in enumerate(tokens[:-1])]
        todo += [(r, tokens[-1], start + len(tokens) - 1) for r, tokens, start in texts]
        n, scores = len(todo), np.empty((len(texts), self.vocab_size), np.float32)
        space = np.empty(self.lib.room(ctypes.byref(self.model), n, self.threads), np.float32)
        ids, places = (c_int * n)(*(token for _, token, _ in todo)), (c_int * n)(*(place for *_, place in todo))
        memories = (c_void_p * n)(*(reader.where for reader, *_ in todo))
        self.lib.forward(
            ctypes.byref(self.model), n, ids, places, memories, len(texts),
            c_void_p(scores.ctypes.data), c_void_p(space.ctypes.data), self.threads,
        )  # fmt: skip
        for reader, tokens, start in texts:
            reader.length = start + len(tokens)
        return scores

    def _describe(self, m: NumpyTransformer) -> _Model:
        t, modern = m.tensors, isinstance(m, NumpyQwen3)
        keep = self._keep
        if isinstance(m, NumpyQwen3):
            layers = [self._qwen3_layer(t, f"layers.{i}") for i in range(m.n_layer)]
            outer = {"tok_emb": keep(t["embed_tokens.weight"]), "norm": keep(t["norm.weight"]),
                     "frequencies": keep(m.frequencies)}  # fmt: skip
            head, eps = t["lm_head.weight"], float(m.eps)
        else:
            assert isinstance(m, NumpyGPT2)
            layers = [self._gpt2_layer(t, f"h.{i}") for i in range(m.n_layer)]
            outer = {"tok_emb": keep(t["wte.weight"]), "pos_emb": keep(t["wpe.weight"]),
                     "norm": keep(t["ln_f.weight"]), "norm_bias": keep(t["ln_f.bias"])}  # fmt: skip
            head, eps = t["wte.weight"], 1e-5
        shape = dict(n_layer=m.n_layer, n_head=m.n_head, n_embd=m.n_embd, block_size=m.block_size, modern=int(modern))
        self.layers = (_Layer * m.n_layer)(*layers)
        return _Model(**shape, eps=eps, **outer, head=self._matrix(head), layers=self.layers)

    def _qwen3_layer(self, t: Any, name: str) -> _Layer:
        weight = lambda part: t[f"{name}.{part}.weight"]  # noqa: E731
        return _Layer(
            norm_1=self._keep(weight("input_layernorm")),
            norm_2=self._keep(weight("post_attention_layernorm")),
            q_norm=self._keep(weight("self_attn.q_norm")),
            k_norm=self._keep(weight("self_attn.k_norm")),
            qkv=self._matrix(np.concatenate([weight(f"self_attn.{kind}_proj") for kind in "qkv"])),
            proj=self._matrix(weight("self_attn.o_proj")),
            gate=self._matrix(weight("mlp.gate_proj")),
            up=self._matrix(weight("mlp.up_proj")),
            down=self._matrix(weight("mlp.down_proj")),
        )

    def _gpt2_layer(self, t: Any, name: str) -> _Layer:
        norms = {
            f"norm_{i}{end}": self._keep(t[f"{name}.ln_{i}.{kind}"])
            for i in (1, 2)
            for end, kind in (("", "weight"), ("_bias", "bias"))
        }
        parts = {"qkv": "attn.c_attn", "proj": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}
        both = {ours: (t[f"{name}.{theirs}.weight"].T, t[f"{name}.{theirs}.bias"]) for ours, theirs in parts.items()}
        return _Layer(**norms, **{ours: self._matrix(*weights) for ours, weights in both.items()})

    def _matrix(self, weight: Array, bias: Array | None = None) -> _Matrix:
        """weight (out, in), in the panels of native.c: as it is or as int8."""
        rows, cols = weight.shape
        self._check(weight)
        f = q = scale = None
        if self.int8:
            q, scale = self._room(self.lib.panel_size(rows, cols), np.int8), self._room(rows + -rows % self.side, np.float32)
        else:
            f = self._room(self.lib.panel_size(rows, cols), np.float32)
        steps = [c_long(step // weight.itemsize) for step in weight.strides]
        places = map(c_void_p, (f, q, scale))
        self.lib.pack(c_void_p(weight.ctypes.data), *steps, rows, cols, *places, self.cores)
        unload(weight)
        kept = None if bias is None else self._keep(np.pad(bias, (0, -rows % self.side)))
        return _Matrix(f=f, q=q, scale=scale, bias=kept, rows=rows, cols=cols, far=self.far)

    def _room(self, size: int, dtype: type) -> int:
        """Room for so many numbers, from the beginning of a line of the processor's cache.

        From pieces that matrices share: NumPy asks the system for large pages where an array has 4 MB or more.
        """
        needed = -(-size * np.dtype(dtype).itemsize // 64) * 64
        if self.free + needed > self.end:
            self.kept.append(np.empty(max(needed, PIECE) + 64, np.uint8))
            self.free = -(-self.kept[-1].ctypes.data // 64) * 64
            self.end = self.free + max(needed, PIECE)
        self.free, self.bytes = self.free + needed, self.bytes + needed
        return self.free - needed

    def _keep(self, array: np.ndarray) -> int:
        self._check(array)
        self.kept.append(np.ascontiguousarray(array))
        self.bytes += array.nbytes
        return self.kept[-1].ctypes.data

    def _check(self, array: np.ndarray) -> None:
        """Raise ValueError for numbers that are not finite: C would hide them."""
        whole = np.ascontiguousarray(array if array.flags.c_contiguous else array.T)  # a copy of what is neither
        if array.dtype == np.float32 and not self.lib.all_finite(
            c_void_p(whole.ctypes.data), c_long(whole.size), self.cores
        ):
            raise ValueError("the model's weights are not finite numbers; they are damaged")


class NativeReader:
    """A text that is written: what was read so far. Its memory grows with it."""

    def __init__(self, model: NativeModel) -> None:
        self.native, self.length = model, 0
        self.vocab_size, self.block_size, self.reads_on = model.vocab_size, model.block_size, model.reads_on
        self.places = 0  # that there is room for
        self.memory = _Memory()
        self._use(*self._room())
        self.where = ctypes.addressof(self.memory)

    def make_room(self, more: int) -> None:
        """Have room for so many more tokens: for at least twice as many as before.

        Raises ValueError for more than block_size in all, if they are not one that takes the place of the oldest.
        """
        needed = self.length + more
        if needed > self.block_size and not (self.reads_on and more == 1):
            raise ValueError(f"{needed} tokens do not fit in a context of block_size {self.block_size}")
        before, keys, values = self.places, self.keys, self.values
        self.places = min(self.block_size, max(-(-needed // FIRST_PLACES) * FIRST_PLACES, 2 * before))
        if self.places > before:
            self._use(*self._room())
            self.keys[:, : keys.shape[1]], self.values[:, :, :before] = keys, values

    def _use(self, keys: Array, values: Array) -> None:
        """Remember in these from now on."""
        self.keys, self.values, self.memory.places = keys, values, self.places
        self.memory.keys, self.memory.values = keys.ctypes.data, values.ctypes.data

    def _room(self) -> tuple[Array, Array]:
        """Keys and values of all heads, in the panels of native.c: rows of places, and rows of channels."""
        m, side = self.native.numpy, self.native.side
        heads, hs = m.n_layer * m.n_head, m.n_embd // m.n_head
        keys, values = (heads, -(-self.places // side), hs, side), (heads, -(-hs // side), self.places, side)
        return np.empty(keys, np.float32), np.empty(values, np.float32)

    def forget(self) -> None:
        self.length = 0

    def follow(self, other: "NativeReader") -> None:
        """Remember what another reader of the same model does."""
        self.length, self.places = other.length, other.places
        self._use(other.keys.copy(), other.values.copy())

    def read(self, tokens: Sequence[int]) -> Array:
        """Read on -> scores (V,) of what comes next. Raises ValueError for more than block_size tokens in all.

        A model that reads on does so one by one there.
        """
        return self.native.read_all([self], [tokens])[0]
