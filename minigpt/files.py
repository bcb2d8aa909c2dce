"""Files that are never half written, folders that say when they are damaged, and doubt about whatever is read.

A file is written under a temporary name, flushed to the disk and renamed: whoever looks sees the old one or the new one.
A folder of files gets a manifest with the size and SHA-256 of each, and is renamed into place as a whole. A file that is
read may come from anyone: it has to be a regular file of its folder, of a believable size, and hold what it should.

Next: lock.py
"""

import errno
import hashlib
import json
import mmap
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
LARGEST_JSON = 1 << 26  # bytes; an alphabet of every character that there is takes a third of it
LARGEST_HEADER = 1 << 22  # bytes of the names and shapes in a file of weights; a GPT of 1,000 blocks takes a third of it
ESCAPED = "backslashreplace"  # what no UTF-8 can be, such as a byte of a strange file name, is escaped as JSON does it
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_folder() -> Path:
    """Where downloads, large arrays of ids and compiled libraries are kept: MINIGPT_HOME, or the platform's cache folder."""
    from platformdirs import user_cache_path  # here, so that whoever needs no cache waits for nothing

    return Path(os.environ.get("MINIGPT_HOME") or user_cache_path("minigpt"))


# ---- writing -----------------------------------------------------------------------------------------------------------


