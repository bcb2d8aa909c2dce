import math
from typing import Any
from .config import with_muon

TOKENS_PER_STEP = 2.0


def recipe(arch: str, n_embd: int, block_size: int, tokens: float) -> dict[str, Any]:
    """The batch, the steps and the rates with which a model of this width learns from so many tokens."""
    wanted = TOKENS_PER_STEP * math.sqrt(tokens)
    batch_size = max(1, round(wanted / block_size))
    steps = max(1, round(tokens / (batch_size * block_size)))
    values = dict(batch_size=batch_size, max_iters=steps, learning_rate=float(f"{0.256 / n_embd:.3g}"))
    return with_muon(values, n_embd) if arch == "modern" else values
