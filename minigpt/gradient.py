"""What a batch says about each weight: forward, backward, added up.

    gradient = Gradient(model, config)
    loss, tokens = gradient.add_up(batches, step, clock)       # each weight's .grad holds it now
    ...                                                         # the optimizer corrects the weights
    gradient.forget()

In parts that stay in the cache of a processor or fit into the memory of a GPU, where they are also recorded and repeated.

Next: trainer.py
"""

import contextlib
from functools import partial
from warnings import warn

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from .batches import Batches, random_bits
from .bigram import LanguageModel
from .clock import Clock
from .compiling import compiled
from .config import TrainConfig
from .machine import wait_for
from .recording import can_record, recorded

Part = tuple[Tensor, Tensor, float]  # idx, targets (windows, T), and their share in the loss of the step


class Gradient:
    """The gradient of a step, in .grad of a model's weights. Dropout draws anew from (seed, number of the pass)."""

    def __init__(self, model: LanguageModel, config: TrainConfig, record: bool = True) -> None:
        """record: on devices that can."""
        self.model, self.config = model, config
        self.learner: nn.Module = model  # or what torch.compile made of it
        self.device = next(model.parameters()).device
        self.at_once = windows_at_once(self.device, model.block_size)
        self.autocast = partial(autocast_on, self.device, config.dtype)
        self.record = record and can_record(self.device)
        self.repeated: _RepeatedPass | None = None

    def add_up(self, batches: Batches, step: int, clock: Clock) -> tuple[Tensor, int]:
        """-> the mean loss of the step, still on the device, and its tokens.

        A batch that does not fit into memory is computed in smaller parts from now on, with a warning.
        """
        while True:
            try:
                return self._add_up(batches, step, clock)
            except RuntimeError as error:
                self.at_once = _fewer(self.at_once, self.config.batch_size, error)
            self.repeated = None
            self.model.zero_grad(set_to_none=True)

    def compile(self, batches: Batches, step: int) -> None:
        """From now on, by what torch.compile makes of the model."""

        def try_step(learner: nn.Module) -> None:
            self.learner = learner
            for part in self._parts(batches, step * self.config.grad_accum_steps):
                self._pass(*part)

        self.learner = compiled(self.model, try_step)

    def forget(self) -> None:
        """Begin anew. What was recorded adds to the same memory again and again, so that stays."""
        if self.repeated is None:
            self.model.zero_grad(set_to_none=True)
        else:
            torch._foreach_zero_([p.grad for p in self.model.parameters() if p.grad is not None])

    def _add_up(self, batches: Batches, step: int, clock: Clock) -> tuple[Tensor, int]:
        mean, tokens = torch.zeros((), device=self.device), 0
        for number in range(step * self.config.grad_accum_steps, (step + 1) * self.config.grad_accum_steps):
            _seed_dropout(self.device, self.config.seed, number)
            parts = self._parts(batches, number)
            clock.lap("data")
            for part in parts:
                if self.record and self.repeated is None:
                    self._record(part, number)
                    clock.lap("rest")
                do = self.repeated if self.repeated and self.repeated.fits(*part) else self._pass
                mean += do(*part)
                tokens += part[0].numel()
            if not clock.event:
                wait_for(self.device)  # else its time would be told as that of whoever waits for it next
            clock.lap("model")
        return mean, tokens

    def _record(self, part: Part, number: int) -> None:
        """From now on, by what is recorded now, in the first part of a step; if it does as the model does."""
        self.repeated = _RepeatedPass(self, *part)
        tried: list[Tensor] = []
        for do in (self._pass, self.repeated):
            self.forget()
            _seed_dropout(self.device, self.config.seed, number)
            loss = do(*part).clone()
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            tried.append(torch.stack([loss, *torch._foreach_norm(gradients)]).float())
        self.forget()
        _seed_dropout(self.device, self.config.seed, number)
        if not torch.allclose(tried[0], tried[1], rtol=0.02, atol=1e-6, equal_nan=True):
            warn("what was recorded on this GPU does something else than the model; steps are told one by one", stacklevel=5)
            self.record, self.repeated = False, None

    def _parts(self, batches: Batches, number: int) -> list[Part]:
        """A batch in parts: idx, targets (up to at_once, T), and the share of a part in the loss of the step."""
        idx, targets = (ids.to(self.device, non_blocking=True) for ids in batches[number])
        shares = [len(some) / len(idx) / self.config.grad_accum_steps for some in idx.split(self.at_once)]
        return list(zip(idx.split(self.at_once), targets.split(self.at_once), shares, strict=True))

    def _pass(self, idx: Tensor, targets: Tensor, share: float) -> Tensor:
        """Forward and backward -> the loss of these windows, times their share."""
        with self.autocast():
            _, loss = self.learner(idx, targets)
        loss = loss * share
        loss.backward()
        return loss.detach()


class _RepeatedPass:
    """Gradient._pass for parts that are alike, recorded."""

    def __init__(self, gradient: Gradient, idx: Tensor, targets: Tensor, share: float) -> None:
        self.idx, self.targets, self.share = idx.clone(), targets.clone(), share
        self.repeat = recorded(lambda: gradient._pass(self.idx, self.targets, share), gradient.device)

    def fits(self, idx: Tensor, targets: Tensor, share: float) -> bool:
        return self.idx.shape == idx.shape and self.share == share

    def __call__(self, idx: Tensor, targets: Tensor, share: float) -> Tensor:
        self.idx.copy_(idx)
        self.targets.copy_(targets)
        return self.repeat()


def windows_at_once(device: torch.device, block_size: int) -> int:
    """Windows that are computed together. On a processor few: what one layer made is still in the cache for the next."""
    return max(1, (2048 if device.type == "cpu" else 65536) // block_size)


def autocast_on(device: torch.device, dtype: str = "auto") -> contextlib.AbstractContextManager:
    """Arithmetic in bfloat16, if it is that; see in_bfloat16."""
    return torch.autocast(device.type, torch.bfloat16) if in_bfloat16(device, dtype) else contextlib.nullcontext()


def in_bfloat16(device: torch.device, dtype: str = "auto") -> bool:
    """True if that was asked for, or auto and the device is made for it: a GPU of NVIDIA since Ampere, or of AMD."""
    if dtype != "auto" or device.type != "cuda":
        return dtype == "bfloat16"
    return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)


def out_of_memory(error: BaseException) -> bool:
    """True if it says that memory ran out, in the words of CUDA, Linux or Windows."""
    said = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in said)


def _fewer(at_once: int, batch_size: int, error: RuntimeError) -> int:
    """Half as many windows at once, with a warning, if the error says that memory ran out; else the error again."""
    if not out_of_memory(error) or at_once == 1:
        raise error
    at_once = min(at_once, batch_size) // 2 or 1
    warn(f"a batch did not fit into memory; from here on it is computed {at_once} windows at a time", stacklevel=5)
    return at_once


def _seed_dropout(device: torch.device, seed: int, number: int) -> None:
    """Make the dropout of a forward pass a function of (seed, number of the pass)."""
    bits = int(random_bits(np.array([seed], np.uint64), np.array([number], np.uint64))[0])
    if device.type == "cpu":  # torch.manual_seed would visit every kind of device
        torch.default_generator.manual_seed(bits)
    else:
        torch.manual_seed(bits)
