import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
BOTH = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


def python(code: str, *arguments: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


@BOTH
def test_at_once_means_before_anything_else_is_done(number, code):
    done = python("""
import os, sys
from minigpt.signals import quit_at_once
quit_at_once()
try:
    os.kill(os.getpid(), int(sys.argv[1]))
finally:
    print("not at once")
""", number.value)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@BOTH
def test_in_order_means_that_everybody_may_tidy_up(number, code):
    done = python("""
import os, sys
from minigpt.signals import quit_in_order
with quit_in_order():
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        print("tidy")
""", number.value)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, "tidy\n", "")


@BOTH
@pytest.mark.parametrize("given_up", [True, False])
def test_an_interruption_that_was_caught_does_not_change_how_a_program_ends(tmp_path, number, code, given_up):
    """Python would end with -2, by SIGINT: it has seen a KeyboardInterrupt leave code that was a string."""
    heed = "with interruptible():" if given_up else "with quit_in_order():"
    (tmp_path / "interrupted.py").write_text(f"""
import os, signal
from minigpt.signals import interrupt, interruptible, quit_in_order
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: interrupt())
try:
    {heed}
        exec("os.kill(os.getpid(), {number.value}); 1")
except (KeyboardInterrupt, SystemExit):
    raise SystemExit({code})
""")
    done = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == code


@BOTH
def test_a_signal_while_a_program_that_is_done_ends_does_not_change_how_it_ended(number, code):
    done = python("""
import atexit, os, sys
import minigpt.__main__
atexit.register(os.kill, os.getpid(), int(sys.argv.pop()))
sys.argv.append("--version")
minigpt.__main__.main()
""", number.value)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_signals_are_heeded_before_anything_heavy_is_loaded():
    done = python("""
import signal, sys, types
import minigpt.__main__
def main():
    print(signal.getsignal(signal.SIGINT).__name__, signal.getsignal(signal.SIGTERM).__name__, "click" in sys.modules)
sys.modules["minigpt.cli"] = types.SimpleNamespace(main=main)
minigpt.__main__.main()
""")
    assert (done.stdout, done.stderr) == ("_quit _quit False\n", "")


def test_what_was_before_is_so_again_afterwards():
    from minigpt.signals import SIGNALS, quit_in_order

    before = [signal.getsignal(number) for number in SIGNALS]
    with quit_in_order():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


@BOTH
def test_a_library_that_is_being_loaded_cannot_turn_the_signal_into_something_else(number, code, tmp_path):
    (tmp_path / "library.py").write_text(f"""
import os
try:
    os.kill(os.getpid(), {number.value})
except BaseException:
    raise ImportError("a part of me is missing")
""")
    done = python("""
from minigpt.signals import quit_in_order
with quit_in_order():
    import library
""", cwd=tmp_path)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@BOTH
@pytest.mark.parametrize("after", [0.0, 0.2])
def test_a_program_that_is_still_loading_ends_without_a_word(number, code, after, text_file, tmp_path):
    command = [sys.executable, "-m", "minigpt", "train", str(text_file), "--out", "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until_heeded(process.pid)
        time.sleep(after)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", "")
    assert not (tmp_path / "run").exists()


def wait_until_heeded(pid: int) -> None:
    """Until a process catches SIGTERM; where the system does not tell, half a second."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        time.sleep(0.5)
        return
    caught = 0
    while not caught >> (signal.SIGTERM - 1) & 1:
        caught = next(int(line.split()[1], 16) for line in status.read_text().splitlines() if line.startswith("SigCgt"))
