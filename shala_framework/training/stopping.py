"""Stop on request: Ctrl-C and SIGTERM end training after the current step, with its state saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Training has stopped on request and can be resumed.

    Attributes:
        signal_number: Number of the signal.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number


@contextmanager
def raising_signals() -> Iterator[None]:
    """Make SIGTERM raise Interrupted for the duration of a context, like Ctrl-C, so that cleanup code runs.

    Has no effect outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopRequest:
    """Records a request to stop.

    Attributes:
        signal_number: Number of the first signal; 0 before one arrives.
    """

    def __init__(self) -> None:
        self.signal_number = 0

    def _take(self, number: int, _: FrameType | None) -> None:
        if self.signal_number and number == signal.SIGINT:
            raise KeyboardInterrupt  # pressing Ctrl-C twice stops without waiting for the step
        self.signal_number = self.signal_number or number


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Record SIGINT and SIGTERM for the duration of a context. Outside the main thread they keep their usual effect."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
