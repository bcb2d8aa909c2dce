"""The graph of a GPU, played by a recorder of torch's operations: for tests of what is recorded, where there is no GPU."""

import time
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from minigpt import recording


class Graph(TorchDispatchMode):
    """Keeps each operation with its tensors, and does all of them again, on the same memory and without any Python."""

    def __init__(self) -> None:
        super().__init__()
        self.done = []
        self.made = []  # tensors of its own memory

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        with torch.inference_mode():
            for tensor in self.made:  # a GPU only records: there is nothing in them yet
                tensor.fill_(float("nan"))

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation is not torch.ops.aten._local_scalar_dense.default, "a graph cannot wait for a number"
        given = {tensor.untyped_storage().data_ptr() for tensor in tree_leaves((args, kwargs)) if torch.is_tensor(tensor)}
        result = operation(*args, **(kwargs or {}))
        made = [tensor for tensor in tree_leaves(result) if torch.is_tensor(tensor) and tensor.is_floating_point()]
        self.made += [tensor.detach() for tensor in made if tensor.untyped_storage().data_ptr() not in given]
        same_memory = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs or {}, result))
        self.done.append((operation, *same_memory))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for operation, args, kwargs, result in self.done:
            before, now = (it if isinstance(it, tuple | list) else [it] for it in (result, operation(*args, **kwargs)))
            for old, new in zip(before, now, strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Event:
    """A mark in what a GPU does; this one does all at once."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: "Event") -> float:
        return 1000 * (later.at - self.at)


def play_gpu(monkeypatch) -> list[Graph]:
    """From here on the processor records like a GPU. -> the graphs that are made."""
    graphs = []

    def new_graph() -> Graph:
        graphs.append(Graph())
        return graphs[-1]

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = dict(Stream=lambda: stream, current_stream=lambda: stream, stream=lambda it: nullcontext())
    fakes |= dict(CUDAGraph=new_graph, graph=lambda graph, stream: graph, Event=Event, set_stream=lambda it: None)
    fakes |= dict(current_device=lambda: 0, default_generators=[SimpleNamespace(clone_state=dict, graphsafe_set_state=dict)])
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(recording, "DEVICES", {"cpu"})
    recording._aside.cache_clear()
    return graphs
