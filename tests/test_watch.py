import pytest

from minigpt import Metrics
from minigpt.watch import LOOK_BACK, Watch


def said(*told: Metrics) -> list[str]:
    watch = Watch(0.03)
    return [sentence for metrics in told for sentence in watch.see(metrics)]


def steps(losses, first=1, lr=0.03):
    return [Metrics(step, 1000, 0.0, loss, lr, 1.0) for step, loss in enumerate(losses, first)]


def look(step, train_loss, val_loss, best=True, error=0.001):
    return Metrics(step, 1000, 0.0, train_loss=train_loss, val_loss=val_loss, val_error=error, is_best=best)


START = look(0, None, 4.17)


def test_a_training_that_goes_well_is_watched_in_silence():
    losses = [4.0 * 0.99**step + 0.1 * (-1) ** step for step in range(200)]
    assert said(START, *steps(losses), look(100, 2.0, 2.1), look(200, 1.6, 1.8), look(300, 1.5, 1.81, best=False)) == []


def test_a_rate_that_is_too_high_is_told_once_with_a_lower_one():
    (sentence,) = said(START, *steps([4.1] * 5 + [6.0] * 100))
    assert "learning rate is too high" in sentence
    assert "untrained model (4.17)" in sentence
    assert "--learning-rate 0.01" in sentence


def test_a_loss_that_comes_back_up_is_diverging_since_its_lowest():
    falling = [4.0 - 0.02 * step for step in range(100)]
    (sentence,) = said(START, *steps(falling), *steps([3.0] * LOOK_BACK, 101))
    assert sentence.startswith("Diverging since step 10")
    assert "--warmup-iters" in sentence


def test_batches_that_differ_much_are_no_divergence():
    assert said(START, *steps([1.0, 3.0] * 100)) == []


def test_overfitting_is_told_with_the_step_of_the_best_model_and_only_after_two_worse_looks():
    before = [START, look(100, 2.0, 2.0), look(200, 1.5, 1.7)]
    assert said(*before, look(300, 1.3, 1.75, best=False)) == []
    rising = [look(300, 1.3, 1.75, best=False), look(400, 1.1, 1.85, best=False), look(500, 0.9, 1.95, best=False)]
    (sentence,) = said(*before, *rising)
    assert sentence.startswith("Overfitting since step 200")
    assert "1.700 to 1.850" in sentence


@pytest.mark.parametrize("worse", [((300, 1.6, 1.75), (400, 1.6, 1.85)), ((300, 1.3, 1.85), (400, 1.2, 1.75))])
def test_a_loss_that_wavers_or_that_rises_in_training_too_is_no_overfitting(worse):
    assert said(START, look(200, 1.5, 1.7), *(look(*each, best=False) for each in worse)) == []


def test_overfitting_that_pauses_once_is_told_when_it_goes_on():
    rising = [look(300, 1.4, 1.85, best=False), look(400, 1.3, 1.8, best=False), look(500, 1.2, 1.9, best=False)]
    (sentence,) = said(START, look(200, 1.5, 1.7), *rising)
    assert sentence.startswith("Overfitting since step 200")


def test_a_run_that_goes_on_is_compared_with_its_own_best_and_hears_nothing_twice():
    before = [START, look(100, 2.0, 2.0), look(200, 1.5, 1.7), look(300, 1.3, 1.75, best=False)]
    watch = Watch()
    watch.remember(before)
    (sentence,) = watch.see(look(400, 1.1, 1.85, best=False))
    assert sentence.startswith("Overfitting since step 200: the validation loss rises (1.700 to 1.850)")
    watch = Watch()
    watch.remember([*before, look(400, 1.1, 1.85, best=False)])
    assert watch.see(look(500, 1.0, 1.95, best=False)) == []


def test_a_validation_part_that_is_too_small_is_told_with_its_standard_error():
    (sentence,) = said(START, look(100, 2.0, 2.0, error=0.034), look(200, 1.9, 1.9, error=0.034))
    assert "± 0.03" in sentence
    (sentence,) = said(START, look(100, 2.0, 2.0, error=None), look(200, 1.9, 1.9, error=None))
    assert "nobody knows how precise its loss is" in sentence


def test_the_rate_to_try_is_a_third_of_the_peak_however_low_it_is_now():
    (sentence,) = said(START, *steps([2.0] * 40), *steps([2.5] * 40, 41, lr=0.001))
    assert "--learning-rate 0.01" in sentence


def test_a_machine_that_becomes_slower_is_told_once():
    fits = [(5, 200), (20, 1000), (30, 950), (40, 700), (50, 600)]  # at step 5 its speed was not known yet
    (sentence,) = said(*(Metrics(step, last, 0.0, 2.0, 0.03, 1.0) for step, last in fits))
    assert sentence == "This machine has become slower: about 700 steps will fit into the time, not 1,000."


def test_a_spike_is_told_once_with_what_leaves_it_out():
    spikes = [Metrics(step, 1000, 0.0, 9.0, 0.03, 50.0, spike=20.4) for step in (150, 160)]
    (sentence,) = said(*steps([2.0] * 10, 140), *spikes)
    assert sentence.startswith("A spike at step 150: the loss (9.00) or the norm of the gradient (50.00) is 20 standard dev")
    assert sentence.endswith("--skip-spikes 8 leaves such steps out.")


def test_a_spike_that_was_left_out_is_told_once_as_that():
    spikes = [Metrics(step, 1000, 0.0, 9.0, 0.03, 50.0, spike=20.4, skipped=True) for step in (150, 160)]
    (sentence,) = said(*spikes)
    assert sentence.endswith("The step was left out.")


def test_a_spike_is_no_divergence_and_no_learning_rate_that_is_too_high():
    spike = Metrics(130, 1000, 0.0, 500.0, 0.03, 50.0, spike=20.4)
    assert len(said(START, *steps([2.0] * 100), spike, *steps([2.0] * 100, 131))) == 1
