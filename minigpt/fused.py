"""What torch computes in many passes over the memory, in one each way: the other half of native.c, for training.

Where a C compiler is at hand (native_engine.py), speed.py puts these in the places of torch's parts. They compute the same,
up to rounding, from float32 numbers in the memory of the processor; whatever else comes goes torch's way.

Next: speed.py
"""

import math
from ctypes import c_float, c_int, c_long, c_void_p
from functools import lru_cache
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .modern import NormedAttention, SwiGLU, turns
from .native_engine import NoCompiler, library

SIGNATURES = {  # p a tensor, n a long, i an int, f a float; the number of threads comes behind
    "gelu": "ppn", "gelu_back": "pppn", "swiglu": "pppn", "swiglu_back": "pppppn", "dropout": "pppnif",
    "rms_norm": "ppfppni", "rms_norm_back": "ppppppni",
    "norm_and_turn": "pnpfppppniii", "norm_and_turn_back": "pnppppppp" + "niii",
    "all_are_finite": "ppi",
}  # fmt: skip
TYPES = {"p": c_void_p, "n": c_long, "i": c_int, "f": c_float}
GRAIN = 2**15  # numbers: with fewer, to wake other threads takes longer than they help


@lru_cache(maxsize=1)
def available() -> bool:
    """True if native.c is compiled, or could be just now; with threads, if torch has some."""
    try:
        lib = library()
    except NoCompiler:
        return False
    if torch.get_num_threads() > 1 and not lib.has_threads():
        return False
    for name, letters in SIGNATURES.items():
        getattr(lib, name).argtypes = [*map(TYPES.get, letters), c_int]
    return True


def _run(name: str, *arguments: Any, size: int | None = None) -> int:
    """Call a function of native.c, for large tensors with all threads of torch. size: how large, if none of these tells."""
    sizes = [x.numel() for x in arguments if isinstance(x, Tensor)]
    threads = torch.get_num_threads() if (size or max(sizes)) >= GRAIN else 1
    values = (x.data_ptr() if isinstance(x, Tensor) else x for x in arguments)
    return getattr(library(), name)(*values, threads)


def _fits(*tensors: Tensor) -> bool:
    """True if native.c can take these. torch.compile, which would look into everything, comes no further than here."""
    if torch.compiler.is_compiling():
        return False
    return all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors) and available()


def all_finite(tensors: list[Tensor]) -> bool:
    """True if every number is finite; by torch, if the sum of their squares is, which it finds ten times as fast as the
    largest of them.
    """
    asked = library.cache_info().currsize  # a bigram is no reason to compile
    if not (asked and _fits(*tensors) and all(x.is_contiguous() for x in tensors)):
        return math.isfinite(torch.stack(torch._foreach_norm(tensors)).sum())
    pointers = (c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))
    sizes = (c_long * len(tensors))(*(x.numel() for x in tensors))
    return bool(_run("all_are_finite", pointers, sizes, len(tensors), size=sum(sizes)))


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        _run("gelu", x, y, x.numel())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,), dx = ctx.saved_tensors, torch.empty_like(dy, memory_format=torch.contiguous_format)
        _run("gelu_back", x, dy.contiguous(), dx, x.numel())
        return dx


class FusedGELU(nn.GELU):
    """GELU in the tanh form, x -> same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return _GELU.apply(x) if self.approximate == "tanh" and _fits(x) else super().forward(x)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        y = torch.empty_like(gate)
        _run("swiglu", gate, up, y, y.numel())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        _run("swiglu_back", gate, up, dy.contiguous(), dgate, dup, dy.numel())
        return dgate, dup


class FusedSwiGLU(SwiGLU):
    """SwiGLU, x (B, T, C) -> (B, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate(x), self.up(x)
        hidden = _Gated.apply(gate, up) if _fits(gate, up) else F.silu(gate) * up
        return self.dropout(self.down(hidden))


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        bits, ctx.rest = random_bits(x.numel()), (x.numel(), cut(p), 1 / (1 - p))
        ctx.save_for_backward(bits)
        x = x.contiguous()
        y = torch.empty_like(x)
        _run("dropout", x, bits, y, *ctx.rest)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        dx = torch.empty_like(dy, memory_format=torch.contiguous_format)
        _run("dropout", dy.contiguous(), *ctx.saved_tensors, dx, *ctx.rest)
        return dx, None


def dropped(x: Tensor, p: float) -> Tensor:
    """Dropout, x -> same shape, from cheap random bits: 16 for each number, drawn four at a time.

    So the probability is one of 65,537. torch draws a number of its own for each, one after the other: six times as slow on
    two cores, as slow as all matrix products together.
    """
    if x.device.type != "cpu":
        return F.dropout(x, p)
    if _fits(x):
        return _Dropped.apply(x, p)
    bits = random_bits(x.numel()).view(x.shape)
    return x * torch.ge(bits, cut(p), out=torch.empty(x.shape)).mul_(1 / (1 - p))


def random_bits(n: int) -> Tensor:
    """(n,) whole numbers of 16 bits."""
    return torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:n]


