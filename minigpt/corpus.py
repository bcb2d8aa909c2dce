"""Where text comes from, and how it becomes one checked array of ids, split in train and val.

A text is one file or several, a folder, standard input, or nothing: then input.txt, tiny Shakespeare or Python's own
manual, whatever is there. It is read twice in pieces, once to learn its alphabet and hash and once to turn it into ids,
so that it never has to fit in memory: ids above 128 MB go to a memory-mapped file in the cache.

Next: batches.py
"""

import codecs
import hashlib
import http.client
import io
import math
import os
import shutil
import stat
import sys
import tempfile
import unicodedata
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .config import DataConfig
from .files import cache_folder, sha256, write_file
from .tokenizer import Tokenizer, UnknownCharacter, make_tokenizer

READ_SIZE = 1 << 18  # bytes read at a time
IN_MEMORY = 1 << 27  # bytes of ids; more than this goes to a file
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
PRINTABLE_ASCII = "\n" + "".join(map(chr, range(32, 127)))  # the alphabet of the Python manual, whatever its version


@dataclass(frozen=True)
class Corpus:
    """A text as ids, ready to be learned from."""

    name: str  # what to call it: "tiny Shakespeare", "my.txt", "12 files"
    notes: tuple[str, ...]  # what was found and done on the way, in sentences for the reader
    paths: tuple[str, ...]  # as the user named it; empty for the default text
    tokenizer: Tokenizer
    ids: np.ndarray  # (number of tokens,), smallest unsigned type, perhaps memory-mapped
    config: DataConfig
    characters: int
    sha256: str  # of the text as UTF-8, newlines normalised
    alphabet: str = ""  # its different characters

    @property
    def n_train(self) -> int:
        return int(len(self.ids) * (1 - self.config.val_fraction))

    @property
    def train(self) -> np.ndarray:
        """The training ids: the first part."""
        return self.ids[: self.n_train]

    @property
    def val(self) -> np.ndarray:
        """The validation ids: the last part, never trained on."""
        return self.ids[self.n_train :]

    @property
    def tokens_per_char(self) -> float:
        """Of the validation part: 1 for characters; for bytes, how many a character takes on average."""
        return len(self.val) / max(1, self.tokenizer.count_characters(self.val))

    @property
    def unit(self) -> str:
        """What a token is."""
        return "bytes" if self.config.tokenizer == "byte" else "characters"

    def check(self, block_size: int) -> None:
        """Raise ValueError, with the block size that would fit, unless train and val both hold a block and one token."""
        n, need, unit = len(self.ids), block_size + 1, self.unit
        if min(self.n_train, len(self.val)) >= need:
            return
        enough = math.ceil(need / min(self.config.val_fraction, 1 - self.config.val_fraction))
        fits = min(self.n_train, len(self.val)) - 1
        cure = f"a block_size up to {fits} would fit" if fits >= 1 else "no block size fits so short a text"
        if n < need:
            problem = f"{self.name} has {n:,} {unit}, but block_size {block_size} needs at least {enough:,}"
        else:
            problem = (
                f"the validation part of {self.name} (its last {self.config.val_fraction:.1%}) has {len(self.val):,} "
                f"of {n:,} {unit}, but block_size {block_size} needs {need:,}, so a text of {enough:,}"
            )
        raise ValueError(f"{problem}; {cure}")

    def describe(self) -> str:
        """One line for people: which text this is, and how it is cut."""
        return (
            f"{self.name}: {self.characters:,} characters, {self.tokenizer.vocab_size:,} different {self.unit}; "
            f"{len(self.train):,} training tokens, {len(self.val):,} validation tokens"
        )


def load_corpus(
    paths: Sequence[str | Path] = (),
    config: DataConfig | None = None,
    tokenizer: Tokenizer | None = None,
    unknown: str = "error",
) -> Corpus:
    """Read a text and turn it into ids.

    paths: files, folders (every *.txt in them, sorted), "-" for standard input; nothing: the default text.
    tokenizer: the one of a trained model, for a text that the model should read; otherwise made from the text.
    Raises ValueError or OSError in plain words for a text that cannot be used.
    """
    config = config or DataConfig()
    text = _Text(config.encoding)
    try:
        text.find(paths)
        alphabet, characters, digest, n_bytes = _scan(text)
        alphabet = text.alphabet or alphabet
        if tokenizer is None:
            tokenizer = make_tokenizer(config.tokenizer, alphabet)
        ids = _encode(text, tokenizer, n_bytes, digest, alphabet, unknown)
    finally:
        text.close()
    where = tuple(map(str, paths))
    return Corpus(text.name, tuple(text.notes), where, tokenizer, ids, config, characters, digest, alphabet)


# ---- finding the text --------------------------------------------------------------------------------------------------


