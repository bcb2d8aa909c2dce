import pytest

from minigpt import GPT, GPTConfig, ModernGPT
from minigpt.hf import SIZES, gpt2_config, gpt2_shapes, qwen3_config, qwen3_shapes, sizes

FORMATS = {"gpt2": (GPT, gpt2_config, gpt2_shapes), "qwen3": (ModernGPT, qwen3_config, qwen3_shapes)}
CONFIGS = [GPTConfig(7, 5, 1, 1, 2, 0.1), GPTConfig(65, 64, 4, 4, 128), GPTConfig(300, 16, 3, 2, 20, 0.5)]


@pytest.mark.parametrize("model_type", FORMATS)
@pytest.mark.parametrize("config", CONFIGS)
def test_settings_names_and_shapes_are_those_of_the_saved_model(model_type, config):
    kind, settings, shapes = FORMATS[model_type]
    their_settings, tensors = kind(config).to_hf()
    assert their_settings == settings(config)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes(config)
    assert GPTConfig(**sizes(their_settings, model_type)) == config


@pytest.mark.parametrize("model_type", FORMATS)
def test_what_is_missing_is_named_and_dropout_may_be(model_type):
    settings = FORMATS[model_type][1](CONFIGS[0])
    keys = SIZES[model_type]
    with pytest.raises(ValueError, match=f"lacks {keys['n_layer']}, {keys['n_head']}"):
        sizes({key: value for key, value in settings.items() if key not in (keys["n_layer"], keys["n_head"])}, model_type)
    del settings[keys["dropout"]]
    assert sizes(settings, model_type)["dropout"] in (0.0, 0.1)
