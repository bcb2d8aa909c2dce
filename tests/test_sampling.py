import numpy as np
import pytest
import torch

from minigpt.config import SampleConfig
from minigpt.sampling import draw, probabilities, random_generator

LOGITS = np.array([2.0, 1.0, 0.0, -1.0, 1.0], np.float32)


def test_temperature_one_is_softmax():
    expected = torch.from_numpy(LOGITS).double().softmax(-1).numpy()
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig()), expected)


def test_temperature_sharpens_and_flattens():
    cold, plain, hot = (probabilities(LOGITS, SampleConfig(temperature=t))[0] for t in (0.5, 1, 2))
    assert cold > plain > hot


@pytest.mark.parametrize("settings", [dict(temperature=0), dict(top_k=1), dict(top_p=0)])
def test_the_narrowest_settings_always_take_the_likeliest(settings):
    np.testing.assert_array_equal(probabilities(LOGITS, SampleConfig(**settings)), [1, 0, 0, 0, 0])


def test_top_k_leaves_k_and_all_when_k_is_larger_than_the_vocabulary():
    assert (probabilities(LOGITS, SampleConfig(top_k=3)) > 0).sum() == 3
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(top_k=99)), probabilities(LOGITS, SampleConfig()))


def test_top_p_takes_the_fewest_that_reach_p():
    probs = np.array([0.5, 0.3, 0.15, 0.05])
    kept = [(probabilities(np.log(probs), SampleConfig(top_p=p)) > 0).sum() for p in (0.4, 0.5001, 0.8001, 0.96, 1.0)]
    assert kept == [1, 2, 3, 4, 4]


@pytest.mark.parametrize("settings", [dict(top_k=5), dict(top_p=0.7), dict(temperature=0.6, top_k=7, top_p=0.5)])
def test_it_agrees_with_transformers(settings):
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    rng = np.random.default_rng(0)
    for _ in range(20):
        logits = rng.normal(size=30).astype(np.float32) * 2
        scores = torch.from_numpy(logits)[None]
        if "temperature" in settings:
            scores = TemperatureLogitsWarper(settings["temperature"])(None, scores)
        if "top_k" in settings:
            scores = TopKLogitsWarper(settings["top_k"])(None, scores)
        if "top_p" in settings:
            scores = TopPLogitsWarper(settings["top_p"])(None, scores)
        expected = scores.softmax(-1)[0].numpy()
        np.testing.assert_allclose(probabilities(logits, SampleConfig(**settings)), expected, atol=1e-6)


def test_draws_follow_the_probabilities():
    probs, rng = np.array([0.5, 0.0, 0.3, 0.2]), random_generator(0)
    counts = np.bincount([draw(probs, rng) for _ in range(20_000)], minlength=4)
    np.testing.assert_allclose(counts / 20_000, probs, atol=0.015)
    assert counts[1] == 0


def test_the_same_seed_draws_the_same_and_each_sample_has_numbers_of_its_own():
    first, again, second = (random_generator(7, sample).random(5) for sample in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert first[0] == pytest.approx(0.8720734548204873, abs=1e-15)  # golden: the same on every machine


def test_scores_that_are_no_numbers_are_refused():
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            probabilities(np.array([0.0, bad]), SampleConfig())


def test_a_vocabulary_of_one_works():
    assert draw(probabilities(np.array([3.0]), SampleConfig(top_k=1, top_p=0.5)), random_generator(0)) == 0
