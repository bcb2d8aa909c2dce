import random

import pytest

from minigpt.novelty import match_lengths, novelty


def test_the_length_of_what_is_found_at_every_place():
    assert match_lengths(["abxab"], "cab") == [[2, 1, 0, 2, 1]]
    assert match_lengths(["", "abc", "c"], "abc") == [[], [3, 2, 1], [1]]
    assert match_lengths(["abc"], "") == [[0, 0, 0]]
    assert match_lengths([], "abc") == []


def test_lengths_are_those_of_a_search_from_every_place():
    rng = random.Random(0)
    for _ in range(80):
        *texts, source = ("".join(rng.choices("ab\U0001f600", k=rng.randrange(40))) for _ in range(rng.randrange(1, 5)))
        slow = [
            [max(n for n in range(len(text) - i + 1) if text[i : i + n] in source) for i in range(len(text))]
            for text in texts
        ]
        assert match_lengths(texts, source) == slow


@pytest.mark.parametrize("part", [1, 7, 30])
def test_a_source_may_be_searched_in_parts(monkeypatch, part):
    rng = random.Random(1)
    texts, source = ["".join(rng.choices("ab", k=k)) for k in (0, 5, 40)], "".join(rng.choices("ab", k=100))
    whole = match_lengths(texts, source)
    monkeypatch.setattr("minigpt.novelty.PART", part)
    assert match_lengths(texts, source) == whole


def test_a_long_text_that_repeats_itself_is_searched_at_once():
    """A search for each place would take many minutes here."""
    source = "to be or not to be, " * 10_000
    (lengths,) = match_lengths([source[7:100_007] + "!"], source)
    assert lengths == [*range(100_000, 0, -1), 0]


def prose(seed: int, n: int) -> str:
    rng = random.Random(seed)
    words = ["".join(rng.choices("etaoinshr", k=rng.randrange(2, 8))) for _ in range(300)]
    rng = random.Random(seed + 1000 * n)
    return " ".join(rng.choices(words, k=n))


def test_a_text_that_copies_is_told_and_one_that_does_not_is_not():
    train, val, free = prose(1, 4000), prose(1, 800), prose(1, 150)
    copied = novelty([train[500:1200]], train, val)
    assert copied.longest == 700
    assert copied.verdict.startswith("It quotes: ")
    assert copied.passages[0].text == train[500:1200]
    assert copied.passages[0].place == 500
    assert copied.passages[0].before == train[470:500]
    assert set(copied.seen.values()) == {1.0}
    own = novelty([free], train, val)
    assert own.verdict.startswith("It does not quote.")
    assert own.longest < 60
    partly = novelty([free[:300] + train[500:600] + free[300:]], train, val)
    assert partly.verdict.startswith("It quotes in places.")
    assert partly.passages[0].text in train
    assert partly.longest >= 100


def test_passages_do_not_overlap_and_are_told_on_one_line_each():
    train = "one line\nand another\x1b[31m line, which is longer"
    found = novelty(
        ["xx line\nand another\x1b[31m line yy and another"],
        train,
        "nothing like it at all, and as long as what was written",
    )
    assert [p.text for p in found.passages][:1] == [" line\nand another\x1b[31m line"]
    assert sum(len(p.text) for p in found.passages) <= found.characters
    assert "\x1b" not in found.describe()
    assert "[ line⏎and another?[31m line]" in found.describe()


@pytest.mark.parametrize("samples", [[], [""], ["a"]])
def test_nothing_or_hardly_anything_written(samples):
    found = novelty(samples, "abc", "b")
    assert found.characters == sum(map(len, samples))
    assert "too few to tell" in found.describe()
    assert found.to_dict()["verdict"] == found.verdict
