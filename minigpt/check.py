"""Does your own GPT work? Fourteen questions to a model that you wrote, and the likely cause where one fails.

    for finding in check(model, vocab_size, block_size):
        ...     # finding.name, .verdict: ok, problem, note or skipped, .saw: what was measured, .cause: what it means

The contract is model(idx) -> logits, None and model(idx, targets) -> logits, loss. Nothing else is asked of a model: it is
watched from outside, in copies, and needs no text.

Next: profile.py
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .learner import said

WINDOW = 16  # tokens in most of the texts that are shown to a model: few, so that a large one is checked soon too
STEPS, RATES = 200, (3e-3, 3e-4, 3e-2)  # to learn one batch by heart: for a small GPT, a large one, a table
NOISE = 2e-5  # of the largest logit; float32 computes the same in two ways to about 1e-6

Verdict = Literal["ok", "problem", "note", "skipped"]
Answer = tuple[Verdict, str] | tuple[Verdict, str, str]


@dataclasses.dataclass(frozen=True)
class Finding:
    """The answer to one question."""

    name: str  # what was asked
    verdict: Verdict
    saw: str  # what was measured, in a sentence
    cause: str = ""  # what it likely comes from and what to do; nothing if all is well


def check(model: nn.Module, vocab_size: int, block_size: int) -> Iterator[Finding]:
    """Ask a model every question, yielding each answer when it is known. The model itself is not changed.

    Whatever the model raises becomes a finding. After a problem that spoils the other answers, they are skipped.
    """
    spoilt = ""
    try:
        subject = Subject(model, vocab_size, block_size)
    except Exception as error:
        cause = "Does it keep a tensor that it computed, as in self.weights = ...? Keep weights.detach() instead."
        yield Finding("copy", "problem", f"The model cannot be copied: {said(error)}.", cause)
        return
    for name, question in QUESTIONS:
        if spoilt:
            yield Finding(name, "skipped", f"Not asked; mend “{spoilt}” first.")
            continue
        with torch.random.fork_rng([subject.device] if subject.device.type == "cuda" else []):
            torch.manual_seed(1337)
            try:
                finding = Finding(name, *question(subject))
            except Exception as error:
                finding = Finding(name, "problem", f"{subject.doing} failed: {said(error)}.", _hint(error))
        if finding.verdict == "problem" and question in SPOILING:
            spoilt = name
        yield finding


class Subject:
    """The model under examination, in three copies, and what several questions need to know of it."""

    def __init__(self, model: nn.Module, vocab_size: int, block_size: int) -> None:
        self.model, self.shaken, self.pupil = (copy.deepcopy(model).eval() for _ in range(3))
        self.vocab_size, self.block_size, self.window = vocab_size, block_size, min(WINDOW, block_size)
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.doing = "The model"
        # A part that starts at zero (a position table, the end of a block) has no effect yet: shake all that can learn.
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.shaken.parameters():
                if p.requires_grad and p.dim():
                    p.add_(p.shape[-1] ** -0.5 * torch.randn(p.shape, generator=generator, device="cpu").to(p))

    def ids(self, B: int, T: int, seed: int = 0) -> Tensor:
        """Random ids (B, T), the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.vocab_size, (B, T), generator=generator, device="cpu").to(self.device)

    def call(self, model: nn.Module, idx: Tensor, targets: Tensor | None = None) -> Any:
        self.doing = f"model(idx{'' if targets is None else ', targets'}) with idx of shape {tuple(idx.shape)}"
        return model(idx) if targets is None else model(idx, targets)

    def logits(self, model: nn.Module, idx: Tensor) -> Tensor:
        """(B, T, V), without gradient, in whichever shape the model gives them."""
        with torch.no_grad():
            logits, _ = self.call(model, idx)
            if logits.shape[1] != idx.shape[1]:  # without targets the last position only
                logits, _ = self.call(model, idx, idx)
        return logits.float().view(*idx.shape, self.vocab_size)

    @cached_property
    def influence(self) -> Tensor:
        """(T, T): how far the answer at position t (column) moves when the token at position s (row) is another."""
        T = self.window
        idx = self.ids(1, T).repeat(T + 1, 1)
        for s in range(T):
            idx[s, s] = (idx[s, s] + 1) % self.vocab_size
        logits = self.logits(self.shaken, idx)
        return ((logits[:T] - logits[T:]).abs().amax(-1) / logits[T:].abs().max()).cpu()

    @cached_property
    def leaks(self) -> Tensor:
        """(T, T): True where position t (column) sees a token s (row) that comes later."""
        return (self.influence > NOISE).tril(-1)

    @cached_property
    def reach(self) -> int:
        """How many tokens back the last position of a window sees."""
        seen = (self.influence[:-1, -1] > NOISE).nonzero()
        return self.window - 1 - int(seen[0]) if len(seen) else 0


