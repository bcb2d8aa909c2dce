"""What a GPU is told once: operations that are recorded, and then repeated by one command.

A small model keeps a GPU waiting: to be told an operation takes longer than to do it. Once recorded, hundreds of them are
told together. What is repeated is the operations and the memory they use, not the Python around them: nothing in it may
depend on a number that changes, unless that stands in the memory of the device.

Next: torch_engine.py
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar
from warnings import warn

import torch

DEVICES = {"cuda"}  # GPUs of NVIDIA and of AMD
WARM_UPS = 3  # libraries prepare themselves in the first
T = TypeVar("T")


def can_record(device: torch.device) -> bool:
    """True for a device that repeats what it is told once: the present one of several."""
    return device.type in DEVICES and (device.index or 0) == (torch.cuda.current_device() if device.type == "cuda" else 0)


@lru_cache
def _aside(index: int | None) -> torch.cuda.Stream:
    """Where it is recorded. Libraries keep memory for each stream, so it is always the same."""
    return torch.cuda.Stream()


def recorded(do: Callable[[], T], device: torch.device) -> Callable[[], T]:
    """What does the same as `do` at less cost, and returns the same tensors each time, with new numbers in them.

    `do` runs WARM_UPS times for it. What it reads has to stay where it is, alive. If it cannot be recorded: `do` itself,
    with a warning, and nothing more is recorded. Raises RuntimeError if memory runs out.
    Source: Ng et al. 2021, "Accelerating PyTorch with CUDA Graphs" (PyTorch's blog), and the notes on torch.cuda.graph.
    """
    before, aside = torch.cuda.current_stream(), _aside(device.index)
    try:
        aside.wait_stream(before)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                do()
        before.wait_stream(aside)
        graph, inference = torch.cuda.CUDAGraph(), torch.is_inference_mode_enabled()
        # What torch keeps for all recordings must not become a tensor that only inference may change.
        with torch.inference_mode(False), torch.cuda.graph(graph, stream=aside), torch.inference_mode(inference):
            results = do()
    except RuntimeError as error:
        torch.cuda.set_stream(before)  # which a recording that failed can leave,
        chance = torch.cuda.default_generators[torch.cuda.current_device()]
        chance.graphsafe_set_state(chance.clone_state())  # and random numbers that are to be recorded still
        if "out of memory" in str(error):
            raise
        DEVICES.clear()
        warn(f"steps could not be recorded on this GPU ({error}); they take longer one by one", stacklevel=3)
        return do

    def repeat() -> T:
        graph.replay()
        return results

    return repeat
