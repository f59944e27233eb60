"""Gives torch as many threads as other programs leave it cores.

A parallel operation ends when the last of its threads does. Where another program keeps one of two cores busy, each of
the thousands of operations of a training step waits for a thread that does not run, so that two threads are several
times slower than one.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PERIOD = 5.0  # seconds between two looks at the machine
GLANCE = 0.5  # seconds of a look before anything runs
LEAST_CHANGE = 0.1  # share of the threads by which their number has to change


class CoreWatch:
    """Counts the cores that this process uses or could use.

    Args:
        stat: File in which Linux counts the time that each processor has spent idle. Elsewhere nothing is counted.
        now: Returns the time in seconds.
        used: Returns the seconds of processor time that this process has used.
    """

    def __init__(
        self,
        stat: Path = Path("/proc/stat"),
        now: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
    ) -> None:
        self.stat, self.now, self.used = stat, now, used
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self.start, self.own, self.idle = self.now(), self.used(), self._idle_seconds()

    @property
    def seconds(self) -> float:
        """Seconds since the count began."""
        return self.now() - self.start

    def free(self) -> float | None:
        """Return how many cores were idle or in use by this process since the count began; None if unknown.

        The count restarts. Processes that this one has started count as others.
        """
        seconds, own, idle = self.seconds, self.used() - self.own, self.idle
        self.begin()
        if idle is None or self.idle is None or seconds <= 0:
            return None
        return (self.idle - idle + own) / seconds

    def _idle_seconds(self) -> float | None:
        """Return the time that the processors which this process may use have been idle, in all."""
        try:
            lines = [line.split() for line in self.stat.read_text().splitlines()]
            allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
            ticks = [int(words[4]) + int(words[5]) for words in lines if words and words[0] in allowed]
            return sum(ticks) / os.sysconf("SC_CLK_TCK") if len(ticks) == len(allowed) else None
        except (OSError, AttributeError, ValueError, IndexError):
            return None


def threads_for(free: float, most: int, present: int) -> int:
    """Return how many threads to have on some free cores: at most `most`, and the present number if it is near."""
    wanted = max(1, min(most, round(free)))
    return wanted if abs(wanted - present) > LEAST_CHANGE * present else present


class _Threads:
    """The threads of torch during `sharing_cores`."""

    def __init__(self) -> None:
        self.watch = CoreWatch()
        self.most: int | None = None

    def adapt(self) -> None:
        """Change the number of threads by what the watch has counted."""
        import torch  # not above, so that a wrong command line is refused without it

        free = self.watch.free()
        if self.most is None:
            self.most = torch.get_num_threads()
        if free is not None:
            present = torch.get_num_threads()
            wanted = threads_for(free, self.most, present)
            if wanted != present:
                torch.set_num_threads(wanted)

    def restore(self) -> None:
        """Set the number of threads to what it was at first."""
        if self.most is not None:
            import torch

            torch.set_num_threads(self.most)


_threads: _Threads | None = None


@contextmanager
def sharing_cores() -> Iterator[None]:
    """Let `look_at_load` and `glance_at_load` change the number of torch's threads within this context.

    Where OMP_NUM_THREADS is set, as torchrun does, the number stays.
    """
    global _threads
    if _threads is not None or os.environ.get("OMP_NUM_THREADS"):
        yield
        return
    _threads = threads = _Threads()
    try:
        yield
    finally:
        _threads = None
        threads.restore()


@contextmanager
def keeping_threads() -> Iterator[None]:
    """Keep the present number of threads within this context."""
    global _threads
    held, _threads = _threads, None
    try:
        yield
    finally:
        _threads = held


def look_at_load() -> None:
    """Give torch the cores that were free in the last seconds. Long loops call this as often as they like."""
    if _threads is not None and _threads.watch.seconds >= PERIOD:
        _threads.adapt()


def glance_at_load() -> None:
    """Wait a moment to see what other programs use, and give torch the rest. Call this while nothing else runs."""
    if _threads is None:
        return
    _threads.watch.begin()
    time.sleep(GLANCE)
    _threads.adapt()
