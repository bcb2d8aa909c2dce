"""Files that are never half written, and folders that say when they are damaged.

A file is written under a temporary name, flushed to the disk and renamed: whoever looks sees the old one or the new one.
A folder of files gets a manifest with the size and SHA-256 of each, and is renamed into place as a whole.

Next: tokenizer.py
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any


def write_file(path: Path, data: bytes | str) -> None:
    """Replace the file as a whole: temporary name, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        for name, data in files.items():
            _write_and_sync(temporary / name, data)
        manifest = {name: {"size": len(data), "sha256": sha256(data)} for name, data in files.items()}
        _write_and_sync(temporary / "manifest.json", to_json({"format": 1, "files": manifest}))
        _sync_folder(temporary)
        if path.exists():  # left over, damaged
            shutil.rmtree(path)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def damage(folder: Path) -> str:
    """What is wrong with a folder that write_folder wrote, in words; nothing if every file is as its manifest says."""
    try:
        files = read_json(folder / "manifest.json")["files"]
        for name, expected in files.items():
            data = (folder / name).read_bytes()
            if len(data) != expected["size"]:
                return f"{name} has {len(data)} bytes instead of {expected['size']}"
            if sha256(data) != expected["sha256"]:
                return f"{name} is not what was written (its SHA-256 differs)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest or a file cannot be read ({error})"
    return ""


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add one JSON object as a line to a .jsonl file."""
    with path.open("a", encoding="utf-8", errors="replace", newline="\n") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a last line that was cut off by a crash is left out."""
    records = []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            break
        records.append(record)
    return records


def to_json(value: Any) -> bytes:
    """Readable JSON, the same bytes for the same value."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError in plain words if the file holds anything else."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object, not a {type(value).__name__}")
    return value


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a .safetensors file as torch tensors by name. Raises ValueError in plain words if it is damaged."""
    import safetensors.torch  # here, so that reading JSON and text needs no torch

    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from None


def sha256(data: bytes) -> str:
    """The SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _write_and_sync(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder durable. Windows cannot open folders and needs no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
