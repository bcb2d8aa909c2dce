import itertools

import numpy as np
import pytest
import torch

from minigpt import (
    GPT,
    Batches,
    BigramLanguageModel,
    CharTokenizer,
    GPTConfig,
    ModernGPT,
    TrainConfig,
    TrainState,
    evaluate,
    gradient,
    train,
    trainer,
)
from minigpt.clock import Clock
from minigpt.trainer import NonFiniteLoss

SHAPE = dict(block_size=8, n_layer=2, n_head=2, n_embd=16)


@pytest.fixture
def data(text):
    ids = CharTokenizer.train(text).encode(text)
    return ids[:18_000], ids[18_000:]


def make_model(dropout: float = 0.0, seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(vocab_size=64, dropout=dropout, **SHAPE))


def run(data, model, state=None, steps=None, **settings):
    """Train and return the metrics."""
    config = TrainConfig(**{"batch_size": 4, "max_iters": 20, "eval_interval": 10, "warmup_iters": 2, **settings})
    batches = Batches(data[0], config.batch_size, model.block_size, config.seed)
    return list(itertools.islice(train(model, batches, data[1], config, state), steps))


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_model_learns(data):
    metrics = run(data, make_model(), max_iters=200, learning_rate=1e-2, eval_interval=200)
    assert metrics[-1].val_loss < metrics[0].val_loss - 1.0


def test_metrics_come_after_every_step_and_losses_after_every_evaluation(data):
    metrics = run(data, make_model(), max_iters=25, eval_interval=10)
    assert [m.step for m in metrics] == list(range(26))
    assert [m.step for m in metrics if m.val_loss is not None] == [0, 10, 20, 25]
    assert all(m.loss and m.lr and m.grad_norm and m.tokens_per_s for m in metrics[1:])
    assert metrics[20].train_loss == pytest.approx(np.mean([m.loss for m in metrics[11:21]]))
    best = min(m.val_loss for m in metrics if m.val_loss is not None)
    assert [m.val_loss for m in metrics if m.is_best][-1] == best


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_evaluating_more_often_never_changes_training(data, dropout):
    models = [make_model(dropout) for _ in range(2)]
    for model, interval in zip(models, (3, 20), strict=True):
        run(data, model, eval_interval=interval)
    assert torch.equal(weights(models[0]), weights(models[1]))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(data, dropout):
    models = [make_model(dropout) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.rand(7)  # whatever happened to torch's generator before
        run(data, model, seed=seed)
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))


def test_a_consumer_that_stops_leaves_a_state_to_go_on_from(data):
    whole, stopped = make_model(0.2), make_model(0.2)
    run(data, whole)
    state = TrainState.new(stopped, TrainConfig())
    run(data, stopped, state, steps=8)
    assert state.step == 7
    run(data, stopped, state)
    assert torch.equal(weights(whole), weights(stopped))


def test_accumulated_passes_are_one_larger_batch(data):
    one, four = make_model(), make_model()
    run(data, one, batch_size=8, max_iters=5)
    run(data, four, batch_size=2, grad_accum_steps=4, max_iters=5)
    torch.testing.assert_close(weights(one), weights(four), rtol=1e-4, atol=1e-5)


def test_the_gradient_is_clipped_to_the_given_norm(data):
    model = make_model()
    seen = []
    state = TrainState.new(model, TrainConfig())
    norm = lambda: torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()  # noqa: E731
    state.optimizer.register_step_pre_hook(lambda *_: seen.append(norm()))
    metrics = run(data, model, state, grad_clip=0.1)
    assert max(m.grad_norm for m in metrics[1:]) > 0.2
    assert max(seen) <= 0.1001


def test_training_stops_when_the_validation_loss_has_not_improved_for_long_enough(data):
    metrics = run(data, make_model(), max_iters=500, eval_interval=2, learning_rate=1e-12, min_lr=0, patience=3)
    # A learning rate of nothing: the first evaluations may still be luck, then none is better.
    evaluations = [m for m in metrics if m.val_loss is not None]
    assert metrics[-1].step < 500
    assert not any(m.is_best for m in evaluations[-3:])
    assert evaluations[-4].is_best


@pytest.mark.parametrize("where", ["weight", "gradient"])
def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_step(data, where):
    model = make_model()
    steps = train(model, Batches(data[0], 4, 8), data[1], TrainConfig(max_iters=20, eval_interval=20))
    for _ in range(6):
        next(steps)
    if where == "weight":
        with torch.no_grad():
            model.ln_f.weight[0] = float("nan")
    else:
        model.ln_f.weight.register_hook(lambda grad: grad * float("inf"))
    before = weights(model)
    with pytest.raises(NonFiniteLoss, match=r"at step 6 .*not taken.*learning rate"):
        next(steps)
    assert torch.equal(weights(model).nan_to_num(), before.nan_to_num())


