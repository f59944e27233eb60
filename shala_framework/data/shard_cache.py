"""Copies of remote shards in a folder that all processes of a machine share.

One process at a time downloads a shard, under a lock, and the others wait for it. A copy gets its name when it is
complete. If the folder has a size limit, the copies that were used longest ago make room for new ones; a file that is
being read stays readable when it is removed.
"""

import hashlib
import logging
import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import attrs

from shala_framework.spec.schema import Data
from shala_framework.support.checksums import checksum_of
from shala_framework.support.errors import DataError
from shala_framework.support.locking import file_lock
from shala_framework.support.urls import asking_again, mark_cache, open_url, read_url

OLD_SECONDS = 3600.0  # since a copy last grew
RECENT_SECONDS = 10.0  # since its last use, during which a copy makes no room for one that nobody waits for
_EVICTING = "evict.lock"
_OURS = re.compile(r"[0-9a-f]{16}-.*(?<!\.lock)", re.DOTALL)

_log = logging.getLogger(__name__)
_clock = time.time


@attrs.frozen
class ShardCache:
    """A folder for copies of remote shards.

    Attributes:
        folder: The folder; created when the first copy is written.
        most_bytes: Size limit of all copies; 0 for none. Downloads in progress may exceed it for a moment.
    """

    folder: Path
    most_bytes: int = 0

    @classmethod
    def of(cls, folder: "CopyFolder | None") -> "ShardCache | None":
        """Return the cache in a folder."""
        return folder if folder is None or isinstance(folder, cls) else cls(Path(str(folder)))

    def has(self, url: str, num_bytes: int) -> bool:
        """Return whether there is a copy of a shard."""
        try:
            return self._path(url).stat().st_size == num_bytes
        except OSError:
            return False

    def open(self, url: str, num_bytes: int) -> BinaryIO:
        """Open the copy of a shard, which is downloaded first if necessary.

        Args:
            url: URL of the shard.
            num_bytes: Length of the shard.

        Raises:
            OSError: The shard cannot be downloaded.
            ValueError: It has another length.
            DataError: It is larger than the size limit.
        """
        path = self._path(url)
        while True:
            with suppress(FileNotFoundError):
                file = path.open("rb")
                if os.fstat(file.fileno()).st_size == num_bytes:
                    with suppress(OSError):  # it has just been removed, or belongs to another user
                        os.utime(path)
                    return file
                file.close()
            self.fetch(url, num_bytes)

    def fetch(self, url: str, num_bytes: int, *, ahead: bool = False) -> None:
        """Download a shard unless there is a copy.

        Args:
            url: URL of the shard.
            num_bytes: Length of the shard.
            ahead: Whether nobody waits for it yet. Then nothing happens where another process downloads it, or where
                only copies in use could make room.

        Raises:
            Exception: As in `open`.
        """
        if self.most_bytes and num_bytes > self.most_bytes:
            raise DataError(
                f"{url}: data.cache_bytes = {self.most_bytes:,} is less than this shard's {num_bytes:,} bytes; raise it"
            )
        path = self._path(url)
        mark_cache(self.folder)
        with file_lock(path.with_name(f"{path.name}.lock"), wait=not ahead) as locked:
            if not locked or self.has(url, num_bytes):
                return
            partial = _partial(path)
            if not self._make_room(partial, num_bytes, ahead):
                return
            try:
                size = asking_again(url, lambda: _copy(url, partial, num_bytes), has_answered=True)
                if size != num_bytes:
                    raise ValueError(f"expected {num_bytes} bytes, got {size}")
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)

    def content(self, url: str, checksum: str) -> bytes:
        """Return the content of a small file, from its copy if that has the checksum.

        Raises:
            OSError: The file cannot be read.
        """
        path = self._path(url)

        def copy() -> bytes | None:
            with suppress(OSError):
                found = path.read_bytes()
                return found if checksum_of(found) == checksum else None
            return None

        content = copy()
        if content is None:
            mark_cache(self.folder)
            with file_lock(path.with_name(f"{path.name}.lock")):
                content = copy()
                if content is None:
                    content = read_url(url, has_answered=True)
                    if checksum_of(content) == checksum:
                        partial = _partial(path)
                        partial.write_bytes(content)
                        os.replace(partial, path)
        return content

    def _path(self, url: str) -> Path:
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", url.rsplit("/", 1)[-1])[-100:]
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"

    def _make_room(self, partial: Path, num_bytes: int, ahead: bool) -> bool:
        """Remove copies until there is room for another, and reserve it. Return whether there is.

        Args:
            partial: Path of the new copy until it is complete.
            num_bytes: Length of the new copy.
            ahead: Whether nobody waits for it.
        """
        with file_lock(self.folder / _EVICTING):
            copies: list[tuple[float, int, Path]] = []
            total = num_bytes
            for path in self.folder.iterdir():
                if not _OURS.fullmatch(path.name):
                    continue
                with suppress(FileNotFoundError):
                    found = path.stat()
                    if path.suffix != ".partial":
                        copies.append((found.st_mtime, found.st_size, path))
                    elif _clock() - found.st_mtime > OLD_SECONDS:  # left by a process that was killed
                        path.unlink()
                        continue
                    total += found.st_size
            for used, size, path in sorted(copies):
                if not self.most_bytes or total <= self.most_bytes:
                    break
                if _clock() - used < RECENT_SECONDS:
                    if ahead:
                        return False
                    _say_once(self)
                path.unlink(missing_ok=True)
                total -= size
            with partial.open("wb") as file:
                file.truncate(num_bytes)  # others count the room as taken
        return True


def _partial(path: Path) -> Path:
    """Return the path of a copy until it is complete, of this thread alone."""
    return path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")


CopyFolder = Path | ShardCache
"""Where copies of remote shards go: a folder, or one with a size limit."""


def cache_of(data: Data) -> ShardCache | None:
    """Return the cache that a spec's [data] names, or None."""
    return None if data.cache is None else ShardCache(Path(data.cache), data.cache_bytes)


_said: set[Path] = set()


def _say_once(cache: ShardCache) -> None:
    if cache.folder not in _said:
        _said.add(cache.folder)
        _log.warning(
            "data.cache_bytes = %s is too small for the shards that are read at the same time, so that some are "
            "downloaded again and again; raise it, or lower data.interleave or data.shuffle_buffer",
            f"{cache.most_bytes:,}",
        )


def _copy(url: str, target: Path, num_bytes: int) -> int:
    """Copy a file, but at most one byte more than expected. Return the number of bytes."""
    left = num_bytes + 1
    with open_url(url, how="at once") as source, target.open("r+b") as file:
        while left > 0 and (piece := source.read(min(left, 1 << 20))):
            file.write(piece[:left])
            left -= len(piece)
    return num_bytes + 1 - max(left, 0)
