import errno
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from minigpt import files


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_file(path, "old")
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        files.write_file(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_appears_complete_or_not_at_all(tmp_path, monkeypatch):
    def full(path, data):
        if path.name == "b":
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(files, "_write_and_sync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_folder(tmp_path / "step", {"a": b"1", "b": b"2"})
    assert os.listdir(tmp_path) == []


def test_data_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    """The order that a power cut needs: fsync of the file, rename, fsync of the folder."""
    calls = []
    for name in ("fsync", "replace", "rename"):
        original = getattr(os, name)
        monkeypatch.setattr(
            files.os, name, lambda *args, name=name, original=original: (calls.append(name), original(*args))
        )
    files.write_file(tmp_path / "a", b"1")
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("change", ["shorter", "flipped", "gone", "no manifest"])
def test_damage_is_told(tmp_path, change):
    step = tmp_path / "step"
    files.write_folder(step, {"a": b"hello", "b": b"world"})
    assert files.damage(step) == ""
    if change == "shorter":
        (step / "a").write_bytes(b"hell")
    elif change == "flipped":
        (step / "a").write_bytes(b"hellO")
    elif change == "gone":
        (step / "a").unlink()
    else:
        (step / "manifest.json").write_text("[]")
    assert files.damage(step)


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    for i in range(3):
        files.append_line(path, {"step": i, "text": "é\n\u2028\x85"})
    path.write_bytes(path.read_bytes()[:-4])
    assert [line["step"] for line in files.read_lines(path)] == [0, 1]


def test_json_that_is_not_an_object_is_refused_by_name(tmp_path):
    path = tmp_path / "config.json"
    for content in ("[]", "{", '"text"', "[" * 100_000):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"config\.json"):
            files.read_json(path)


# ---- some files of a folder that has a manifest ------------------------------------------------------------------------

OLD, NEW = {"a": b"old", "b": b"old too"}, {"a": b"new", "b": b"new too"}


class Killed(BaseException):
    """What a kill is to a test."""


def interrupted(monkeypatch, after, folder, contents) -> bool:
    """write_into, ended after so many files were written; True if there were as many."""
    write, left = files.write_file, after

    def write_some(path, data):
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        write(path, data)

    monkeypatch.setattr(files, "write_file", write_some)
    try:
        files.write_into(folder, contents)
    except Killed:
        return True
    finally:
        monkeypatch.setattr(files, "write_file", write)
    return False


@pytest.mark.parametrize("before", [{}, OLD], ids=["new files", "files replaced"])
@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("second", range(4))
def test_files_that_are_replaced_are_never_taken_for_damaged_however_often_that_is_interrupted(
    tmp_path, monkeypatch, before, first, second
):
    files.write_into(tmp_path, {"other": b"fixed"} | before)
    assert interrupted(monkeypatch, first, tmp_path, NEW)
    assert files.damage(tmp_path) == ""
    for contents in ({"a": b"newer still", "b": b"and this"}, {"other": b"fixed"}):
        interrupted(monkeypatch, second, tmp_path, contents)
        assert files.damage(tmp_path) == ""
    files.write_into(tmp_path, NEW)
    assert {name: (tmp_path / name).read_bytes() for name in NEW} == NEW
    assert files.read_json(tmp_path / "manifest.json").keys() == {"format", "files"}
    (tmp_path / "a").write_bytes(b"old")
    assert files.damage(tmp_path).startswith("a is not what was written")


def test_a_folder_loses_its_name_before_it_loses_a_file(tmp_path, monkeypatch):
    folder = tmp_path / "step"
    files.write_folder(folder, {"a": b"1"})
    monkeypatch.setattr(files.shutil, "rmtree", lambda path: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        files.remove_folder(folder)
    monkeypatch.undo()
    assert not folder.exists()
    files.remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".step-1.7.tmp").mkdir()
    (tmp_path / ".step-1.7.tmp" / "a").touch()
    for name in (".a.7.tmp", "a.tmp", ".lock", "a"):
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".lock", "a", "a.tmp"]


def test_space_is_asked_for_where_the_folder_will_be(tmp_path, monkeypatch):
    asked = []

    def disk_usage(path):
        asked.append(path)
        return SimpleNamespace(free=999)

    monkeypatch.setattr(files.shutil, "disk_usage", disk_usage)
    files.check_space(tmp_path / "not" / "yet", 999)
    with pytest.raises(OSError, match="no space left: 1,000 bytes are needed and 999 are free"):
        files.check_space(tmp_path / "not" / "yet", 1000)
    assert asked == [tmp_path, tmp_path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_in_bytes_and_leaves_nothing(tmp_path, monkeypatch, number):
    def write(descriptor, data):
        raise OSError(number, "as the system says it")

    monkeypatch.setattr(files.os, "write", write)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: SimpleNamespace(free=12))
    for attempt in (
        lambda: files.write_file(tmp_path / "a", b"12345"),
        lambda: files.write_folder(tmp_path / "step", {"a": b"12345"}),
    ):
        with pytest.raises(OSError, match="no space left: 5 bytes are needed for"):
            attempt()
    assert os.listdir(tmp_path) == []


def test_a_write_that_takes_only_a_part_is_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(files.os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    files.write_file(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_folders_are_made_with_those_above_them_each_of_them_durably(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "_sync_folder", synced.append)
    for _ in range(2):
        files.make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]


@pytest.mark.skipif(os.name == "nt", reason="links are rare on Windows")
def test_nothing_is_written_through_a_link_that_somebody_laid(tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    victim.write_text("precious")
    folder.mkdir()
    (folder / f".a.txt.{os.getpid()}.tmp").symlink_to(victim)
    (folder / f".b.{os.getpid()}.tmp").symlink_to(tmp_path)
    (folder / "a.txt").symlink_to(victim)
    (folder / "log.jsonl").symlink_to(victim)
    files.write_file(folder / "a.txt", b"mine")
    files.write_folder(folder / "b", {"c": b"mine"})
    with pytest.raises(OSError, match="symbolic links"):
        files.append_line(folder / "log.jsonl", {})
    assert (folder / "a.txt").read_bytes() == (folder / "b" / "c").read_bytes() == b"mine"
    assert victim.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "victim"]


def resident(what: str) -> int:
    """Bytes of the memory of this process that are `what`: RssAnon or RssFile."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(what)))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell how much memory is used")
def test_arrays_that_were_looked_at_can_be_unloaded_and_looked_at_again(tmp_path):
    tensors = {name: np.random.default_rng(i).normal(size=(1000, 4001)).astype(np.float32) for i, name in enumerate("ab")}
    save_file(tensors, tmp_path / "w.safetensors")
    arrays = files.map_tensors(tmp_path / "w.safetensors", dict.fromkeys(tensors, (1000, 4001)))
    sums = {name: array.sum() for name, array in arrays.items()}
    before = resident("RssFile")
    files.unload(arrays["a"].T)
    files.unload(tensors["b"])  # no file is behind it
    assert before - resident("RssFile") == pytest.approx(16e6, rel=0.01)
    for name, array in arrays.items():
        assert array.sum() == sums[name]
        np.testing.assert_array_equal(array, tensors[name])
