import contextlib
import os
import subprocess
import sys

import pytest
import torch

from minigpt.compiling import FOLDER, MARK, OURS, compiled, whole_libraries
from minigpt.signals import interrupt, nothing_interrupted


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path / OURS


def begin(folder):
    """What a process leaves that began to compile there, and was killed."""
    folder.mkdir(exist_ok=True)
    (folder / f"{MARK}dead").touch()
    (folder / "half.so").touch()


@pytest.fixture
def other(base):
    """Another process that compiles there."""
    code = "from minigpt.compiling import whole_libraries\nwith whole_libraries(): print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"1\n"
        (base / "whole.so").touch()
        yield process
        process.kill()


def test_a_mark_stands_as_long_as_something_is_compiled(base):
    with whole_libraries():
        assert os.environ[FOLDER] == str(base)
        assert [path.name.startswith(MARK) for path in base.iterdir()] == [True]
        (base / "whole.so").touch()
    with whole_libraries():  # in the same folder, not in one inside it
        assert os.environ[FOLDER] == str(base)
        assert (base / "whole.so").exists()
    assert [path.name for path in base.iterdir()] == ["whole.so"]


def test_the_mark_stays_after_an_interruption_and_the_next_one_finds_an_empty_folder(base):
    compiling = whole_libraries()
    compiling.__enter__()
    (base / "half.so").touch()
    compiling.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert (base / "half.so").exists()
    with whole_libraries():
        assert not (base / "half.so").exists()


def test_after_a_kill_the_folder_is_emptied_and_nothing_else(base, other):
    (base.parent / "thesis.tex").touch()
    other.kill()
    other.wait()
    with whole_libraries():
        assert os.environ[FOLDER] == str(base)
        assert not (base / "whole.so").exists()
        assert (base.parent / "thesis.tex").exists()


@pytest.mark.usefixtures("other")
def test_who_compiles_there_now_is_not_disturbed(base):
    with whole_libraries():
        assert os.environ[FOLDER] == str(base)
        assert (base / "whole.so").exists()
    begin(base)  # now it is in doubt, and in use
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


def test_who_was_interrupted_before_begins_with_no_compiling(monkeypatch):
    """A signal may come while torch's compiler is loaded, which is not given up; what follows would take half a minute."""
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("it was begun"))
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        compiled(torch.nn.Linear(2, 2), lambda model: None)
    nothing_interrupted()
    with pytest.raises(pytest.fail.Exception, match="it was begun"):
        compiled(torch.nn.Linear(2, 2), lambda model: None)
