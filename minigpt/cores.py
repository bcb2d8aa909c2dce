"""How many processors this process may use, and whether others are using them now.

Next: tokenizer.py
"""

import os
import time
from pathlib import Path


def cores() -> int:
    """As many as this process may use, or as the user has said by OMP_NUM_THREADS."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isascii() and asked.isdigit() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def others_compute() -> bool:
    """True if other programs keep this machine's processors busy now. Where that cannot be seen (not Linux), False."""
    running = []
    try:
        for _ in range(5):
            running.append(int(Path("/proc/loadavg").read_text().split()[3].split("/")[0]) - 1)  # without this one
            time.sleep(0.002)
    except (OSError, ValueError, IndexError):
        return False
    return sorted(running)[2] >= 1
