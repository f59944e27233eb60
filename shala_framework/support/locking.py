"""A lock that lets one process at a time use a folder, also on network file systems; it ends with its process.

The lock is `flock` on a file in the folder, which the system releases when the process ends, however it ends. Some file
systems do not support such locks, or only within one machine. Therefore the file also names the machine and the
process, and the holder touches it every few seconds. A file that another machine keeps touching is locked.
"""

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from shala_framework.support.errors import CheckpointError

LOCK_FILE = ".lock"
BEAT_SECONDS = 5.0  # between two touches
SILENT_SECONDS = 20.0  # after which another machine's lock counts as abandoned
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class FolderLock:
    """A context in which no other process can use the folder.

    Args:
        folder: Existing folder.
        name: Name of the lock file in it, which is removed at the end.
        on_wait: Called with a sentence before waiting for a sign of life from another machine.

    Raises:
        CheckpointError: Another process holds the lock, or the folder was removed before the end of the context.
    """

    def __init__(self, folder: Path, name: str = LOCK_FILE, on_wait: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.path, self.on_wait = folder, folder / name, on_wait
        self._file: int | None = None
        self._done = threading.Event()

    def __enter__(self) -> "FolderLock":
        while True:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._take()
            except BaseException:
                os.close(self._file)
                self._file = None
                raise
            if self._is_ours():
                break
            os.close(self._file)  # the previous holder has just removed it
        owner = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, owner.encode(), 0)
        threading.Thread(target=self._beat, name="lock", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        there = self._is_ours()
        self._done.set()
        if there:
            self.path.unlink(missing_ok=True)
        assert self._file is not None
        os.close(self._file)
        if not there and (error is None or isinstance(error, OSError)):
            raise CheckpointError(self._removed()) from error

    def check(self) -> None:
        """Raise CheckpointError if the folder is no longer the one that was locked."""
        if not self._is_ours():
            raise CheckpointError(self._removed())

    def _removed(self) -> str:
        return (
            f"{self.folder} was removed or replaced while this process worked in it; nothing more was written. Repeat "
            "the command to start again, or restore the folder first to resume"
        )

    def _take(self) -> None:
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise CheckpointError(self._held(self._owner())) from error
            if error.errno not in _NO_LOCKS:
                raise
            locked = False
        owner = self._owner()
        if owner is None:
            return
        if owner["host"] == socket.gethostname():
            # If the system's lock is free, a process of this machine that left its name has ended.
            if not locked and owner["pid"] != os.getpid() and _is_alive(owner["pid"]):
                raise CheckpointError(self._held(owner))
        elif self._still_touched(owner):
            raise CheckpointError(self._held(owner))

    def _owner(self) -> dict[str, Any] | None:
        """Return who wrote the file; None if nobody did, or it cannot be read."""
        assert self._file is not None
        try:
            found = json.loads(os.pread(self._file, 4096, 0))
            return {"host": str(found["host"]), "pid": int(found["pid"])}
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def _held(self, owner: dict[str, Any] | None) -> str:
        who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
        return f"{self.folder} is in use by {who}; wait for it or stop it, or choose another folder"

    def _still_touched(self, owner: dict[str, Any]) -> bool:
        """Return whether another machine touches the file within a while. Clocks of machines are not compared."""
        assert self._file is not None
        before = os.fstat(self._file).st_mtime_ns
        self.on_wait(
            f"{self.folder} was last used by process {owner['pid']} on {owner['host']}; "
            f"waiting up to {SILENT_SECONDS:.0f} s for a sign that it still runs"
        )
        deadline = time.monotonic() + SILENT_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(0.5, SILENT_SECONDS / 4))
            try:
                if os.stat(self.path).st_mtime_ns != before:
                    return True
            except FileNotFoundError:
                return False
        return False

    def _is_ours(self) -> bool:
        """Return whether the path still leads to the opened file."""
        assert self._file is not None
        try:
            found, opened = os.stat(self.path), os.fstat(self._file)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)

    def _beat(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            try:
                os.utime(self.path)
            except OSError:
                return  # the folder is gone; `check` and the end of the context report it


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on a file, which is created for it and removed afterwards.

    Threads exclude each other like processes. On a file system without locks, the context is entered without one.

    Args:
        path: Path of the lock file, in an existing folder.
        wait: Whether to wait for whoever holds the lock.

    Yields:
        Whether the context may proceed; False only where another holds the lock and `wait` is False.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            opened, found = os.fstat(file), os.stat(path)
            if (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino):
                break
            os.close(file)  # the previous holder has just removed it
        except FileNotFoundError:
            os.close(file)
        except OSError as error:
            os.close(file)
            held = error.errno in (errno.EWOULDBLOCK, errno.EACCES)
            if not held and error.errno not in _NO_LOCKS:
                raise
            yield not held
            return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(file)
