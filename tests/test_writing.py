import itertools

import numpy as np
import pytest
import torch

from minigpt import GPT, BigramLanguageModel, ByteTokenizer, CharTokenizer, GPTConfig, ModernGPT, SampleConfig, write
from minigpt.engine import Step, generate, steps
from minigpt.writing import Text, start_ids, write_many

TOKENIZER = CharTokenizer("\n abcdefghlorwxyz")


def make_model(kind=GPT):
    torch.manual_seed(0)
    shape = GPTConfig(TOKENIZER.vocab_size, 8, n_layer=2, n_head=2, n_embd=16)
    model = kind(shape) if kind is not BigramLanguageModel else kind(shape.vocab_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def follow(text: Text, ids) -> list[str]:
    """The pieces of a text that consists of these tokens."""
    scores = np.log(np.arange(1, 257, dtype=np.float32))  # token i has the probability (i + 1) / 32896
    return [piece.text for piece in text.follow(Step(int(i), scores) for i in ids)]


def test_an_empty_prompt_starts_from_the_newline_or_the_first_token():
    assert start_ids(TOKENIZER, "") == [0]
    assert start_ids(CharTokenizer("ab\n"), "") == [2]
    assert start_ids(CharTokenizer("xyz"), "") == [0]


@pytest.mark.parametrize(
    ("written", "stop", "expected"),
    [
        ("hello world", ["o w"], "hell"),
        ("hello world", ["xyz"], "hello world"),
        ("hello world", [], "hello world"),
        ("aaab", ["aab"], "a"),  # the beginning of a stop string that turns out to be text
        ("abcabd", ["abd", "ca"], "ab"),  # the first that occurs wins
        ("abab", ["abc"], "abab"),  # held back to the end, then given out
        ("abc", ["a"], ""),
    ],
)
def test_a_text_ends_before_the_first_stop_string(written, stop, expected):
    text = Text(TOKENIZER, stop, logprobs=True)
    assert "".join(follow(text, TOKENIZER.encode(written))) == expected == text.text
    assert TOKENIZER.decode(text.ids) == expected
    assert len(text.logprobs) == len(expected)
    assert text.ended == ("length" if expected == written else "stop")


def test_a_text_ends_before_a_stop_id_and_what_waited_is_part_of_it():
    text = Text(TOKENIZER, ["lox"], stop_ids=TOKENIZER.encode("w"))
    assert "".join(follow(text, TOKENIZER.encode("hello world"))) == "hello "
    assert text.ended == "stop"
    text = Text(TOKENIZER, ["lo w"], stop_ids=TOKENIZER.encode("w"))
    assert follow(text, TOKENIZER.encode("hello world")) == [*"hel", *"lo "]


def test_a_single_stop_string_need_not_be_in_a_list_and_an_empty_one_is_none():
    assert "".join(follow(Text(TOKENIZER, "o w"), TOKENIZER.encode("hello world"))) == "hell"
    with pytest.raises(ValueError, match="stop string"):
        Text(TOKENIZER, ["a", ""])


def test_a_text_that_is_not_kept_takes_no_memory():
    text = Text(TOKENIZER)
    assert len(list(text.follow((Step(1, np.zeros(20)) for _ in range(1000)), keep=False))) == 1000
    assert len(text.pieces) <= 1


def test_text_is_given_out_as_soon_as_no_stop_string_can_begin_in_it():
    text, given = Text(TOKENIZER, ["\n\n"]), []
    for char in "ab\ncd":
        given.append([piece.text for piece in text.add(Step(int(TOKENIZER.encode(char)[0]), np.zeros(20)))])
    assert given == [["a"], ["b"], [], ["\n", "c"], ["d"]]


def test_a_character_of_several_bytes_is_one_piece_with_all_its_tokens():
    text = Text(ByteTokenizer(), logprobs=True)
    data = "aé世".encode()
    assert follow(text, data) == ["a", "é", "世"]
    assert [piece.ids for piece in text.pieces] == [[data[0]], list(data[1:3]), list(data[3:])]
    assert text.logprobs == pytest.approx(np.log((np.array(list(data)) + 1) / 32896), abs=1e-5)


def test_a_character_that_is_cut_off_by_the_end_is_told_and_one_stop_string_may_stand_in_bytes():
    assert follow(Text(ByteTokenizer()), "a世".encode()[:-1]) == ["a", "\ufffd"]
    text = Text(ByteTokenizer(), ["世"])
    assert follow(text, "aé世b".encode()) == ["a", "é"]
    assert text.ids == list("aé".encode())


def test_no_log_probabilities_are_computed_that_nobody_wants():
    text = Text(TOKENIZER)
    follow(text, [1, 2])
    assert text.logprobs == []


def test_text_is_the_tokens_decoded():
    model, config = make_model(), SampleConfig(max_new_tokens=25)
    tokens = list(generate(model, start_ids(TOKENIZER, "abc"), config))
    assert "".join(write(model, TOKENIZER, "abc", config)) == TOKENIZER.decode(tokens)
    assert "".join(write(model, TOKENIZER, "abc", config, stop_ids=tokens[7:8])) == TOKENIZER.decode(
        itertools.takewhile(lambda i: i != tokens[7], tokens)
    )


@pytest.mark.parametrize("kind", [GPT, ModernGPT, BigramLanguageModel])
def test_many_texts_at_once_are_what_each_is_alone_and_those_that_ended_are_left_in_peace(kind):
    model, config, prompt = make_model(kind), SampleConfig(max_new_tokens=40, temperature=0.8), [1, 2, 3]
    texts = [Text(TOKENIZER, ["a"], logprobs=True) for _ in range(5)]
    write_many(model, prompt, config, texts, first_sample=2)
    for i, text in enumerate(texts):
        alone = Text(TOKENIZER, ["a"], logprobs=True)
        list(alone.follow(steps(model, prompt, config, 2 + i)))
        assert (text.ids, text.text, text.ended) == (alone.ids, alone.text, alone.ended)
        assert text.logprobs == pytest.approx(alone.logprobs, abs=1e-5)
    assert "stop" in {text.ended for text in texts}


def test_a_model_of_torch_reads_its_weights_once_for_all_texts():
    model, passes = make_model(), []
    model.tok_emb.register_forward_hook(lambda _module, args, _out: passes.append(tuple(args[0].shape)))
    write_many(model, [1, 2], SampleConfig(max_new_tokens=5), [Text(TOKENIZER) for _ in range(3)])
    assert passes == [(1, 2), (3, 1), (3, 1), (3, 1), (3, 1)]  # and the prompt once
