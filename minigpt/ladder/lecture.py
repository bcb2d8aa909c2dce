"""The steps of the lecture "Let's build GPT" with its own recipes, and the losses that it showed.

In the lecture the scores of a head are divided by the square root of n_embd, not of the head size. Where the two differ
(heads narrower than the model) each step is trained both ways.

    batch 32, block 8, n_embd 32, AdamW without warm-up, decay or clipping; learning rate 1e-2 for 3000 steps (tables) or
    1e-3 for 5000; ReLU; no biases in the heads

Source: Karpathy 2023, "Let's build GPT: from scratch, in code, spelled out", and its repository ng-video-lecture.

Next: breaks.py
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from ..attention import Head, attention_weights
from ..batches import Batches
from ..bigram import BigramLanguageModel, LanguageModel
from ..config import GPTConfig, TrainConfig
from ..corpus import Corpus
from ..rungs import Heads, Residual, Stack, TokenAndPosition
from ..trainer import Metrics, train

SHAPE = dict(block_size=8, n_layer=3, n_head=4, n_embd=32)
BATCH_SIZE = 32


@dataclass(frozen=True)
class Step:
    """A step of the lecture: what it trains, and the validation losses it showed, as {optimizer step: loss}."""

    name: str
    build: Callable[[GPTConfig, bool], LanguageModel]  # (shape, the lecture's scale or the right one)
    published: dict[int, float]
    tolerance: float
    learning_rate: float = 1e-3
    max_iters: int = 5000
    two_scales: bool = True


class LectureHead(Head):
    """A Head without biases that divides by sqrt(n_embd). x (B, T, C) -> (B, T, hs)."""

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.query(x), self.key(x)  # (B, T, hs)
        weights = attention_weights(q * (k.shape[-1] / x.shape[-1]) ** 0.5, k)  # (B, T, T)
        return weights @ self.value(x)


def stack(*parts: Callable[[GPTConfig, bool], list[nn.Module]]) -> Callable[[GPTConfig, bool], LanguageModel]:
    """A model of these parts, between the embeddings and the scores."""

    def build(c: GPTConfig, lecture_scale: bool) -> LanguageModel:
        middle = [module for part in parts for module in part(c, lecture_scale)]
        return Stack("lecture", c, nn.Sequential(TokenAndPosition(c), *middle, nn.Linear(c.n_embd, c.vocab_size)))

    return build


def one_head(c: GPTConfig, lecture_scale: bool) -> list[nn.Module]:
    return [Head(c.n_embd, c.n_embd, bias=False)]  # as wide as the model: both scales are one


def four_heads(c: GPTConfig, lecture_scale: bool) -> list[nn.Module]:
    kind = LectureHead if lecture_scale else Head
    return [Heads(kind(c.n_embd, c.n_embd // c.n_head, bias=False) for _ in range(c.n_head))]


def thought(c: GPTConfig, lecture_scale: bool) -> list[nn.Module]:
    return [nn.Linear(c.n_embd, c.n_embd), nn.ReLU()]


def wide_thought(c: GPTConfig) -> nn.Module:
    return nn.Sequential(nn.Linear(c.n_embd, 4 * c.n_embd), nn.ReLU(), nn.Linear(4 * c.n_embd, c.n_embd))


def three_blocks(c: GPTConfig, lecture_scale: bool) -> list[nn.Module]:
    return [part for _ in range(c.n_layer) for part in (*four_heads(c, lecture_scale), *thought(c, lecture_scale))]


def residual_blocks(c: GPTConfig, lecture_scale: bool) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for _ in range(c.n_layer):
        blocks += [Residual(*four_heads(c, lecture_scale), nn.Linear(c.n_embd, c.n_embd)), Residual(wide_thought(c))]
    return blocks


def normed_blocks(c: GPTConfig, lecture_scale: bool) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for _ in range(c.n_layer):
        attention = (*four_heads(c, lecture_scale), nn.Linear(c.n_embd, c.n_embd))
        blocks += [Residual(nn.LayerNorm(c.n_embd), *attention), Residual(nn.LayerNorm(c.n_embd), wide_thought(c))]
    return [*blocks, nn.LayerNorm(c.n_embd)]


def bigram(c: GPTConfig, lecture_scale: bool) -> LanguageModel:
    return BigramLanguageModel(c.vocab_size, c.block_size)


STEPS = [
    Step("bigram", bigram, {2700: 2.4911}, 0.02, 1e-2, 3000, False),
    Step("embeddings and positions", stack(), {2700: 2.5114}, 0.02, 1e-2, 3000, False),
    Step("one head", stack(one_head), {4500: 2.4084}, 0.02, two_scales=False),
    Step("four heads", stack(four_heads), {4500: 2.2858}, 0.02),
    Step("+ feed-forward", stack(four_heads, thought), {4500: 2.2411}, 0.02),
    Step("three blocks, no residual", stack(three_blocks), {4500: 2.3336}, 0.03),
    Step("+ residual", stack(residual_blocks), {4500: 2.1031, 4999: 2.0822}, 0.03),
    Step("+ layer norm", stack(normed_blocks), {4500: 2.0918, 4999: 2.06}, 0.03),
]


def reproduce(
    step: Step, corpus: Corpus, seed: int, lecture_scale: bool = True, steps: int | None = None
) -> Iterator[Metrics]:
    """Train a step of the lecture, yielding metrics; evaluated on the whole validation text where the lecture was."""
    config = TrainConfig(
        batch_size=BATCH_SIZE,
        max_iters=steps or step.max_iters,
        learning_rate=step.learning_rate,
        min_lr=step.learning_rate,
        warmup_iters=0,
        weight_decay=0.01,
        beta2=0.999,
        grad_clip=0.0,
        eval_interval=min(step.published),
        seed=seed,
    )
    torch.manual_seed(seed)
    model = step.build(GPTConfig(vocab_size=corpus.tokenizer.vocab_size, **SHAPE), lecture_scale)
    yield from train(model, Batches(corpus.train, BATCH_SIZE, model.block_size, seed), corpus.val, config)
