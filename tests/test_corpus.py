"""Where a text comes from, what is done to it on the way, and how it is cut."""

import codecs
import hashlib
import http.client
import io
import re
import sys
import tempfile
import urllib.request

import numpy as np
import pytest
from hypothesis import given, strategies as st

from minigpt import corpus as corpus_module
from minigpt.config import DataConfig
from minigpt.corpus import PRINTABLE_ASCII, READ_SIZE, Corpus, load_corpus
from minigpt.tokenizer import ByteTokenizer, CharTokenizer, UnknownCharacter


def text_of(corpus) -> str:
    return corpus.tokenizer.decode(corpus.ids)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache of this test's own."""
    monkeypatch.setenv("MINIGPT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def known_text(monkeypatch):
    """A short text that counts as tiny Shakespeare."""
    data = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 10
    monkeypatch.setattr(corpus_module, "SHAKESPEARE_SHA256", hashlib.sha256(data).hexdigest())
    return data


def give(monkeypatch, data: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# ---- named texts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_path", [True, False])
def test_one_file_is_read_whole(text_file, text, as_path):
    corpus = load_corpus([text_file if as_path else str(text_file)])
    assert text_of(corpus) == text
    assert (corpus.name, corpus.notes, corpus.paths) == ("my.txt", (), (str(text_file),))
    assert corpus.characters == len(corpus.ids) == len(text)
    assert corpus.tokenizer.chars == "".join(sorted(set(text)))
    assert corpus.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert corpus.ids.dtype == np.uint8


def test_a_text_is_remembered_as_it_was_named(text_file):
    assert load_corpus(["my.txt"]).paths == ("my.txt",)


def test_several_files_never_share_a_line(tmp_path):
    for name, content in [("a.txt", "one"), ("b.txt", "two\n"), ("c.txt", ""), ("d.txt", "three"), ("e.txt", "\nfour")]:
        (tmp_path / name).write_text(content)
    corpus = load_corpus(["a.txt", "b.txt", "c.txt", "d.txt", "e.txt"])
    assert text_of(corpus) == "one\ntwo\nthree\n\nfour"
    assert corpus.name == "5 texts"
    assert corpus.characters == len("one\ntwo\nthree\n\nfour")
    assert corpus.paths == ("a.txt", "b.txt", "c.txt", "d.txt", "e.txt")


def test_files_are_read_in_the_order_given(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    assert text_of(load_corpus(["b.txt", "a.txt", "b.txt"])) == "two\none\ntwo"


def test_a_folder_is_read_sorted_and_deeply_and_only_its_txt_files(tmp_path):
    contents = {"b.txt": "3", "a/z.txt": "2", "a/b/c.txt": "1", "a/b/c.md": "no", "picture.png": "no", "txt": "no"}
    for name, content in contents.items():
        path = tmp_path / "books" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "books" / "folder.txt").mkdir()
    corpus = load_corpus(["books"])
    assert text_of(corpus) == "1\n2\n3"
    assert corpus.name == "3 files in books"
    assert text_of(load_corpus(["books", "books/b.txt"])) == "1\n2\n3\n3"


def test_standard_input_is_a_text(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    give(monkeypatch, "Grüße,\r\nWelt".encode())
    corpus = load_corpus(["-"])
    assert text_of(corpus) == "Grüße,\nWelt"
    assert (corpus.name, corpus.paths) == ("standard input", ("-",))
    assert list(tmp_path.iterdir()) == []


def test_standard_input_may_stand_beside_files(monkeypatch, text_file, text):
    give(monkeypatch, b"more")
    assert text_of(load_corpus(["-", "my.txt"])) == "more\n" + text


def test_standard_input_beside_a_missing_file_leaves_no_copy(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    give(monkeypatch, b"more")
    with pytest.raises(FileNotFoundError, match=r"nowhere.txt"):
        load_corpus(["-", "nowhere.txt"])
    assert list(tmp_path.iterdir()) == []


# ---- no text named -----------------------------------------------------------------------------------------------------


def test_a_file_called_input_comes_first(tmp_path, home, known_text):
    home.mkdir()
    (home / "tinyshakespeare.txt").write_bytes(known_text)
    (tmp_path / "input.txt").write_text("mine")
    corpus = load_corpus()
    assert (text_of(corpus), corpus.name, corpus.paths) == ("mine", "input.txt", ())
    assert "input.txt" in corpus.notes[0]


def test_tiny_shakespeare_comes_next(home, known_text):
    home.mkdir()
    (home / "tinyshakespeare.txt").write_bytes(known_text)
    corpus = load_corpus()
    assert (text_of(corpus), corpus.name) == (known_text.decode(), "tiny Shakespeare")
    assert str(home) in corpus.notes[0]
    assert "minigpt train my.txt" in corpus.notes[0]


def test_the_real_tiny_shakespeare_is_cut_as_everybody_cuts_it(shakespeare):
    corpus = load_corpus()
    assert corpus.name == "tiny Shakespeare"
    assert (corpus.characters, corpus.tokenizer.vocab_size) == (1_115_394, 65)
    assert (len(corpus.train), len(corpus.val)) == (1_003_854, 111_540)
    assert corpus.tokenizer.chars == "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    assert corpus.train[:5].tolist() == [18, 47, 56, 57, 58]  # "First"
    assert text_of(corpus) == shakespeare.read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", [None, b"First Citizen:\n"], ids=["nothing cached", "something else cached"])
def test_the_manual_of_python_comes_last_and_says_why(home, damage):
    if damage:
        home.mkdir()
        (home / "tinyshakespeare.txt").write_bytes(damage)
    corpus = load_corpus()
    assert corpus.name == "the Python manual"
    assert corpus.tokenizer.chars == "".join(sorted(PRINTABLE_ASCII))
    assert corpus.tokenizer.vocab_size == 96
    assert corpus.characters > 300_000
    assert "MINIGPT_OFFLINE=1" in corpus.notes[0]
    assert "minigpt train my.txt" in corpus.notes[0]


def test_without_any_text_the_error_says_how_to_name_one(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match=r"no input.txt.*MINIGPT_OFFLINE.*manual.*minigpt train my.txt"):
        load_corpus()


def test_what_is_examined_of_the_manual_comes_from_all_over_it(monkeypatch):
    import pydoc_data.topics

    blocks = [f"{i:04d}" * 1024 for i in range(100)]
    topics = {f"{i:03}": "".join(blocks[i : i + 10]) for i in range(0, 100, 10)}
    monkeypatch.setattr(pydoc_data.topics, "topics", topics)
    manual = corpus_module._python_manual()
    found = [manual[i : i + 4096] for i in range(0, len(manual), 4096)]
    assert found[90:] == blocks[9::10]
    assert found[:90] == [block for i, block in enumerate(blocks) if i % 10 != 9]


def test_the_manual_is_printable_ascii_with_its_signs_spelled_out(monkeypatch):
    import pydoc_data.topics

    monkeypatch.setattr(pydoc_data.topics, "topics", {"b": "“Caf\u00e9” — naïve…\n", "a": "\tdon’t\x00 日\r\n"})
    assert corpus_module._python_manual() == 'don\'t \n"Cafe" -- naive...\n'


# ---- the download ------------------------------------------------------------------------------------------------------


def test_the_right_bytes_are_downloaded_once_and_kept(home, known_text, tmp_path, monkeypatch):
    (tmp_path / "served.txt").write_bytes(known_text)
    monkeypatch.delenv("MINIGPT_OFFLINE")
    monkeypatch.setattr(corpus_module, "SHAKESPEARE_URL", (tmp_path / "served.txt").as_uri())
    assert load_corpus().name == "tiny Shakespeare"
    assert [path.name for path in home.iterdir()] == ["tinyshakespeare.txt"]
    assert (home / "tinyshakespeare.txt").read_bytes() == known_text
    (tmp_path / "served.txt").unlink()
    assert text_of(load_corpus()) == known_text.decode()


def test_wrong_bytes_are_refused(home, tmp_path, monkeypatch):
    (tmp_path / "served.txt").write_bytes(b"<html>Please log in</html>")
    monkeypatch.delenv("MINIGPT_OFFLINE")
    monkeypatch.setattr(corpus_module, "SHAKESPEARE_URL", (tmp_path / "served.txt").as_uri())
    corpus = load_corpus()
    assert corpus.name == "the Python manual"
    assert "not what it should be" in corpus.notes[0]
    assert not home.exists()


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("no route to host"),
        TimeoutError("timed out"),
        ConnectionResetError("reset"),
        http.client.BadStatusLine("no route"),
        http.client.IncompleteRead(b"half"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_download_that_fails_is_told_and_the_manual_is_taken(home, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.delenv("MINIGPT_OFFLINE")
    monkeypatch.setattr(urllib.request, "urlopen", fail)
    corpus = load_corpus()
    assert corpus.name == "the Python manual"
    assert "the download failed" in corpus.notes[0]
    assert not home.exists()


def test_a_cache_that_cannot_be_written_is_no_obstacle(home, known_text, tmp_path, monkeypatch):
    (tmp_path / "served.txt").write_bytes(known_text)
    home.write_text("a file where the folder should be")
    monkeypatch.delenv("MINIGPT_OFFLINE")
    monkeypatch.setattr(corpus_module, "SHAKESPEARE_URL", (tmp_path / "served.txt").as_uri())
    assert load_corpus().name == "the Python manual"


def test_offline_asks_the_network_for_nothing(home, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: pytest.fail("asked the network"))
    assert "MINIGPT_OFFLINE=1" in load_corpus().notes[0]


# ---- encodings and line endings -------------------------------------------------------------------------------------------


def test_a_byte_order_mark_is_removed_and_told(tmp_path):
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + b"one")
    (tmp_path / "b.txt").write_bytes(codecs.BOM_UTF8 + b"two")
    corpus = load_corpus(["a.txt", "b.txt"])
    assert text_of(corpus) == "one\ntwo"
    assert corpus.notes == ("a.txt: removed the byte order mark.", "b.txt: removed the byte order mark.")
    assert corpus.sha256 == hashlib.sha256(b"one\ntwo").hexdigest()


def test_a_mark_in_the_middle_is_a_character(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one" + codecs.BOM_UTF8 + b"two")
    corpus = load_corpus(["a.txt"])
    assert (text_of(corpus), corpus.notes) == ("one\ufefftwo", ())


@pytest.mark.parametrize("end", ["\r\n", "\r"], ids=["Windows", "old Mac"])
def test_line_ends_are_normalised_and_told(tmp_path, end):
    (tmp_path / "my.txt").write_bytes(end.join(["one", "", "two", ""]).encode())
    corpus = load_corpus(["my.txt"])
    assert text_of(corpus) == "one\n\ntwo\n"
    assert len(corpus.notes) == 1
    assert re.match("my.txt: .*line endings", corpus.notes[0])
    assert corpus.sha256 == hashlib.sha256(b"one\n\ntwo\n").hexdigest()
    assert corpus.characters == 9


@pytest.mark.parametrize("read_size", [*range(1, 13), 50])
def test_nothing_depends_on_where_the_reading_pauses(tmp_path, monkeypatch, read_size):
    monkeypatch.setattr(corpus_module, "READ_SIZE", read_size)
    (tmp_path / "a.txt").write_bytes("é\r\n—日\r🙂\n\r\n\r\rend\r".encode())
    (tmp_path / "b.txt").write_bytes("🙂\r\n".encode())
    corpus = load_corpus(["a.txt", "b.txt"])
    assert text_of(corpus) == "é\n—日\n🙂\n\n\n\nend\n🙂\n"
    assert corpus.sha256 == hashlib.sha256("é\n—日\n🙂\n\n\n\nend\n🙂\n".encode()).hexdigest()
    assert len(corpus.notes) == 2


@pytest.mark.parametrize("before", range(4))
def test_a_character_and_a_line_end_may_lie_across_a_boundary(tmp_path, before):
    head = "a" * (READ_SIZE - before)
    for tail in ("🙂b\n", "\r\nb\n"):
        (tmp_path / "my.txt").write_bytes((head + tail).encode())
        corpus = load_corpus(["my.txt"])
        assert text_of(corpus)[-9:] == ("aaaaaaaaaa" + tail.replace("\r", ""))[-9:]
        assert corpus.characters == len(head + tail.replace("\r", ""))


@pytest.mark.parametrize("read_size", [3, 5, 1000])
@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("latin-1", "Größe\r\né"),
        ("cp1252", "“Größe” – €"),
        ("utf-16", "日本\r\n🙂"),
        ("utf-16-le", "日本\r\n🙂"),
        ("utf-32", "日本 🙂"),
        ("UTF8", "日本 🙂"),
        ("utf-8-sig", "日本 🙂"),
        ("shift_jis", "日本語の\r\n文章"),
        ("gb18030", "漢字 🙂"),
        ("koi8-r", "Привет"),
    ],
)
def test_other_encodings_are_read(tmp_path, monkeypatch, encoding, content, read_size):
    monkeypatch.setattr(corpus_module, "READ_SIZE", read_size)
    (tmp_path / "my.txt").write_bytes(content.encode(encoding))
    corpus = load_corpus(["my.txt"], DataConfig(encoding=encoding))
    expected = content.replace("\r\n", "\n")
    assert text_of(corpus) == expected
    assert corpus.sha256 == hashlib.sha256(expected.encode()).hexdigest()


# ---- ids ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_ids_are_those_of_the_tokenizer(tmp_path, kind):
    content = "Grüße, 日本 🙂\n" * 50
    (tmp_path / "my.txt").write_text(content, encoding="utf-8")
    corpus = load_corpus(["my.txt"], DataConfig(tokenizer=kind))
    assert corpus.ids.tolist() == corpus.tokenizer.encode(content).tolist()
    assert corpus.tokens_per_char == len(corpus.ids) / len(content)
    assert (corpus.tokens_per_char == 1) == (kind == "char")


def test_the_tokenizer_of_a_model_is_kept_for_another_text(tmp_path):
    (tmp_path / "my.txt").write_text("cab")
    tokenizer = CharTokenizer("abcdef")
    corpus = load_corpus(["my.txt"], tokenizer=tokenizer)
    assert corpus.tokenizer is tokenizer
    assert corpus.ids.tolist() == [2, 0, 1]


@pytest.mark.parametrize("read_size", [3, READ_SIZE])
def test_an_unknown_character_is_named_with_its_position_in_the_whole_text(tmp_path, monkeypatch, read_size):
    monkeypatch.setattr(corpus_module, "READ_SIZE", read_size)
    (tmp_path / "a.txt").write_text("aé" * 10, encoding="utf-8")
    (tmp_path / "b.txt").write_text("aaβ", encoding="utf-8")
    with pytest.raises(UnknownCharacter) as error:
        load_corpus(["a.txt", "b.txt"], tokenizer=CharTokenizer("\naé"))
    assert (error.value.char, error.value.position) == ("β", 23)


def test_unknown_characters_of_another_text_can_be_dropped(tmp_path):
    (tmp_path / "my.txt").write_text("caxb")
    with pytest.warns(UserWarning, match="dropped 1 "):
        corpus = load_corpus(["my.txt"], tokenizer=CharTokenizer("abc"), unknown="drop")
    assert text_of(corpus) == "cab"


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_many_ids_are_kept_in_a_file_that_is_used_again(home, text_file, monkeypatch, kind):
    config = DataConfig(tokenizer=kind)
    in_memory = load_corpus(["my.txt"], config)
    assert not home.exists()
    monkeypatch.setattr(corpus_module, "IN_MEMORY", 0)
    first = load_corpus(["my.txt"], config)
    assert isinstance(first.ids, np.memmap)
    assert first.ids.dtype == in_memory.ids.dtype
    assert np.array_equal(first.ids, in_memory.ids)
    (kept,) = (path for path in home.rglob("*") if path.is_file())
    assert str(kept) in first.notes[-1]
    before = kept.stat().st_mtime_ns, kept.stat().st_ino
    again = load_corpus(["my.txt"], config)
    assert np.array_equal(again.ids, in_memory.ids)
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == before
    assert [path for path in home.rglob("*") if path.is_file()] == [kept]


def test_kept_ids_belong_to_one_text_and_one_tokenizer(home, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "IN_MEMORY", 0)
    (tmp_path / "a.txt").write_text("abba")
    (tmp_path / "b.txt").write_text("baab")
    for _ in range(2):
        assert load_corpus(["a.txt"]).ids.tolist() == [0, 1, 1, 0]
        assert load_corpus(["b.txt"]).ids.tolist() == [1, 0, 0, 1]
        assert load_corpus(["a.txt"], tokenizer=CharTokenizer("ba")).ids.tolist() == [1, 0, 0, 1]
        assert load_corpus(["a.txt"], tokenizer=ByteTokenizer()).ids.tolist() == list(b"abba")
    assert len(list((home / "ids").iterdir())) == 4


def test_ids_that_could_not_be_finished_leave_no_file(home, text_file, monkeypatch):
    monkeypatch.setattr(corpus_module, "IN_MEMORY", 0)
    monkeypatch.setattr(corpus_module, "READ_SIZE", 100)
    with pytest.raises(UnknownCharacter):
        load_corpus(["my.txt"], tokenizer=CharTokenizer("abc"))
    assert [path for path in home.rglob("*") if path.is_file()] == []


# ---- train and val -----------------------------------------------------------------------------------------------------


def made_of(n, val_fraction=0.1):
    """A corpus of n tokens, made by hand."""
    ids = np.arange(n) % 7
    return Corpus("my.txt", (), (), CharTokenizer("abcdefg"), ids, DataConfig(val_fraction=val_fraction), n, "")


def test_the_last_tenth_is_for_validation_exactly_as_in_nanogpt():
    for n in [*range(1, 3000), 1_115_394, 10**7 + 3]:
        corpus = made_of(n)
        assert corpus.n_train == len(corpus.train) == int(n * 0.9)
        assert len(corpus.train) + len(corpus.val) == n


@given(st.integers(2, 5000), st.floats(0.001, 0.5))
def test_train_and_val_are_the_text_in_order(n, val_fraction):
    corpus = made_of(n, val_fraction)
    assert np.array_equal(np.concatenate([corpus.train, corpus.val]), corpus.ids)
    assert abs(len(corpus.val) - n * val_fraction) <= 1


@given(st.integers(1, 2000), st.floats(0.001, 0.5), st.integers(1, 300))
def test_a_text_passes_the_check_if_both_parts_hold_a_block_and_a_token(n, val_fraction, block_size):
    corpus = made_of(n, val_fraction)
    if min(len(corpus.train), len(corpus.val)) > block_size:
        corpus.check(block_size)
        return
    with pytest.raises(ValueError, match=r"my.txt") as error:
        corpus.check(block_size)
    fits = re.search(r"a block_size up to (\d+) would fit", str(error.value))
    if fits:
        corpus.check(int(fits[1]))
        with pytest.raises(ValueError, match="block_size"):
            corpus.check(int(fits[1]) + 1)
    else:
        with pytest.raises(ValueError, match="no block size fits"):
            corpus.check(1)
    # A text as long as the message asks for would do.
    needed = re.search(r"at least ([\d,]+);|a text of ([\d,]+);", str(error.value))
    made_of(int((needed[1] or needed[2]).replace(",", "")), val_fraction).check(block_size)


def test_a_corpus_describes_itself_in_a_line(text_file):
    assert load_corpus(["my.txt"]).describe() == (
        "my.txt: 20,026 characters, 39 different characters; 18,023 training tokens, 2,003 validation tokens"
    )


@pytest.mark.parametrize(("kind", "unit"), [("char", "256 different characters"), ("byte", "256 different bytes")])
def test_a_description_tells_characters_from_bytes(tmp_path, kind, unit):
    (tmp_path / "my.txt").write_text("".join(map(chr, range(32, 32 + 256))), encoding="utf-8", newline="")
    assert unit in load_corpus(["my.txt"], DataConfig(tokenizer=kind)).describe()
