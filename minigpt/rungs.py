"""Every step from a bigram to a GPT of today, one idea a rung, each built from the parts in the files above.

A rung is a stack of parts between ids and scores; reading two neighbours tells what was added. The first rung is the
BigramLanguageModel, the eleventh the GPT, the fifteenth the ModernGPT; those between exist to be compared, not to be used.
The last is no other model but another optimizer.

    model = RUNGS["head"].model(GPTConfig(vocab_size=65, block_size=8, n_embd=32))

`python ladder.py` trains them all on the same text and shows what each idea gains.

Next: sampling.py
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .attention import Head, MultiHeadAttention
from .bigram import BigramLanguageModel, LanguageModel, load_weights
from .block import Block, FeedForward
from .config import GPTConfig
from .hf import NORM_EPS, sizes
from .model import GPT, init_weights
from .modern import ModernGPT, NormedAttention, RotaryAttention, SwiGLU


class TokenAndPosition(nn.Module):
    """What each token is, plus where it stands. idx (B, T) -> (B, T, C)."""

    def __init__(self, c: GPTConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(c.vocab_size, c.n_embd)
        self.positions = nn.Embedding(c.block_size, c.n_embd)

    def forward(self, idx: Tensor) -> Tensor:
        return self.tokens(idx) + self.positions(torch.arange(idx.shape[1], device=idx.device))


class Heads(nn.ModuleList):
    """Heads side by side, each in its own share of the channels. x (B, T, C) -> (B, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([head(x) for head in self], dim=-1)


class Residual(nn.Module):
    """x + what the parts make of x. The gradient goes back along the plus sign as if the parts were not there.

    Source: He et al. 2015, equation 1 (arXiv:1512.03385).
    """

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.parts(x)


class TiedScores(nn.Module):
    """A token's score is how well x matches its embedding. x (B, T, C) -> (B, T, V); no parameters of its own."""

    def __init__(self, tokens: nn.Embedding) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.tokens.weight)


# ---- the stacks: idx (B, T) -> logits (B, T, V) ------------------------------------------------------------------------


def embedding(c: GPTConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Embedding(c.vocab_size, c.n_embd),
        nn.Linear(c.n_embd, c.vocab_size),
    )


def positions(c: GPTConfig) -> nn.Sequential:
    return nn.Sequential(
        TokenAndPosition(c),
        nn.Linear(c.n_embd, c.vocab_size),
    )


def head(c: GPTConfig) -> nn.Sequential:
    return nn.Sequential(
        TokenAndPosition(c),
        Head(c.n_embd, c.n_embd),
        nn.Linear(c.n_embd, c.vocab_size),
    )


