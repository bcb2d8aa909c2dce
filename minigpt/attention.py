"""Who looks at whom. Every position asks a question, offers a key, and mixes the values of those it finds relevant.

Shapes in the whole package: B batch, T time (positions that ask), S positions that are looked at, C channels (n_embd),
V vocabulary, nh heads, hs head size (C / nh).

    attention_weights   the one statement of masked attention: a function of tensors, no parameters
    Head                one question, one key, one value: what the mathematics says, letter by letter
    MultiHeadAttention  many heads side by side, computed at once by the fast path; equal to a list of Heads (tested)

Next: block.py
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


def causal_mask(T: int, S: int, device: torch.device | None = None) -> Tensor:
    """(T, S), True where position t may look at position s: at itself and the past. The T last of S positions ask.

    causal_mask(3, 3) ->  1 0 0
                       1 1 0
                       1 1 1
    """
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """How much each position looks at each one before it and at itself: softmax(q kᵀ / sqrt(hs)), the future masked.

    q (..., T, hs), k (..., S, hs) -> (..., T, S); every row sums to 1.
    Source: Vaswani et al. 2017, equation 1 and section 3.2.3 (arXiv:1706.03762).
    """
    T, S = q.shape[-2], k.shape[-2]
    scores = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5  # (..., T, S)
    scores = scores.masked_fill(~causal_mask(T, S, q.device), float("-inf"))
    return scores.softmax(dim=-1)


class Head(nn.Module):
    """One head of masked self-attention. x (B, T, C) -> (B, T, hs)."""

    def __init__(self, n_embd: int, head_size: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.query = nn.Linear(n_embd, head_size, bias)  # what am I looking for?
        self.key = nn.Linear(n_embd, head_size, bias)  # what do I hold?
        self.value = nn.Linear(n_embd, head_size, bias)  # what do I say to those who find me?
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        weights = attention_weights(self.query(x), self.key(x))  # (B, T, T)
        return self.dropout(weights) @ self.value(x)  # (B, T, hs)


class MultiHeadAttention(nn.Module):
    """Several heads in parallel, concatenated and mixed by a projection. x (B, T, C) -> (B, T, C).

    Unlike a list of Heads: one matrix makes all queries, keys and values, and one fused call weighs and sums them.
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        assert n_embd % n_head == 0
        self.n_head, self.dropout = n_head, dropout
        self.qkv = nn.Linear(n_embd, 3 * n_embd, bias)
        self.proj = nn.Linear(n_embd, n_embd, bias)
        self.proj_dropout = nn.Dropout(dropout)

    def heads(self, x: Tensor, start: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of every head: x (B, T, C), at positions from `start` -> three times (B, nh, T, hs)."""
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head)  # (B, T, 3, nh, hs)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # 3 x (B, nh, T, hs)
        return q, k, v

    def forward(self, x: Tensor, cache: "KeyValueCache | None" = None) -> Tensor:
        q, k, v = self.heads(x, cache.start if cache else 0)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, nh, S, hs): the past and the present
        out = self.attend(q, k, v, cache.seen if cache else None)  # (B, nh, T, hs)
        out = out.transpose(1, 2).flatten(2)  # (B, T, C): the heads side by side
        return self.proj_dropout(self.proj(out))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
        """attention_weights(q, k) @ v, and in training dropout on the weights.

        q (B, nh, T, hs), k, v (B, nh, S, hs) -> (B, nh, T, hs). seen (T, S): True where a position may look; None = at
        itself and at what came before.
        """
        T, S = q.shape[-2], k.shape[-2]
        if seen is None and 1 < T < S:  # one position that asks may look at everything
            seen = causal_mask(T, S, q.device)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, seen, dropout, is_causal=seen is None and T == S)


class KeyValueCache:
    """Keys and values of the positions read so far, so that a new token only computes its own. One for each layer.

    A ring: when block_size positions are kept, a new one takes the place of the oldest.
    """

    def __init__(self, batch_size: int, n_head: int, block_size: int, head_size: int, like: Tensor) -> None:
        self.keys = like.new_empty(batch_size, n_head, block_size, head_size)
        self.values = torch.empty_like(self.keys)
        self.length = 0  # positions read

    @property
    def start(self) -> int | Tensor:
        """The position that comes next."""
        return self.length

    @property
    def seen(self) -> Tensor | None:
        """(1, S): where a single position may look, if not at all that `append` gave."""
        return None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (B, nh, T, hs) of new positions, none beyond the end of the ring -> keys and values (B, nh, S, hs) of all."""
        block_size, T = self.keys.shape[-2], k.shape[-2]
        place, self.length = self.length % block_size, self.length + T
        self.keys[:, :, place : place + T] = k
        self.values[:, :, place : place + T] = v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]  # attention asks for no order
