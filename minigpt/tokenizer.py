"""Text <-> ids. A model computes with numbers, so every piece of text gets one.

    tokenizer = CharTokenizer.train("hello")        # the characters of the text, sorted: e h l o
    tokenizer.encode("hole")  -> array([1, 3, 2, 0])
    tokenizer.decode([1, 3, 2, 0]) -> "hole"

CharTokenizer gives each character of a text one id: few ids, short words to learn, nothing outside its alphabet.
ByteTokenizer gives each byte of UTF-8 one id: always 256 ids, and no text that it cannot write.

Next: saved.py
"""

import codecs
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .files import read_json, to_json

CHUNK = 1 << 16  # characters encoded at a time, so that the working arrays stay in the processor's cache


class Tokenizer(Protocol):
    """What every tokenizer can do."""

    vocab_size: int

    def encode(self, text: str, unknown: str = "error") -> np.ndarray: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def decoder(self) -> Callable[[int | None], str]: ...
    def count_characters(self, ids: np.ndarray) -> int: ...
    def to_hf(self) -> dict[str, Any]: ...


class UnknownCharacter(ValueError):
    """A character that the tokenizer has no id for, and its position in the text (0 is the first)."""

    def __init__(self, char: str, position: int, vocab_size: int) -> None:
        super().__init__(
            f"the character {char!r} (U+{ord(char):04X}) at position {position:,} is not among the {vocab_size} that this "
            f"model knows; leave it out"
        )
        self.char, self.position, self.vocab_size = char, position, vocab_size


class CharTokenizer:
    """One id for each character. `chars` is the alphabet in the order of the ids."""

    def __init__(self, chars: str) -> None:
        if not chars or len(set(chars)) != len(chars):
            raise ValueError("an alphabet needs at least one character, and each only once")
        self.chars = chars
        self.vocab_size = len(chars)
        self.dtype = smallest_dtype(self.vocab_size)
        self._codes = codes = np.frombuffer(chars.encode("utf-32-le"), "<u4")
        # One row more than the largest code: everything beyond is clipped to it and stays unknown.
        self._unknown = self.vocab_size
        self._table = np.full(int(codes.max()) + 2, self._unknown, smallest_dtype(self.vocab_size + 1))
        self._table[codes] = np.arange(self.vocab_size)
        # Pure ASCII has a faster way: bytes.translate, with 255 for whatever has no id below 255.
        ascii_ids = [chars.find(chr(code)) for code in range(128)]
        self._ascii_table = bytes(i if 0 <= i < 255 else 255 for i in ascii_ids) + bytes(128)

    @classmethod
    def train(cls, text: str) -> "CharTokenizer":
        """The tokenizer whose alphabet is the sorted characters of a text."""
        return cls("".join(sorted(set(text))))

    def encode(self, text: str, unknown: str = "error") -> np.ndarray:
        """Text -> ids, (number of characters,) in the smallest unsigned type.

        unknown: "error" raises UnknownCharacter with its position, "drop" leaves it out with a warning.
        """
        parts = [self._encode_chunk(text[i : i + CHUNK]) for i in range(0, len(text), CHUNK)]
        ids = np.concatenate(parts) if parts else np.empty(0, self._table.dtype)
        if len(ids) and ids.max() == self._unknown:
            missing = np.flatnonzero(ids == self._unknown)
            first = int(missing[0])
            if unknown != "drop":
                raise UnknownCharacter(text[first], first, self.vocab_size)
            names = "".join(sorted({text[i] for i in missing[:10_000]}))
            warnings.warn(f"dropped {len(missing)} characters that this model does not know: {names[:50]!r}", stacklevel=2)
            ids = ids[ids != self._unknown]
        return ids.astype(self.dtype, copy=False)

    def _encode_chunk(self, chunk: str) -> np.ndarray:
        """Look every character up at once; those without an id become self._unknown."""
        if chunk.isascii():
            ids = np.frombuffer(chunk.encode("ascii").translate(self._ascii_table), np.uint8)
            if ids.max(initial=0) < 255:
                return ids
        codes = np.frombuffer(chunk.encode("utf-32-le", "surrogatepass"), "<u4")
        return self._table.take(codes, mode="clip")

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text."""
        ids = ids if isinstance(ids, np.ndarray) else np.array(list(ids), np.intp)
        parts = (self._codes[ids[i : i + CHUNK]] for i in range(0, len(ids), CHUNK))
        return "".join(part.tobytes().decode("utf-32-le") for part in parts)

    def decoder(self) -> Callable[[int | None], str]:
        """A function that takes one id after the other, then None, and gives the text that each adds."""
        return lambda i: "" if i is None else self.chars[i]

    def count_characters(self, ids: np.ndarray) -> int:
        """How many characters these ids stand for: one each."""
        return len(ids)

    def to_hf(self) -> dict[str, Any]:
        """The same tokenizer in the format of the `tokenizers` library: byte-pair encoding without a single merge."""
        vocab = {char: i for i, char in enumerate(self.chars)}
        return _hf_bpe(vocab, pre_tokenizer=None, decoder={"type": "Fuse"})


class ByteTokenizer:
    """One id for each byte of UTF-8: the id is the byte.

    Unlike CharTokenizer: the vocabulary never depends on the text, nothing is unknown, and a character outside ASCII
    takes two to four tokens.
    """

    vocab_size = 256
    dtype = np.dtype(np.uint8)

    def encode(self, text: str, unknown: str = "error") -> np.ndarray:
        """Text -> ids, one a byte; nothing is ever unknown."""
        return np.frombuffer(text.encode("utf-8", "replace"), np.uint8)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text; bytes that are not UTF-8 become U+FFFD."""
        if not (isinstance(ids, np.ndarray) and ids.dtype == np.uint8):
            ids = np.frombuffer(bytes(int(i) for i in ids), np.uint8)
        return ids.tobytes().decode("utf-8", "replace")

    def decoder(self) -> Callable[[int | None], str]:
        """A function that takes one id after the other, then None; a character is given out with its last byte."""
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        return lambda i: decode(b"", final=True) if i is None else decode(bytes([i]))

    def count_characters(self, ids: np.ndarray) -> int:
        """How many characters these ids stand for: in UTF-8, each has one byte that is not of the form 10xxxxxx."""
        return int(((np.asarray(ids) & 0xC0) != 0x80).sum())

    def to_hf(self) -> dict[str, Any]:
        """The same tokenizer in the format of the `tokenizers` library: GPT-2's byte alphabet without a single merge."""
        vocab = {char: byte for byte, char in sorted(_gpt2_byte_alphabet().items())}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        return _hf_bpe(vocab, pre_tokenizer=byte_level, decoder=byte_level)


