import itertools

import numpy as np
import pytest
import torch

from minigpt import GPT, ByteTokenizer, CharTokenizer, GPTConfig, SampleConfig, write
from minigpt.chat import Chat

TOKENIZER = CharTokenizer("\n abcdefgh:")


@pytest.fixture
def chat() -> Chat:
    torch.manual_seed(0)
    model = GPT(GPTConfig(TOKENIZER.vocab_size, 16, n_layer=1, n_head=2, n_embd=16))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return Chat(model, TOKENIZER, SampleConfig(max_new_tokens=12), stop=())


def say(chat: Chat, line: str) -> str:
    return "".join(chat.answer(line))


def test_the_model_goes_on_from_all_that_was_written(chat):
    first = say(chat, "abc")
    assert first == "".join(write(chat.model, TOKENIZER, "abc", chat.config, 0))
    second = say(chat, "def")
    assert second == "".join(write(chat.model, TOKENIZER, f"abc{first}def", chat.config, 1))
    assert chat.text == say(chat, "/text") == f"abc{first}def{second}"


def test_a_failure_leaves_the_text_as_it_was(chat):
    say(chat, "abc")
    before = chat.text
    chat.model.lm_head.weight.data[:] = float("nan")
    for line in ("d", "/retry", "/edit e"):
        with pytest.raises(ValueError, match="not finite"):
            say(chat, line)
        assert chat.text == before


def test_retry_writes_another_answer_to_the_same_and_edit_to_something_else(chat):
    say(chat, "abc")
    first = say(chat, "d")
    again = say(chat, "/retry")
    assert again != first
    assert chat.text.endswith(f"d{again}")
    edited = say(chat, "/edit gg")
    assert chat.text.endswith(f"gg{edited}")
    assert len(chat.turns) == 2


def test_an_answer_that_is_stopped_stays_as_far_as_it_went(chat):
    part = "".join(itertools.islice(chat.answer("abc"), 3))
    assert chat.text == "abc" + part
    assert len(part) == 3


def test_settings_are_changed_checked_and_told(chat):
    assert say(chat, "/temperature 0") == "temperature is 0.0"
    assert say(chat, "/max-new-tokens 3") == "max_new_tokens is 3"
    assert len(say(chat, "a")) == 3
    for line, words in (("/temperature hot", "'hot'; it must be a number from 0 to 100"), ("/top_k 1.5", "whole number"),
                        ("/temperature -1", "from 0 to 100"), ("/temprature 1", "did you mean /temperature"),
                        ("/xyzzy", "/help")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            say(chat, line)
    assert chat.config.temperature == 0


def test_taking_back_and_beginning_anew(chat):
    with pytest.raises(ValueError, match="nothing was written yet"):
        say(chat, "/retry")
    say(chat, "abc")
    before = chat.text
    say(chat, "d")
    say(chat, "/undo")
    assert chat.text == before
    say(chat, "/clear")
    assert chat.text == ""
    assert "abc" + say(chat, "abc") != before  # every answer has random numbers of its own


def test_an_unknown_character_changes_nothing(chat):
    say(chat, "abc")
    before = chat.text
    for line in ("xyz", "/edit xyz"):
        with pytest.raises(ValueError, match="'x'"):
            say(chat, line)
    assert chat.text == before


def test_stop_ends_an_answer_help_tells_and_quit_ends(chat):
    say(chat, "/max_new_tokens 300")
    say(chat, "/stop \\n")
    assert chat.stop == ("\n",)
    assert "\n" not in say(chat, "abc")
    assert "after max_new_tokens" in say(chat, "/stop")
    assert "/retry" in say(chat, "/help")
    assert "temperature 1.0" in say(chat, "/help")
    assert "now nothing)" in say(chat, "/help")
    say(chat, "/stop \\n")
    assert "now \\n)" in say(chat, "/help")
    assert not chat.over
    say(chat, "/quit")
    assert chat.over


def test_what_stopped_an_answer_is_part_of_the_text_behind_it(chat):
    say(chat, "/max_new_tokens 300")
    chat.stop = ("\n",)
    first = say(chat, "abc")
    assert chat.text == f"abc{first}\n"
    say(chat, "def")
    assert chat.text.startswith(f"abc{first}\ndef")
    say(chat, "/undo")
    again = say(chat, "/retry")
    assert chat.text in (f"abc{again}\n", f"abc{again}")


def test_a_line_may_hold_new_lines_and_one_stop_string_may_be_given_as_it_is(chat):
    say(chat, "a\\nb\\n")
    assert chat.text.startswith("a\nb\n")
    assert Chat(chat.model, TOKENIZER, chat.config, stop="\n\n").stop == ("\n\n",)


def test_a_text_that_is_longer_than_the_context_is_known_as_that(chat):
    say(chat, "/max_new_tokens 5")
    say(chat, "abc")
    assert not chat.overflows
    say(chat, "abcabcabc")
    assert chat.overflows


def test_the_same_seed_gives_the_same_answers_again(chat):
    say(chat, "abc")
    say(chat, "/seed 7")
    first = say(chat, "/retry"), say(chat, "/retry")
    assert first[0] != first[1]
    say(chat, "/seed 7")
    assert (say(chat, "/retry"), say(chat, "/retry")) == first


class Script:
    """A model that writes these ids, whatever it reads, and remembers what that was."""

    vocab_size, block_size, reads_on, length = 256, 64, False, 0

    def __init__(self, ids):
        self.ids, self.read_ids = iter(ids), []

    def reader(self):
        return self

    def forget(self):
        self.read_ids.append([])

    def read(self, tokens):
        self.read_ids[-1] += tokens
        return np.eye(1, 256, next(self.ids), dtype=np.float32)[0]


def test_the_model_goes_on_from_the_bytes_that_it_wrote_not_from_how_they_look():
    model = Script("é".encode())
    chat = Chat(model, ByteTokenizer(), SampleConfig(max_new_tokens=1, temperature=0), stop=())
    assert say(chat, "a") == "\ufffd"  # half a character
    say(chat, "")
    assert model.read_ids == [[97], [97, 0xC3]]
    assert chat.ids == [97, 0xC3, 0xA9]


def test_what_stopped_an_answer_is_read_once():
    model = Script(b"\xc3\n\nb")  # a byte that is no character, then a stop string
    chat = Chat(model, ByteTokenizer(), SampleConfig(max_new_tokens=3, temperature=0), stop=("\n\n",))
    assert say(chat, "a") == "\ufffd"
    assert chat.ids == [97, 0xC3, 10, 10]
    assert chat.text == "a\ufffd\n\n"
