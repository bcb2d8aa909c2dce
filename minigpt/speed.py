"""The same arithmetic in less time, on processors. Applied to a finished model from outside.

The results are the same up to rounding.

Matrix products: torch multiplies on x86 with Intel's MKL, which gives some processors of other makers half of what they can
do (others all of it: docs/decisions.md); its convolutions go through oneDNN, which does not. A linear layer is a convolution
of width 1, so it can take that way.

All that is no product: most of its time goes into reading and writing memory, so it is done in few passes: in C
(fused.py), or without a compiler by what torch has.

Memory: each step needs the same large arrays. glibc gives them back to the system and fetches them anew, and every fresh
page costs an interrupt; told to keep them, it does not.

Next: compiling.py
"""

import ctypes
import platform
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from . import fused
from .attention import MultiHeadAttention, causal_mask
from .modern import NormedAttention, SwiGLU


class ConvolutionalLinear(nn.Linear):
    """A linear layer, x (..., in) -> (..., out), computed as a convolution of width 1.

    Same parameters, same sums up to rounding.

    Every position is a pixel of an image with `in` channels. Channels come last in memory, as x has them already, so
    nothing is copied.
    """

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.reshape(1, 1, -1, self.in_features).permute(0, 3, 1, 2)  # (1, in, 1, positions)
        out = F.conv2d(pixels, self.weight[:, :, None, None], self.bias)  # (1, out, 1, positions)
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)


class _NormedByRMS(torch.autograd.Function):
    """x (..., C), weight (C,) -> x / sqrt(mean of x² + eps) * weight, in few passes over memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale, weight)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        # The gradient of a layer norm whose mean is zero, but for the share that goes through the mean.
        x, scale, weight = ctx.saved_tensors
        grad, zero = grad.contiguous(), torch.zeros_like(scale)
        layer_norm_backward = torch.ops.aten.native_layer_norm_backward
        dx, dweight, _ = layer_norm_backward(grad, x, weight.shape, zero, scale, weight, None, [True, True, False])
        return dx.add_((grad @ weight).unsqueeze(-1).mul_(scale).div_(weight.numel())), dweight, None


class FewPassRMSNorm(nn.RMSNorm):
    """An RMSNorm, x (..., C) -> (..., C). Same parameters, same sums up to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        return _NormedByRMS.apply(x, self.weight, torch.finfo(x.dtype).eps if self.eps is None else self.eps)


ASKING = 128  # positions


def attend_with_dropout(
    attention: MultiHeadAttention, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None
) -> Tensor:
    """MultiHeadAttention.attend with QuickDropout; torch's own, with dropout, goes a slow way on processors.

    q, k, v (B, nh, T, hs) -> (B, nh, T, hs). Scale and mask are part of the product that makes the scores. So many positions
    ask at once, and only what they may see is looked at.
    """
    if not attention.training or q.device.type != "cpu":
        return type(attention).attend(attention, q, k, v, seen)
    T, hs = q.shape[-2:]
    q3, k3, v3 = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    out = []
    for start in range(0, T, ASKING):
        end = min(start + ASKING, T)
        mask = torch.zeros(end - start, end).masked_fill_(~causal_mask(end - start, end), float("-inf"))
        weights = torch.baddbmm(mask, q3[:, start:end], k3[:, :end].mT, alpha=hs**-0.5).softmax(-1)  # (B nh, asking, seen)
        out.append(fused.dropped(weights, attention.dropout) @ v3[:, :end])
    return torch.cat(out, 1).view_as(q)


IN_FEW_PASSES: dict[type[nn.Module], type[nn.Module]] = {nn.RMSNorm: FewPassRMSNorm, nn.Dropout: fused.QuickDropout}
IN_ONE_PASS: dict[type[nn.Module], type[nn.Module]] = {
    nn.RMSNorm: fused.FusedRMSNorm,
    nn.Dropout: fused.QuickDropout,
    nn.GELU: fused.FusedGELU,
    SwiGLU: fused.FusedSwiGLU,
    NormedAttention: fused.FusedAttention,
}


def speed_up(model: nn.Module, device: torch.device) -> None:
    """Make training on a processor faster; on other devices do nothing. Changes how, never what, is computed.

    Measured on two cores of an AMD EPYC with AVX-512, 0.80 M parameters: a training step in 0.73 of the time by the
    convolutions (450 instead of 205 GFLOP/s), and in 0.88 of that by keeping memory.
    benchmarks/speed.py measures both together.
    """
    if device.type != "cpu":
        return
    _keep_memory()
    wanted = any(type(module) in IN_ONE_PASS for module in model.modules())
    quick = dict(IN_ONE_PASS if wanted and fused.available() else IN_FEW_PASSES)
    if _mkl_is_slow_here():
        quick[nn.Linear] = ConvolutionalLinear
    for module in model.modules():
        if isinstance(module, MultiHeadAttention) and module.dropout:
            module.attend = partial(attend_with_dropout, module)  # type: ignore[method-assign]
        module.__class__ = quick.get(type(module), type(module))


def in_one_pass(model: nn.Module) -> bool:
    """True if parts of this model are, or on a processor would be, computed by native.c: that decides over bits."""
    kinds = {*IN_ONE_PASS, *IN_ONE_PASS.values()} - {nn.Dropout, fused.QuickDropout}
    return any(type(module) in kinds for module in model.modules()) and fused.available()


def _keep_memory() -> None:
    """Tell glibc to keep what is freed for the next step. For the whole process; elsewhere than on Linux, nothing."""
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        libc = ctypes.CDLL(None)
        # Before 2.35 it takes no more than 32 MB for the second, and the first alone would end what it does by itself.
        if libc.mallopt(m_mmap_threshold, 1 << 30) or libc.mallopt(m_mmap_threshold, 1 << 25):
            libc.mallopt(m_trim_threshold, 1 << 30)


def _mkl_is_slow_here() -> bool:
    """True on an x86 processor that is not Intel's, with a torch that has both libraries: there it may be slow."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows
    about = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else platform.processor()
    return "AuthenticAMD" in about or "HygonGenuine" in about
