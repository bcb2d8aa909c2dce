"""What a figure has to be told with: the date, the machine, the versions."""

import datetime
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy
import torch

import minigpt
from minigpt.corpus import download_shakespeare
from minigpt.files import cache_folder

ROOT = Path(__file__).parent.parent


def describe(*peers: str, nanogpt: Path | None = None) -> str:
    """One line: date, processor, threads, versions, commit; of these packages too, and of a clone of nanoGPT."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{datetime.date.today()}; {names[0] if names else platform.processor()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, {device}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}, "
        f"minigpt {minigpt.__version__} at {commit()}"
        + "".join(f", {peer} {metadata.version(peer)}" for peer in peers)
        + (f", nanoGPT at {commit(nanogpt)}" if nanogpt else "")
    )


def commit(tree: Path = ROOT) -> str:
    """The short name of a tree's last one."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=tree, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(title: str, body: str) -> None:
    """Put a section into docs/results.md, in the place of the one with this title or at the end."""
    page = ROOT / "docs/results.md"
    head, *sections = re.split(r"^(?=## )", page.read_text(), flags=re.M)
    section = f"## {title}\n\n{body.strip()}\n"
    titles = [old.splitlines()[0] for old in sections]
    if f"## {title}" in titles:
        sections[titles.index(f"## {title}")] = section
    else:
        sections.append(section)
    page.write_text("\n".join(part.strip() + "\n" for part in [head, *sections]))


def shakespeare() -> str:
    """The path of tiny Shakespeare in the cache, downloaded if it has to be: the figures are about this text only."""
    path = cache_folder() / "tinyshakespeare.txt"
    if not path.exists() and (problem := download_shakespeare(path)):
        sys.exit(f"tiny Shakespeare is not to be had ({problem}); put it at {path}")
    return str(path)
