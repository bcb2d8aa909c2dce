"""What this machine can do, and what a model asks of it: multiplications a second, multiplications a token, memory.

A training that reaches half of what the bare matrix products reach wastes half of its time elsewhere; without the
comparison nobody knows. On a processor the peak is measured; of a GPU it is what its data sheet says, or unknown.

Next: clock.py
"""

import contextlib
import os
import platform
import re
import time
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn as nn

from .attention import Head, MultiHeadAttention
from .speed import in_one_pass, speed_up

# Dense bfloat16 FLOP/s with float32 accumulation, from NVIDIA's data sheets. The first whose words stand in the device's
# name, with none of its SIBLINGS' behind them; a device that is not here has no peak.
GPU_PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
SIBLINGS = "NVL|PCIe|Laptop|Ti|D|SUPER|Mobile|Max-Q|Ada"  # which are slower or faster than the one that they are named after

# Where a container's memory stands: limit, use, and what of that is only read from files; in version 2 and in version 1.
CONTROL_GROUP = Path("/sys/fs/cgroup")
CONTAINER = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)

# Environment variables by which the libraries under torch choose how they compute.
LIBRARY_SETTINGS = ("MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE")


def peak_flops(device: torch.device, in_bfloat16: bool = False) -> float | None:
    """Additions and multiplications a second of large matrix products here; None where it is not known.

    On a processor, of float32: the best of five products of 1024 x 1024, with torch's threads, by the way that training
    takes (speed.py), measured once. On a GPU, of bfloat16: from its data sheet.
    """
    if device.type == "cpu" and not in_bfloat16:
        return _measured_peak(torch.get_num_threads())
    if device.type == "cuda" and in_bfloat16:
        name = torch.cuda.get_device_name(device)
        return next((peak for gpu, peak in GPU_PEAKS.items() if re.search(rf"\b{gpu}\b(?! ({SIBLINGS})\b)", name)), None)
    return None


@lru_cache
def _measured_peak(threads: int) -> float:
    n, best = 1024, 0.0
    layer, x = nn.Sequential(nn.Linear(n, n, bias=False)), torch.ones(n, n)
    speed_up(layer, torch.device("cpu"))
    with torch.no_grad():
        for _ in range(5):
            started = time.perf_counter()
            layer(x)
            best = max(best, 2 * n**3 / max(time.perf_counter() - started, 1e-9))
    return best


def flops_per_token(model: nn.Module, block_size: int) -> int:
    """Additions and multiplications of a training step for each token: forward, and backward twice as many.

    6 for each weight of a matrix that multiplies, 12 n_layer n_embd block_size for attention; embeddings are looked up, not
    multiplied. Source: Chowdhery et al. 2022, appendix B (arXiv:2204.02311).
    """
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    heads = sum(m.query.out_features for m in model.modules() if isinstance(m, Head))
    heads += sum(m.proj.in_features for m in model.modules() if isinstance(m, MultiHeadAttention))
    return 6 * weights + 12 * heads * block_size


def fingerprint(device: torch.device, model: nn.Module | None = None) -> dict[str, str]:
    """What the bits of a training depend on, beside its settings: versions, threads, processor or GPU; and of a model that
    is trained on a processor, what computes its parts.
    """
    from . import __version__

    about = {"minigpt": __version__, "torch": torch.__version__, "device": device.type}
    if device.type == "cuda":
        return about | {"gpu": torch.cuda.get_device_name(device)}
    cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    about["processor"] = names[0] if names else platform.processor()
    about |= {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": str(torch.get_num_threads())}
    if model is not None:
        about["parts"] = "C" if in_one_pass(model) else "torch"
    return about | {name: os.environ.get(name, "unset") for name in LIBRARY_SETTINGS}


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was told; a processor has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def available_memory(device: torch.device) -> int | None:
    """Bytes that a training may still take here; None where that cannot be known, and all that there is on a Mac, which
    tells no more. What torch keeps of a GPU without using it counts as free.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    limits = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        values = dict(line.split(":") for line in meminfo.read_text().splitlines())
        limits.append(int(values["MemAvailable"].split()[0]) * 1024)
    limits += _container_limits()
    if not limits and hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=None)


def _container_limits() -> list[int]:
    """Bytes that a container may still take, by each limit; what it has only read from files counts as free."""
    limits = []
    for most, used, stat, cached in CONTAINER:
        try:
            free = int((CONTROL_GROUP / most).read_text()) - int((CONTROL_GROUP / used).read_text())
        except (OSError, ValueError):  # ValueError: "max" is no limit
            continue
        with contextlib.suppress(OSError):
            found = re.search(rf"^{cached} (\d+)", (CONTROL_GROUP / stat).read_text(), re.MULTILINE)
            free += int(found[1]) if found else 0
        limits.append(free)
    return limits
