"""Batches of worker processes come in order, equal those of one process, and fail at once if a worker dies."""

import multiprocessing
import os
import signal
import time
from itertools import islice

import pytest
from numbered import Numbers

from shala_framework.data.workers import WorkerError, describe_exit, work
from shala_framework.support.errors import DataError

pytestmark = pytest.mark.long


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("end", [0, 1, 7])
def test_a_stream_that_ends_gives_each_batch_once_in_order(workers, end):
    """No process is left behind."""
    assert [int(batch[0]) for batch in work(Numbers(end), workers)] == list(range(end))
    assert not multiprocessing.active_children()


def test_a_streams_own_error_comes_at_its_batch():
    """A user's error is unchanged; a bug has the worker's traceback."""
    for error, expected, message in (
        (DataError("sample 5 is bad"), DataError, "^sample 5 is bad$"),
        (KeyError("x"), RuntimeError, "a worker failed:\nTraceback.*KeyError: 'x'"),
    ):
        batches = work(Numbers(fail_at=5, error=error), 2)
        assert [int(batch[0]) for batch in islice(batches, 5)] == list(range(5))
        with pytest.raises(expected, match=f"(?s){message}"):
            next(batches)
        assert not multiprocessing.active_children()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
def test_a_killed_worker_is_an_error_within_seconds(number):
    """The error says how it ended. Earlier batches may still come, and other workers end too."""
    batches = work(Numbers(), 3)
    next(batches)
    victim = multiprocessing.active_children()[1]
    os.kill(victim.pid, number)
    begun = time.monotonic()
    with pytest.raises(WorkerError, match=rf"of 3 .* was killed by {number.name} \(exit code -{number.value}\)"):
        list(islice(batches, 100))
    assert time.monotonic() - begun < 10
    assert not multiprocessing.active_children()


def test_a_worker_that_exits_is_an_error():
    """The error has its exit code."""
    with pytest.raises(WorkerError, match="ended with exit code 7"):
        list(islice(work(Numbers(exit_at=3), 2), 50))


def test_discarded_batches_end_the_workers():
    """This holds whether or not some were taken; workers that ignore SIGTERM do not block the process's end."""
    batches = work(Numbers(), 2)
    next(batches)
    batches.close()
    assert not multiprocessing.active_children()
    unused = work(Numbers(), 2)
    del unused
    assert not multiprocessing.active_children()


def test_exit_codes_in_words():
    """Signals have their names, if known."""
    assert describe_exit(-9) == "was killed by SIGKILL (exit code -9), which the system does when memory runs out"
    assert describe_exit(-200) == "was killed by signal 200 (exit code -200)"
    assert describe_exit(1) == "ended with exit code 1"
