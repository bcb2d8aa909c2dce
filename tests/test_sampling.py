from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minigpt.config import SampleConfig
from minigpt.sampling import draw, pick, probabilities, random_generator

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


def test_of_equal_scores_top_p_keeps_those_that_transformers_keeps():
    import transformers

    for logits, top_p in (([0, 0, 0, 0], 0.5), ([1, 0, 0, 1, 0], 0.8), ([0] * 7, 0.3)):
        warper = transformers.TopPLogitsWarper(top_p)
        theirs = warper(torch.empty(0), torch.tensor([logits], dtype=torch.float32))[0].isfinite().nonzero()[:, 0].tolist()
        ours = probabilities(np.array(logits, np.float32), SampleConfig(top_p=top_p)).nonzero()[0].tolist()
        assert ours == theirs


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
    counts = np.bincount(draw(np.tile(probs, (20_000, 1)), [rng] * 20_000), minlength=4)
    np.testing.assert_allclose(counts / 20_000, probs, atol=0.015)
    assert counts[1] == 0


@pytest.mark.parametrize("share", [0, 0.9, 0.999, 1])
def test_in_a_large_vocabulary_the_same_token_is_found_part_by_part(share):
    rng = np.random.default_rng(3)
    probs = np.where(rng.random(50_257) < share, 0, rng.random(50_257))
    probs[40_000] = 0.1
    cumulative = probs.cumsum()
    numbers = [0, np.nextafter(1, 0), *rng.random(200)]
    for number in numbers:
        expected = (cumulative > number * cumulative[-1]).argmax()
        assert draw(probs[None], [SimpleNamespace(random=lambda number=number: number)]) == [expected]


def test_the_same_seed_draws_the_same_and_each_sample_has_numbers_of_its_own():
    first, again, second = (random_generator(7, sample).random(5) for sample in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert first[0] == pytest.approx(0.8720734548204873, abs=1e-15)  # golden: the same on every machine


def test_scores_that_are_no_numbers_are_refused():
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            probabilities(np.array([0.0, bad]), SampleConfig())
        with pytest.raises(ValueError, match="not finite"):
            pick(np.array([[1.0, 2.0], [0.0, bad]]), SampleConfig(temperature=0), [(), ()], [])


def test_a_vocabulary_of_one_works():
    for settings in (dict(top_k=1, top_p=0.5), dict(top_p=0.5, min_p=1.0), dict(repetition_penalty=2.0)):
        assert pick(np.array([[3.0]]), SampleConfig(**settings), [{0}], [random_generator(0)]) == [0]


@pytest.mark.parametrize("settings", [*SETTINGS, dict(), dict(temperature=0, repetition_penalty=3.0), dict(top_p=1e-9)])
@pytest.mark.parametrize("size", [7, 65, 3001, 9001])
def test_what_a_text_gets_does_not_depend_on_the_others(settings, size):
    rng = np.random.default_rng(1)
    logits, config = rng.normal(size=(9, size)).astype(np.float32) * 3, SampleConfig(**settings)
    seen = [set(rng.integers(size, size=5).tolist()) for _ in range(9)]
    together, alone = ([random_generator(5, i) for i in range(9)] for _ in range(2))
    for _ in range(10):
        each = [pick(logits[i : i + 1], config, seen[i : i + 1], alone[i : i + 1])[0] for i in range(9)]
        assert pick(logits, config, seen, together) == each


def test_top_p_leaves_the_same_whether_all_are_sorted_or_only_those_that_can_matter():
    rng = np.random.default_rng(2)
    for scale, top_p in ((0.1, 0.9), (1, 0.5), (3, 0.99), (6, 0.2), (0, 0.7)):
        logits = rng.normal(size=2000) * scale
        probs = probabilities(logits, SampleConfig())
        order = np.argsort(probs, kind="stable")[::-1]
        kept = order[np.cumsum(probs[order]) - probs[order] < top_p]
        assert set(np.flatnonzero(probabilities(logits, SampleConfig(top_p=top_p)))) == set(kept)


def test_all_probability_on_one_token_leaves_no_other():
    logits = np.array([-1e30, 0.0, -1e30])
    for settings in (dict(), dict(top_p=0.5), dict(top_k=2), dict(min_p=0.5), dict(temperature=100)):
        assert probabilities(logits, SampleConfig(**settings)).tolist() == [0, 1, 0]


def test_of_equal_scores_the_best_ones_all_stay():
    assert probabilities(np.array([1.0, 2.0, 2.0, 0.0]), SampleConfig(top_k=1)).tolist() == [0, 0.5, 0.5, 0]
    assert probabilities(np.array([1.0, 2.0, 2.0, 0.0]), SampleConfig(temperature=0)).tolist() == [0, 1, 0, 0]
