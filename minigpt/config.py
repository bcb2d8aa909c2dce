"""Every number a person can choose: the shape of a model, how it learns, how it writes.

Each field is declared once, with its default, its meaning and its range. The command line, the checks, the saved run and
the help text are all made from these declarations. Nothing here needs torch.

Next: hf.py
"""

import codecs
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import TracebackType
from typing import Any, get_args, get_type_hints


def option(default: Any, help: str, low: float | None = None, high: float | None = None, choices=(), open_high=False):
    """A dataclass field that knows its meaning and its range: low <= value <= high (< high if open_high)."""
    about = {"help": help, "low": low, "high": high, "choices": tuple(choices), "open_high": open_high}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. Six numbers decide everything; GPT-2's smallest is 50257, 1024, 12, 12, 768, 0.1."""

    vocab_size: int = option(65, "different tokens", 1, 2**24)
    block_size: int = option(64, "context length: tokens a prediction can look back on", 1, 2**20)
    n_layer: int = option(4, "blocks, stacked", 1, 1000)
    n_head: int = option(4, "attention heads in a block", 1, 1024)
    n_embd: int = option(128, "channels: numbers that stand for one token", 1, 2**16)
    dropout: float = option(0.0, "share of activations set to zero while training", 0, 0.99)

    def __post_init__(self) -> None:
        check(self, {("n_embd", "n_head"): self._uneven})

    def _uneven(self) -> str:
        if self.n_embd % self.n_head == 0:
            return ""
        return (
            f"n_embd ({self.n_embd}) is not a multiple of n_head ({self.n_head}); "
            f"try n_head {_nearest_divisors(self.n_embd, self.n_head)}"
        )

    def check_rotary(self) -> None:
        """Raise ValueError unless the channels of a head are an even number: rotary positions turn pairs of them."""
        if self.n_embd // self.n_head % 2:
            raise ValueError(
                f"n_embd / n_head is {self.n_embd // self.n_head}; rotary positions turn pairs of channels, "
                "so it must be an even number"
            )

    @property
    def n_params(self) -> int:
        """Parameters of the model, the tied output table counted once."""
        C = self.n_embd
        block = 12 * C * C + 13 * C  # qkv 3C² + 3C, proj C² + C, up 4C² + 4C, down 4C² + C, two norms 4C
        return (self.vocab_size + self.block_size) * C + self.n_layer * block + 2 * C


