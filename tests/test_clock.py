import pytest

from minigpt import TrainConfig
from minigpt.clock import PARTS, Clock


@pytest.fixture
def now(monkeypatch):
    """A clock that goes only when it is told to."""

    class Now:
        seconds = 0.0

    monkeypatch.setattr("minigpt.clock.time.perf_counter", lambda: Now.seconds)
    return Now


def stepped(clock, now, seconds, steps=1, tokens=100):
    for _ in range(steps):
        for part in ("data", "model", "optimizer"):
            now.seconds += seconds / 3
            clock.lap(part)
        clock.stepped(tokens)


def test_every_second_goes_to_one_part(now):
    clock = Clock()
    stepped(clock, now, 3.0)
    now.seconds += 5
    clock.lap("rest")
    assert clock.parts == {"data": 1, "model": 1, "optimizer": 1, "evaluation": 0, "rest": 5}
    assert sum(clock.parts.values()) == clock.seconds == 8
    assert tuple(clock.parts) == PARTS


def test_the_speed_is_that_of_training_alone_and_of_the_last_steps(now):
    clock = Clock()
    stepped(clock, now, 1.0, 50)
    stepped(clock, now, 0.5, 20)
    now.seconds += 100
    clock.lap("evaluation")
    assert clock.tokens_per_s == pytest.approx(200)


def test_time_that_was_used_before_counts(now):
    clock = Clock(spent=30)
    now.seconds += 1
    assert clock.seconds == 31


def test_steps_follow_the_time_that_is_left(now):
    """A minute; a step of 0.1 s; an evaluation every 50 steps that takes 1 s, and one more at the end."""
    config, clock = TrainConfig(minutes=1, max_iters=900, eval_interval=50), Clock()
    clock.evaluating()
    now.seconds += 0.2
    clock.lap("evaluation")
    now.seconds += 0.2
    clock.lap("rest")
    clock.evaluated(0.25)  # it read a quarter of what the next ones will; the sample was as long as theirs
    assert clock.evaluation_s == pytest.approx(1)
    stepped(clock, now, 0.1, 4)
    assert clock.last_step(4, 900, config) == 900  # too early to say
    stepped(clock, now, 0.1)
    left = 60 - 0.4 - 0.5 - 1
    assert clock.last_step(5, 900, config) == pytest.approx(5 + left / (0.1 + 1 / 50), abs=1)
    assert clock.last_step(5, 490, config) == 490  # near enough
    now.seconds = 59.5
    assert clock.last_step(300, 490, config) == 300  # nothing is left: this was the last


def test_a_beginning_that_took_long_is_no_reason_to_believe_the_first_step(now):
    """Half of a minute is gone before anything is learned, as on a GPU; the first step is slow."""
    config, clock = TrainConfig(minutes=1, max_iters=900), Clock()
    now.seconds = 30
    clock.lap("rest")
    stepped(clock, now, 1)
    assert clock.last_step(1, 900, config) == 900
    stepped(clock, now, 0.03, 4)
    assert clock.last_step(5, 900, config) == pytest.approx(5 + 28.9 / 0.03, abs=10)
    now.seconds = 61
    clock = Clock()
    now.seconds = 122
    clock.lap("rest")
    stepped(clock, now, 1)
    assert clock.last_step(1, 900, config) == 1  # over is over


def test_steps_that_take_long_are_believed_sooner(now):
    """A minute; a step of 15 s: after one, a quarter is gone, and after four, all."""
    config, clock = TrainConfig(minutes=1, max_iters=900), Clock()
    stepped(clock, now, 15)
    assert clock.last_step(1, 900, config) == 4
    stepped(clock, now, 15, 3)
    assert clock.last_step(4, 4, config) == 4
