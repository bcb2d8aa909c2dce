"""What each part of the quick recipe is worth: python benchmarks/ablation.py [--seeds 5]

Trains the model of `minigpt train --size quick` (ModernGPT with Muon, 250 steps of 16 x 64, tiny Shakespeare) as it is and
with one part taken away or put in at a time, each with the same fresh seeds, and compares the losses on the whole validation
part, seed by seed: a part pays if its loss differs by more than chance. Steps and tokens read stay the same, so losses
are compared, not times, and other programs may compute meanwhile.

Keeps a line for each run in build/ablation.jsonl, so that it can be stopped and started, and writes a section of
docs/results.md. About eight seconds a run.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from machine import ROOT, describe, publish, shakespeare, table
from torch import Tensor

from minigpt import Batches, GPTConfig, ModernGPT, TrainConfig, evaluate, load_corpus, optim, train, trainer
from minigpt.block import FeedForward
from minigpt.config import RECIPES, from_dict, with_muon
from minigpt.files import read_lines
from minigpt.model import init_weights
from minigpt.modern import MultiHeadAttention, RotaryAttention, start_quietly

LINES = ROOT / "build/ablation.jsonl"
QUICK = with_muon(RECIPES["quick"], RECIPES["quick"]["n_embd"])

# ---- parts of the model: each changes a new ModernGPT --------------------------------------------------------------------


def no_quiet_start(model: ModernGPT) -> None:
    init_weights(model, model.config.n_layer)


def tied(model: ModernGPT) -> None:
    init_weights(model, model.config.n_layer)
    model.lm_head.weight = model.tok_emb.weight


def no_qk_norm(model: ModernGPT) -> None:
    for block in model.blocks:
        block.attn = RotaryAttention(model.config.n_embd, model.config.n_head, bias=False)
    start_quietly(model)


def no_rotation(model: ModernGPT) -> None:
    """Positions as GPT-2 has them: a learned table."""
    c = model.config
    model.pos_emb = nn.Embedding(c.block_size, c.n_embd)
    model.embed = lambda idx, start=0: model.tok_emb(idx) + model.pos_emb.weight[start : start + idx.shape[1]]
    for block in model.blocks:
        norms = block.attn.q_norm, block.attn.k_norm
        block.attn = NormedOnly(c.n_embd, c.n_head, bias=False)
        block.attn.q_norm, block.attn.k_norm = norms
    start_quietly(model)
    nn.init.normal_(model.pos_emb.weight, std=0.02)


class NormedOnly(MultiHeadAttention):
    """Normalised queries and keys that do not turn."""

    q_norm: nn.Module
    k_norm: nn.Module

    def heads(self, x: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x, start)
        return self.q_norm(q), self.k_norm(k), v


def layer_norm(model: ModernGPT) -> None:
    for block in model.blocks:
        block.ln_1, block.ln_2 = nn.LayerNorm(model.config.n_embd), nn.LayerNorm(model.config.n_embd)
    model.ln_f = nn.LayerNorm(model.config.n_embd)


def no_gate(model: ModernGPT) -> None:
    for block in model.blocks:
        block.mlp = FeedForward(model.config.n_embd)
    start_quietly(model)


# ---- parts of the training: how batches come, how the rate falls ---------------------------------------------------------


class Ramp:
    """The same tokens in all, in batches that grow from half of their size to one and a half."""

    def __init__(self, batches: Batches, steps: int) -> None:
        ends = [0]
        for step in range(steps):
            ends.append(ends[-1] + round(batches.batch_size * (0.5 + (step + 0.5) / steps)))
        self.one, self.ends = Batches(batches.data, 1, batches.block_size, batches.seed), ends

    def on(self, device: torch.device) -> "Ramp":
        return self

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        windows = [self.one[i] for i in range(self.ends[step], self.ends[step + 1])]
        return torch.cat([idx for idx, _ in windows]), torch.cat([targets for _, targets in windows])


class ShortFirst:
    """Half of the steps with twice as many windows of half the length."""

    def __init__(self, batches: Batches, steps: int) -> None:
        self.short = Batches(batches.data, 2 * batches.batch_size, batches.block_size // 2, batches.seed)
        self.batches, self.half = batches, steps // 2

    def on(self, device: torch.device) -> "ShortFirst":
        return self

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        return (self.short if step < self.half else self.batches)[step]


def held_then_falling(step: int, config: TrainConfig) -> float:
    """Constant for half of the steps, then in a straight line to zero."""
    return config.learning_rate * min(1.0, 2 * (1 - step / config.max_iters))


ADAMW = dict(optimizer="adamw", learning_rate=4e-3, beta1=0.9, warmup_iters=25)
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "AdamW for all, its rate 0.004": dict(config=ADAMW),
    "AdamW for all, its rate 0.008": dict(config=ADAMW | dict(learning_rate=8e-3)),
    "AdamW for all, its rate 0.016": dict(config=ADAMW | dict(learning_rate=16e-3)),
    "half the learning rate": dict(config=dict(learning_rate=QUICK["learning_rate"] / 2)),
    "twice the learning rate": dict(config=dict(learning_rate=QUICK["learning_rate"] * 2)),
    "the rate falls along a cosine": dict(config=dict(schedule="cosine")),
    "the rate is held for half, then falls": dict(rate=held_then_falling),
    "a warm-up of 25 steps": dict(config=dict(warmup_iters=25)),
    "no weight decay": dict(config=dict(weight_decay=0.0)),
    "beta1 0.95": dict(config=dict(beta1=0.95)),
    "no clipping": dict(config=dict(grad_clip=0.0)),
    "GPT-2's initial weights": dict(model=no_quiet_start),
    "GPT-2's initial weights, one table for reading and scoring": dict(model=tied),
    "no norm of queries and keys": dict(model=no_qk_norm),
    "a table of positions instead of rotation": dict(model=no_rotation),
    "LayerNorm instead of RMSNorm": dict(model=layer_norm),
    "GELU of 4 C instead of SwiGLU": dict(model=no_gate),
    "batches that grow": dict(batches=Ramp),
    "short windows first": dict(batches=ShortFirst),
}


def measure(
    corpus, seed: int, config: dict | None = None, model: Callable | None = None, batches: Callable | None = None, rate=None
) -> float:
    """Train once -> the loss on the whole validation part."""
    settings = from_dict(TrainConfig, QUICK | dict(seed=seed) | (config or {}))
    torch.manual_seed(seed)
    net = ModernGPT(from_dict(GPTConfig, QUICK | dict(vocab_size=corpus.tokenizer.vocab_size)))
    if model:
        model(net)
    fed: Any = Batches(corpus.train, settings.batch_size, net.block_size, seed)
    if batches:
        fed = batches(fed, settings.max_iters)
    trainer.learning_rate = rate or optim.learning_rate
    for _ in train(net, fed, corpus.val, settings):
        pass
    return evaluate(net, corpus.val)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    corpus = load_corpus([shakespeare()])
    LINES.parent.mkdir(exist_ok=True)
    losses = {(line["variant"], line["seed"]): line["loss"] for line in read_lines(LINES)}
    seeds = range(201, 201 + asked.seeds)  # not those that the recipe was found with
    for seed in seeds:
        for name, change in VARIANTS.items():
            if (name, seed) in losses:
                continue
            losses[name, seed] = measure(corpus, seed, **change)
            print(f"{name}, seed {seed}: {losses[name, seed]:.4f}", flush=True)
            with LINES.open("a") as file:
                file.write(json.dumps({"variant": name, "seed": seed, "loss": losses[name, seed]}) + "\n")
    rows = []
    for name in VARIANTS:
        own = [losses[name, seed] for seed in seeds]
        differences = [losses[name, seed] - losses["as it is", seed] for seed in seeds]
        error = statistics.stdev(differences) / len(seeds) ** 0.5
        worth = "" if name == "as it is" else f"{statistics.mean(differences):+.4f} ± {error:.4f}"
        rows.append([name, f"{statistics.mean(own):.4f} ± {statistics.stdev(own):.4f}", worth])
    publish(
        "What each part of the quick recipe is worth",
        f"""Made by `python benchmarks/ablation.py --seeds {asked.seeds}`.

{describe()}.

`minigpt train --size quick`, tiny Shakespeare, with one change at a time; {asked.seeds} fresh seeds, the same for each. The
loss on the whole validation part, nats/character, mean ± standard deviation; and how much is lost by the change, the mean
over seeds ± its standard error: what is above zero by more than twice its error pays.

{table(["change", "validation loss", "lost by it"], rows)}""",
    )


if __name__ == "__main__":
    main()
