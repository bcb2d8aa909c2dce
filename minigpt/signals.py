"""Ctrl-C and SIGTERM while no model is trained: the program ends, without a traceback, with exit code 130 or 143.

Light, so that it is there before anything else is loaded. In a training they wait for the end of the step (console.py), but
for what takes long and leaves nothing behind when it is given up: that is interruptible().

Next: cores.py
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal came. Not KeyboardInterrupt itself: where that leaves code that was run from a string, of which torch has
    some, Python ends by SIGINT and not with our exit code, even if it was caught. Source: CPython, Python/pythonrun.c.
    """


def quit_at_once() -> None:
    """Let a signal end the process from now on, whatever it does: for when there is nothing that it could leave undone."""
    _heed(_quit)


def end_undisturbed() -> None:
    """Let signals pass from now on: all is done, and what a program still does to end must not change its exit code."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


_given_up = {"may be": False, "was": False, "is wanted": False}  # what is going on now


@contextmanager
def interruptible() -> Iterator[None]:
    """What takes long here may be given up: interrupt() ends it with KeyboardInterrupt, even if somebody catches that."""
    _given_up.update({"may be": True, "was": False})
    try:
        yield
    finally:
        _given_up["may be"] = False
    if _given_up["was"]:
        raise Interrupted


def interrupt() -> None:
    """For whoever handles a signal: raise KeyboardInterrupt where that is allowed now, else remember that it came."""
    _given_up["is wanted"] = True
    if _given_up["may be"]:
        _given_up["was"] = True
        raise Interrupted


def not_begun_if_interrupted() -> None:
    """Raise KeyboardInterrupt if interrupt() was called: for whoever is about to begin with what takes long."""
    if _given_up["is wanted"]:
        raise Interrupted


def nothing_interrupted() -> None:
    """From here on, interrupt() was never called."""
    _given_up["is wanted"] = False


@contextmanager
def quit_in_order() -> Iterator[None]:
    """Let a signal be raised where the program is, as KeyboardInterrupt or SystemExit, so that it can tidy up."""
    before = [signal.getsignal(number) for number in SIGNALS]
    _heed(_raise)
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def _heed(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


def _quit(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> None:
    if _loading(frame):  # large libraries take no exception well while they are loaded: some report it as another one
        _quit(number, frame)
    if number == signal.SIGINT:
        raise Interrupted
    raise SystemExit(128 + number)


def _loading(frame: FrameType | None) -> bool:
    """True if a module is being imported here."""
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None