def heads(c: GPTConfig) -> nn.Sequential:
    return nn.Sequential(
        TokenAndPosition(c),
        Heads(Head(c.n_embd, c.n_embd // c.n_head) for _ in range(c.n_head)),
        nn.Linear(c.n_embd, c.vocab_size),
    )


def feedforward(c: GPTConfig) -> nn.Sequential:
    return nn.Sequential(
        TokenAndPosition(c),
        Heads(Head(c.n_embd, c.n_embd // c.n_head) for _ in range(c.n_head)),
        FeedForward(c.n_embd),
        nn.Linear(c.n_embd, c.vocab_size),
    )


def blocks(c: GPTConfig) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(c.n_layer):
        parts.append(Heads(Head(c.n_embd, c.n_embd // c.n_head) for _ in range(c.n_head)))
        parts.append(FeedForward(c.n_embd))
    return nn.Sequential(
        TokenAndPosition(c),
        *parts,
        nn.Linear(c.n_embd, c.vocab_size),
    )


def residual(c: GPTConfig) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(c.n_layer):
        parts.append(Residual(MultiHeadAttention(c.n_embd, c.n_head)))
        parts.append(Residual(FeedForward(c.n_embd)))
    return nn.Sequential(
        TokenAndPosition(c),
        *parts,
        nn.Linear(c.n_embd, c.vocab_size),
    )


def layernorm(c: GPTConfig) -> nn.Sequential:
    return nn.Sequential(
        TokenAndPosition(c),
        *(Block(c.n_embd, c.n_head) for _ in range(c.n_layer)),
        nn.LayerNorm(c.n_embd),
        nn.Linear(c.n_embd, c.vocab_size),
    )


def init(c: GPTConfig) -> nn.Sequential:
    stack = layernorm(c)
    init_weights(stack, c.n_layer)
    return stack


def rotary(c: GPTConfig) -> nn.Sequential:
    tokens = nn.Embedding(c.vocab_size, c.n_embd)
    stack = nn.Sequential(
        tokens,
        nn.Dropout(c.dropout),
        *(
            nn.Sequential(
                Residual(nn.LayerNorm(c.n_embd), RotaryAttention(c.n_embd, c.n_head, c.dropout)),
                Residual(nn.LayerNorm(c.n_embd), FeedForward(c.n_embd, c.dropout)),
            )
            for _ in range(c.n_layer)
        ),
        nn.LayerNorm(c.n_embd),
        TiedScores(tokens),
    )
    init_weights(stack, c.n_layer)
    return stack


def rmsnorm(c: GPTConfig) -> nn.Sequential:
    tokens = nn.Embedding(c.vocab_size, c.n_embd)
    stack = nn.Sequential(
        tokens,
        nn.Dropout(c.dropout),
        *(
            nn.Sequential(
                Residual(nn.RMSNorm(c.n_embd, NORM_EPS), NormedAttention(c.n_embd, c.n_head, c.dropout)),
                Residual(nn.RMSNorm(c.n_embd, NORM_EPS), FeedForward(c.n_embd, c.dropout)),
            )
            for _ in range(c.n_layer)
        ),
        nn.RMSNorm(c.n_embd, NORM_EPS),
        TiedScores(tokens),
    )
    init_weights(stack, c.n_layer)
    return stack


def swiglu(c: GPTConfig) -> nn.Sequential:
    tokens = nn.Embedding(c.vocab_size, c.n_embd)
    stack = nn.Sequential(
        tokens,
        nn.Dropout(c.dropout),
        *(
            nn.Sequential(
                Residual(nn.RMSNorm(c.n_embd, NORM_EPS), NormedAttention(c.n_embd, c.n_head, c.dropout)),
                Residual(nn.RMSNorm(c.n_embd, NORM_EPS), SwiGLU(c.n_embd, c.dropout)),
            )
            for _ in range(c.n_layer)
        ),
        nn.RMSNorm(c.n_embd, NORM_EPS),
        TiedScores(tokens),
    )
    init_weights(stack, c.n_layer)
    return stack


class Stack(LanguageModel):
    """A rung that is only a rung: its parts one after the other."""

    model_type = "minigpt-rung"

    def __init__(self, rung: str, config: GPTConfig, parts: nn.Sequential | None = None) -> None:
        super().__init__()
        self.rung, self.config = rung, config
        self.vocab_size, self.block_size = config.vocab_size, config.block_size
        self.parts = STACKS[rung](config) if parts is None else parts

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """idx (B, T), targets (B, T) -> logits (B, T, V), loss in nats/token or None."""
        logits = self.parts(idx)
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss

    def to_hf(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        config = {"rung": self.rung, **asdict(self.config)}
        return config, {name: parameter.detach() for name, parameter in self.named_parameters()}

    @classmethod
    def blank(cls, config: dict[str, Any]) -> "Stack":
        if config.get("rung") not in list(STACKS):
            raise ValueError(f"config.json names the rung {str(config.get('rung'))[:50]!r}; known are {', '.join(STACKS)}")
        with torch.device("meta"):
            return cls(config["rung"], GPTConfig(**sizes(config, cls.model_type)))

    @classmethod
    def from_hf(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "Stack":
        model = cls.blank(config)
        load_weights(model, tensors)
        return model


STACKS: dict[str, Callable[[GPTConfig], nn.Sequential]] = {
    build.__name__: build
    for build in (embedding, positions, head, heads, feedforward, blocks, residual, layernorm, init, rotary, rmsnorm, swiglu)
}


@dataclass(frozen=True)
class Rung:
    """One step of the ladder."""

    number: int
    name: str
    idea: str  # in five words
    scaled: bool = False  # as large as the GPT, or small
    optimizer: str = "adamw"

    def model(self, config: GPTConfig) -> LanguageModel:
        """An untrained model of this rung."""
        whole: dict[str, Callable[[GPTConfig], LanguageModel]] = {
            "bigram": lambda c: BigramLanguageModel(c.vocab_size, c.block_size),
            "gpt": GPT,
            "modern": ModernGPT,
            "muon": ModernGPT,
        }
        return whole[self.name](config) if self.name in whole else Stack(self.name, config)

    @property
    def source(self) -> Callable[..., Any]:
        """The code that says what the model of this rung is made of."""
        whole = {"bigram": BigramLanguageModel, "gpt": GPT, "modern": ModernGPT, "muon": ModernGPT}
        return whole.get(self.name) or STACKS[self.name]


_IDEAS = [
    ("bigram", "a table: one character back"),
    ("embedding", "characters become vectors, then scores"),
    ("positions", "each vector knows its place"),
    ("head", "look back: one attention head"),
    ("heads", "look back four ways"),
    ("feedforward", "then think about it alone"),
    ("blocks", "three times over: it suffers"),
    ("residual", "add, do not replace: projections"),
    ("layernorm", "keep every layer's scale even"),
    ("init", "start small: GPT-2's initial weights"),
    ("gpt", "larger, tied, dropout: the GPT"),
    ("rotary", "positions as turns, not tables"),
    ("rmsnorm", "simpler norms, queries and keys too"),
    ("swiglu", "a gate in the feed-forward"),
    ("modern", "a quiet start, untied: Qwen3"),
    ("muon", "steps of equal length: Muon"),
]
RUNGS = {
    name: Rung(number, name, idea, number > 10, "muon" if name == "muon" else "adamw")
    for number, (name, idea) in enumerate(_IDEAS, 1)
}
