"""How many processors this process may use, and how many others are using now.

Next: tokenizer.py
"""

import math
import os
import time
from contextlib import suppress
from glob import glob
from pathlib import Path

# Where a container's processors stand, in version 2: microseconds that it may compute, or "max", in each period.
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """As many as this process may use, its container's share counted; or as the user has said by OMP_NUM_THREADS."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isascii() and asked.isdigit() and int(asked):
        return int(asked)
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # ValueError: "max" is no limit
        allowed, period = map(int, QUOTA.read_text().split())
        there = min(there, max(1, math.ceil(allowed / period)))
    return there


def others_computing() -> int:
    """How many threads of other programs compute on this machine now. Where that cannot be seen (not Linux), 0."""
    others = []
    try:
        for _ in range(5):
            running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
            states = [Path(task, "stat").read_text().rsplit(")", 1)[1].split()[0] for task in glob("/proc/self/task/*")]
            others.append(running - states.count("R"))  # threads of our own, this one among them
            time.sleep(0.002)
    except (OSError, ValueError, IndexError):
        return 0
    return max(0, sorted(others)[2])
