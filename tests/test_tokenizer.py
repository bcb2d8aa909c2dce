"""Text -> ids -> the same text, here and in the libraries that others read our files with."""

import codecs
import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

from minigpt.files import write_into
from minigpt.tokenizer import (
    CHUNK,
    ByteTokenizer,
    CharTokenizer,
    UnknownCharacter,
    load_tokenizer,
    make_tokenizer,
    smallest_dtype,
    tokenizer_files,
)

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # without lone surrogates
SAMPLE = "To be,  or not\n\nto be — é è, «ja» 🙂🇩🇪 日本語\tend.  "


def alphabet(n: int) -> str:
    """The first n characters from the space on, without surrogates."""
    codes = (code for code in range(32, 0x110000) if not 0xD800 <= code < 0xE000)
    return "".join(chr(code) for code, _ in zip(codes, range(n), strict=False))


# ---- characters --------------------------------------------------------------------------------------------------------


def test_the_example_of_the_file_is_true():
    tokenizer = CharTokenizer.train("hello")
    assert tokenizer.chars == "ehlo"
    assert tokenizer.encode("hole").tolist() == [1, 3, 2, 0]
    assert tokenizer.decode([1, 3, 2, 0]) == "hole"


def streamed(tokenizer, ids) -> list[str]:
    """The text that each id adds, and at the end what was held back."""
    decode = tokenizer.decoder()
    return [decode(int(i)) for i in ids] + [decode(None)]


@given(ANY_TEXT.filter(bool))
def test_any_text_over_its_own_characters_comes_back(text):
    tokenizer = CharTokenizer.train(text)
    assert tokenizer.chars == "".join(sorted(set(text)))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert "".join(streamed(tokenizer, tokenizer.encode(text))) == text


@given(st.text("abcxyz \n", min_size=1), st.text("abcxyz \n"))
def test_another_text_over_the_same_characters_comes_back(learned, text):
    tokenizer = CharTokenizer.train(learned + "abcxyz \n")
    assert tokenizer.decode(tokenizer.encode(text)) == text


