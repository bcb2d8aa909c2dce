import itertools

import numpy as np
import pytest
import torch
from conftest import awake, side_by_side

from minigpt import GPT, BigramLanguageModel, CharTokenizer, GPTConfig, ModernGPT, SampleConfig, torch_engine
from minigpt.engine import generate, steps, window_start
from minigpt.torch_engine import TorchReader

TOKENIZER = CharTokenizer("\nabcdefgh")


def make_gpt(block_size: int = 8) -> GPT:
    torch.manual_seed(0)
    model = GPT(GPTConfig(TOKENIZER.vocab_size, block_size, n_layer=2, n_head=2, n_embd=16))
    for parameter in model.parameters():  # far from uniform, so that a wrong context shows
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.mark.parametrize("block_size", [1, 2, 7, 8])
@pytest.mark.parametrize("settings", [dict(temperature=0.0), dict(seed=3), dict(temperature=0.7, top_k=4, top_p=0.9)])
@pytest.mark.parametrize("prompt", [[1], [1, 2, 3], list(range(9)) * 3])
def test_cached_and_uncached_give_the_same_tokens(block_size, settings, prompt):
    model, config = make_gpt(block_size), SampleConfig(max_new_tokens=60, **settings)
    cached = list(generate(model, prompt, config))
    assert cached == list(generate(TorchReader(model, use_cache=False), prompt, config))
    assert len(cached) == 60


def test_a_token_is_drawn_from_the_models_own_answer():
    """Greedy text by hand: append the likeliest, with the last tokens that fit as context."""
    model, tokens = make_gpt().eval(), [1, 2]
    for token in generate(model, tokens, SampleConfig(max_new_tokens=6, temperature=0)):
        with torch.no_grad():
            assert token == model(torch.tensor([tokens]))[0][0, -1].argmax().item()
        tokens.append(token)


def test_the_window_slides_by_halves_and_never_exceeds_the_context():
    assert [window_start(n, 8) for n in (1, 8, 9, 12, 13, 16, 17)] == [0, 0, 4, 4, 8, 8, 12]
    for block_size in (1, 2, 3, 8):
        for length in range(1, 50):
            left = length - window_start(length, block_size)
            assert max(1, block_size // 2) <= left <= block_size or length < block_size


def test_a_long_text_costs_the_same_for_every_token():
    """Positions computed, counted over two stretches: what is re-read at each slide is spread evenly."""
    model, computed = make_gpt(), []
    model.tok_emb.register_forward_hook(lambda _module, args, _out: computed.append(args[0].numel()))
    list(generate(model, [1], SampleConfig(max_new_tokens=400)))
    assert sum(computed[100:200]) == sum(computed[300:400])
    assert sum(computed) < 3 * 400


def test_a_model_that_reads_on_computes_every_position_once():
    torch.manual_seed(0)
    model, computed = awake(ModernGPT(GPTConfig(9, 8, n_layer=1, n_head=1, n_embd=8))), []
    model.tok_emb.register_forward_hook(lambda _module, args, _out: computed.append(args[0].numel()))
    list(generate(model, [1, 2, 3], SampleConfig(max_new_tokens=100)))
    assert computed == [3] + [1] * 99


def test_generation_leaves_the_model_in_the_mode_it_found():
    for training in (True, False):
        model = make_gpt().train(training)
        next(generate(model, [1], SampleConfig()))
        list(generate(model, [1], SampleConfig(max_new_tokens=2)))
        assert model.training == training


def test_dropout_never_disturbs_generation():
    torch.manual_seed(0)
    model = GPT(GPTConfig(9, 8, n_layer=1, n_head=1, n_embd=8, dropout=0.9)).train()
    config = SampleConfig(max_new_tokens=20)
    assert list(generate(model, [1], config)) == list(generate(model, [1], config))


def test_the_consumer_may_stop_at_any_time():
    assert len(list(itertools.islice(generate(make_gpt(), [1], SampleConfig(max_new_tokens=10**9)), 5))) == 5


def test_a_bigram_writes_through_the_same_function():
    assert len(list(generate(BigramLanguageModel(9), [1], SampleConfig(max_new_tokens=30)))) == 30


def test_each_sample_of_a_seed_is_another_text():
    model = make_gpt()
    texts = {tuple(generate(model, [1], SampleConfig(max_new_tokens=30, seed=5), sample=i)) for i in range(4)}
    assert len(texts) == 4


def test_a_prompt_needs_a_token():
    with pytest.raises(ValueError, match="at least one token"):
        next(generate(make_gpt(), [], SampleConfig()))


def test_a_step_knows_how_likely_its_token_was():
    model, config = make_gpt().eval(), SampleConfig(max_new_tokens=6, temperature=0.5, top_k=3)
    tokens = [1, 2]
    for step in steps(model, tokens, config):
        with torch.no_grad():
            expected = model(torch.tensor([tokens]))[0][0, -1].log_softmax(-1)[step.token].item()
        assert step.logprob == pytest.approx(expected, abs=1e-5)
        tokens.append(step.token)
    assert tokens[2:] == list(generate(model, [1, 2], config))


def test_many_texts_at_once_are_what_each_is_alone():
    model, config = make_gpt(), SampleConfig(max_new_tokens=30, temperature=0.8)
    prompts = [[1], [2, 3, 4], list(range(9)) * 2]
    alone = [list(generate(model, prompt, config, 4 + i)) for i, prompt in enumerate(prompts)]
    assert side_by_side(model, prompts, config, first_sample=4) == alone


def test_a_long_prompt_is_read_in_parts_and_beginning_anew_takes_no_new_memory(monkeypatch):
    torch.manual_seed(0)
    model = GPT(GPTConfig(11, block_size=16, n_layer=2, n_head=2, n_embd=16))
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0]
    whole = TorchReader(model).read(prompt)
    monkeypatch.setattr(torch_engine, "AT_ONCE", 4)
    reader = TorchReader(model)
    keys = reader.cache[0].keys.data_ptr()
    for _ in range(2):
        np.testing.assert_allclose(reader.read(prompt), whole, atol=1e-5)
        assert reader.length == len(prompt)
        reader.forget()
    assert (reader.length, reader.cache[0].keys.data_ptr()) == (0, keys)
