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


ORDER = {"repetition_penalty": "RepetitionPenaltyLogitsProcessor", "temperature": "TemperatureLogitsWarper",
         "top_k": "TopKLogitsWarper", "top_p": "TopPLogitsWarper", "min_p": "MinPLogitsWarper"}  # fmt: skip
SETTINGS = [
    dict(top_k=5),
    dict(top_p=0.7),
    dict(min_p=0.2),
    dict(repetition_penalty=1.7),
    dict(repetition_penalty=0.6, temperature=2.0),
    dict(temperature=0.6, top_k=7, top_p=0.5),
    dict(repetition_penalty=1.3, temperature=1.4, top_k=20, top_p=0.9, min_p=0.05),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_agrees_with_transformers(settings):
    import transformers

    rng = np.random.default_rng(0)
    for _ in range(20):
        logits, seen = rng.normal(size=30).astype(np.float32) * 2, set(rng.integers(30, size=12).tolist())
        scores = torch.from_numpy(logits)[None]
        for name, processor in ORDER.items():
            if name in settings:
                scores = getattr(transformers, processor)(settings[name])(torch.tensor([sorted(seen)]), scores)
        expected = scores.softmax(-1)[0].numpy()
        np.testing.assert_allclose(probabilities(logits, SampleConfig(**settings), seen), expected, atol=1e-6)


def test_the_penalty_is_transformers_order_too():
    """transformers puts them in this order by itself."""
    from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=8, n_embd=4, n_layer=1, n_head=1))
    settings = GenerationConfig(repetition_penalty=1.2, temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, do_sample=True)
    found = model._get_logits_processor(settings, input_ids_seq_length=1)
    assert [type(processor).__name__ for processor in found] == list(ORDER.values())


def test_min_p_one_leaves_the_likeliest_and_what_is_as_likely():
    np.testing.assert_allclose(probabilities(np.array([1.0, 2.0, 2.0]), SampleConfig(min_p=1.0)), [0, 0.5, 0.5])


def test_the_penalty_lowers_what_was_seen_whatever_its_sign():
    logits = np.array([2.0, -2.0, 2.0, -2.0])
    probs = probabilities(logits, SampleConfig(repetition_penalty=2.0), {0, 1})
    assert probs[0] < probs[2]
    assert probs[1] < probs[3]
    np.testing.assert_array_equal(logits, [2, -2, 2, -2])  # what was given is not touched


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
