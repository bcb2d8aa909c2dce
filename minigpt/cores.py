"""How many processors this process may use, and whether others are using them now.

Next: tokenizer.py
"""

import os
import time
from glob import glob
from pathlib import Path


def cores() -> int:
    """As many as this process may use, or as the user has said by OMP_NUM_THREADS."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isascii() and asked.isdigit() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def others_compute() -> bool:
    """True if other programs keep this machine's processors busy now. Where that cannot be seen (not Linux), False."""
    others = []
    try:
        for _ in range(5):
            running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
            states = [Path(task, "stat").read_text().rsplit(")", 1)[1].split()[0] for task in glob("/proc/self/task/*")]
            others.append(running - states.count("R"))  # threads of our own, this one among them
            time.sleep(0.002)
    except (OSError, ValueError, IndexError):
        return False
    return sorted(others)[2] >= 1
