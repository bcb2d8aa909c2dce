"""A GPT with one part broken, beside the intact one: what the mistake looks like from outside.

Most mistakes in a GPT do not crash. It trains, the loss goes somewhere, the text is a little or very wrong. Each break
here is such a mistake, put into a finished model from outside; the symptom is measured on both and told in figures.

    for patient, model in trained(BREAKS["mask"], corpus, steps=200): ...

Next: program.py
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..attention import KeyValueCache, MultiHeadAttention, attention_weights
from ..batches import Batches
from ..block import Block
from ..config import GPTConfig, SampleConfig, TrainConfig
from ..corpus import Corpus
from ..engine import generate
from ..model import GPT
from ..trainer import NonFiniteLoss, evaluate, train
from ..writing import start_ids

STEPS = 150
SHAPE = dict(block_size=32, n_layer=4, n_head=4, n_embd=128)
TRAINING = TrainConfig(batch_size=32, max_iters=STEPS, learning_rate=3e-3, seed=1337)
PROBE = 8  # windows of validation text that the inner figures are measured on
WRITTEN = 300  # characters that each model writes


# ---- the breaks --------------------------------------------------------------------------------------------------------


class Unmasked(MultiHeadAttention):
    """Looks at everything, the future too."""

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        q, k, v = self.heads(x, cache.length if cache else 0)
        if cache is not None:
            k, v = cache.append(k, v)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Unscaled(MultiHeadAttention):
    """Does not divide the scores by the square root of the head size."""

    def heads(self, x: Tensor, start: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x, start)
        return q * q.shape[-1] ** 0.5, k, v


class Replacing(Block):
    """Hands on what its parts made, instead of adding it."""

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        return self.mlp(self.ln_2(self.attn(self.ln_1(x), cache)))


class Placeless(GPT):
    """Adds no positions."""

    def embed(self, idx: Tensor, start: int | Tensor = 0) -> Tensor:
        return self.tok_emb(idx)


class Unshifted(Batches):
    """Asks for the token that was read, not for the next one."""

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        idx, _ = super().__getitem__(step)
        return idx, idx


def turn(model: nn.Module, kind: type[nn.Module], into: type[nn.Module]) -> None:
    """Make every module of one class behave as another with the same parameters."""
    for module in model.modules():
        if type(module) is kind:
            module.__class__ = into


def without_norms(model: nn.Module) -> None:
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.LayerNorm):
                setattr(module, name, nn.Identity())


def started_large(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=1.0)


# ---- what is measured --------------------------------------------------------------------------------------------------


@dataclass
class Patient:
    """A model that was trained for a short while, and what was seen of it. Losses in nats/token."""

    start_loss: float = math.nan  # of the validation text, untrained
    train_loss: float = math.nan  # the last tenth of the steps, as the learner sees it
    val_loss: float = math.nan
    late: float = math.nan  # steps until the training loss has fallen by a quarter
    gradient_share: float = math.nan  # at the start: norm of the first block's gradient over the last block's
    score_deviation: float = math.nan  # standard deviation of the attention scores
    sharpness: float = math.nan  # mean of the largest weight of a row: 1 = looks at one place only
    activation: float = math.nan  # root mean square of what leaves the last block
    shuffled: float = math.nan  # how much higher the loss is when the past is in another order
    places: float = math.nan  # how much scores differ from place to place when one token is repeated
    leak: float = math.nan  # how much scores move when a later token is changed
    strangeness: float = math.nan  # nats/token of its own text, as the intact model reads it
    repeats: float = math.nan  # share of tokens in its text that repeat the one before
    curve: list[float] = field(default_factory=list)  # training loss of every step
    text: str = ""
    stopped: str = ""  # why training ended early


@dataclass(frozen=True)
class Break:
    """A mistake: how it gets into the model or its training, and what gives it away."""

    name: str
    mistake: str  # what was done, as code
    figures: tuple[str, ...]  # of Patient, that show it
    symptom: Callable[[Patient, Patient], bool]  # (intact, broken): can it be seen?
    recognise: str  # what to look for
    model: Callable[[GPT], None] = lambda model: None
    batches: type[Batches] = Batches
    training: Callable[[TrainConfig], TrainConfig] = lambda config: config


def trained(
    brk: Break, corpus: Corpus, steps: int = STEPS, device: str = "cpu", shape: dict | None = None
) -> Iterator[tuple[Patient, GPT]]:
    """Train a GPT with a mistake in it, yielding what is known after each step; with the last, all that is seen inside."""
    config = replace(TRAINING, max_iters=steps, warmup_iters=None, min_lr=None, eval_interval=None)
    torch.manual_seed(config.seed)
    model = GPT(GPTConfig(vocab_size=corpus.tokenizer.vocab_size, **(shape or SHAPE)))
    brk.model(model)
    model.to(device)
    batches = brk.batches(corpus.train, config.batch_size, model.block_size, config.seed)
    patient = Patient(gradient_share=gradient_share(model, batches))
    try:
        for metrics in train(model, batches, corpus.val, replace(brk.training(config), eval_interval=steps)):
            if metrics.loss is None:
                patient.start_loss = metrics.val_loss or math.nan
            else:
                patient.curve.append(metrics.loss)
            if metrics.step < steps:
                yield patient, model
    except NonFiniteLoss as fault:
        patient.stopped = str(fault)
    examine(patient, model, corpus)
    yield patient, model


def examine(patient: Patient, model: GPT, corpus: Corpus) -> None:
    """Fill in what can be seen inside a trained model, on a few windows of validation text."""
    tenth = patient.curve[-max(1, len(patient.curve) // 10) :]
    patient.train_loss = sum(tenth) / len(tenth) if tenth else math.nan
    patient.val_loss = evaluate(model, corpus.val)
    low = 0.75 * patient.start_loss
    patient.late = next((step for step, loss in enumerate(patient.curve, 1) if loss < low), math.inf)
    T = model.block_size
    device = next(model.parameters()).device
    n = min(PROBE, (len(corpus.val) - 1) // T)
    windows = torch.from_numpy(corpus.val[: n * T].astype(np.int64)).view(n, T).to(device)
    scores: list[Tensor] = []
    rows: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, MultiHeadAttention)
        q, k, _ = module.heads(inputs[0])
        scores.append((q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).flatten())
        rows.append(attention_weights(q, k)[:, :, T // 2 :].amax(-1).flatten())

    ends: list[Tensor] = []
    hooks = [block.attn.register_forward_hook(note) for block in model.blocks]  # type: ignore[union-attr]
    hooks.append(model.blocks[-1].register_forward_hook(lambda module, inputs, output: ends.append(output)))
    model.train(False)
    with torch.inference_mode():
        logits, _ = model(windows)
    for hook in hooks:
        hook.remove()
    patient.score_deviation = torch.cat(scores).std().item()
    patient.sharpness = torch.cat(rows).mean().item()
    patient.activation = ends[0].square().mean().sqrt().item()
    with torch.inference_mode():
        # Another last token: nothing before it may move.
        other = windows.clone()
        other[:, -1] = (other[:, -1] + 1) % logits.shape[-1]
        patient.leak = (model(other)[0][:, :-1] - logits[:, :-1]).abs().max().item()
        # One token repeated: only its place can make a difference.
        repeated, _ = model(windows[:1, :1].expand(1, T))
        patient.places = (repeated - repeated[:, :1]).abs().max().item()
        # The same past in another order: what is predicted after the last token should suffer.
        order = torch.randperm(T - 2, generator=torch.Generator().manual_seed(0)).to(device)
        shuffled = torch.cat([windows[:, :-2][:, order], windows[:, -2:]], dim=1)
        targets = windows[:, -1]
        loss = [F.cross_entropy(model(ids[:, :-1])[0][:, -1], targets).item() for ids in (windows, shuffled)]
        patient.shuffled = loss[1] - loss[0]


def read(patient: Patient, model: GPT, reader: GPT, corpus: Corpus) -> None:
    """Let a model write, and let the intact one read it."""
    prompt = start_ids(corpus.tokenizer, "")
    try:
        ids = list(generate(model, prompt, SampleConfig(max_new_tokens=WRITTEN)))
    except ValueError as fault:  # weights that are no numbers any more
        patient.stopped = patient.stopped or str(fault)
        return
    patient.text = corpus.tokenizer.decode(ids)
    patient.repeats = sum(a == b for a, b in itertools.pairwise(ids)) / (len(ids) - 1)
    patient.strangeness = evaluate(reader, np.array(ids))


def gradient_share(model: GPT, batches: Batches) -> float:
    """The norm of the gradient in the first block over that in the last, before training."""
    device = next(model.parameters()).device
    idx, targets = (ids.to(device) for ids in batches[0])
    _, loss = model(idx, targets)
    assert loss is not None
    loss.backward()
    norms = [
        math.sqrt(sum(p.grad.square().sum().item() for p in block.parameters() if p.grad is not None))
        for block in (model.blocks[0], model.blocks[-1])
    ]
    model.zero_grad(set_to_none=True)
    return norms[0] / max(norms[1], 1e-30)


FIGURES = {
    "start_loss": "val loss before training",
    "train_loss": "train loss at the end",
    "val_loss": "val loss at the end",
    "late": "steps until loss is down by 1/4",
    "gradient_share": "gradient, first block / last",
    "score_deviation": "spread of the attention scores",
    "sharpness": "largest attention weight, mean",
    "activation": "size of what leaves the blocks",
    "shuffled": "loss added by shuffling the past",
    "places": "scores moved by the place alone",
    "leak": "scores moved by a later token",
    "strangeness": "its text, read by the intact one",
    "repeats": "share of repeated tokens in it",
}

INTACT = Break("intact", "nothing", (), lambda intact, broken: True, "")
BREAKS = {
    b.name: b
    for b in (
        Break(
            "mask",
            "attention without the causal mask",
            ("train_loss", "val_loss", "leak", "strangeness"),
            lambda intact, broken: (
                broken.val_loss < 0.8 * intact.val_loss
                and broken.leak > 1e-3 > intact.leak
                and broken.strangeness > 1.2 * intact.strangeness
            ),
            "The loss falls far below what any model of this text can reach, yet the text is garbage: in training each "
            "position could see the answer, in writing there is none to see. Change a later token: no earlier score "
            "may move.",
            model=lambda model: turn(model, MultiHeadAttention, Unmasked),
        ),
        Break(
            "scale",
            "attention scores not divided by sqrt(head size)",
            ("val_loss", "score_deviation", "sharpness"),
            lambda intact, broken: (
                broken.score_deviation > 2 * intact.score_deviation and broken.sharpness > intact.sharpness
            ),
            "The loss hardly tells. The scores spread several times as wide, so softmax puts more weight on a single "
            "place and passes less gradient to the others. It grows with the head size and with larger initial "
            "weights.",
            model=lambda model: turn(model, MultiHeadAttention, Unscaled),
        ),
        Break(
            "residual",
            "blocks that replace x instead of adding to it",
            ("train_loss", "val_loss", "gradient_share"),
            lambda intact, broken: broken.val_loss > intact.val_loss + 0.3,
            "The loss stays on the plateau of mere character frequencies. What a token is reaches the scores only "
            "through every part, and at the start each hands on little of it. The norms keep the gradient from "
            "vanishing here, so its size does not tell; the plateau does.",
            model=lambda model: turn(model, Block, Replacing),
        ),
        Break(
            "layernorm",
            "no layer norm anywhere",
            ("train_loss", "val_loss", "late", "gradient_share"),
            lambda intact, broken: broken.val_loss > intact.val_loss + 0.05 and broken.late > intact.late,
            "It learns, but later: GPT-2's small initial weights count on the norms to bring numbers to size, and "
            "without them every part works on whispers until the weights have grown. With larger weights or rates the "
            "same lack explodes.",
            model=without_norms,
        ),
        Break(
            "init",
            "initial weights with standard deviation 1",
            ("start_loss", "train_loss", "val_loss"),
            lambda intact, broken: broken.start_loss > 2 * intact.start_loss and broken.val_loss > intact.val_loss + 0.2,
            "The first loss gives it away: an untrained model should know nothing, ln V. Far more means it is sure and "
            "wrong, and the curve begins with a cliff: the first steps only unlearn.",
            model=started_large,
        ),
        Break(
            "positions",
            "no positions added to the tokens",
            ("train_loss", "val_loss", "shuffled", "places"),
            lambda intact, broken: broken.places < 1e-3 < 0.01 < intact.places,
            "The loss hardly tells: layer upon layer, causal attention can count for itself. Let it read one character "
            "over and over: with positions each place gives another answer, without them every place gives the same.",
            model=lambda model: setattr(model, "__class__", Placeless),
        ),
        Break(
            "lr",
            "a learning rate 100 times as high",
            ("train_loss", "val_loss", "activation"),
            lambda intact, broken: bool(broken.stopped) or broken.val_loss > intact.val_loss + 0.3,
            "The curve jumps up in the first steps, then lies flat near the loss of mere character frequencies, or "
            "ends in NaN. Try a tenth of the rate: if the loss falls at once, this was it.",
            training=lambda config: config.changed({"learning_rate": 100 * config.learning_rate}),
        ),
        Break(
            "shift",
            "targets that are not shifted: idx instead of what comes next",
            ("train_loss", "val_loss", "repeats"),
            lambda intact, broken: (
                broken.train_loss < 0.1 and broken.val_loss > 2 * intact.val_loss and broken.repeats > 2 * intact.repeats
            ),
            "The training loss is at zero within a few steps, which no text allows: the answer stands in the question. "
            "In writing the model repeats the character before.",
            batches=Unshifted,
        ),
    )
}
