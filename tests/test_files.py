import os

import pytest

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