TEXTS = {
    "nothing": "",
    "ASCII": "Hello, world!\n" * 3,
    "Latin": "Größe, señor, œuvre — ÿ",
    "CJK": "日本語の文章。漢字仮名",
    "emoji": "🙂🙃🇩🇪👩‍👩‍👧",
    "mixed": "a é 日 🙂 \U0010ffff \0\x7f\x80",
    "ASCII, then more than a chunk on something else": "a" * CHUNK + "b" * CHUNK + "é" + "c🙂" * CHUNK,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("more", ["", "z" + alphabet(300)], ids=["its own alphabet", "a larger alphabet"])
def test_ids_are_places_in_the_alphabet(text, more):
    tokenizer = CharTokenizer.train(text + more + "a")
    place = {char: i for i, char in enumerate(tokenizer.chars)}
    assert tokenizer.encode(text).tolist() == [place[char] for char in text]


@pytest.mark.parametrize(
    ("n", "dtype"),
    [
        (1, np.uint8),
        (127, np.uint8),
        (128, np.uint8),
        (255, np.uint8),
        (256, np.uint8),
        (257, np.uint16),
        (65_536, np.uint16),
        (65_537, np.uint32),
        (70_000, np.uint32),
    ],
)
def test_ids_take_the_smallest_type_and_no_character_is_lost_at_its_limit(n, dtype):
    chars = alphabet(n)
    tokenizer = CharTokenizer(chars)
    assert tokenizer.vocab_size == n
    assert tokenizer.dtype == smallest_dtype(n) == dtype
    for text in (chars, chars[::-1], chars[-1] * 3, "", chars[:1]):
        ids = tokenizer.encode(text)
        assert ids.dtype == dtype
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode(chars).tolist() == list(range(n))


@pytest.mark.parametrize("n", [126, 127, 128, 254, 255, 256, 257])
def test_the_order_of_an_alphabet_is_free(n):
    """ASCII characters may have the largest ids, where the fast way has no byte for them."""
    chars = alphabet(n)[::-1]
    assert CharTokenizer(chars).encode("Hello"[:n]).tolist() == [chars.index(char) for char in "Hello"]


def test_the_same_character_encodes_alike_beside_ascii_and_beside_others():
    tokenizer = CharTokenizer.train("abc é")
    assert tokenizer.encode("abc").dtype == tokenizer.encode("abé").dtype
    assert tokenizer.encode("ab").tolist() == tokenizer.encode("abé")[:2].tolist()


@pytest.mark.parametrize("chars", ["", "aa", "abca"])
def test_an_alphabet_has_each_character_once(chars):
    with pytest.raises(ValueError, match="only once"):
        CharTokenizer(chars)


@pytest.mark.parametrize("char", ["z", "\n", "é", "日", "🙂", "\U0010ffff", "\0", "\ud800"])
@pytest.mark.parametrize("before", [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 5])
def test_an_unknown_character_is_named_with_its_position(char, before):
    text = "ab" * (before // 2) + "a" * (before % 2) + char + "ab" + char
    with pytest.raises(UnknownCharacter) as error:
        CharTokenizer.train("ab").encode(text)
    assert (error.value.char, error.value.position, error.value.vocab_size) == (char, before, 2)
    for words in (repr(char), f"U+{ord(char):04X}", f"position {before:,} ", "leave it out"):
        assert words in str(error.value)
    assert isinstance(error.value, ValueError)
    assert not isinstance(error.value, KeyError)


@pytest.mark.parametrize("n", [2, 255, 256, 257, 65_536])
def test_a_character_beyond_the_alphabet_is_unknown_whatever_the_size(n):
    tokenizer = CharTokenizer(alphabet(n))
    for char in ("\x01", "\U0010fffe"):
        with pytest.raises(UnknownCharacter):
            tokenizer.encode(alphabet(2) + char)


def test_unknown_characters_are_dropped_with_a_warning_when_asked_for():
    tokenizer = CharTokenizer.train("abc")
    with pytest.warns(UserWarning, match="dropped 3 characters.*'xé'"):
        ids = tokenizer.encode("axbécx", unknown="drop")
    assert tokenizer.decode(ids) == "abc"
    assert ids.dtype == tokenizer.dtype
    with pytest.warns(UserWarning, match="dropped 1 "):
        assert len(tokenizer.encode("é", unknown="drop")) == 0


def test_nothing_is_said_when_nothing_is_dropped():
    assert CharTokenizer.train("abc").encode("cab", unknown="drop").tolist() == [2, 0, 1]  # a warning would be an error


# ---- bytes -------------------------------------------------------------------------------------------------------------


@given(ANY_TEXT)
def test_any_text_comes_back_from_its_bytes(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.tolist() == list(text.encode())
    assert ids.dtype == np.uint8
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids.tolist()) == text


@given(ANY_TEXT)
def test_a_stream_of_bytes_never_cuts_a_character(text):
    pieces = [piece for piece in streamed(ByteTokenizer(), ByteTokenizer().encode(text)) if piece]
    assert "".join(pieces) == text
    assert pieces == list(text)


@given(st.binary())
def test_bytes_that_are_no_text_stream_as_they_decode(data):
    assert (
        "".join(streamed(ByteTokenizer(), data)) == ByteTokenizer().decode(data) == codecs.decode(data, "utf-8", "replace")
    )


def test_a_character_of_a_stream_is_given_out_with_its_last_byte():
    pieces = streamed(ByteTokenizer(), [*"é".encode(), *b"a", *"🙂".encode(), 0xE2])
    assert pieces == ["", "é", "a", "", "", "", "🙂", "", "\ufffd"]


def test_half_a_surrogate_becomes_a_question_mark():
    assert ByteTokenizer().encode("a\ud800b").tolist() == list(b"a?b")


@pytest.mark.parametrize(("kind", "expected"), [("char", CharTokenizer), ("byte", ByteTokenizer)])
def test_a_tokenizer_is_made_by_the_name_of_its_kind(kind, expected):
    tokenizer = make_tokenizer(kind, "cba")
    assert isinstance(tokenizer, expected)
    assert tokenizer.decode(tokenizer.encode("abc")) == "abc"
    assert getattr(tokenizer, "chars", "abc") == "abc"


# ---- files -------------------------------------------------------------------------------------------------------------

TOKENIZERS = {
    "chars": CharTokenizer.train(SAMPLE),
    "one char": CharTokenizer(" "),
    "many chars": CharTokenizer(alphabet(3000) + "\n\t—🙂🇩🇪日本語"),
    "bytes": ByteTokenizer(),
}


@pytest.fixture(params=TOKENIZERS)
def saved(request, tmp_path):
    """A tokenizer, the folder that it was saved in, and a text that it can write."""
    tokenizer = TOKENIZERS[request.param]
    write_into(tmp_path, tokenizer_files(tokenizer, block_size=16))
    return tokenizer, tmp_path, "   " if request.param == "one char" else SAMPLE


def test_a_saved_tokenizer_loads_equal(saved):
    tokenizer, folder, text = saved
    loaded = load_tokenizer(folder)
    assert type(loaded) is type(tokenizer)
    assert vars(loaded).keys() == vars(tokenizer).keys()
    assert getattr(loaded, "chars", None) == getattr(tokenizer, "chars", None)
    assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert loaded.to_hf() == tokenizer.to_hf()


def test_a_saved_tokenizer_is_two_files_that_say_the_same_each_time(saved):
    _, folder, _ = saved
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "tokenizer.json", "tokenizer_config.json"]
    before = (folder / "tokenizer.json").read_bytes()
    write_into(folder, tokenizer_files(load_tokenizer(folder), block_size=16))
    assert (folder / "tokenizer.json").read_bytes() == before


def test_the_tokenizers_library_gives_the_same_ids_and_text(saved):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer, folder, text = saved
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(text).tolist()
    assert theirs.get_vocab_size() == tokenizer.vocab_size
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids) == text