def cut(p: float) -> int:
    """The number of 16 bits that a share of p is below."""
    return round(p * 2**16) - 2**15


class QuickDropout(nn.Dropout):
    """Dropout, x -> same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return dropped(x, self.p) if self.training and self.p > 0 else x


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        y, scale = torch.empty_like(x), x.new_empty(x.shape[:-1])
        ctx.save_for_backward(x, weight, scale)
        _run("rms_norm", x, weight, eps, y, scale, scale.numel(), len(weight))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        dx, dweight = torch.empty_like(x), weight.new_zeros(torch.get_num_threads(), len(weight))
        _run("rms_norm_back", x, weight, scale, dy.contiguous(), dx, dweight, scale.numel(), len(weight))
        return dx, dweight.sum(0), None


class FusedRMSNorm(nn.RMSNorm):
    """An RMSNorm, x (..., C) -> (..., C)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None or x.shape[-1:] != self.weight.shape or not _fits(x, self.weight):
            return super().forward(x)
        return _Normed.apply(x, self.weight, torch.finfo(x.dtype).eps if self.eps is None else self.eps)


class _NormedAndTurned(torch.autograd.Function):
    """x (B, T, nh, hs), of a dense (B, T, anything), and cos, sin (T, hs / 2) -> (B, T, nh, hs)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, nh, hs = x.shape
        if T == 1 or x.stride() != (T * x.stride(1), x.stride(1), hs, 1):
            x = x.clone(memory_format=torch.contiguous_format)
        ctx.step = x.stride(1) if T > 1 else nh * hs  # numbers from token to token
        y, scale = x.new_empty(x.shape), x.new_empty(B, T, nh)
        ctx.save_for_backward(x, weight, scale, cos, sin)
        _run("norm_and_turn", x, ctx.step, weight, eps, cos, sin, y, scale, B * T, T, nh, hs)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, weight, scale, cos, sin = ctx.saved_tensors
        B, T, nh, hs = x.shape
        dx, dweight = x.new_empty(x.shape), weight.new_zeros(torch.get_num_threads(), hs)
        tensors = weight, scale, cos, sin, dy.contiguous(), dx, dweight
        _run("norm_and_turn_back", x, ctx.step, *tensors, B * T, T, nh, hs)
        return dx, dweight.sum(0), None, None, None


class FusedAttention(NormedAttention):
    """NormedAttention, x (B, T, C) -> (B, T, C)."""

    def placed(self, norm: nn.RMSNorm, x: Tensor, start: int | Tensor) -> Tensor:
        if isinstance(start, Tensor) or x.shape[-1] % 2 or x.shape[-1:] != norm.weight.shape or not _fits(x, norm.weight):
            return super().placed(norm, x, start)
        angles = half_turns(start, *x.shape[-2:])
        return _NormedAndTurned.apply(x.transpose(1, 2), norm.weight, norm.eps, *angles).transpose(1, 2)


@lru_cache(maxsize=16)
def half_turns(start: int, T: int, hs: int) -> tuple[Tensor, Tensor]:
    """cos and sin (T, hs / 2) of `turns`, each once."""
    with torch.inference_mode(False):
        cos, sin = turns(start, T, hs, torch.device("cpu"), torch.float32)
        return cos[:, hs // 2 :].contiguous(), sin[:, hs // 2 :].contiguous()
