"""How a GPT writes: predict one token, append it, predict again.

    for token in generate(model, tokenizer.encode("ROMEO:"), SampleConfig(max_new_tokens=200)):
        ...                                     # stop whenever you like

The past does not change, so its keys and values are kept (the cache) and each step computes one position only.

A model looks back on at most block_size tokens. When these are full, the window slides by half of them: the newest half
is read again from position 0 and writing goes on. So every token costs the same on average, however long the text, and
sees between block_size / 2 and block_size tokens. With or without the cache, the window is the same function of length.

Next: optim.py
"""

from collections.abc import Iterable, Iterator, Sequence

import torch

from .bigram import LanguageModel
from .config import SampleConfig
from .sampling import draw, probabilities, random_generator
from .tokenizer import Tokenizer


def generate(
    model: LanguageModel, prompt: Sequence[int], config: SampleConfig, sample: int = 0, use_cache: bool = True
) -> Iterator[int]:
    """Yield the ids that follow a prompt, one by one, config.max_new_tokens of them.

    prompt: at least one id; of a longer one than block_size the last block_size are read.
    sample: the number of the text, when several are written with one seed.
    """
    block_size = model.block_size
    device = next(model.parameters()).device
    tokens = [int(i) for i in prompt][-block_size:]
    if not tokens:
        raise ValueError("a prompt needs at least one token to start from")
    rng = random_generator(config.seed, sample)
    make_cache = getattr(model, "make_cache", None) if use_cache else None
    cache, start, read = None, -1, 0
    was_training = model.training
    model.eval()
    try:
        for _ in range(config.max_new_tokens):
            if start != (start := window_start(len(tokens), block_size)) or not cache:
                cache, read = make_cache() if make_cache else None, start
            with torch.inference_mode():
                idx = torch.tensor([tokens[read:]], device=device)  # (1, T): what is new
                logits, _ = model(idx, cache=cache) if cache else model(idx)  # (1, T, V)
            read = len(tokens) if cache else start
            token = draw(probabilities(logits[0, -1].float().cpu().numpy(), config), rng)
            tokens.append(token)
            yield token
    finally:
        model.train(was_training)


def window_start(length: int, block_size: int) -> int:
    """The first of `length` tokens that the model still reads: 0 while all fit, then on by halves of block_size.

    With block_size 8: lengths up to 8 -> 0, 9 to 12 -> 4, 13 to 16 -> 8.
    """
    half = max(1, block_size // 2)
    return max(0, -(-(length - block_size) // half)) * half


def start_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt; of an empty one the newline, or the first token if the model knows no newline."""
    ids = [int(i) for i in tokenizer.encode(prompt)]
    if not ids:
        try:
            ids = [int(i) for i in tokenizer.encode("\n")]
        except ValueError:
            ids = [0]
    return ids


def write(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    config: SampleConfig,
    sample: int = 0,
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the text that follows a prompt in pieces, up to the first of the stop strings."""
    return until(stop, tokenizer.stream(generate(model, start_ids(tokenizer, prompt), config, sample)))


def until(stop: Sequence[str], pieces: Iterable[str]) -> Iterator[str]:
    """Pass text on up to the first of the stop strings, holding back what may be the beginning of one."""
    held = ""
    for piece in pieces:
        held += piece
        found = [held.find(s) for s in stop if s in held]
        if found:
            yield held[: min(found)]
            return
        # The longest end of `held` that a stop string begins with has to wait.
        waiting = max((n for s in stop for n in range(1, len(s)) if held.endswith(s[:n])), default=0)
        ready = len(held) - waiting
        if ready:
            yield held[:ready]
        held = held[ready:]
    if held:
        yield held