def test_transformers_gives_the_same_ids_and_text(saved):
    transformers = pytest.importorskip("transformers")
    tokenizer, folder, text = saved
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode(text).tolist()
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(ids) == text
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.model_max_length == 16


@given(st.binary(max_size=20))
def test_the_tokenizers_library_decodes_any_bytes_alike(data):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_str(json.dumps(ByteTokenizer().to_hf()))
    assert theirs.decode(list(data)) == ByteTokenizer().decode(data)


def hf(vocab, **changes):
    """A tokenizer.json of characters with something changed."""
    data = CharTokenizer("ab").to_hf() | changes
    return data | {"model": data["model"] | {"vocab": vocab}}


OTHERS = {
    "words": hf({"the": 0, "king": 1}),
    "merges": hf({"a": 0, "b": 1, "ab": 2}) | {"model": CharTokenizer("ab").to_hf()["model"] | {"merges": [["a", "b"]]}},
    "gaps": hf({"a": 0, "b": 2}),
    "twice the same id": hf({"a": 0, "b": 0}),
    "ids that are no numbers": hf({"a": "0", "b": "1"}),
    "an empty vocabulary": hf({}),
    "a vocabulary that is a list": hf(["a", "b"]),
    "a vocabulary that is a list of numbers": hf([-1, 2]),
    "half a surrogate": hf({"a": 0, "\ud800": 1}),
    "a pre-tokenizer": hf({"a": 0, "b": 1}, pre_tokenizer={"type": "Whitespace"}),
    "no model": {"version": "1.0"},
    "a model that is text": {"model": "BPE"},
    "nothing": {},
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_a_tokenizer_of_another_kind_is_refused_in_words(tmp_path, data):
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"tokenizer.json is not a character or byte tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\ufeff"])
def test_a_tokenizer_file_that_is_no_object_is_refused_in_words(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer.json (is not valid JSON|should hold a JSON object)"):
        load_tokenizer(tmp_path)
