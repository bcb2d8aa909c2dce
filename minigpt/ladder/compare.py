"""What changed between two rungs: the construction, and the shapes that flow through it, side by side.

Next: lecture.py
"""

import difflib
import inspect
import textwrap
from collections.abc import Sequence

import torch
import torch.nn as nn

from ..config import GPTConfig
from ..rungs import STACKS, Rung
from .climb import Result


def compare(a: Rung, b: Rung, shapes: Sequence[GPTConfig], results: dict[str, Result], width: int = 120) -> str:
    """Two rungs in two columns: how they are built, what flows through them, parameters and loss."""
    column = max(30, (width - 5) // 2)
    models = [rung.model(shape) for rung, shape in zip((a, b), shapes, strict=True)]
    lines = [f"{a.number} {a.name}: {a.idea}", f"{b.number} {b.name}: {b.idea}"]
    out = [*side_by_side([lines[0]], [lines[1]], column), ""]
    if a.name in STACKS and b.name in STACKS:
        out += ["construction", *side_by_side(_source(a), _source(b), column), ""]
    flows = [flow(model, shape) for model, shape in zip(models, shapes, strict=True)]
    sizes = [f"B 1, T {s.block_size}, C {s.n_embd}, V {s.vocab_size}, {s.n_head} heads" for s in shapes]
    out += ["what flows: each part and the tensor that leaves it", *side_by_side([sizes[0]], [sizes[1]], column)]
    out += [*side_by_side(flows[0], flows[1], column), ""]
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    out.append(f"parameters  {counts[0]:,} -> {counts[1]:,} ({counts[1] - counts[0]:+,})")
    if a.optimizer != b.optimizer:
        out.append(f"optimizer   {a.optimizer} -> {b.optimizer}")
    before, after = results[a.name].val_loss, results[b.name].val_loss
    verdict = "better" if after < before else "worse"
    out.append(f"val loss    {before:.4f} -> {after:.4f}, {abs(after - before):.4f} nats/token {verdict}")
    return "\n".join(out)


def flow(model: nn.Module, config: GPTConfig) -> list[str]:
    """Every part of a model in the order in which its output is ready, with the shape of that output.

    ["TokenAndPosition (1, 8, 32)", "Head (1, 8, 32)", "Linear (1, 8, 65)"]; parts of parts are indented.
    """
    seen: list[tuple[int, str, tuple[int, ...]]] = []
    hooks = []
    for name, module in model.named_modules():
        if name and type(module) not in (nn.Dropout, nn.Sequential, nn.ModuleList):
            depth = name.count(".")

            def note(module: nn.Module, inputs, output, depth: int = depth) -> None:
                seen.append((depth, type(module).__name__, tuple(output.shape)))

            hooks.append(module.register_forward_hook(note))
    try:
        with torch.inference_mode():
            model.train(False)(torch.zeros(1, config.block_size, dtype=torch.long))
    finally:
        for hook in hooks:
            hook.remove()
    shallowest = min((depth for depth, _, _ in seen), default=0)
    return [f"{'  ' * (depth - shallowest)}{kind} {shape}" for depth, kind, shape in seen]


def side_by_side(left: Sequence[str], right: Sequence[str], column: int) -> list[str]:
    """Two texts in columns, equal lines beside each other: "=" the same, "~" changed, "<" only left, ">" only right."""
    rows: list[tuple[str, str, str]] = []
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        ls, rs = list(left[a0:a1]), list(right[b0:b1])
        for i in range(max(len(ls), len(rs))):
            le, re = ls[i] if i < len(ls) else "", rs[i] if i < len(rs) else ""
            mark = " " if kind == "equal" else "~" if le and re else "<" if le else ">"
            rows.append((le, mark, re))
    return [f"  {le[:column]:<{column}} {mark} {re[:column]}".rstrip() for le, mark, re in rows]


def _source(rung: Rung) -> list[str]:
    """The lines that build a stack, without its first line."""
    return textwrap.dedent("".join(inspect.getsourcelines(STACKS[rung.name])[0][1:])).splitlines()
