"""Where the time of a step goes, operation by operation: a trace for Perfetto (ui.perfetto.dev) and a table.

Next: doctor.py
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerAction, ProfilerActivity, profile, schedule

WAIT, WARM_UP, RECORDED = 5, 3, 10  # steps
WHOLE = {  # what is one thing with all that it calls
    "Optimizer.": "optimizer",
    "aten::_foreach_norm": "clipping, and a look at every number",
}
KINDS = {  # what an operation's name contains -> what it is for; the first that fits
    "attention": "attention",
    "softmax": "softmax and loss",
    "nll_loss": "softmax and loss",
    "norm": "norms",
    "Norm": "norms",  # with the rotation that fused.py does at once
    "conv": "matrix products",
    "mm": "matrix products",
    "linear": "matrix products",
    "gelu": "activations",
    "GELU": "activations",
    "Gated": "activations",
    "silu": "activations",
    "relu": "activations",
    "embedding": "embeddings",
    "index": "embeddings",
    "random": "dropout",
    "dropout": "dropout",
    "Dropped": "dropout",
    "copy": "copies",
    "cat": "copies",
    "fill": "copies",
    "zero": "copies",
    "empty": "copies",
    "mul": "sums and products by element",
    "add": "sums and products by element",
    "sub": "sums and products by element",
    "sum": "sums and products by element",
}


class Profile:
    """Records ten steps of a training, once it is warm.

    with Profile(folder) as profile:
        for metrics in train(...): profile.step()
    print(profile.table)
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.table, self.evaluated = folder / "trace.json", "", False
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its recorder would write lines of its own to the screen
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        plan = schedule(wait=WAIT, warmup=WARM_UP, active=RECORDED, repeat=1)
        self.recorder = profile(activities=activities, schedule=plan, on_trace_ready=self._keep)

    def __enter__(self) -> "Profile":
        self.recorder.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.recorder.stop()
        if not self.table:
            self.table = (
                f"No profile: it records steps {WAIT + WARM_UP + 1} to {WAIT + WARM_UP + RECORDED}, and this ended before."
            )

    def step(self, evaluated: bool = False) -> None:
        """A step is over, perhaps with an evaluation."""
        recorded = self.recorder.current_action in (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)
        self.evaluated |= evaluated and recorded
        self.recorder.step()

    def _keep(self, recorded: profile) -> None:
        recorded.export_chrome_trace(str(self.path))
        seconds: defaultdict[str, float] = defaultdict(float)
        events = list(recorded.events() or ())
        on_gpu = any(event.device_type == DeviceType.CUDA for event in events)
        for event in events:
            # What a GPU computes is told twice: by itself, and as the time of the operation that asked for it.
            if not event.name.startswith("ProfilerStep") and event.device_type == DeviceType.CPU:
                seconds[kind(event)] += (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
        total = sum(seconds.values())
        rows = sorted(seconds.items(), key=lambda row: -row[1])
        lines = [f"  {kind:<40}{1000 * s / RECORDED:>9.2f} ms  {s / total:>5.0%}" for kind, s in rows if s > 0]
        among = ", an evaluation among them" * self.evaluated
        head = (
            f"Where the time of a step goes (the mean of {RECORDED}{among}; the trace is {self.path}, for ui.perfetto.dev):"
        )
        self.table = "\n".join([head, *lines])


def kind(event: Any) -> str:
    """What an operation is for: by what it is a part of, or by its name."""
    around, outer = event, ""
    while around is not None:
        outer = next((whole for name, whole in WHOLE.items() if around.name.startswith(name)), outer)
        around = around.cpu_parent
    return outer or next((kind for part, kind in KINDS.items() if part in event.name), "everything else")
