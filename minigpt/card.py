"""The model card: what a run says of itself to a stranger, in the README.md of its folder.

Next: checkpoint.py
"""

import html
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

from .bigram import LanguageModel
from .config import SampleConfig
from .files import printable, read_lines, without_controls
from .hf import sizes
from .trainer import TrainState, bits_per_char

KINDS = {"gpt2": "GPT-2", "qwen3": "Qwen3"}  # what transformers opens
SAMPLE = SampleConfig(max_new_tokens=200, seed=1337)  # how the text of the card, and of every evaluation, is drawn


def model_card(folder: Path, model: LanguageModel, about: dict[str, Any], state: TrainState, sample: str) -> str:
    """What the model is, what it read, how well it learned, how to use it. `about`: its config.json, part "minigpt"."""
    text, training = about["text"], about["train"]
    kind, n_params = type(model).__name__, sum(p.numel() for p in model.parameters())
    shape = ", ".join(f"{name} {value}" for name, value in sizes(model.to_hf()[0], model.model_type).items())
    per_char, name = text["tokens_per_char"], argument(folder.name)
    curve = "\n".join(_curve_row(line, per_char) for line in read_metrics(folder) if "val_loss" in line)
    earlier = "".join(f"| up to step {one['until_step']} | {_cell(one['name'])} |\n" for one in about.get("earlier", []))
    written = "\n".join("    " + line for line in without_controls(sample).splitlines())
    best = f"{state.best_val_loss:.4f} nats/token, {bits_per_char(state.best_val_loss, per_char):.3f} bits/character"
    return f"""---
pipeline_tag: text-generation
library_name: transformers
tags: [minigpt, {model.model_type}]
---
# {folder.name}

A {kind} of {n_params:,} parameters ({shape}), trained from scratch by minigpt {about["version"]}.

| | |
|---|---|
| text | {_cell(text["name"])}, {text["characters"]:,} characters |
| SHA-256 of the text | `{text["sha256"]}` |
{earlier}| validation | the last {100 * text["val_fraction"]:g} %, never trained on |
| best step | {state.best_step} of {state.last_step or training["max_iters"]} |
| validation loss | {best} |

## Use

```sh
minigpt generate {name}
minigpt eval {name}
minigpt info {name}
```
{_transformers(KINDS[model.model_type], folder.name, model.block_size) if model.model_type in KINDS else ""}
## How it learned

| step | train loss | val loss | bits/character |
|---|---|---|---|
{curve}

Training settings: {", ".join(f"{name} {value}" for name, value in training.items())}

## What it writes

Seed {SAMPLE.seed}, temperature {SAMPLE.temperature:g}:

{written}
"""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """What was measured in a run (Metrics, without what is None), up to a line that no training would write."""
    return read_lines(folder / "metrics.jsonl", _are_metrics)


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """What was written on the way, up to a line that no training would write."""
    return read_lines(folder / "samples.jsonl", lambda line: _is_number(line.get("step")) and type(line.get("text")) is str)


def _are_metrics(line: dict[str, Any]) -> bool:
    times = line.get("time", {})
    if "step" not in line or not isinstance(times, dict):
        return False
    return all(map(_is_number, [*(value for name, value in line.items() if name != "time"), *times.values()]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not abs(value) > 2**63  # NaN and whatever can be written out


def argument(path: str) -> str:
    """A path as an argument in a shell, never taken for a flag: "-my book.txt" -> "'./-my book.txt'"."""
    path = f"./{path}" if path.startswith("-") and path != "-" else path
    return subprocess.list2cmdline([path]) if os.name == "nt" else shlex.quote(path)


def _transformers(kind: str, name: str, block_size: int) -> str:
    """How to open it without this package."""
    return f"""
It is a {kind} in transformers' format:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained({name!r}), AutoTokenizer.from_pretrained({name!r})
prompt = tokenizer("\\n", return_tensors="pt")
ids = model.generate(**prompt, do_sample=True, max_new_tokens={max(1, min(200, block_size - 1))})
print(tokenizer.decode(ids[0]))
```
"""


def _curve_row(line: dict[str, Any], per_char: float) -> str:
    train_loss = f"{line['train_loss']:.4f}" if "train_loss" in line else ""
    return f"| {line['step']} | {train_loss} | {line['val_loss']:.4f} | {bits_per_char(line['val_loss'], per_char):.3f} |"


def _cell(text: str) -> str:
    """Text that cannot break out of a cell of a Markdown table, nor become a link or a picture."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(printable(text.replace("\n", " ")), quote=False))
