"""The gradient of a batch, and how a GPU comes by it: recorded, and asked for its numbers now and then."""

import time

import numpy as np
import pytest
import torch
from conftest import awake
from recorder import Graph, play_gpu
from torch.utils._python_dispatch import TorchDispatchMode

from minigpt import GPT, Batches, GPTConfig, ModernGPT, SampleConfig, TrainConfig, gradient, recording, train, trainer
from minigpt.clock import SETTLED, Clock
from minigpt.engine import generate
from minigpt.gradient import Gradient
from minigpt.trainer import AHEAD, NonFiniteLoss, TrainState

SHAPE = GPTConfig(11, 8, n_layer=2, n_head=2, n_embd=16, dropout=0.2)


@pytest.fixture
def gpu(monkeypatch):
    as_on_a_gpu(monkeypatch)
    return play_gpu(monkeypatch)


def as_on_a_gpu(monkeypatch):
    """Without what is for processors alone."""
    monkeypatch.setattr(trainer, "speed_up", lambda *_: None)


def data() -> np.ndarray:
    return np.random.default_rng(0).integers(11, size=400).astype(np.uint8)


def trained(
    make=ModernGPT,
    stop_after: int | None = None,
    state: TrainState | None = None,
    model=None,
    step_by_step=False,
    **settings,
):
    """-> the model, its state, and what was told."""
    torch.manual_seed(0)
    model = model or awake(make(SHAPE))
    config = TrainConfig(**dict(batch_size=6, max_iters=20, eval_interval=10, learning_rate=1e-2, seed=3) | settings)
    state = state or TrainState.new(model, config)
    told = []
    for metrics in train(
        model, Batches(data(), config.batch_size, 8, config.seed), data()[:100], config, state, step_by_step
    ):
        told.append(metrics)
        if metrics.step == stop_after:
            break
    return model, state, told


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("make", [GPT, ModernGPT])
@pytest.mark.parametrize(
    "settings",
    [{}, dict(optimizer="muon"), dict(grad_accum_steps=3), dict(dtype="bfloat16"), dict(eval_interval=7, max_iters=13)],
)
def test_recorded_it_is_what_it_was(monkeypatch, make, settings):
    as_on_a_gpu(monkeypatch)
    plain, _, said = trained(make, **settings)
    graphs = play_gpu(monkeypatch)
    recorded, _, told = trained(make, **settings)
    torch.testing.assert_close(weights(recorded), weights(plain), rtol=1e-4, atol=1e-5)
    figures = [[(m.step, m.lr, m.val_loss is None) for m in some] for some in (said, told)]
    assert figures[0] == figures[1]
    for name in ("loss", "grad_norm", "val_loss", "train_loss"):
        before, now = ([getattr(m, name) for m in some if getattr(m, name) is not None] for some in (said, told))
        assert now == pytest.approx(before, rel=1e-4)
    assert len(graphs) == 1
    assert len(graphs[0].done) > 100


def test_windows_that_do_not_fill_the_recorded_shape_are_computed_beside_it(monkeypatch):
    as_on_a_gpu(monkeypatch)
    monkeypatch.setattr(gradient, "windows_at_once", lambda *_: 4)  # of 6
    plain, *_ = trained()
    graphs = play_gpu(monkeypatch)
    recorded, *_ = trained()
    torch.testing.assert_close(weights(recorded), weights(plain), rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1


class Asked(TorchDispatchMode):
    """Counts how often a number is asked for."""

    times = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.times += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*args, **(kwargs or {}))


def test_the_numbers_of_several_steps_are_asked_for_at_once(gpu, monkeypatch):
    read = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: read.append(1) or tolist(tensor))
    monkeypatch.setattr(trainer, "mean_and_error", lambda *_: (1.0, None))
    monkeypatch.setattr(trainer, "_all_finite", lambda *_: True)  # asked once with them
    steps, model = SETTLED + 5 * AHEAD, awake(ModernGPT(SHAPE))
    with Asked() as asked:
        _, _, told = trained(model=model, max_iters=steps, eval_interval=steps)
    assert [m.step for m in told] == list(range(steps + 1))
    assert len(read) == SETTLED + 5  # one by one, until their speed is known
    assert asked.times == 0


def test_with_spikes_that_are_left_out_each_step_is_asked_about(gpu, monkeypatch):
    calls = []
    monkeypatch.setattr(trainer, "_check", lambda numbers, *_: calls.append(len(numbers)))
    trained(skip_spikes=8.0, max_iters=5)
    assert calls == [1] * 5


