"""Being asked to stop: Ctrl-C and SIGTERM end training after the step under way, with its state saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Training has stopped because it was asked to, and can be taken up again.

    Attributes:
        signal_number: Who asked.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number


@contextmanager
def raising_signals() -> Iterator[None]:
    """A context in which SIGTERM raises Interrupted, as SIGINT raises KeyboardInterrupt, so that work is put in order.

    Outside the main thread it changes nothing.
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
    """Whether somebody has asked.

    Attributes:
        signal_number: The first signal that came, 0 before.
    """

    def __init__(self) -> None:
        self.signal_number = 0

    def _take(self, number: int, _: FrameType | None) -> None:
        if self.signal_number and number == signal.SIGINT:
            raise KeyboardInterrupt  # who presses Ctrl-C twice does not want to wait for the step
        self.signal_number = self.signal_number or number


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """A context in which SIGINT and SIGTERM are noted; outside the main thread nothing is, and they do as before."""
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