def tokenizer_files(tokenizer: Tokenizer, block_size: int) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json, as transformers and tokenizers read them."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,
    }
    return {"tokenizer.json": to_json(tokenizer.to_hf()), "tokenizer_config.json": to_json(config)}


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer.json of a run. Raises ValueError for one that this package did not write."""
    path = folder / "tokenizer.json"
    data = read_json(path)
    try:
        vocab = data["model"]["vocab"]
        chars = "".join(sorted(vocab, key=vocab.__getitem__))
        tokenizer = ByteTokenizer() if data["pre_tokenizer"] else CharTokenizer(chars)
        if tokenizer.to_hf() == data:
            return tokenizer
    except (LookupError, TypeError, AttributeError, ValueError):
        pass
    raise ValueError(f"{path} is not a character or byte tokenizer; this package reads those that it wrote")


def make_tokenizer(kind: str, alphabet: str) -> Tokenizer:
    """A new tokenizer of a kind ("char" or "byte") for a text with these characters."""
    return ByteTokenizer() if kind == "byte" else CharTokenizer("".join(sorted(alphabet)))


def smallest_dtype(count: int) -> np.dtype:
    """The smallest unsigned type that holds `count` different ids: 256 -> uint8, 257 -> uint16."""
    return np.min_scalar_type(max(count - 1, 0))


def _hf_bpe(vocab: dict[str, int], pre_tokenizer: Any, decoder: Any) -> dict[str, Any]:
    """The skeleton of a tokenizer.json. Source: the serialisation of the `tokenizers` library, version 0.23."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [],
        },
    }


def _gpt2_byte_alphabet() -> dict[int, str]:
    """Byte -> the printable character that stands for it in GPT-2's vocabulary: 65 -> "A", 32 -> "Ġ".

    Source: Radford et al. 2019, the encoder published with GPT-2: printable bytes stand for themselves, the others
    are moved to U+0100 and up in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(moved)}
