"""The number of threads follows the cores that the process may use."""

import os
import subprocess
import sys

import pytest
import torch

from shala_framework.support.machine import available_cores, limit_threads


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_cores_are_those_of_affinity_and_quota(monkeypatch, tmp_path, files, expected):
    """Control groups of version 2 and 1 are read, with and without a limit, on a machine of eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    assert available_cores(tmp_path) == expected


def test_threads_are_limited_and_never_raised(monkeypatch):
    """More threads than cores are reduced to the number of cores; fewer, as set by OMP_NUM_THREADS, stay."""
    before = torch.get_num_threads()
    try:
        for threads, cores, expected in ((4, 2, 2), (1, 2, 1)):
            torch.set_num_threads(threads)
            monkeypatch.setattr("shala_framework.support.machine.available_cores", lambda cores=cores: cores)
            assert limit_threads() == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_a_process_pinned_to_a_core_computes_in_one_thread():
    """A separate process that is pinned to a core, as by a cluster, uses one thread."""
    code = (
        "import os; os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]}); import torch; "
        "torch.set_num_threads(2); from shala_framework.support.machine import limit_threads; print(limit_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