# ---- the questions -----------------------------------------------------------------------------------------------------


def parts_known(s: Subject) -> Answer:
    """Catches layers in a Python list: optimizer, .to(device) and .eval() do not find them."""
    own, usual = {id(p) for p in s.model.parameters()}, vars(nn.Module())
    for module in s.model.modules():
        for name, value in vars(module).items():
            items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            parts = [] if name in usual else [p for item in items for p in _parameters(item)]
            if any(id(p) not in own for p in parts):
                n = sum(p.numel() for p in parts)
                cause = "Lists, dicts and plain tensors are not looked into: nn.ModuleList, nn.ModuleDict, nn.Parameter."
                return "problem", f"self.{name} of {type(module).__name__} holds {n:,} numbers that will never learn.", cause
    return "ok", f"The model knows of all its {sum(p.numel() for p in s.model.parameters()):,} parameters."


def shapes(s: Subject) -> Answer:
    """Catches logits that are not (B, T, V), a loss that is not one number, batches and lengths that fail."""
    V, remarks, some = s.vocab_size, set(), min(5, s.block_size)
    for B, T in ((3, some), (1, 1), (2, s.block_size)):
        for targets in (None, s.ids(B, T, seed=1)):
            out = s.call(s.model, s.ids(B, T), targets)
            if not isinstance(out, tuple) or len(out) != 2 or not isinstance(out[0], Tensor):
                cause = "End forward with `return logits, loss`; without targets the loss is None."
                return "problem", f"{s.doing} returned {_kind(out)} and not logits, loss.", cause
            shape, loss = tuple(out[0].shape), out[1]
            if targets is None and shape == (B, 1, V) != (B, T, V):
                remarks.add("without targets only the last position is answered, (B, 1, V)")
            elif targets is not None and shape == (B * T, V):
                remarks.add("with targets the logits are flattened, (B*T, V)")
            elif shape != (B, T, V):
                saw = f"{s.doing} gave logits of shape {shape}; (B, T, V) is {(B, T, V)}."
                return "problem", saw, _misshapen(shape, B, T, V)
            if targets is not None and not (isinstance(loss, Tensor) and loss.dim() == 0):
                cause = f"The loss is the mean over all positions: {ENTROPY}."
                return "problem", f"{s.doing} gave the loss {_kind(loss)}, not a tensor with one number.", cause
    if remarks:
        saw = f"T = 1, {some} and {s.block_size} work; {' and '.join(sorted(remarks))}."
        return "note", saw, "This is common and does no harm; who uses the logits has to know it."
    return "ok", f"The logits are (B, T, {V}) and the loss is one number, for T = 1, {some} and {s.block_size}."


def finite(s: Subject) -> Answer:
    """Catches NaN and infinity in a model that has learned nothing yet."""
    for T in (s.window, s.block_size):
        bad = ~s.logits(s.model, s.ids(2, T)).isfinite().all(-1)  # (B, T)
        if bad.any():
            first = int(bad.any(0).nonzero()[0])
            cause = "Is a row of attention masked as a whole? A position must see at least itself: tril with diagonal=0."
            return (
                "problem",
                f"{int(bad.sum())} of {bad.numel()} answers are NaN or infinite, first at position {first}.",
                cause,
            )
    return "ok", "No NaN and no infinity."


