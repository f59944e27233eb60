"""Batches of worker processes come in order, equal those of one process, and fail at once if a worker dies."""

import multiprocessing
import os
import signal
import time
from itertools import islice

import pytest
import torch
from numbered import Mixed, Numbers

from shala_framework.data.batch_passing import Receiver, Sender
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


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def test_batches_arrive_as_they_were_and_stay_so():
    """Tensors of any kind and size; later batches change no earlier one, and no file stays open for them."""
    batches = work(Mixed(), 2)
    found = list(islice(batches, 20))
    opened = len(os.listdir("/proc/self/fd"))
    found += list(islice(batches, 60))
    assert len(os.listdir("/proc/self/fd")) <= opened + 4  # memory that has grown
    assert all(equal(batch, Mixed.batch(n)) for n, batch in enumerate(found))
    found[3]["float"].zero_()
    assert equal(found[4], Mixed.batch(4))
    batches.close()


def test_a_batch_takes_one_message(monkeypatch):
    """Receiving opens no connection; torch's way opens one for each tensor, which the decoding worker must answer."""
    batches = work(Mixed(), 1)
    next(batches)
    next(batches)
    with monkeypatch.context() as patch:
        patch.setattr("multiprocessing.resource_sharer.DupFd.detach", None)
        patch.setattr("socket.socket.connect", None)
        assert equal(next(batches), Mixed.batch(2))
    batches.close()


def test_systems_without_anonymous_files_use_torchs_way(monkeypatch):
    """The receiver takes either kind of message."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    theirs, mine = multiprocessing.get_context("spawn").Pipe()
    Sender(theirs, 2).send(Mixed.batch(1))
    kind, batch = Receiver(mine).receive()
    assert kind == "batch"
    assert equal(batch, Mixed.batch(1))
