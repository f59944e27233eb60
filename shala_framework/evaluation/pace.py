"""Choose counts that the spec leaves open: as large as the rows are worth and the time allows."""

import time
from collections.abc import Callable

SHARES = {
    "judges": 0.45,
    "second judges": 0.1,
    "joint": 0.2,
    "conditional": 0.2,
    "calibration": 0.05,
    "likelihood": 0.1,
}
"""Share of the time for each kind of figure; what one leaves over goes to those after it."""


RESERVE = 0.1  # share of the time, kept for errors in measuring units
MOST_OF_REST = 0.5  # of the time left, for the least number of a part that its share does not suffice for


class Pace:
    """Shares the time of an evaluation among its parts.

    Attributes:
        limit: Seconds for everything; None is no limit. Counts that were fitted to one limit do not fit another.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start the clock.

        Args:
            seconds: Time for everything; None is no limit.
            clock: Returns seconds.
        """
        self.limit, self.clock = seconds, clock
        self.end = None if seconds is None else clock() + (1 - RESERVE) * seconds
        self.waiting = dict(SHARES)

    def seconds(self, part: str) -> float | None:
        """Return the time left for a part by its share, given the parts before it; None without a limit."""
        if self.end is None:
            return None
        share = self.waiting[part] / sum(self.waiting.values())
        return max(0.0, self.end - self.clock()) * share

    def finish(self, part: str) -> None:
        """Mark a part as done or left out."""
        self.waiting.pop(part, None)

    def count(self, part: str, most: int, least: int, unit_seconds: Callable[[], float]) -> int:
        """Return the number of units of a part to measure; 0 if not even the least number fits.

        The least number may take more than the part's share, up to half of the time left: parts come in the order of
        their worth.

        Args:
            part: Part that the units belong to.
            most: Number without a time limit, which depends on the rows.
            least: Least number; a figure of fewer units means nothing.
            unit_seconds: Measures one unit; not called without a limit.
        """
        seconds = self.seconds(part)
        if seconds is None:
            return most
        start = self.clock()
        unit = unit_seconds()
        fitting = int(max(0.0, seconds - (self.clock() - start)) / max(unit, 1e-9))
        if fitting >= min(least, most):
            return min(most, fitting)
        left = (self.end or 0.0) - self.clock()
        return min(least, most) if min(least, most) * unit <= MOST_OF_REST * left else 0