def write_file(path: Path, data: bytes | str) -> None:
    """Replace the file as a whole: temporary name, fsync, rename, fsync of the folder.

    Raises OSError naming the bytes that are needed and free, if the disk is full; the old file is still there then.
    """
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}.tmp")  # a character takes up to 4 of 255 bytes
    temporary.unlink(missing_ok=True)  # of a process that had this number, or a link that somebody laid
    try:
        _write_and_sync(temporary, data.encode("utf-8", "replace") if isinstance(data, str) else data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_folder(path: Path, files: dict[str, bytes]) -> None:
    """Write a folder of files with a manifest.json, and rename it into place once all of it is on the disk.

    What is at `path` already is replaced, and is gone for a moment; call this only if it is worth nothing.
    Raises OSError as write_file does, and leaves nothing behind then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        temporary.mkdir()
        for name, data in files.items():
            _write_and_sync(temporary / name, data)
        _write_and_sync(temporary / MANIFEST, to_json({"format": 1, "files": _entries(files)}))
        _sync_folder(temporary)
        if path.exists():  # left over, damaged
            shutil.rmtree(path)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def write_into(folder: Path, files: dict[str, bytes]) -> None:
    """Replace some files of a folder that has a manifest, or is to get one.

    While this lasts, the manifest knows what each file was before too: wherever it is interrupted, every file is one of
    the two, and none of them is taken for damaged.
    """
    listed = _there(folder) if (folder / MANIFEST).exists() else {}
    coming = _entries(files)
    after = {"format": 1, "files": listed | coming}
    write_file(folder / MANIFEST, to_json(after | {"before": {name: listed.get(name) for name in coming}}))
    for name, data in files.items():
        write_file(folder / name, data)
    write_file(folder / MANIFEST, to_json(after))


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add one JSON object as a line to a .jsonl file."""
    _write(path, (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", ESCAPED), os.O_APPEND, sync=False)


def sync_file(path: Path) -> None:
    """Bring what was appended to a file to the disk."""
    _sync(path, os.O_RDWR)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, durably. Does nothing if it is there."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed in the middle of writing here left behind. Only for the owner of the folder."""
    for path in folder.glob(".*.tmp"):
        _remove(path)


def _remove(path: Path) -> None:
    """A file, a folder or a link, if it is there; never what a link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder so that no half of it can be taken for the whole: it loses its name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    os.rename(path, temporary)
    shutil.rmtree(temporary)


def check_space(folder: Path, need: int) -> None:
    """Raise OSError unless so many bytes are free where the folder is, or will be."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < need:
        raise OSError(errno.ENOSPC, f"no space left: {need:,} bytes are needed and {free:,} are free", str(folder))


# ---- reading -----------------------------------------------------------------------------------------------------------


def damage(folder: Path, names: Iterable[str] | None = None) -> str:
    """What is wrong with a folder that has a manifest, in words; nothing if every file is as the manifest says.

    names: look at these only, as far as they are listed.
    """
    try:
        manifest = _listed(folder)
        for name, expected in manifest["files"].items():
            if names is not None and name not in names:
                continue
            before = manifest["before"]
            if name in before and before[name] is None and not os.path.lexists(folder / name):
                continue  # about to be written for the first time
            found = _entry_of(folder / name)
            if found in (expected, before.get(name)):
                continue
            if found["size"] != expected["size"]:
                return f"{name} has {found['size']:,} bytes instead of {expected['size']:,}"
            digests = f"{found['sha256'][:12]} instead of {printable(expected['sha256'][:12])}"
            return f"{name} is not what was written (its SHA-256 is {digests})"
    except (OSError, ValueError) as error:
        return f"its manifest or a file cannot be read ({error})"
    return ""


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises ValueError for a link that leaves the folder, or what is no file."""
    return checked(path).read_bytes()


def checked(path: Path) -> Path:
    """The path itself, if a regular file is there, in this very folder. Raises ValueError or FileNotFoundError otherwise."""
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(path.parent)):
        raise ValueError(f"{path} is a link that leaves its folder")
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    return path


def read_lines(path: Path, fits: Callable[[dict[str, Any]], bool] = lambda record: True) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, up to a line that was cut off by a crash, or that is none of those that fit."""
    records: list[dict[str, Any]] = []
    for line in read_bytes(path).split(b"\n") if os.path.lexists(path) else []:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(record, dict) or not fits(record):
            break
        records.append(record)
    return records


def to_json(value: Any) -> bytes:
    """Readable JSON, the same bytes for the same value."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", ESCAPED)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError in plain words if the file holds anything else."""
    if (size := checked(path).stat().st_size) > LARGEST_JSON:
        raise ValueError(f"{path} has {size:,} bytes; no file of this kind is larger than {LARGEST_JSON:,}")
    try:
        value = json.loads(path.read_bytes(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({printable(str(error))[:200]})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object, not a {type(value).__name__}")
    return value


def read_tensors(path: Path, expected: dict[str, tuple[int, ...]] | None = None, at_most: int = 0) -> dict[str, Any]:
    """Read a .safetensors file as torch tensors by name. Raises ValueError in plain words if it is damaged.

    expected: the shape of each float32 tensor that has to be there, and nothing else may be. The size of the file, the
    length of its header, names, shapes and types are compared before any tensor is read.
    at_most: where nothing is expected, so many tensors; 0 = any number.
    """
    import safetensors.torch  # here, so that reading JSON and text needs no torch

    with _whole_tensors(path, expected):
        if at_most and (count := _count_tensors(path)) > at_most:
            raise ValueError(f"{path} has {count:,} tensors; a model of this shape has at most {at_most:,}")
        try:
            str(path).encode()
        except UnicodeEncodeError:  # a name that is no UTF-8, which this library cannot open
            return safetensors.torch.load(path.read_bytes())
        return safetensors.torch.load_file(path)


def map_tensors(path: Path, expected: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The same as NumPy arrays that stay in the file: what is not looked at is not read. They cannot be written to."""
    import numpy as np

    with _whole_tensors(path, expected), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length % 8:  # so that float32 begins where the processor wants it, and every writer of such files does so
            raise ValueError(f"{path} is not a whole safetensors file (its tensors begin at an odd place)")
        header = json.loads(file.read(length))
        data = np.memmap(file, np.uint8, "r", offset=8 + length)
    places = {name: slice(*header[name]["data_offsets"]) for name in expected}
    return {name: data[place].view("<f4").reshape(expected[name]) for name, place in places.items()}


def unload(array: Any) -> None:
    """Give the memory of an array of map_tensors, or of its transpose, back to the system.

    Whoever looks at it again reads the file again. Other arrays, and systems that know no such thing, stay as they are.
    """
    import numpy as np

    file = array
    while isinstance(file, np.ndarray):
        file = file.base
    if isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        begin = array.ctypes.data - np.frombuffer(file, np.uint8).ctypes.data
        first, past = -(-begin // mmap.PAGESIZE), (begin + array.nbytes) // mmap.PAGESIZE  # whole pages, of this array alone
        if past > first:
            file.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (past - first) * mmap.PAGESIZE)


@contextmanager
def _whole_tensors(path: Path, expected: dict[str, tuple[int, ...]] | None) -> Iterator[None]:
    """Doubt a .safetensors file before it is read, and say in plain words what is wrong with it."""
    import safetensors

    try:
        with checked(path).open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            if not header or header + 8 > path.stat().st_size:
                raise ValueError(f"{path} is not a whole safetensors file")
            if header > LARGEST_HEADER:
                raise ValueError(
                    f"{path} is no file of weights, or one of a million tensors (its header has {header:,} bytes)"
                )
        if expected is not None:
            _check_header(path, expected)
        yield
    except (safetensors.SafetensorError, OverflowError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({printable(str(error))[:200]})") from None


def sha256(data: bytes) -> str:
    """The SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def printable(text: str) -> str:
    """Text of an unknown hand, for a terminal: what is not printable, such as a control sequence, becomes a "?"."""
    return "".join(char if char.isprintable() else "?" for char in text)


def without_controls(text: str) -> str:
    """Text for a terminal, as it is but for control characters: only line ends and tabs are left, others become a "?"."""
    return "".join(char if char in "\n\t" or unicodedata.category(char) != "Cc" else "?" for char in text)


# ---- underneath --------------------------------------------------------------------------------------------------------


def _count_tensors(path: Path) -> int:
    import safetensors

    with safetensors.safe_open(path, "np") as file:
        return len(file.keys())


def _check_header(path: Path, expected: dict[str, tuple[int, ...]]) -> None:
    import safetensors

    numbers = {name: _product(shape) for name, shape in expected.items()}
    size, longest = path.stat().st_size, 4096 + sum(200 + len(name) for name in expected)
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    implied = 8 + header + 4 * sum(numbers.values())
    if header > longest or size != implied:
        raise ValueError(
            f"{path} has {size:,} bytes; these weights take {implied if header <= longest else 'other':,} bytes"
        )
    with safetensors.safe_open(path, "np") as file:
        names = set(file.keys())
        faults = [f"{name} is missing" for name in expected if name not in names]
        faults += [f"{printable(name)[:80]} is not part of this model" for name in sorted(names - expected.keys())]
        for name in names & expected.keys():
            part = file.get_slice(name)
            shape, kind = tuple(part.get_shape()), part.get_dtype()
            if (shape, kind) != (expected[name], "F32"):
                faults.append(f"{name} is {kind} {str(shape)[:80]} and should be F32 {expected[name]}")
    if faults:
        raise ValueError(f"{path} does not fit the configuration: {'; '.join(faults[:3])}")


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _entry(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": sha256(data)}


def _entry_of(path: Path) -> dict[str, Any]:
    """The same of a file, which is not read into memory as a whole."""
    with checked(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": file.tell(), "sha256": digest}


def _entries(files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    return {name: _entry(data) for name, data in files.items()}


def _listed(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, if it is one that this package writes. Raises ValueError otherwise."""
    path = folder / MANIFEST
    manifest = {"before": {}} | read_json(path)
    files, before = manifest.get("files"), manifest["before"]
    if manifest.keys() != {"format", "files", "before"} or manifest["format"] != 1:
        raise ValueError(f"{path} is no manifest of format 1")
    if not isinstance(files, dict) or not isinstance(before, dict) or not before.keys() <= files.keys():
        raise ValueError(f"{path} is damaged")
    for name, entry in (*files.items(), *before.items()):
        kinds = {key: type(value) for key, value in entry.items()} if isinstance(entry, dict) else {}
        new = entry is None and name in before
        if Path(name).name != name or not (new or kinds == {"size": int, "sha256": str}):
            raise ValueError(f"{path} is damaged where it lists {printable(name)[:100]}")
    return manifest


def _there(folder: Path) -> dict[str, Any]:
    """The files of a manifest by name; of one whose replacement was interrupted, the version that is there."""
    manifest = _listed(folder)
    there: dict[str, Any] = manifest["files"]
    for name, before in manifest["before"].items():
        if not os.path.lexists(folder / name):
            del there[name]
        elif before == _entry_of(folder / name):
            there[name] = before
    return there


def _write_and_sync(path: Path, data: bytes) -> None:
    _write(path, data, os.O_EXCL, sync=True)


def _write(path: Path, data: bytes, how: int, sync: bool) -> None:
    how |= getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if sync:
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = shutil.disk_usage(path.parent).free
        message = f"no space left: {len(data):,} bytes are needed for {path.name} and {free:,} are free"
        raise OSError(error.errno, message, str(path.parent)) from None
    finally:
        os.close(descriptor)


def _sync(path: Path, how: int) -> None:
    descriptor = os.open(path, how)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder durable. Windows cannot open folders and needs no such call."""
    if os.name != "nt":
        _sync(folder, os.O_RDONLY)
