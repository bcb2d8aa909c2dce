"""How weights are corrected: AdamW or Muon, and a learning rate that warms up, then falls.

    AdamW   each number has a step of its own, as long as its gradient is steady
    Muon    each matrix has a step whose directions are all equally long: what the gradient says loudly and what it says
            softly is learned at one pace. For the matrices of the blocks; the rest stays with AdamW

Next: fused.py
"""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor

from .config import TrainConfig

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of a x + b x³ + c x⁵: takes (0, 1] near to 1 in a few turns
TURNS = 4


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of a config, AdamW in its fused form. Matrices and embeddings decay; biases and norms are left alone.

    Source: Loshchilov and Hutter 2017 (arXiv:1711.05101); which weights decay: Radford et al. 2018, section 4.1.
    """
    kinds: dict[str, list[nn.Parameter]] = {"matrices": [], "decay": [], "keep": []}
    for name, parameter in model.named_parameters():
        in_block = name.startswith("blocks.") and parameter.dim() == 2
        by_muon = in_block and config.optimizer == "muon"
        kinds["matrices" if by_muon else "decay" if parameter.dim() >= 2 else "keep"].append(parameter)
    groups = [
        {"params": kinds["matrices"], "weight_decay": config.weight_decay, "orthogonal": True},
        {"params": kinds["decay"], "weight_decay": config.weight_decay, "orthogonal": False},
        {"params": kinds["keep"], "weight_decay": 0.0, "orthogonal": False},
    ]
    betas = (float(config.beta1), float(config.beta2))  # 0 is a value too, and torch wants both of one type
    optimizer = Muon if config.optimizer == "muon" else AdamW
    return optimizer([g for g in groups if g["params"]], lr=config.learning_rate, betas=betas, fused=True)


class AdamW(torch.optim.AdamW):
    """torch's, which begins a second sooner: torch wraps these methods so that its compiler leaves them alone, and loads it
    for that. Nobody compiles them here, so they are taken as they were before they were wrapped.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class Muon(AdamW):
    """AdamW, except that groups marked `orthogonal` take steps whose singular values are all about 1.

        m <- β₁ m + (1 - β₁) g,   u = (1 - β₁) g + β₁ m,   W <- W - lr (0.2 √max(rows, columns) orthogonal(u) + λ W)

    The factor makes an entry of the step about as large as one of AdamW's, so both share a learning rate.
    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers"; the factor: Liu et al. 2025, equation 4
    (arXiv:2502.16982).
    """

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        everything = self.param_groups
        self.param_groups = [group for group in everything if not group["orthogonal"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = everything
        with torch.no_grad():
            for group in everything:
                if group["orthogonal"]:
                    self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict) -> None:
        same_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"].lerp_(parameter.grad, 1 - group["betas"][0])
            same_shape[parameter.shape].append((parameter, parameter.grad.lerp(momentum, group["betas"][0])))
        for shape, pairs in same_shape.items():
            directions = orthogonal(torch.stack([direction for _, direction in pairs]))  # matrices of a shape at once
            step = group["lr"] * 0.2 * math.sqrt(max(shape))
            for (parameter, _), direction in zip(pairs, directions, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=step)


def orthogonal(x: Tensor) -> Tensor:
    """Matrices with the same directions, all singular values near 1 (0.7 to 1.2). x (..., rows, columns) -> same.

    x = U S Vᵀ -> about U Vᵀ, without computing U and V: an odd polynomial of x acts on S alone, and a few turns of one
    that lifts small values fast do. Source: Jordan et al. 2024; Higham 2008, "Functions of Matrices", chapter 8.
    """
    a, b, c = NEWTON_SCHULZ
    shape, wide = x.shape, x.shape[-2] <= x.shape[-1]
    x = x.reshape(-1, *shape[-2:])
    x = x if wide else x.mT  # the smaller product
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(TURNS):
        square = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).reshape(shape)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of a step (0 is the first): a straight line up, then down to min_lr along half a cosine or a line.

    Source: Loshchilov and Hutter 2016, equation 5, without restarts (arXiv:1608.03983); the line: Bergsma et al. 2025
    (arXiv:2502.15938).
    """
    warmup, peak, low = config.warmup_iters or 0, config.learning_rate, config.min_lr or 0.0
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, config.max_iters - warmup))
    height = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return low + (peak - low) * height