class _Text:
    """Pieces of text that can be read again and again: `for chunk in text.chunks()`."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.name, self.alphabet, self.string = "", "", ""
        self.notes: list[str] = []
        self.files: list[Path] = []
        self.temporary: list[tempfile.TemporaryDirectory] = []

    def find(self, paths: Sequence[str | Path]) -> None:
        """Find the text that these paths mean. Raises ValueError or OSError in plain words."""
        if not paths:
            self._find_default()
            return
        for path in paths:
            if str(path) == "-":
                self._add_stdin()
            else:
                self._add_path(Path(path))
        first = "standard input" if str(paths[0]) == "-" else Path(paths[0]).name or str(paths[0])
        if len(paths) > 1:
            self.name = f"{len(paths)} texts"
        else:
            self.name = first if len(self.files) == 1 else f"{len(self.files)} files in {first}"

    def _find_default(self) -> None:
        """input.txt, tiny Shakespeare from the cache or the network, or Python's manual; a note says which and why."""
        if Path("input.txt").is_file():
            self.name = "input.txt"
            self._note("Text: input.txt in this folder.")
            self._add_path(Path("input.txt"))
            return
        own = "To use your own: put it beside you as input.txt, or name it: minigpt train my.txt"
        cached = cache_folder() / "tinyshakespeare.txt"
        problem = "" if is_shakespeare(cached) else download_shakespeare(cached)
        if not problem:
            self.name = "tiny Shakespeare"
            self._note(f"Text: tiny Shakespeare, from {cached}. {own}.")
            self._add_path(cached)
            return
        try:
            self.string = _python_manual()
        except ImportError:
            raise ValueError(
                f"there is no text to learn from: no input.txt here, tiny Shakespeare is not available ({problem}), and "
                "this Python comes without its manual. Name a text: minigpt train my.txt"
            ) from None
        self.name, self.alphabet = "the Python manual", PRINTABLE_ASCII
        self._note(f"Text: the manual that comes with Python, because tiny Shakespeare is not available ({problem}). {own}.")

    def close(self) -> None:
        for folder in self.temporary:
            folder.cleanup()

    def _add_path(self, path: Path) -> None:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*.txt") if file.is_file())
            if not found:
                raise ValueError(f"the folder {path} has no .txt file in it or below it")
            self.files += found
        elif not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}")
        elif not path.is_file():
            raise ValueError(f"{path} is neither a regular file nor a folder; pipe it: cat {path} | minigpt train -")
        else:
            self.files.append(path)

    def _add_stdin(self) -> None:
        """Keep standard input in a temporary file, because the text is read twice."""
        folder = tempfile.TemporaryDirectory(prefix="minigpt-")
        self.temporary.append(folder)
        copy = Path(folder.name) / "standard input"
        with copy.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        self.files.append(copy)

    def chunks(self) -> Iterator[str]:
        """The text in pieces, decoded, without byte order marks, every line ending in a single \\n."""
        if self.string:
            yield from (self.string[i : i + READ_SIZE] for i in range(0, len(self.string), READ_SIZE))
        last = "\n"
        for file in self.files:
            for i, chunk in enumerate(self._decoded(file)):
                if i == 0 and last != "\n":
                    yield "\n"  # two files never share a line
                yield chunk
                last = chunk[-1]

    def _decoded(self, path: Path) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self.encoding)()
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        offset = 0
        with _open(path) as file:
            while True:
                block = file.read(READ_SIZE)
                waiting = len(decoder.getstate()[0])
                try:
                    text = decoder.decode(block, final=not block)
                except UnicodeError as error:  # of some encodings it does not say where
                    where = offset - waiting + getattr(error, "start", 0)
                    raise ValueError(self._not_text(path, where, block[:4])) from None
                if offset == 0 and text.startswith("\ufeff"):
                    text = text[1:]
                    self._note(f"{self._who(path)}: removed the byte order mark.")
                if "\0" in text:
                    raise ValueError(
                        f"{path} holds a NUL character near byte {offset:,}; it looks like a binary file, not a text"
                    )
                text = newlines.decode(text, final=not block)
                if text:
                    yield text
                if not block:
                    break
                offset += len(block)
        if newlines.newlines not in (None, "\n"):
            self._note(f"{self._who(path)}: turned Windows or old Mac line endings into \\n.")

    def _not_text(self, path: Path, offset: int, head: bytes) -> str:
        hint = "name its encoding, for example --encoding latin-1, if it is a text"
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            hint = "it begins like UTF-16: try --encoding utf-16"
        return f"{path} is not valid {self.encoding}: the byte at offset {offset:,} does not fit; {hint}"

    def _who(self, path: Path) -> str:
        """Whom a note is about, so that a thousand files make one note."""
        return path.name if len(self.files) <= 10 else "Some files"

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _open(path: Path) -> io.BufferedReader:
    """Open a regular file; what has become something else meanwhile, such as a pipe, is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except PermissionError:
        raise PermissionError(f"no permission to read {path}") from None
    file = open(descriptor, "rb")  # noqa: SIM115  the caller closes it
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise ValueError(f"{path} is not a regular file any more")
    return file


def is_shakespeare(path: Path) -> bool:
    """True if the file is tiny Shakespeare, to the last byte. What may not be read is not."""
    try:
        return path.is_file() and sha256(path.read_bytes()) == SHAKESPEARE_SHA256
    except PermissionError:
        return False


def download_shakespeare(path: Path) -> str:
    """Fetch tiny Shakespeare into the cache; what went wrong in words, or nothing."""
    if os.environ.get("MINIGPT_OFFLINE") == "1":
        return "MINIGPT_OFFLINE=1"
    try:
        with urllib.request.urlopen(SHAKESPEARE_URL, timeout=5) as reply:
            data = reply.read(2_000_000)
        if sha256(data) != SHAKESPEARE_SHA256:
            return "the download is not what it should be"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)
    except (OSError, http.client.HTTPException) as error:
        return f"the download failed: {getattr(error, 'reason', error)}"
    return ""


def _python_manual() -> str:
    """Python's language reference as it lies in every full installation, in printable ASCII.

    Its end is easier than its beginning, so every tenth block of 4096 characters is moved to the end, where validation is.
    """
    from pydoc_data.topics import topics

    spelled = str.maketrans(
        {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "--", "…": "...", "°": " deg", "ß": "ss"}
    )
    text = "".join(topics[name] for name in sorted(topics)).translate(spelled)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    text = "".join(char for char in text if char in PRINTABLE_ASCII)
    blocks = [text[i : i + 4096] for i in range(0, len(text), 4096)]
    examined = blocks[9::10]
    del blocks[9::10]
    return "".join(blocks + examined)


# ---- turning it into ids -----------------------------------------------------------------------------------------------


def _scan(text: _Text) -> tuple[str, int, str, int]:
    """Read the text once: its alphabet, its length in characters, its SHA-256, its length in bytes of UTF-8."""
    seen = np.zeros(sys.maxunicode + 1, bool)
    characters, n_bytes, digest = 0, 0, hashlib.sha256()
    for chunk in text.chunks():
        data = _utf8(chunk, text)
        digest.update(data)
        n_bytes += len(data)
        characters += len(chunk)
        codes = np.frombuffer(data, np.uint8) if len(data) == len(chunk) else np.frombuffer(chunk.encode("utf-32-le"), "<u4")
        seen[codes] = True
    if not characters:
        raise ValueError(f"{text.name} is empty; there is nothing to learn from")
    return "".join(map(chr, np.flatnonzero(seen))), characters, digest.hexdigest(), n_bytes


def _utf8(chunk: str, text: _Text) -> bytes:
    """A piece of the text as UTF-8. Raises ValueError for half of a surrogate pair, which some encodings can spell."""
    try:
        return chunk.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"U+{ord(chunk[error.start]):04X}, which is half of a character"
        raise ValueError(f"{text.name} holds {half}; {text.encoding} is not its encoding") from None


def _encode(text: _Text, tokenizer: Tokenizer, n_bytes: int, digest: str, alphabet: str, unknown: str) -> np.ndarray:
    """Read the text again, as ids (at most one a byte): in memory, or if they are many in a file of the cache."""
    dtype = tokenizer.encode("").dtype
    parts = _encoded_chunks(text, tokenizer, digest, alphabet, unknown)
    if n_bytes * dtype.itemsize <= IN_MEMORY:
        return np.concatenate([np.empty(0, dtype), *parts])
    key = sha256(f"{digest} {unknown} {tokenizer.to_hf()['model']['vocab']}".encode())
    path = cache_folder() / "ids" / f"{key[:32]}.{dtype.name}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                for part in parts:
                    part.tofile(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    text.notes.append(f"The ids are kept in {path} ({path.stat().st_size / 2**20:,.0f} MB); you may delete it afterwards.")
    return np.memmap(path, dtype, mode="r")


def _encoded_chunks(text: _Text, tokenizer: Tokenizer, digest: str, alphabet: str, unknown: str) -> Iterator[np.ndarray]:
    """The ids of each piece. Raises ValueError if this is not the text that was read before."""
    changed = ValueError(f"{text.name} changed while it was read; start again when nobody writes to it any more")
    position, again = 0, hashlib.sha256()
    for chunk in text.chunks():
        again.update(_utf8(chunk, text))
        try:
            yield tokenizer.encode(chunk, unknown)
        except UnknownCharacter as error:
            if error.char not in alphabet:
                raise changed from None
            raise UnknownCharacter(error.char, position + error.position, error.vocab_size) from None
        position += len(chunk)
    if again.hexdigest() != digest:
        raise changed
