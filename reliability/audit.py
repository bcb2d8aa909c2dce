"""Notice when the package executes what it read: a hook for the audit events of Python.

    audit.install()         from now on, in this process, for good
    audit.caught            what was noticed, each as "pickle.find_class by minigpt/files.py:12"

What the package does on purpose is allowed by name: it downloads one text, compiles its own C file, and imports the file of
a learner who asks for it. What happens while a module is imported, or while torch compiles a model, is their own affair.
"""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import minigpt

PACKAGE = str(Path(minigpt.__file__).parent)
ANYWHERE_BELOW = {  # forbidden, however many libraries are between the package and it
    "pickle.find_class", "marshal.load", "marshal.loads", "os.system", "os.exec", "os.posix_spawn", "os.spawn",
    "subprocess.Popen", "socket.connect", "ctypes.dlopen", "shelve.open", "webbrowser.open",
}  # fmt: skip
DIRECTLY = {"exec", "compile"}  # forbidden to the package itself; libraries make classes so
ON_PURPOSE = {
    ("socket.connect", "corpus.py"),
    ("subprocess.Popen", "native_engine.py"),
    ("os.posix_spawn", "native_engine.py"),
    ("ctypes.dlopen", "native_engine.py"),
    ("ctypes.dlopen", "speed.py"),
    ("exec", "learner.py"),
    ("compile", "learner.py"),
}
OWN_AFFAIR = ("<frozen importlib", "/torch/_dynamo/", "/torch/_inductor/", "/torch/cuda/")  # the last: looks for a driver

caught: list[str] = []
_installed = False


class Executed(BaseException):
    """The package was about to execute something. No `except Exception` hides it."""


def install() -> None:
    """Watch this process. There is no way to stop."""
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_hook)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event not in ANYWHERE_BELOW and event not in DIRECTLY:
        return
    if place := _culprit(event, sys._getframe(1)):
        caught.append(f"{event} by {place}")
        raise Executed(caught[-1])


def _culprit(event: str, frame: FrameType | None) -> str:
    """The line of the package that caused an event; nothing if it was not the package, or is allowed."""
    while frame:
        file = frame.f_code.co_filename
        if any(part in file for part in OWN_AFFAIR):
            return ""
        if file.startswith(PACKAGE):
            name = file[len(PACKAGE) + 1 :]
            return "" if (event, name) in ON_PURPOSE else f"minigpt/{name}:{frame.f_lineno}"
        if event in DIRECTLY:
            return ""
        frame = frame.f_back
    return ""
