"""One owner at a time: a folder belongs to one process as long as that lives.

The system keeps the lock and lets go when the process ends, however it ends: after a kill nothing is left to clean up.

Next: signals.py
"""

import errno
import os
import stat
import sys
import time
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"  # in the folder; holds the number of the process
TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
PATIENCE = 5.0  # seconds that an owner has to write its number

_held: dict[Path, int] = {}  # folder -> descriptor of its lock


class InUse(ValueError):
    """Another process has the folder."""

    def __init__(self, folder: Path, owner: str) -> None:
        super().__init__(f"{folder} is in use by process {owner}; wait for it or stop it, or choose another --out")


def hold(folder: Path) -> None:
    """Make a folder this process's own for as long as it lives; if it is already, do nothing.

    Raises InUse naming the process that has it.
    """
    if still_held(folder):
        return
    descriptor = _open(folder, os.O_CREAT)
    try:
        _acquire(descriptor, folder)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except BaseException:
        os.close(descriptor)
        raise
    _held[folder.resolve()] = descriptor
    if not still_held(folder):  # somebody removed the file between its opening and its locking
        hold(folder)


def still_held(folder: Path) -> bool:
    """True if this process has the folder, and it is still the one that was locked."""
    try:
        return os.path.samestat(os.stat(folder / LOCK), os.fstat(_held[folder.resolve()]))
    except (OSError, KeyError):
        return False


def check_free(folder: Path) -> None:
    """Raise InUse if another process has the folder."""
    if still_held(folder) or not (folder / LOCK).exists():
        return
    descriptor = _open(folder)
    try:
        _acquire(descriptor, folder)
    finally:
        os.close(descriptor)  # and lets go


def _open(folder: Path, how: int = 0) -> int:
    """The file of a lock. Raises ValueError for what is none: the folder may come from anyone, and it is written to."""
    path = folder / LOCK
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise ValueError(f"{path} is not a regular file; remove it")
    return os.open(path, os.O_RDWR | how | getattr(os, "O_NOFOLLOW", 0), 0o644)


def _acquire(descriptor: int, folder: Path) -> None:
    """Take the lock, or raise InUse.

    Where it is taken and the file names nobody who lives, its owner has not written its number yet, or somebody only
    looks whether it is free: that is waited for.
    """
    until = time.monotonic() + PATIENCE
    while not try_lock(descriptor):
        os.lseek(descriptor, 0, os.SEEK_SET)
        owner = os.read(descriptor, 20).decode("ascii", "replace").strip()
        if _lives(owner) or time.monotonic() > until:
            raise InUse(folder, owner or "(unknown)")
        time.sleep(0.01)


def _lives(number: str) -> bool:
    """True for the number of another process that there is, and not of an owner before. Windows cannot be asked so."""
    if not number.isascii() or not number.isdigit() or int(number) == os.getpid():
        return False
    if sys.platform != "win32":
        try:
            os.kill(int(number), 0)
        except PermissionError:  # another person's
            return True
        except (ProcessLookupError, OverflowError):
            return False
    return True


def try_lock(descriptor: int) -> bool:
    """Take the lock; False if another process has it. A file system that knows no locks lets everybody in."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # a byte far behind what is written, which others want to read
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in TAKEN
    return True
