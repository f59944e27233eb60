"""When reading over a network is tried again: one policy for every read.

A server that has answered before is waited for, so that some minutes of absence do not end a run. One that has never
answered may be misspelt and gets a few seconds, and so does an answer that is wrong, such as a piece with another
checksum.
"""

import itertools
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

import attrs

from shala_framework.support.escaping import printable

T = TypeVar("T")
PATIENT_SECONDS = 300.0  # for a server that has answered before
FIRST_SECONDS = 10.0  # for anything else
LEAST_TRIES = 3  # however long each of them took, as one of a silent server takes half a minute
SHORTEST_WAIT = 0.5  # seconds before the second try; each wait is twice the one before
LONGEST_WAIT = 30.0
SAID_WAIT = 2.0  # a wait of so many seconds is said in the log

_log = logging.getLogger(__name__)  # without a handler, warnings go to standard error
_random = random.SystemRandom()  # leaves the seeds of a run alone
_answered: set[str] = set()
_sleep, _clock = time.sleep, time.monotonic


@attrs.frozen
class Failure:
    """Why a read failed.

    Attributes:
        reason: In words, for the log.
        error: The error that ends the reading if no other try succeeds.
        temporary: Whether a server that is back would not fail so.
    """

    reason: str
    error: Exception
    temporary: bool


def retry(
    action: Callable[[], T], server: str, judge: Callable[[Exception], Failure], *, has_answered: bool = False
) -> T:
    """The result of an action, tried again with growing random waits while it fails.

    Args:
        action: Reads something.
        server: Name of the server, by which it is remembered that it has answered.
        judge: Says why the action failed; raises what no other try would change.
        has_answered: Whether it is known that the server has answered, perhaps to another process.

    Raises:
        Exception: What the judge raises, or makes of the last failure.
    """
    start, wait = _clock(), SHORTEST_WAIT
    for tries in itertools.count(1):
        try:
            result = action()
        except Exception as error:  # those of clients, such as aiohttp's, are none of OSError's
            failure = judge(error)
            patient = failure.temporary and (has_answered or server in _answered)
            left = start + (PATIENT_SECONDS if patient else FIRST_SECONDS) - _clock()
            if left <= 0 and tries >= LEAST_TRIES:
                raise failure.error from error
            seconds = _random.uniform(wait / 2, wait)
            seconds = min(seconds, left) if left > 0 else seconds
            if wait >= SAID_WAIT:
                reason = printable(failure.reason)
                _log.warning("%s; trying again in %.0f s, for %.0f s at most", reason, seconds, max(left, seconds))
            _sleep(seconds)
            wait = min(2 * wait, LONGEST_WAIT)
        else:
            _answered.add(server)
            return result
    raise AssertionError("unreachable")