def test_who_stops_in_between_goes_on_from_the_last_step_that_was_taken(gpu):
    whole, *_ = trained()
    model, state, told = trained(stop_after=SETTLED + 1)
    assert told[-1].step == SETTLED + 1
    assert state.step == 10  # where an evaluation is due
    again, _, rest = trained(state=state, model=model)
    assert rest[0].step == 10
    torch.testing.assert_close(weights(again), weights(whole), rtol=1e-4, atol=1e-5)


def test_who_wants_each_step_gets_the_model_of_it(gpu):
    model, config = awake(ModernGPT(SHAPE)), TrainConfig(batch_size=6, max_iters=20, eval_interval=20)
    state = TrainState.new(model, config)
    for metrics in train(model, Batches(data(), 6, 8), data()[:100], config, state, step_by_step=True):
        assert state.step == metrics.step
    assert not gpu  # nothing was recorded


def test_who_stops_before_an_evaluation_that_is_due_owes_it(gpu):
    model, state, _ = trained(stop_after=9)
    assert state.step == 10
    assert state.begins_with_evaluation
    _, _, rest = trained(state=state, model=model, stop_after=10)
    assert rest[0].step == 10
    assert rest[0].val_loss is not None


def test_a_loss_that_is_no_number_is_told_with_its_step(gpu, monkeypatch):
    add_up = Gradient.add_up

    def spoiled(self, batches, step, clock):
        loss, tokens = add_up(self, batches, step, clock)
        return (loss * float("nan") if step == 6 else loss), tokens

    monkeypatch.setattr(Gradient, "add_up", spoiled)
    with pytest.raises(NonFiniteLoss, match=r"at step 7 the loss is nan .* others were taken .* up to step 9"):
        trained()
    with pytest.raises(NonFiniteLoss, match=r"at step 7 the loss is nan .* so the step was not taken"):
        trained(eval_interval=7)


def test_memory_that_runs_out_while_recording_halves_the_windows(gpu, monkeypatch):
    forward = ModernGPT.forward

    def small(self, idx, *rest, **named):
        if len(idx) > 3 and self.training:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, idx, *rest, **named)

    monkeypatch.setattr(ModernGPT, "forward", small)
    with pytest.warns(UserWarning, match="computed 3 windows at a time"):
        model, *_ = trained()
    monkeypatch.setattr(ModernGPT, "forward", forward)
    monkeypatch.setattr(gradient, "windows_at_once", lambda *_: 3)
    monkeypatch.setattr(recording, "DEVICES", set())
    plain, *_ = trained()
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-4, atol=1e-5)


def test_what_was_recorded_wrongly_is_noticed_before_anything_is_learned_from_it(gpu, monkeypatch):
    """As it would be where the recording is of another device: nothing is done when it is repeated."""
    plain, *_ = trained(step_by_step=True)
    monkeypatch.setattr(Graph, "replay", lambda graph: None)
    with pytest.warns(UserWarning, match="does something else than the model"):
        model, *_ = trained()
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-4, atol=1e-5)


def test_the_first_evaluation_of_a_gpu_says_what_the_next_ones_cost(gpu, monkeypatch):
    """It reads a part of the text; what it takes is to begin."""
    monkeypatch.setattr(trainer, "mean_and_error", lambda *_: time.sleep(0.3) or (1.0, None))
    model, config = awake(ModernGPT(SHAPE)), TrainConfig(batch_size=6, max_iters=40, eval_interval=40, minutes=1)
    state = TrainState.new(model, config)
    steps = train(model, Batches(data(), 6, 8), np.zeros(10 * trainer.FIRST_LOOK, np.uint8), config, state)
    next(steps), next(steps)
    assert 0.3 < state.evaluation_s < 1.5


def test_to_record_is_no_part_of_a_steps_time(gpu, monkeypatch):
    seconds = []
    monkeypatch.setattr(Clock, "stepped", lambda clock, *_: clock.read() or seconds.append(dict(clock.parts)))
    monkeypatch.setattr(Clock, "tokens_per_s", 1.0)
    slow = gradient.recorded
    monkeypatch.setattr(gradient, "recorded", lambda *args: time.sleep(1.0) or slow(*args))
    trained(max_iters=2)
    assert seconds[0]["rest"] > 1
    assert seconds[0]["model"] < 0.9


def test_batches_that_lie_on_a_device_are_the_same(monkeypatch):
    here = Batches(data(), 4, 8, seed=3)
    there = here.on(torch.device("cpu"))
    for step in (0, 7, 1000):
        for ours, theirs in zip(there[step], here[step], strict=True):
            assert ours.dtype == torch.int64
            assert torch.equal(ours, theirs)
    assert there._there is not None
    assert here._there is None
    monkeypatch.setattr("minigpt.batches.ON_DEVICE", 399)
    assert here.on(torch.device("cpu"))._there is None


