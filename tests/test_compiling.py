import contextlib
import os
import subprocess
import sys

import pytest

from minigpt.compiling import FOLDER, MARK, interrupt, whole_libraries


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path / "libraries"))
    return tmp_path / "libraries"


@pytest.fixture
def dead() -> str:
    """The number of a process that is gone."""
    show = [sys.executable, "-c", "import os; print(os.getpid())"]
    return subprocess.run(show, capture_output=True, text=True, check=True).stdout.strip()


def begin(folder, process):
    """What a process leaves that has begun to compile there, and not ended."""
    folder.mkdir(exist_ok=True)
    (folder / f"{MARK}{process}").touch()
    (folder / "half.so").touch()


def test_a_mark_stands_as_long_as_something_is_compiled(base):
    with whole_libraries():
        assert os.environ[FOLDER] == str(base)
        assert [path.name for path in base.iterdir()] == [f"{MARK}{os.getpid()}"]
    assert not list(base.iterdir())


def test_the_mark_stays_after_an_interruption_and_the_next_one_finds_an_empty_folder(base):
    compiling = whole_libraries()
    compiling.__enter__()
    (base / "half.so").touch()
    compiling.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert (base / "half.so").exists()
    with whole_libraries():
        assert not (base / "half.so").exists()


def test_after_a_kill_the_folder_is_emptied(base, dead):
    begin(base, dead)
    with whole_libraries():
        assert os.environ[FOLDER] == str(base)
        assert not (base / "half.so").exists()


def test_who_compiles_there_now_is_not_disturbed(base, dead):
    begin(base, os.getppid())
    with whole_libraries():
        assert os.environ[FOLDER] == str(base)
        assert (base / "half.so").exists()
    begin(base, dead)  # now it is in doubt, and in use
    with whole_libraries():
        assert os.environ[FOLDER] == f"{base}-2"
        assert (base / "half.so").exists()


def test_where_nothing_can_be_written_torch_does_as_it_likes(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(FOLDER, str(tmp_path / "file" / "libraries"))
    with whole_libraries():
        assert os.environ[FOLDER] == str(tmp_path / "file" / "libraries")


def test_an_interruption_ends_compiling_even_if_somebody_holds_it_up(base):
    interrupt()  # nothing is compiled now
    with pytest.raises(KeyboardInterrupt), whole_libraries(), contextlib.suppress(KeyboardInterrupt):
        interrupt()
    assert list(base.glob(f"{MARK}*"))
    interrupt()
