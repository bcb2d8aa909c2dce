"""What goes on inside a model while it reads: who looks at whom, what surprises it, what each layer would answer.

    seen = explain(model, tokenizer, "To be")
    seen.surprise[2]            # nats: how little the model expected the space after "To"
    seen.attention[0][1][4]     # layer 1, head 2: how much "e" looks at each of "To be"
    seen.next[4][0]             # what it thinks comes after "To be": {"token": ",", "probability": 0.31}
    page(seen, "my run")        # all of it as one HTML file, to be opened without a server or a network

A finished model is watched from outside, through hooks on its parts; the model files know nothing of it. Text can come
from anybody, so the page keeps it apart from its markup: it lies in a block of data that the browser never runs, a script
shows it as text only, and the Content-Security-Policy allows that one script and nothing from elsewhere.

Next: learner.py
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from .attention import Head, MultiHeadAttention, attention_weights
from .bigram import LanguageModel
from .model import GPT
from .tokenizer import Tokenizer
from .trainer import bits_per_char

MOST_TOKENS = 512
MOST_WEIGHTS = 36 * 256**2  # attention of 6 x 6 heads on 256 tokens: a page of about 3 MB
DIGITS = 6  # after the point


@dataclass(frozen=True)
class Explanation:
    """What a model did with T tokens. Plain data; the names are the keys of --json. Surprise and entropy are in nats."""

    model: str  # GPT, ModernGPT, BigramLanguageModel, ...
    parameters: int
    vocab_size: int
    text: str  # what was read
    tokens: list[str]  # T of them; a byte that is no whole character reads \xe2
    surprise: list[float | None]  # T; -ln p(token given those before it); None for the first, which nothing came before
    mean_surprise: float | None  # nats/token: the loss on this text
    bits_per_char: float | None
    entropy: list[float]  # T; how open the model leaves what comes after each token
    next: list[list[dict[str, Any]]]  # T; what comes after each token, likeliest first: token, probability
    attention: list[list[list[list[float]]]]  # layers x heads x T that look x T that are looked at; [] without attention
    lens: list[dict[str, Any]]  # the answer after each layer, 0 the embedding (see answers_after); [] without such a stack
    notes: list[str]  # sentences: what was left out, and why

    def to_dict(self) -> dict[str, Any]:
        """The same as a dict, as json.dumps takes it."""
        return dict(vars(self))


def explain(model: LanguageModel, tokenizer: Tokenizer, text: str, top: int = 5) -> Explanation:
    """Let a model read a text and tell what it did. top: how many next tokens are told for each position.

    Of a long text only the end is read: block_size tokens, and as many as fit on a page; a note says so.
    Raises ValueError for a text without a character, or with one that the tokenizer does not know.
    """
    if top < 1:
        raise ValueError(f"top is {top}; ask for 1 next token or more")
    ids, notes = _window(model, tokenizer.encode(text).astype(np.int64))
    idx = torch.from_numpy(ids)[None].to(next(model.parameters()).device)  # (1, T)
    with torch.inference_mode(), watch(model) as trace:
        logits, _ = model(idx)  # (1, T, V)
        answers = [model.lm_head(model.ln_f(x)) for x in trace.hidden] if isinstance(model, GPT) else []
    if not trace.attention:
        notes.append("This model has no attention, so there is no map of who looks at whom.")
    if not answers:
        notes.append("This model is not a GPT, so there is no logit lens: what each layer would answer.")

    log_probs, targets = _log_probs(logits), torch.from_numpy(ids[1:, None])  # (T, V), (T - 1, 1)
    surprise = -log_probs[:-1].gather(1, targets)[:, 0]  # (T - 1,)
    mean = surprise.mean().item() if len(surprise) else None
    characters = tokenizer.count_characters(ids[1:])
    bits = bits_per_char(mean, len(surprise) / characters) if mean is not None and characters else None
    likeliest = log_probs.exp().topk(min(top, log_probs.shape[1]))

    def name(token: int) -> str:
        return token_text(tokenizer, token)

    def answers_after(layer: int, log_probs: Tensor) -> dict[str, Any]:
        """What the model would say if it ended at this layer; 0 is the embedding, before the first block."""
        probability, token = log_probs.exp().max(dim=-1)
        return {
            "layer": layer,
            "token": [name(i) for i in token.tolist()],  # T; the likeliest to come next
            "probability": _plain(probability),  # T; of that token
            "next_probability": [*_plain(log_probs[:-1].gather(1, targets)[:, 0].exp()), None],  # T; of what really comes
        }

    return Explanation(
        model=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        vocab_size=log_probs.shape[1],
        text=tokenizer.decode(ids.tolist()),
        tokens=[name(i) for i in ids.tolist()],
        surprise=[None, *_plain(surprise)],
        mean_surprise=None if mean is None else round(mean, DIGITS),
        bits_per_char=None if bits is None else round(bits, DIGITS),
        entropy=_plain(-(log_probs.exp() * log_probs).sum(dim=-1)),
        next=[
            [{"token": name(i), "probability": p} for i, p in zip(tokens, probabilities, strict=True)]
            for tokens, probabilities in zip(likeliest.indices.tolist(), _plain(likeliest.values), strict=True)
        ],
        attention=[_plain(torch.cat(heads)) for heads in trace.attention.values()],
        lens=[answers_after(layer, _log_probs(scores)) for layer, scores in enumerate(answers)],
        notes=notes,
    )


@dataclass
class Trace:
    """What the hooks saw."""

    attention: dict[str, list[Tensor]] = field(default_factory=dict)  # of each layer, by its name: (heads, T, T)
    hidden: list[Tensor] = field(default_factory=list)  # after the embedding and each block: (1, T, C)


@contextmanager
def watch(model: LanguageModel) -> Iterator[Trace]:
    """While this is open the model, in evaluation mode, leaves a trace; afterwards it is as before.

    Attention is computed a second time, from the same queries and keys, by the function that defines it.
    Heads side by side in a list are one layer.
    """
    trace, was_training = Trace(), model.training

    def saw_attention(layer: str):
        def hook(module: Any, args: tuple[Tensor, ...], out: Tensor) -> None:
            x = args[0]  # (1, T, C)
            q, k = module.heads(x)[:2] if isinstance(module, MultiHeadAttention) else (module.query(x), module.key(x))
            trace.attention.setdefault(layer, []).append(attention_weights(q, k).flatten(0, -3))  # (nh, T, T)

        return hook

    with ExitStack() as hooks:
        hooks.callback(model.train, was_training)
        for name, module in _attention_modules(model):
            parent = name.rpartition(".")[0]
            layer = parent if isinstance(model.get_submodule(parent), nn.ModuleList) else name
            hooks.enter_context(module.register_forward_hook(saw_attention(layer)))
        for module in [model.drop, *model.blocks] if isinstance(model, GPT) else []:  # the embedding, then each block
            hooks.enter_context(module.register_forward_hook(lambda _module, _args, out: trace.hidden.append(out)))
        model.eval()
        yield trace


def token_text(tokenizer: Tokenizer, token: int) -> str:
    r"""The text of one token; one that is no whole character as its byte: "a", "\xe2"."""
    text = tokenizer.decode([token])
    if "\ufffd" not in text or tokenizer.encode(text).tolist() == [token]:
        return text
    return f"\\x{token:02x}" if token < 256 else f"#{token}"


def page(explanation: Explanation, title: str) -> str:
    """One HTML file that shows an explanation, with everything it needs inside."""
    template = (resources.files(__package__) / "explain.html").read_text("utf-8")
    style, script = (re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)[0] for tag in ("style", "script"))
    data = explanation.to_dict() | {"attention": _packed(explanation.attention)}
    policy = f"default-src 'none'; style-src {_csp_hash(style)}; script-src {_csp_hash(script)}; base-uri 'none'"
    parts = {
        "POLICY": f"{policy}; form-action 'none'",
        "TITLE": html.escape(title.encode("utf-8", "replace").decode()),
        # Nothing that could end the block: in JSON these signs stand only in strings, where they may be escaped.
        "DATA": re.sub("[<>&]", lambda sign: f"\\u{ord(sign[0]):04x}", json.dumps(data, separators=(",", ":"))),
    }
    return re.sub("__(POLICY|TITLE|DATA)__", lambda match: parts[match[1]], template)


def _window(model: LanguageModel, ids: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The last ids, as many as the model and the page can take, and a note if that is not all."""
    if not len(ids):
        raise ValueError("there is no text to look at; give at least one character")
    n_heads = sum(getattr(module, "n_head", 1) for _, module in _attention_modules(model))
    fitting = min(MOST_TOKENS, math.isqrt(MOST_WEIGHTS // n_heads)) if n_heads else MOST_TOKENS
    most = min(model.block_size, fitting)
    if len(ids) <= most:
        return ids, []
    why = "all that this model reads at once" if most == model.block_size else "as many as fit on a page"
    return ids[-most:], [f"The text has {len(ids):,} tokens; shown are the last {most:,}, {why}."]


def _attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, MultiHeadAttention | Head)]


def _log_probs(logits: Tensor) -> Tensor:
    """logits (1, T, V) -> ln p (T, V), float64 on the processor."""
    logits = logits[0].float().cpu().double()
    if not logits.isfinite().all():
        raise ValueError("the model's scores are not finite numbers; its weights are damaged")
    return logits.log_softmax(dim=-1)


def _plain(values: Tensor) -> Any:
    """A tensor as (nested) lists of rounded numbers, 0 without a sign."""
    return (values.cpu().double().numpy().round(DIGITS) + 0.0).tolist()


def _packed(attention: list[list[list[list[float]]]]) -> dict[str, Any]:
    """Attention for the page: of each head the past only, row after row, in 1/65535, little-endian, base64."""
    weights = [np.array(head)[np.tril_indices(len(head))] for layer in attention for head in layer]
    packed = (np.concatenate(weights) if weights else np.empty(0)) * 65535
    return {
        "heads": [len(layer) for layer in attention],
        "weights": base64.b64encode(packed.round().astype("<u2").tobytes()).decode(),
    }


def _csp_hash(block: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'"
