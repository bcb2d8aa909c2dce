"""Where the time of a step goes, operation by operation: a trace for Perfetto (ui.perfetto.dev) and a table.

Next: doctor.py
"""

import os
from collections import defaultdict
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

WAIT, WARM_UP, RECORDED = 5, 3, 10  # steps
KINDS = {  # what an operation's name contains -> what it is for; the first that fits
    "scaled_dot_product": "attention",
    "softmax": "softmax and loss",
    "nll_loss": "softmax and loss",
    "norm": "norms",
    "Norm": "norms",
    "adamw": "optimizer",
    "Optimizer": "optimizer",
    "lerp": "optimizer",
    "conv": "matrix products",
    "mm": "matrix products",
    "linear": "matrix products",
    "gelu": "activations",
    "silu": "activations",
    "relu": "activations",
    "embedding": "embeddings",
    "index": "embeddings",
    "random": "dropout",
    "dropout": "dropout",
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
        self.path, self.table = folder / "trace.json", ""
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

    def step(self) -> None:
        self.recorder.step()

    def _keep(self, recorded: profile) -> None:
        recorded.export_chrome_trace(str(self.path))
        seconds: defaultdict[str, float] = defaultdict(float)
        for event in recorded.key_averages():
            if event.key.startswith("ProfilerStep"):
                continue
            own = event.self_device_time_total or event.self_cpu_time_total  # microseconds
            kind = next((kind for part, kind in KINDS.items() if part in event.key), "everything else")
            seconds[kind] += own / 1e6
        total = sum(seconds.values())
        rows = sorted(seconds.items(), key=lambda row: -row[1])
        lines = [f"  {kind:<30}{1000 * s / RECORDED:>9.2f} ms  {s / total:>5.0%}" for kind, s in rows if s > 0]
        head = f"Where the time of a step goes (the mean of {RECORDED}; the trace is {self.path}, for ui.perfetto.dev):"
        self.table = "\n".join([head, *lines])
