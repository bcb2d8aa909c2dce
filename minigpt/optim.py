"""How weights are corrected: AdamW, and a learning rate that warms up, then falls along a cosine.

Next: speed.py
"""

import math

import torch
import torch.nn as nn

from .config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW in its fused form. Matrices and embeddings decay towards zero; biases and norms are left alone.

    Source: Loshchilov and Hutter 2017 (arXiv:1711.05101); which weights decay: Radford et al. 2018, section 4.1.
    """
    decay = [p for p in model.parameters() if p.dim() >= 2]
    no_decay = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": no_decay, "weight_decay": 0.0}]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=betas, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of a step (0 is the first): a straight line up, then half a cosine down to min_lr.

    Source: Loshchilov and Hutter 2016, equation 5, without restarts (arXiv:1608.03983).
    """
    warmup, peak, low = config.warmup_iters or 0, config.learning_rate, config.min_lr or 0.0
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, config.max_iters - warmup))
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * progress))