def repeatable(s: Subject) -> Answer:
    """Catches dropout that goes on after model.eval(), and whatever else is left to chance."""
    idx = s.ids(2, s.window)
    moved = _distance(s.logits(s.model, idx), s.logits(s.model, idx))
    if moved > NOISE:
        cause = "Dropout that does not end with training? Use nn.Dropout, or F.dropout(x, p, training=self.training)."
        return "problem", f"The same text twice in eval mode: the logits differ by {moved:.2%}.", cause
    return "ok", "The same text twice in eval mode gives the same logits."


def rows_apart(s: Subject) -> Answer:
    """Catches attention over the batch instead of time, as of nn.MultiheadAttention without batch_first."""
    idx = s.ids(3, s.window)
    others = torch.cat([idx[:1], s.ids(2, s.window, seed=1)])
    moved = _distance(s.logits(s.shaken, idx)[0], s.logits(s.shaken, others)[0])
    if moved > NOISE:
        cause = "nn.MultiheadAttention and nn.Transformer need batch_first=True; a softmax or mean may be over dimension 0."
        return "problem", f"A text's logits change by {moved:.2%} when the other texts of its batch do.", cause
    return "ok", "The texts of a batch do not see each other."


def loss_fits(s: Subject) -> Answer:
    """Catches a loss that is not the cross-entropy of these logits and targets: shifted, summed, softmax twice."""
    B, T, V = 4, min(8, s.block_size), s.vocab_size
    idx, targets = s.ids(B, T), s.ids(B, T, seed=1)
    logits = s.logits(s.shaken, idx)
    with torch.no_grad():
        loss = float(s.call(s.shaken, idx, targets)[1])

    def entropy(logits: Tensor, targets: Tensor) -> float:
        return F.cross_entropy(logits.reshape(-1, V), targets.reshape(-1)).item()

    right = entropy(logits, targets)
    if logits.min() >= 0 and (logits.sum(-1) - 1).abs().max() < 1e-3:
        cause = "F.cross_entropy takes the softmax itself: give it the scores. With two, no loss comes near 0."
        return "problem", "The logits are probabilities: none is negative, and those of a position sum to 1.", cause
    if math.isclose(loss, right, rel_tol=1e-3, abs_tol=1e-4):
        return "ok", f"It is the cross-entropy of logits and targets ({right:.3f} on a trial batch)."
    suspects = [
        (right * B * T, "It is summed over the positions; take the mean, or it grows with the batch."),
        (right / math.log(2), "It is in bits; F.cross_entropy and ln V are in nats."),
        (entropy(logits.softmax(-1), targets), "F.cross_entropy takes the softmax itself: give it the scores."),
        (entropy(logits[:, :-1], targets[:, 1:]), "The targets are the next tokens already: do not shift them again."),
        (entropy(logits, idx), "It compares with idx instead of targets: the model learns to repeat what it reads."),
        (entropy(logits[:, -1], targets[:, -1]), "It is of the last position only; every position has a target."),
        (entropy(logits.transpose(0, 1), targets), "Batch and time are swapped in the logits or in the targets."),
        (entropy(logits.reshape(B, V, T).mT, targets), "view(B, V, T) moves nothing: transpose(1, 2), or flatten both."),
    ]
    saw = f"On a trial batch it is {loss:.4f}, and the cross-entropy of logits and targets {right:.4f}."
    unknown = f"Compare position t with target t: {ENTROPY}. Label smoothing would differ as well."
    return "problem", saw, next((why for value, why in suspects if math.isclose(loss, value, rel_tol=1e-4)), unknown)