def test_a_validation_loss_that_is_not_finite_stops_too(data, monkeypatch):
    monkeypatch.setattr(trainer, "mean_and_error", lambda *_: (float("nan"), None))
    with pytest.raises(NonFiniteLoss, match="after step 0 the validation loss is nan"):
        run(data, make_model())


@pytest.mark.parametrize("length", [9, 10, 17, 18, 100])
def test_evaluation_is_the_mean_over_every_token_but_the_first(data, length):
    model, ids = make_model().eval(), data[1][:length]
    evaluated = evaluate(model, ids)
    losses = []
    for start in range(0, length - 1, 8):
        idx = torch.from_numpy(ids[start : start + 9].astype(np.int64))[None]
        with torch.no_grad():
            logits, _ = model(idx[:, :-1])
        losses += torch.nn.functional.cross_entropy(logits[0], idx[0, 1:], reduction="none").tolist()
    assert len(losses) == length - 1
    assert evaluated == pytest.approx(np.mean(losses), rel=1e-5)


def test_evaluation_draws_no_random_numbers_and_leaves_the_mode(data):
    model = make_model(dropout=0.5).train()
    state = torch.get_rng_state()
    assert evaluate(model, data[1]) == evaluate(model, data[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


def test_training_never_asks_what_the_model_is(data):
    metrics = run(data, BigramLanguageModel(64, 8), learning_rate=0.1, max_iters=100, eval_interval=100)
    assert metrics[-1].val_loss < metrics[0].val_loss - 1


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("kind", [GPT, ModernGPT])
def test_bfloat16_can_be_asked_for(data, kind, dropout):
    losses = []
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model = kind(GPTConfig(vocab_size=64, dropout=dropout, **SHAPE))
        losses.append(run(data, model, dtype=dtype, max_iters=5)[-1].val_loss)
    assert losses[1] != losses[0] == pytest.approx(losses[1], abs=0.05)


def test_where_no_compiler_is_there_training_goes_on_without_it(data, monkeypatch):
    def no_compiler(*_, **__):
        raise RuntimeError("no compiler")

    plain, asked = make_model(), make_model()
    run(data, plain)
    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.warns(UserWarning, match=r"torch.compile does not work here \(RuntimeError\)"):
        run(data, asked, compile="on")
    assert torch.equal(weights(plain), weights(asked))


def test_only_batches_are_compiled_and_the_model_stays_as_it_is(data, monkeypatch):
    calls = []

    def compiled(forward, **settings):
        def counting(*args):
            calls.append(settings)
            return forward(*args)

        if not isinstance(forward, torch.nn.Module):
            return forward
        learner = torch.nn.Module()
        learner.model, learner.forward = forward, counting
        return learner

    model, names = make_model(), [name for name, _ in make_model().named_parameters()]
    monkeypatch.setattr(torch, "compile", compiled)
    run(data, model, compile="on", max_iters=6, eval_interval=2)
    assert calls == [{"dynamic": False}] * 7  # six steps, and before them one to try
    assert [name for name, _ in model.named_parameters()] == names


def test_a_batch_that_is_computed_in_parts_is_the_same_batch(data, monkeypatch):
    whole, parts = make_model(), make_model()
    metrics = run(data, whole, batch_size=7, max_iters=5)
    monkeypatch.setattr(gradient, "windows_at_once", lambda *_: 3)
    in_parts = run(data, parts, batch_size=7, max_iters=5)
    torch.testing.assert_close(weights(whole), weights(parts), rtol=1e-4, atol=1e-5)
    assert [m.loss for m in in_parts[1:]] == pytest.approx([m.loss for m in metrics[1:]], rel=1e-5)


def test_windows_at_once_are_few_on_a_processor_and_never_none():
    windows = [gradient.windows_at_once(torch.device(kind), block) for kind in ("cpu", "cuda") for block in (64, 10**6)]
    assert windows == [32, 1, 1024, 1]


def test_a_training_ends_with_its_time_and_the_fall_of_its_learning_rate(data):
    settings = dict(minutes=0.02, max_iters=10**6, eval_interval=10**6, schedule="linear", learning_rate=1e-2, min_lr=0.0)
    metrics = run(data, make_model(), **settings)
    last = metrics[-1]
    assert last.step == last.last_step < 10**5
    assert last.val_loss < metrics[0].val_loss
    assert last.lr < 0.05 * 1e-2
    assert last.seconds < 30  # of a machine that is busy with other things


def test_a_training_that_ends_within_its_warm_up_has_less_of_it(data, monkeypatch):
    settings = dict(max_iters=1000, warmup_iters=100, learning_rate=1e-2, min_lr=0.0, schedule="linear")
    monkeypatch.setattr(Clock, "last_step", lambda *_: 30)
    rates = [m.lr for m in run(data, make_model(), minutes=1, eval_interval=10**6, **settings)[1:]]
    assert len(rates) == 30
    assert rates[3] == max(rates) > 0.95 * 1e-2  # three steps of warm-up; the speed was known after the first
    assert rates[-1] < 0.05 * 1e-2
    fixed = run(data, make_model(), **settings | dict(max_iters=50, warmup_iters=100))
    assert fixed[-1].lr == pytest.approx(1e-2 * 50 / 101)  # without minutes, as it was asked for


def test_where_bfloat16_is_only_imitated_auto_is_float32(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    gpu = torch.device("cuda", 1)
    for capability, wanted in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, it=capability: it if device == gpu else None)
        assert gradient.in_bfloat16(gpu) is wanted
    assert gradient.in_bfloat16(gpu, "bfloat16")
    assert not gradient.in_bfloat16(gpu, "float32")
    assert not gradient.in_bfloat16(torch.device("cpu"))


def test_a_training_of_some_minutes_that_goes_on_knows_what_an_evaluation_takes(data):
    for minutes in (0, 0.5):
        state = TrainState.new(model := make_model(), TrainConfig())
        run(data, model, state, minutes=minutes, max_iters=2, eval_interval=2)
        assert (state.evaluation_s > 0) == (minutes > 0)
        if minutes:
            state.evaluation_s = 29.9  # so no time is left for another step
            step, state.last_step, state.seconds = state.step, 10**6, 1.0
            run(data, model, state, minutes=minutes, max_iters=10**6, eval_interval=10**6)
            assert state.step < step + 10


def test_time_that_is_spent_when_training_begins_counts(data):
    state = TrainState.new(model := make_model(), TrainConfig())
    state.seconds = 3600.0
    metrics = run(data, model, state, minutes=1, max_iters=10**6, eval_interval=10**6)
    assert metrics[-1].step < 50
    assert metrics[-1].seconds > 3600


def test_a_batch_that_does_not_fit_into_memory_is_computed_in_smaller_parts(data):
    class Small(GPT):
        """A GPT on a machine with memory for two windows."""

        def forward(self, idx, targets=None, cache=None):
            if len(idx) > 2 and self.training:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(idx, targets, cache)

    whole = make_model()
    run(data, whole, batch_size=8, max_iters=3)
    torch.manual_seed(0)
    small = Small(GPTConfig(vocab_size=64, **SHAPE))
    with pytest.warns(UserWarning, match="memory") as said:
        run(data, small, batch_size=8, max_iters=3)
    assert [str(w.message)[-31:] for w in said] == [f"is computed {n} windows at a time" for n in (4, 2)]
    torch.testing.assert_close(weights(small), weights(whole), rtol=1e-4, atol=1e-5)


def test_a_single_window_that_does_not_fit_is_an_error(data):
    model = make_model()
    model.forward = lambda *_: (_ for _ in ()).throw(RuntimeError("DefaultCPUAllocator: can't allocate memory: 12 bytes"))
    with pytest.warns(UserWarning, match="memory"), pytest.raises(RuntimeError, match="can't allocate"):
        next(itertools.islice(train(model, Batches(data[0], 2, 8), data[1], TrainConfig(), _begun(model)), 1, None))


def _begun(model) -> TrainState:
    state = TrainState.new(model, TrainConfig())
    state.step = 1  # no evaluation of the untrained model
    return state


def test_evaluations_tell_their_standard_error_and_where_the_time_went(data):
    metrics = [m for m in run(data, make_model()) if m.val_loss is not None]
    assert all(0.001 < m.val_error < 0.5 for m in metrics)
    assert set(metrics[-1].time) == {"data", "model", "optimizer", "evaluation", "rest"}
    assert all(seconds > 0 for seconds in metrics[-1].time.values())
    assert sum(metrics[-1].time.values()) <= metrics[-1].seconds
    assert 0 < metrics[-1].peak_share < 1


def test_the_standard_error_is_that_of_the_mean(data):
    """Of many random texts, the losses of a fixed model scatter as much as their standard errors say."""
    model, rng = make_model(), np.random.default_rng(0)
    told = [trainer.mean_and_error(model, rng.integers(64, size=1025).astype(np.uint8)) for _ in range(60)]
    losses, errors = zip(*told, strict=True)
    assert np.mean(errors) == pytest.approx(np.std(losses), rel=0.35)
    assert trainer.mean_and_error(model, data[1][:20])[1] is None  # three windows


@pytest.mark.parametrize("skip", [0.0, 3.0])
@pytest.mark.parametrize(
    ("name", "value"), [("exp_avg_sq", float("inf")), ("exp_avg", float("nan")), ("step", float("inf"))]
)
def test_a_spoiled_optimizer_is_noticed_in_its_step_even_if_no_weight_is_touched(data, name, value, skip):
    """AdamW divides by the root of exp_avg_sq: where that is infinite, the weight stays as it is, and finite."""
    model = make_model()
    state = TrainState.new(model, TrainConfig())
    steps = train(model, Batches(data[0], 4, 8), data[1], TrainConfig(max_iters=20, skip_spikes=skip), state)
    for _ in range(4):
        next(steps)
    state.optimizer.state[model.ln_f.weight][name].view(-1)[0] = value
    with pytest.raises(NonFiniteLoss, match=r"in step 4 a weight, or what the optimizer keeps.*saved before is whole"):
        next(steps)
    assert state.step == 3


def test_a_spoiled_weight_that_no_batch_uses_is_noticed_in_its_step(data):
    model = BigramLanguageModel(64, 8)
    steps = train(model, Batches(np.zeros(100, np.uint8), 4, 8), data[1], TrainConfig(max_iters=20))
    for _ in range(3):
        next(steps)
    model.token_table.weight.data[63, 5] = float("-inf")
    with pytest.raises(NonFiniteLoss, match="in step 3 "):
        next(steps)


def spiked(data, model, state, step, steps=None, **settings):
    """A training in which the gradient of one step is a thousand times too large -> metrics, and the weights after each."""
    for parameter in model.parameters():
        parameter.register_hook(lambda grad: grad * 1000 if state.step == step - 1 else grad)
    config = TrainConfig(batch_size=4, max_iters=140, eval_interval=140, learning_rate=1e-2, **settings)
    told = itertools.islice(train(model, Batches(data[0], 4, 8, config.seed), data[1], config, state), steps)
    return zip(*[(metrics, weights(model)) for metrics in told], strict=True)


def test_a_spike_is_told_and_left_out_where_that_is_asked(data):
    for skip in (0.0, trainer.SPIKE):
        model = make_model()
        metrics, after = spiked(data, model, TrainState.new(model, TrainConfig()), step=135, skip_spikes=skip)
        assert [(m.step, m.skipped) for m in metrics if m.spike] == [(135, skip > 0)]
        assert metrics[135].spike > 2 * trainer.SPIKE
        assert torch.equal(after[134], after[135]) == (skip > 0)
        assert not torch.equal(after[135], after[136])


def test_a_training_that_stops_within_the_window_goes_on_to_the_same_bits_and_spikes(data):
    whole, stopped = make_model(), make_model()
    metrics, after = spiked(data, whole, TrainState.new(whole, TrainConfig()), step=135, skip_spikes=8)
    state = TrainState.new(stopped, TrainConfig())
    list(spiked(data, stopped, state, step=135, steps=100, skip_spikes=8))
    state = TrainState(state.optimizer, state.step, recent=[list(pair) for pair in state.recent])
    later, then = spiked(data, stopped, state, step=135, skip_spikes=8)
    assert [m.spike for m in later] == [m.spike for m in metrics[100:]]
    assert torch.equal(then[-1], after[-1])


def noise(n: int, seed: int = 0) -> list[tuple[float, float]]:
    """Losses that fall, and norms of gradients, as a training has them."""
    rng = np.random.default_rng(seed)
    return [(4 * 0.998**i * np.exp(0.05 * rng.normal()), np.exp(0.25 * rng.normal())) for i in range(n)]


def test_nothing_is_a_spike_before_there_is_something_to_compare_with():
    state = TrainState(None)
    for loss, norm in noise(trainer.RECENT):
        assert state.spike(loss, norm) == 0
    assert state.spike(1000.0, 1.0) > trainer.SPIKE


@pytest.mark.parametrize("seed", range(5))
def test_a_falling_loss_and_a_scattering_gradient_are_no_spikes(seed):
    state = TrainState(None)
    assert max(state.spike(*both) for both in noise(1000, seed)) < trainer.SPIKE


@pytest.mark.parametrize("factor", [10.0, 1e3, 1e6])
def test_a_spike_does_not_hide_the_next_and_what_stays_is_normal_within_a_dozen_steps(factor):
    state = TrainState(None)
    before, after = noise(220)[:200], noise(220)[200:]
    for both in before:
        state.spike(*both)
    told = [state.spike(loss, factor * norm) >= trainer.SPIKE for loss, norm in after]
    assert told[:2] == [True, True]
    assert not any(told[12:])


def test_a_loss_that_does_not_scatter_at_all_may_rise_a_little():
    state = TrainState(None)
    for _ in range(trainer.RECENT):
        state.spike(2.0, 0.5)
    assert 0 < state.spike(2.1, 0.5) < trainer.SPIKE < state.spike(3.0, 0.5)
    assert len(state.recent) == trainer.RECENT