@dataclass(frozen=True)
class TrainConfig:
    """How a model learns. A value of None is derived from the others and filled in."""

    batch_size: int = option(12, "windows of text in one forward pass", 1, 2**20)
    grad_accum_steps: int = option(1, "forward passes in one step", 1, 2**16)
    max_iters: int = option(2000, "optimizer steps", 1, 10**9)
    minutes: float = option(0.0, "end after so many minutes, however many steps that is; 0 = after max_iters", 0, 10**6)
    optimizer: str = option("adamw", "muon = Muon for the matrices of the blocks", choices=("adamw", "muon"))
    learning_rate: float = option(1e-3, "peak learning rate", 1e-12, 10)
    min_lr: float | None = option(None, "learning rate at the end (derived: a tenth of the peak)", 0, 10)
    warmup_iters: int | None = option(None, "steps of warm-up (derived: 100, at most max_iters / 10)", 0, 10**9)
    schedule: str = option("cosine", "how the learning rate falls after the warm-up", choices=("cosine", "linear"))
    weight_decay: float = option(0.1, "decay of matrices, never of biases and norms", 0, 100)
    beta1: float = option(0.9, "the optimizer's memory of the gradient", 0, 1, open_high=True)
    beta2: float = option(0.99, "AdamW's memory of the squared gradient", 0, 1, open_high=True)
    grad_clip: float = option(1.0, "largest norm of the gradient; 0 = off", 0, 10**9)
    eval_interval: int | None = option(None, "steps between two evaluations (derived: max_iters / 10)", 1, 10**9)
    eval_tokens: int = option(2**17, "validation tokens an evaluation reads, evenly spread; 0 = all", 0, 2**60)
    patience: int = option(0, "stop after so many evaluations without a new best; 0 = never", 0, 10**9)
    skip_spikes: float = option(
        0.0, "leave out a step whose loss or gradient is so many standard deviations above the last 128; 0 = never", 0, 10**6
    )
    compile: str = option(
        "off", "torch.compile the model: a slow start, and faster steps on some devices", choices=("off", "on")
    )
    dtype: str = option(
        "auto", "arithmetic; auto = bfloat16 on CUDA GPUs that are made for it", choices=("auto", "float32", "bfloat16")
    )
    seed: int = option(1337, "fixes weights, batches and dropout", 0, 2**63 - 1)

    def __post_init__(self) -> None:
        check(self, {("learning_rate", "min_lr"): self._rising})
        derived = {
            "min_lr": self.learning_rate / 10,
            "warmup_iters": min(100, self.max_iters // 10),
            "eval_interval": max(1, self.max_iters // 10),
        }
        for name, value in derived.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _rising(self) -> str:
        if self.min_lr is None or self.min_lr <= self.learning_rate:
            return ""
        return f"min_lr ({self.min_lr}) is above learning_rate ({self.learning_rate}); make it smaller or equal"

    def changed(self, changes: dict[str, Any]) -> "TrainConfig":
        """The same with some values changed; min_lr keeps its share of the learning rate unless it is changed too."""
        values = asdict(self) | changes
        if "learning_rate" not in changes or "min_lr" in changes:
            return TrainConfig(**values)
        config = TrainConfig(**values | {"min_lr": 0.0})
        assert self.min_lr is not None
        min_lr = self.min_lr * config.learning_rate / self.learning_rate
        return replace(config, min_lr=min(min_lr, config.learning_rate))  # rounding must not lift one above the other


@dataclass(frozen=True)
class DataConfig:
    """How a text becomes ids."""

    tokenizer: str = option("char", "what a token is", choices=("char", "byte"))
    encoding: str = option("utf-8", "how the files are encoded: utf-8, latin-1, utf-16, cp1252, ...")
    val_fraction: float = option(0.1, "share of the text, at its end, kept for validation", 0.001, 0.5)

    def __post_init__(self) -> None:
        check(self, {("encoding",): self._no_encoding})

    def _no_encoding(self) -> str:
        try:
            codec = codecs.lookup(self.encoding)
            is_text = codec._is_text_encoding and codec.name not in ("punycode", "idna")  # which are for names of hosts
        except (LookupError, ValueError):  # ValueError: what cannot even be looked up
            is_text = False
        wanted = "a text encoding: utf-8, latin-1, cp1252, utf-16, ..."
        return "" if is_text else f"encoding is {shown(self.encoding)}; it must be {wanted}"


@dataclass(frozen=True)
class SampleConfig:
    """How the next token is drawn from the model's probabilities."""

    max_new_tokens: int = option(500, "tokens to write", 0, 10**9)
    temperature: float = option(1.0, "below 1 safer, above 1 wilder, 0 always the likeliest token", 0, 100)
    top_k: int = option(0, "draw from the k likeliest tokens only; 0 = all", 0, 2**31)
    top_p: float = option(1.0, "draw from the likeliest tokens that together reach probability p; 1 = all", 0, 1)
    min_p: float = option(0.0, "leave out tokens below p times the probability of the likeliest; 0 = none", 0, 1)
    repetition_penalty: float = option(1.0, "above 1, what was read or written already becomes less likely", 0.01, 100)
    seed: int = option(1337, "fixes the draw", 0, 2**63 - 1)

    def __post_init__(self) -> None:
        check(self)


# A recipe is a shape and the training that suits it. Every value can still be given by hand.
# fmt: off
RECIPES: dict[str, dict[str, Any]] = {
    # The lecture's bigram: plain AdamW, a constant learning rate.
    "bigram": dict(block_size=8, batch_size=32, max_iters=3000, learning_rate=1e-2, min_lr=1e-2, warmup_iters=0,
                   weight_decay=0.01, beta2=0.999, grad_clip=0.0),
    # 0.16 M parameters, as good as nanoGPT's CPU example after seconds: one look at the validation text, at the end.
    "quick": dict(n_layer=3, n_head=2, n_embd=64, block_size=64, dropout=0.0,
                  batch_size=16, max_iters=250, learning_rate=4e-3, eval_interval=250),
    # The last cell of the lecture's notebook: 0.21 M parameters, plain AdamW, a constant learning rate.
    "tiny": dict(n_layer=4, n_head=4, n_embd=64, block_size=32, dropout=0.0,
                 batch_size=16, max_iters=5000, learning_rate=1e-3, min_lr=1e-3, warmup_iters=0,
                 weight_decay=0.01, beta2=0.999, grad_clip=0.0),
    # 0.81 M parameters (the shape of nanoGPT's CPU example), for a processor: minutes.
    "small": dict(n_layer=4, n_head=4, n_embd=128, block_size=64, dropout=0.0,
                  batch_size=12, max_iters=3000, learning_rate=2e-3),
    # The same for today's GPT: as many tokens in a quarter of the steps, as with Muon a step is worth more and costs more.
    "laptop": dict(n_layer=4, n_head=4, n_embd=128, block_size=128, dropout=0.0,
                   batch_size=24, max_iters=750, learning_rate=2e-3),
    # The lecture's GPT: 10.8 M parameters, for a GPU: minutes there, many hours on a processor.
    "lecture": dict(n_layer=6, n_head=6, n_embd=384, block_size=256, dropout=0.2,
                    batch_size=64, max_iters=5000, learning_rate=3e-4, min_lr=3e-4),
}
# fmt: on
SIZES = ("quick", "tiny", "small", "laptop", "lecture")


def with_muon(recipe: dict[str, Any], n_embd: int) -> dict[str, Any]:
    """The recipe with what Muon wants instead: one rate for all, lower for wider models, falling straight to zero."""
    rate = float(f"{2.56 / n_embd:.3g}")
    return recipe | dict(optimizer="muon", learning_rate=rate, min_lr=0.0, schedule="linear", warmup_iters=0, beta1=0.85)


def check(config: Any, relations: Mapping[tuple[str, ...], Callable[[], str]] = {}) -> None:
    """Raise ValueError naming every field of a config that has the wrong type or is out of range, all at once.

    relations: fields -> what is wrong between them, in words; asked if each of them alone is right.
    """
    hints = get_type_hints(type(config))
    faults = {}
    for f in fields(config):
        value, kinds = getattr(config, f.name), get_args(hints[f.name]) or (hints[f.name],)
        if value is None and type(None) in kinds:
            continue
        if fault := _fault(value, kinds, f.metadata):
            faults[f.name] = f"{f.name} is {shown(value)}; it must be {fault}"
    for names, relation in relations.items():
        if not faults.keys() & set(names) and (fault := relation()):
            faults[names[0]] = fault
    if faults:
        raise ValueError(". ".join(faults.values()))


class Faults:
    """The faults of several configs, told together.

    faults = Faults()
    with faults: shape = GPTConfig(n_layer=0)
    with faults: training = TrainConfig(max_iters=0)
    faults.tell()  # raises one ValueError for both
    """

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if not isinstance(error, ValueError):
            return False
        self.sentences.append(str(error))
        return True

    def tell(self) -> None:
        """Raise ValueError with every fault, if there is any."""
        if self.sentences:
            raise ValueError(". ".join(self.sentences))


def _fault(value: Any, kinds: tuple[type, ...], about: Any) -> str:
    """What the value should have been, or nothing if it is fine."""
    if str in kinds:
        allowed = about["choices"]
        return "" if isinstance(value, str) and (not allowed or value in allowed) else " or ".join(allowed) or "text"
    low, high = about["low"], about["high"]
    noun = "a whole number" if int in kinds else "a number"
    wanted = f"{noun} from {low:,} to {'below ' * about['open_high']}{high:,}"
    number = isinstance(value, int if int in kinds else int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or (about["open_high"] and value == high):  # NaN is in no range
        return wanted
    return ""


def shown(value: Any) -> str:
    """A value in a sentence: not longer than a sentence."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python writes out
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _nearest_divisors(n: int, near: int) -> str:
    """The divisors of n on both sides of `near`: (384, 5) -> "4 or 6"."""
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    below, above = [d for d in divisors if d < near], [d for d in divisors if d > near]
    return " or ".join(str(d) for d in below[-1:] + above[:1])


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Build a config from a mapping that may hold other keys too; missing fields take their defaults."""
    return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
