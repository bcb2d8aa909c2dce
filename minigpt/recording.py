"""What a GPU is told once: operations that are recorded, and then repeated by one command.

A small model keeps a GPU waiting: to be told an operation takes longer than to do it. Once recorded, hundreds of them are
told together. What is repeated is the operations and the memory they use, not the Python around them: nothing in it may
depend on a number that changes, unless that stands in the memory of the device.

Next: torch_engine.py
"""

from collections.abc import Callable
from typing import TypeVar
from warnings import warn

import torch

DEVICES = {"cuda"}  # GPUs of NVIDIA and of AMD
WARM_UPS = 3  # libraries prepare themselves in the first
T = TypeVar("T")


def can_record(device: torch.device) -> bool:
    """True for a device that repeats what it is told once."""
    return device.type in DEVICES


def recorded(do: Callable[[], T]) -> Callable[[], T]:
    """What does the same as `do` at less cost, and returns the same tensors each time, with new numbers in them.

    `do` runs WARM_UPS times for it. If it cannot be recorded: `do` itself, with a warning. Raises OutOfMemoryError.
    Source: Ng et al. 2021, "Accelerating PyTorch with CUDA Graphs" (PyTorch's blog), and the notes on torch.cuda.graph.
    """
    try:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                do()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = do()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        warn(f"steps could not be recorded on this GPU ({error}); they take longer one by one", stacklevel=2)
        return do

    def repeat() -> T:
        graph.replay()
        return results

    return repeat