def loss_at_start(s: Subject) -> Answer:
    """Catches weights that start too large, targets that reach the logits, and a model that was trained before."""
    B, blind = max(1, 512 // s.window), math.log(s.vocab_size)
    with torch.no_grad():
        loss = float(s.call(s.model, s.ids(B, s.window), s.ids(B, s.window, seed=1))[1])
    saw = f"{loss:.2f} on random tokens; a blind guess has ln {s.vocab_size} = {blind:.2f}."
    if loss < blind - 0.3:
        return "problem", saw, "Nobody can know random targets: do they reach the logits?"
    if loss > blind + 0.3:
        cause = "Sure of wrong answers, it must unlearn first: start with nn.init.normal_(w, std=0.02). (Or is it trained?)"
        return "problem" if loss > blind + 1 else "note", saw, cause
    return "ok", saw


def future_hidden(s: Subject) -> Answer:
    """Catches a missing, reversed or late mask: the model reads the answer, the loss goes to 0, the writing is nonsense."""
    T, seen = s.window, s.influence > NOISE
    if s.leaks.any():
        t = int(s.leaks.any(0).nonzero()[0])
        sources = s.leaks[:, t].nonzero()[:, 0].tolist()
        ahead, back = (part[part > NOISE].median() for part in (s.influence.tril(-1), s.influence.triu()))
        further = f", and as far ahead as {sources[-1]}" if len(sources) > 1 else ""
        saw = f"Position {t} (the first is 0) changes with the token at position {sources[0]}{further}. "
        saw += f"Of {T} positions, {int(s.leaks.any(0).sum())} see ahead."
        if not seen.triu(1).any():
            cause = "The mask is the wrong way round, only the future is seen: keep the lower triangle, torch.tril."
        elif s.leaks.diagonal(-1).all() and not s.leaks[-1, 0]:
            cause = "Each position sees one ahead: torch.tril with diagonal=0, or torch.triu with 1 for what to hide."
        elif ahead < back / 5 and s.leaks.sum() == T * (T - 1) / 2:
            cause = "The future shines through: mask the scores first, with float('-inf'), and then softmax(dim=-1)."
        else:
            cause = "No mask before the softmax? One without effect (masked_fill_ changes, masked_fill returns)? A mean?"
        return "problem", saw, cause
    idx = s.ids(1, s.block_size).repeat(2, 1)
    idx[1, -1] = (idx[1, -1] + 1) % s.vocab_size
    logits = s.logits(s.shaken, idx)[:, :-1]
    if s.block_size > 1 and (moved := _distance(*logits)) > NOISE:
        saw = f"In a text of {s.block_size} tokens, earlier answers change by {moved:.2%} with the last token."
        return "problem", saw, "The mask is smaller than the context: torch.tril(torch.ones(block_size, block_size))."
    return "ok", f"None of {T} positions changes when a later token does."


def past_used(s: Subject) -> Answer:
    """Catches attention without effect, and a model that does not look at what it reads."""
    if not (s.influence.diagonal() > NOISE).all():
        return "problem", "The answer is the same whatever token it follows.", "Does the token embedding reach the output?"
    if s.window == 1:
        return "skipped", "With a block_size of 1 there is no past."
    if s.reach == 0:
        cause = "Right for a bigram. In a GPT: is the result of attention added, and the mask the right way round?"
        return "note", "It sees the current token only; those before it change nothing.", cause
    if s.reach < s.window - 1:
        cause = "Right for a model with a window. In a GPT, the mask hides more than the future."
        return "note", f"It sees {s.reach} tokens back; {s.window - 1} were there.", cause
    return "ok", f"The first token changes the answer {s.reach} positions later."


def same_when_short(s: Subject) -> Answer:
    """Catches answers that depend on the length: such a model is trained on full windows and fails when it writes."""
    if s.window == 1 or s.leaks.any():
        return "skipped", "Needs a past, and a future that is hidden."
    idx = s.ids(1, s.window)
    whole = s.logits(s.shaken, idx)
    for T in range(1, s.window):
        if (moved := _distance(whole[:, T - 1], s.logits(s.shaken, idx[:, :T])[:, -1])) > 10 * NOISE:
            cause = "Count from the start, torch.arange(T) and tril[:T, :T]; divide by nothing that depends on T."
            return (
                "problem",
                f"The answer at position {T - 1} (the first is 0) differs by {moved:.2%} when the text goes on.",
                cause,
            )
    return "ok", "The answer after some tokens is the same whether the text ends there or goes on."


def positions_known(s: Subject) -> Answer:
    """Catches a missing position embedding. Without one, "dog bites man" is "man bites dog".

    One token, repeated. If positions are added to tokens, the answers differ. If not, all keys are alike, and unless
    attention itself feels distance (rotary positions, ALiBi), it weighs the past evenly: A[t, s] = 1 / (t + 1). Then the
    gradient from the last answer to each token is a mix of A, A², ..., one for each layer. Measured on up to 12 layers:
    without positions the gradient is such a mix but for 0.11 % at most, with rotary ones but for 4 % at least.
    """
    T = s.window
    if s.reach == 0:
        return "skipped", "Order can only matter to a model that sees several tokens back."
    idx = torch.full((1, T), s.vocab_size // 2, device=s.device)
    logits = s.logits(s.shaken, idx)[0]
    if (moved := _distance(logits[:1].expand_as(logits), logits)) > NOISE:
        return "ok", f"The same token in another place gets another answer (by {moved:.0%})."
    cause = "Add them to the tokens: x = tok_emb(idx) + pos_emb(torch.arange(T, device=idx.device))."
    entered: list[Tensor] = []

    def keep(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        entered.append(out.detach().requires_grad_())
        return entered[-1]

    tables = [m for m in s.shaken.modules() if isinstance(m, nn.Embedding) and m.num_embeddings >= s.vocab_size]
    hooks = [table.register_forward_hook(keep) for table in tables]
    try:
        last = s.call(s.shaken, idx, idx)[0].view(T, -1)[-1]
    finally:
        for hook in hooks:
            hook.remove()
    if not entered or T < 8:  # too short to tell a mix
        return "note", "The same token gets the same answer in every place.", f"Unless attention feels distance: {cause}"
    (gradient,) = torch.autograd.grad(last @ torch.randn_like(last), entered[:1])
    gradient = gradient.view(T, -1)[:-1].double().cpu()  # (T - 1, C)
    A = torch.ones(T, T, dtype=torch.float64, device="cpu").tril() / torch.arange(1, T + 1, device="cpu")[:, None]
    mix = torch.stack([torch.linalg.matrix_power(A, k)[-1, :-1] for k in range(1, min(6, T // 2) + 1)], dim=1)
    basis = torch.linalg.qr(mix).Q
    if (gradient - basis @ (basis.T @ gradient)).norm() > 3e-3 * gradient.norm():
        return "ok", "Attention feels how far away a token is (rotary positions or the like)."
    return "problem", "The same tokens in another order look the same to attention.", cause


def gradients(s: Subject) -> Answer:
    """Catches parts that are made and never used, or cut off from the loss."""
    parameters = [(name, p) for name, p in s.shaken.named_parameters() if p.requires_grad]
    if not parameters:
        return "problem", "The model has nothing to learn with.", "Make its layers in __init__: self.name = nn.Linear(...)."
    loss = s.call(s.shaken, s.ids(4, s.window), s.ids(4, s.window, seed=1))[1]
    loss.backward()
    # A gradient of exactly zero is right for a bias of the keys, which moves all scores of a row alike.
    dead = [name for name, p in parameters if p.grad is None or (p.dim() > 1 and s.window > 1 and not p.grad.any())]
    if dead:
        names = ", ".join(dead[:4]) + (f" and {len(dead) - 4} more" if len(dead) > 4 else "")
        cause = "Made in __init__ but not used in forward, or cut off from the loss by .detach(), .item() or argmax."
        return "problem", f"{len(dead)} of {len(parameters)} parameters get no gradient: {names}.", cause
    return "ok", f"All {len(parameters)} parameters get a gradient."


def learns_by_heart(s: Subject) -> Answer:
    """Catches whatever else keeps a model from learning: one small batch, any GPT can learn by heart."""
    B = min(4, s.vocab_size)
    ids = s.ids(B, s.window + 1, seed=2)
    ids[:, 0] = torch.arange(B)  # tells the rows apart
    idx, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    _, one, singles = idx.unique(return_inverse=True, return_counts=True)
    _, two, pairs = (idx * s.vocab_size + targets).unique(return_inverse=True, return_counts=True)
    bigram = (singles[one] / pairs[two]).log().mean().item()  # the best that a model of one token can do
    untrained, first, best = copy.deepcopy(s.pupil.state_dict()), 0.0, math.inf
    for rate in RATES:
        s.pupil.load_state_dict(untrained)
        optimizer = torch.optim.AdamW(s.pupil.parameters(), lr=rate, weight_decay=0.0)
        for step in range(STEPS + 1):
            loss = s.call(s.pupil, idx, targets)[1]
            first, best = first or loss.item(), min(best, loss.item())
            if best < 0.1 * first:
                return "ok", f"The loss on one batch falls from {first:.2f} to {best:.2f} in {step} steps."
            if not loss.isfinite():
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if not math.isfinite(best + loss.item()):
        return "problem", f"The loss becomes {loss.item()}.", "A division by 0, a logarithm of 0, or no LayerNorm?"
    saw = f"The loss on one batch goes from {first:.2f} to {best:.2f} and not further in {STEPS} steps."
    if s.reach == 0 and best < bigram + 0.1 * first:
        return "note", saw, f"It sees one token, and a bigram's limit here is {bigram:.2f}: no fault, but what it is."
    if best < 0.5 * first:
        return "note", saw, "It learns, slowly: it is very small, or a deep stack without x = x + ... or LayerNorm."
    cause = "No x = x + ... or LayerNorm in a deep stack? Softmax before the loss? A ReLU on the logits?"
    return "problem", saw, cause


def generates(s: Subject) -> Answer:
    """Catches a generate() that fails when the text outgrows the context."""
    generate, T, new = getattr(s.model, "generate", None), s.block_size, 5
    crop = "a loop that writes gives the model only the last tokens, idx[:, -block_size:]."
    if not callable(generate):
        try:
            s.logits(s.model, s.ids(1, T + 1))
        except Exception as error:
            return "note", f"No generate(); {T + 1} tokens do not fit in ({type(error).__name__}).", f"Right, so {crop}"
        return "ok", f"No generate(); {T + 1} tokens, one more than block_size, can be read."
    for length in (1, T):  # beyond the context at the latest with the second
        prompt = s.ids(1, length)
        s.doing = f"generate(idx, {new}) with {length} tokens in idx and a block_size of {T}"
        try:
            with torch.no_grad():
                out = generate(prompt.clone(), new)
        except Exception as error:
            cause = f"The text outgrew the context: {crop}" if length + new > T else _hint(error)
            return "problem", f"{s.doing} failed: {said(error)}.", cause
        if not isinstance(out, Tensor):
            return "note", f"generate returns {_kind(out)}; only ids (B, T) can be looked at.", "Nothing is wrong with that."
        if out.shape != (1, length + new) or not torch.equal(out[:, :length].long(), prompt):
            cause = "Append to the whole text, idx = torch.cat((idx, idx_next), dim=1), and crop only what the model reads."
            return "problem", f"{s.doing} gave {tuple(out.shape)}, not the prompt and {new} tokens more.", cause
        if out.is_floating_point() or out.min() < 0 or out.max() >= s.vocab_size:
            saw = f"{s.doing} gave {out.dtype} between {out.min().item():g} and {out.max().item():g}."
            return "problem", saw, f"Ids are whole numbers from 0 to {s.vocab_size - 1}: torch.multinomial(probs, 1)."
    return "ok", f"generate() goes on beyond the {T} tokens of the context, and keeps what was there."


QUESTIONS: tuple[tuple[str, Callable[[Subject], Answer]], ...] = (
    ("parts", parts_known),
    ("shapes", shapes),
    ("finite numbers", finite),
    ("same answer twice", repeatable),
    ("texts of a batch", rows_apart),
    ("the loss", loss_fits),
    ("loss at start", loss_at_start),
    ("leak of the future", future_hidden),
    ("use of the past", past_used),
    ("short and long texts", same_when_short),
    ("positions", positions_known),
    ("gradients", gradients),
    ("one batch by heart", learns_by_heart),
    ("generation", generates),
)
SPOILING = (parts_known, shapes, finite, repeatable, rows_apart)  # after a problem here the other answers mean nothing


# ---- words -------------------------------------------------------------------------------------------------------------

ENTROPY = "F.cross_entropy(logits.view(B*T, V), targets.view(B*T))"
HINTS = (  # a part of what Python or torch says -> what it likely comes from
    ("missing 1 required positional argument: 'targets'", "Give targets a default: def forward(self, idx, targets=None)."),
    ("positional arguments but", "forward takes two: def forward(self, idx, targets=None)."),
    ("Boolean value of Tensor", "Ask `if targets is None`, not `if targets`."),
    ("'NoneType' object has no attribute", "Without targets there is no loss: if targets is None: loss = None."),
    ("index out of range", "A table is too small: nn.Embedding has vocab_size rows for ids, block_size for positions."),
    (
        "must match the size of tensor",
        "Is something as long as block_size whatever the text? tril[:T, :T], torch.arange(T).",
    ),
    ("is invalid for input of size", "view needs the sizes of this batch: B, T, C = x.shape."),
    ("view size is not compatible", "After transpose: .contiguous() first, or reshape instead of view."),
    ("cannot be multiplied", "What enters this nn.Linear is not as wide as its first number; channels are last, (B, T, C)."),
    ("to match target batch_size", f"Flatten both: {ENTROPY}."),
    ("target size", f"Flatten both: {ENTROPY}."),
    ("attn_mask", "nn.MultiheadAttention and nn.Transformer need batch_first=True, and a mask of (T, T)."),
    ("same device", "Make tensors where the input is, device=idx.device; keep a mask with register_buffer."),
    ("does not require grad", "Nothing can learn: is there a torch.no_grad, .detach(), .item() or argmax on the way?"),
)


def _hint(error: BaseException) -> str:
    return next((cause for part, cause in HINTS if part in str(error)), "Start looking at the line that is named.")


def _kind(value: Any) -> str:
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
    return f"{type(value).__name__}{shape}" if value is not None else "None"


def _misshapen(shape: tuple[int, ...], B: int, T: int, V: int) -> str:
    """Why logits may have this shape instead of (B, T, V)."""
    known = {
        (B, V, T): "Time and vocabulary are swapped: transpose for the loss only, not what is returned.",
        (T, B, V): "Batch and time are swapped: nn.MultiheadAttention and nn.Transformer need batch_first=True.",
        (B, T): "One number for each position: the last layer needs vocab_size outputs.",
        (B, V): "One position only: logits[:, -1, :] belongs in generate, not in forward.",
        (B, 1, V): "One position only, but every one has a target: logits[:, -1, :] belongs in generate.",
    }
    last = f"The last layer gives {shape[-1] if shape else 0} scores instead of {V}: nn.Linear(n_embd, vocab_size)."
    return known.get(shape, last if shape[:-1] == (B, T) else "Each position needs one score for every token.")


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest number in b."""
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item()


def _parameters(item: Any) -> Iterator[Tensor]:
    """What could learn in an attribute of a module."""
    if isinstance(item, nn.Module):
        yield from item.parameters()
    elif isinstance(item, Tensor) and item.requires_grad and item.is_leaf:
        yield item
