"""How long a read over a network is retried, measured on a clock of the test's own."""

import logging

import pytest

from shala_framework.support import retrying
from shala_framework.support.errors import DataError
from shala_framework.support.urls import asking_again

URL = "http://10.0.0.1/a.tar"


class StatusError(Exception):
    def __init__(self, status):
        super().__init__(f"status {status}\x1b[2J")
        self.status = status


def server(clock, *, away, error):
    """A read that fails until a given time on the clock."""

    def read():
        if clock.now < away:
            raise error
        return "read"

    return read


@pytest.mark.parametrize("error", [ConnectionRefusedError("no"), TimeoutError(), StatusError(503), StatusError(429)])
def test_a_server_that_was_there_is_waited_for(clock, caplog, error):
    """Two minutes without a server end nothing; waits grow and vary, and the log escapes the reason."""
    assert asking_again(URL, lambda: "read") == "read"
    with caplog.at_level(logging.WARNING):
        assert asking_again(URL, server(clock, away=120.0, error=error)) == "read"
    assert clock.now < 120 + retrying.LONGEST_WAIT
    assert len(clock.waits) < 20
    limits = [min(retrying.SHORTEST_WAIT * 2**k, retrying.LONGEST_WAIT) for k in range(len(clock.waits))]
    assert all(limit / 2 <= wait <= limit for limit, wait in zip(limits, clock.waits, strict=True))
    assert len({wait / limit for limit, wait in zip(limits, clock.waits, strict=True)}) == len(limits)
    said = [record.message for record in caplog.records]
    assert all(text.startswith(f"{URL}: {type(error).__name__}: ") and "trying again in" in text for text in said)
    assert "\x1b" not in "".join(said)
    assert len(said) == sum(limit >= retrying.SAID_WAIT for limit in limits)


def test_a_silent_server_is_asked_three_times(clock):
    """Each attempt takes longer than the time allowed for a server that has never answered."""
    tries = []

    def silent():
        tries.append(clock.now)
        clock.now += 30
        raise TimeoutError

    with pytest.raises(OSError, match="TimeoutError"):
        asking_again(URL, silent)
    assert len(tries) == 3


@pytest.mark.parametrize(
    ("error", "known", "least", "most"),
    [
        (ConnectionRefusedError("no"), True, retrying.PATIENT_SECONDS, retrying.PATIENT_SECONDS),
        (ConnectionRefusedError("no"), False, retrying.FIRST_SECONDS, retrying.FIRST_SECONDS),  # perhaps misspelt
        (ValueError("its checksum differs"), True, retrying.FIRST_SECONDS, retrying.FIRST_SECONDS),
        (StatusError(400), True, retrying.FIRST_SECONDS, retrying.FIRST_SECONDS),
        (StatusError(404), True, 0, 0),
        (FileNotFoundError("no"), True, 0, 0),
        (DataError("a package is missing"), True, 0, 0),
    ],
)
def test_permanent_errors_are_raised_soon(clock, error, known, least, most):
    """Each error is retried for its own time, and ends as OSError or as the user's error."""
    with pytest.raises((OSError, DataError)):
        asking_again(URL, server(clock, away=1e9, error=error), has_answered=known)
    assert least <= clock.now <= most + 1e-6
