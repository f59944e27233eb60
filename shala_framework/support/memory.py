"""Keeps freed main memory in this process, so that each training step need not get it from the system again.

The C library of Linux gives the free memory at the end of its heap back to the system. A training step frees and
allocates hundreds of megabytes, and the system clears each page before it hands it out again, which is slowest where
the machine's memory is full of files that were just written.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# Options of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK = 32 * 2**20  # bytes; glibc gives larger blocks back whatever the options
_NEVER = -1
_AFTERWARDS = 2 * _LARGEST_BLOCK  # what glibc itself arrives at, once blocks of that size have been freed
CHOSEN_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")

_keeps = False


@contextmanager
def keeping_memory() -> Iterator[None]:
    """Keep freed memory within this context, and give it back to the system at its end.

    Nothing changes without glibc, or where the user has set options of its allocator.
    """
    global _keeps
    library = _glibc()
    if _keeps or library is None or any(name in os.environ for name in CHOSEN_BY_USER):
        yield
        return
    _keeps = True
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        _keeps = False
        library.mallopt(_TRIM_THRESHOLD, _AFTERWARDS)
        library.malloc_trim(ctypes.c_size_t(0))


def _glibc() -> ctypes.CDLL | None:
    """Return the C library of this process if it is glibc."""
    if os.name != "posix":
        return None
    library = ctypes.CDLL(None)
    needed = ("gnu_get_libc_version", "mallopt", "malloc_trim")
    return library if all(hasattr(library, name) for name in needed) else None
