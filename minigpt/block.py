"""A block: first communicate, then compute.

    FeedForward   what each position does alone with what it has heard: two linear layers with a non-linearity between
    Block         attention and feed-forward, each behind a layer norm and beside a residual connection

The residual connection (x + ...) gives the gradient a straight way back to the first layer; the norm keeps the numbers
that enter each part at the same scale. With both, blocks can be stacked.

Next: model.py
"""

import torch.nn as nn
from torch import Tensor

from .attention import KeyValueCache, MultiHeadAttention


class FeedForward(nn.Module):
    """x (B, T, C) -> (B, T, C), each position by itself, four times as wide inside.

    Source: Vaswani et al. 2017, section 3.3; GELU in the tanh form that GPT-2 uses (Hendrycks and Gimpel 2016,
    arXiv:1606.08415).
    """

    def __init__(self, n_embd: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = nn.Linear(n_embd, 4 * n_embd)
        self.gelu = nn.GELU(approximate="tanh")
        self.down = nn.Linear(4 * n_embd, n_embd)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(self.gelu(self.up(x))))


class Block(nn.Module):
    """One layer of a GPT. x (B, T, C) -> (B, T, C).

    Source: Radford et al. 2019, section 2.3: the layer norm moved to the input of each part.
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.ln_1: nn.Module = nn.LayerNorm(n_embd)
        self.attn = MultiHeadAttention(n_embd, n_head, dropout)
        self.ln_2: nn.Module = nn.LayerNorm(n_embd)
        self.mlp: nn.Module = FeedForward(n_embd, dropout)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache)  # communicate
        x = x + self.mlp(self.ln_2(x))  # compute
        return x
