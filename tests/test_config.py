from dataclasses import asdict, fields

import pytest

from minigpt.config import RECIPES, DataConfig, GPTConfig, SampleConfig, TrainConfig, from_dict

CONFIGS = [GPTConfig, TrainConfig, DataConfig, SampleConfig]


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_says_what_it_means(config):
    for f in fields(config):
        assert len(f.metadata["help"]) > 5


def test_all_faults_are_named_at_once():
    with pytest.raises(ValueError, match=r"n_layer is 0.*n_head is -1.*dropout is 1\.5"):
        GPTConfig(n_layer=0, n_head=-1, dropout=1.5)


def test_an_embedding_that_cannot_be_shared_among_the_heads_is_answered_with_what_fits():
    with pytest.raises(ValueError, match=r"n_embd \(384\) is not a multiple of n_head \(5\); try n_head 4 or 6"):
        GPTConfig(n_embd=384, n_head=5)


@pytest.mark.parametrize("value", [True, "4", 4.0, None])
def test_a_number_of_another_type_is_refused(value):
    with pytest.raises(ValueError, match="n_layer is"):
        GPTConfig(n_layer=value)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_survives_the_way_to_a_mapping_and_back(name):
    for config in (from_dict(GPTConfig, RECIPES[name]), from_dict(TrainConfig, RECIPES[name])):
        assert from_dict(type(config), asdict(config)) == config
    known = {f.name for config in CONFIGS for f in fields(config)}
    assert set(RECIPES[name]) <= known


def test_a_smallest_learning_rate_above_the_largest_is_refused():
    with pytest.raises(ValueError, match="min_lr"):
        TrainConfig(learning_rate=1e-3, min_lr=1e-2)
