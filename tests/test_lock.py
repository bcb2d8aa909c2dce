import os
import subprocess
import sys

import pytest

from minigpt.lock import LOCK, InUse, check_free, hold, still_held

HOLD = """
import sys, time
from pathlib import Path
from minigpt.lock import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path):
    """Another process that has the folder."""
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_kept_out_and_told_who_has_the_folder(tmp_path, owner):
    for ask in (hold, check_free):
        with pytest.raises(InUse, match=f"in use by process {owner.pid};"):
            ask(tmp_path)
    assert not still_held(tmp_path)


def test_a_folder_is_free_as_soon_as_its_owner_was_killed(tmp_path, owner):
    owner.kill()
    owner.wait()
    check_free(tmp_path)
    hold(tmp_path)
    assert still_held(tmp_path)
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"


def test_asking_takes_nothing(tmp_path):
    (tmp_path / LOCK).write_text("1\n")  # of a process that was killed long ago
    check_free(tmp_path)
    assert not still_held(tmp_path)
    assert (tmp_path / LOCK).read_text() == "1\n"


def test_an_owner_may_take_its_folder_again_by_any_name(tmp_path, monkeypatch):
    hold(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    for name in (tmp_path, tmp_path / ".." / tmp_path.name, type(tmp_path)(tmp_path.name)):
        hold(name)
        check_free(name)
        assert still_held(name)


@pytest.mark.parametrize("how", ["removed", "renamed", "made anew"])
def test_a_folder_that_is_not_there_any_more_is_not_held(tmp_path, how):
    folder = tmp_path / "run"
    folder.mkdir()
    hold(folder)
    if how == "removed":
        (folder / LOCK).unlink()
        folder.rmdir()
    else:
        folder.rename(tmp_path / "elsewhere")
    if how == "made anew":
        folder.mkdir()
        (folder / LOCK).touch()
    assert not still_held(folder)


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
def test_of_many_that_ask_for_a_free_folder_at_once_each_gets_its_own(tmp_path):
    """As two `python gpt.py` do that are started at the same moment."""
    code = """
import os, time
from minigpt.checkpoint import free_folder
for i in range(6):
    if not os.fork():
        time.sleep(0.05)
        os.write(1, f"{free_folder('runs/gpt')}\\n".encode())
        time.sleep(1)
        os._exit(0)
for i in range(6): os.wait()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert sorted(done.stdout.split()) == ["runs/gpt", *(f"runs/gpt-{i}" for i in range(2, 7))]


def test_an_owner_that_has_not_written_its_number_yet_is_waited_for(tmp_path):
    """It takes the lock, and writes later; what stands there is of an owner that has died."""
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    (tmp_path / LOCK).write_text(dead.stdout)
    code = f"""
import fcntl, os, time
d = os.open({str(tmp_path / LOCK)!r}, os.O_RDWR)
fcntl.flock(d, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(0.5)
os.ftruncate(d, 0)
os.pwrite(d, str(os.getpid()).encode(), 0)
time.sleep(30)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as slow:
        assert slow.stdout
        slow.stdout.readline()
        try:
            with pytest.raises(InUse, match=f"in use by process {slow.pid};"):
                hold(tmp_path)
        finally:
            slow.kill()


@pytest.mark.skipif(os.name == "nt", reason="links are rare on Windows")
@pytest.mark.parametrize("make", [lambda path, victim: path.symlink_to(victim), lambda path, victim: path.mkdir()])
def test_a_lock_that_is_none_is_refused_and_nothing_is_written_through_it(tmp_path, make):
    """A folder may come from anyone."""
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    victim.write_text("precious")
    folder.mkdir()
    make(folder / LOCK, victim)
    for ask in (hold, check_free):
        with pytest.raises(ValueError, match="not a regular file"):
            ask(folder)
    assert victim.read_text() == "precious"
