"""Within a training, freed memory is not given back to the system and fetched again in every step."""

import ctypes
import os
import subprocess
import sys

import pytest

from shala_framework.support import memory

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
PAGES = 16 * 2**24 // os.sysconf("SC_PAGE_SIZE") if GLIBC else 0  # of the tensors below
ROUNDS = """
import resource
import torch
from shala_framework.support.memory import keeping_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**22) for _ in range(16)]  # 16 MiB each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

start = resident()
with keeping_memory(), keeping_memory():
    print([faults() for _ in range(3)][-1])
    print(resident() - start)
print(resident() - start)
"""


@pytest.mark.skipif(not GLIBC, reason="only glibc has these options")
@pytest.mark.parametrize("own", [{}, {"MALLOC_MMAP_THRESHOLD_": "1000000"}])
def test_freed_memory_is_used_again(own):
    """Within the context, pages are fetched once, and afterwards given back. A user's own options stay as they are."""
    others = {name: value for name, value in os.environ.items() if name not in memory.CHOSEN_BY_USER}
    found = subprocess.run(
        [sys.executable, "-c", ROUNDS], env={**others, **own}, capture_output=True, text=True, check=True
    )
    fetched, kept, left = map(int, found.stdout.split())
    assert left <= 0.1 * PAGES
    if own:
        assert fetched >= 0.9 * PAGES
        assert kept <= 0.1 * PAGES
    else:
        assert fetched <= 0.1 * PAGES  # some blocks do not fit into the gaps
        assert kept >= 0.9 * PAGES


def test_without_glibc_nothing_happens(monkeypatch):
    """Other C libraries have no such options."""
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with memory.keeping_memory():
        assert not memory._keeps
