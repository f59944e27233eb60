"""How much is measured where the spec leaves it open: as much as the rows are worth and the time allows."""

import time
from collections.abc import Callable

SHARES = {"judges": 0.4, "joint": 0.2, "conditional": 0.2, "calibration": 0.1, "likelihood": 0.1}
"""Of the time, for each kind of figure; what one leaves over goes to those after it."""


RESERVE = 0.1  # of the time, for what measuring units gets wrong


class Pace:
    """Shares the time of an evaluation among its parts.

    Args:
        seconds: For everything; None is without a limit.
        clock: Clock that returns seconds.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.end = None if seconds is None else clock() + (1 - RESERVE) * seconds
        self.waiting = dict(SHARES)

    def seconds(self, part: str) -> float | None:
        """What is left for a part and its share of it, once those before it are done; None without a limit."""
        if self.end is None:
            return None
        share = self.waiting[part] / sum(self.waiting.values())
        return max(0.0, self.end - self.clock()) * share

    def finish(self, part: str) -> None:
        """A part is done, or is left out."""
        self.waiting.pop(part, None)

    def count(self, part: str, most: int, least: int, unit_seconds: Callable[[], float]) -> int:
        """How many units of a part are measured; 0 where not even the least number fits.

        Args:
            part: That they belong to.
            most: What the rows are worth, without a limit of time.
            least: Below which a figure says nothing.
            unit_seconds: Measures one unit; not called without a limit.
        """
        seconds = self.seconds(part)
        if seconds is None:
            return most
        start = self.clock()
        unit = unit_seconds()
        fitting = int(max(0.0, seconds - (self.clock() - start)) / max(unit, 1e-9))
        return 0 if fitting < min(least, most) else min(most, fitting)