def test_a_clock_of_a_device_tells_what_the_device_did():
    """Parts are seconds between marks on the device, whenever they were asked for; nothing is known before it is waited."""
    now, marks = [0.0], []

    class Mark:
        def __init__(self, enable_timing):
            marks.append(self)

        def record(self):
            self.at = now[0]

        def synchronize(self):
            self.waited = True

        def elapsed_time(self, later):
            assert marks[-1].waited
            return 1000 * (later.at - self.at)

    clock = Clock(event=Mark)
    for _ in range(2):
        for part, seconds in (("data", 1), ("model", 10), ("optimizer", 3)):
            now[0] += seconds
            clock.lap(part)
    assert clock.parts["model"] == 0
    clock.stepped(100, 2)
    assert clock.parts == dict(data=2, model=20, optimizer=6, evaluation=0, rest=0)
    assert list(clock.steps) == [(100, 14.0)] * 2
    assert clock.tokens_per_s == pytest.approx(100 / 14)
    now[0] += 5
    clock.lap("rest")
    clock.read()
    clock.read()
    assert clock.parts["rest"] == 5


# ---- where there is a GPU ----------------------------------------------------------------------------------------------

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of NVIDIA")


def trained_on_a_gpu(monkeypatch, make, devices: set[str], **settings):
    monkeypatch.setattr(recording, "DEVICES", devices)
    torch.manual_seed(0)
    model = awake(make(SHAPE)).cuda()
    config = TrainConfig(**dict(batch_size=6, max_iters=30, eval_interval=15, learning_rate=1e-3, seed=3) | settings)
    told = []
    for metrics in train(model, Batches(data(), config.batch_size, 8, config.seed), data()[:100], config):
        told.append(metrics)
        if metrics.val_loss is not None:  # a sample is written, as in a run
            list(generate(model, [1], SampleConfig(max_new_tokens=20)))
    return model, told


@on_a_gpu
@pytest.mark.parametrize("make", [GPT, ModernGPT])
@pytest.mark.parametrize(
    "settings",
    [{}, dict(optimizer="muon"), dict(grad_accum_steps=3), dict(dtype="bfloat16"), dict(eval_interval=7, max_iters=20)],
)
@pytest.mark.parametrize("at_once", [6, 4])
def test_a_real_gpu_learns_the_same_recorded_and_not(monkeypatch, make, settings, at_once):
    monkeypatch.setattr(gradient, "windows_at_once", lambda *_: at_once)
    settings = dict(dtype="float32") | settings
    (_, plain), (_, told) = (trained_on_a_gpu(monkeypatch, make, kinds, **settings) for kinds in (set(), {"cuda"}))
    assert [(m.step, m.lr, m.val_loss is None) for m in told] == [(m.step, m.lr, m.val_loss is None) for m in plain]
    near = 0.02 if settings["dtype"] == "bfloat16" else 1e-3
    for name in ("loss", "grad_norm", "val_loss"):
        now, before = ([getattr(m, name) for m in some if getattr(m, name) is not None] for some in (told, plain))
        assert now == pytest.approx(before, rel=near)
    assert {"cuda"} == recording.DEVICES
    assert told[-1].time["model"] > 0
    assert told[-1].time["evaluation"] > 0


@on_a_gpu
def test_on_a_real_gpu_what_cannot_be_recorded_is_told_operation_by_operation(monkeypatch):
    (plain, _) = trained_on_a_gpu(monkeypatch, ModernGPT, set(), dtype="float32")
    forward = ModernGPT.forward

    def asking(self, idx, *rest, **named):
        if self.training:
            assert idx.max().item() >= 0  # a graph cannot wait for a number
        return forward(self, idx, *rest, **named)

    monkeypatch.setattr(ModernGPT, "forward", asking)
    with pytest.warns(UserWarning, match="could not be recorded on this GPU"):
        model, _ = trained_on_a_gpu(monkeypatch, ModernGPT, {"cuda"}, dtype="float32")
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-3, atol=1e-4)


@on_a_gpu
@pytest.mark.filterwarnings("ignore")  # what torch's compiler has to say
def test_on_a_real_gpu_a_compiled_model_is_recorded_too(monkeypatch):
    losses = []
    for compile in ("off", "on"):
        _, told = trained_on_a_gpu(monkeypatch, ModernGPT, {"cuda"}, dtype="float32", compile=compile)
        losses.append([m.val_loss for m in told if m.val_loss is not None])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # dropout draws otherwise
