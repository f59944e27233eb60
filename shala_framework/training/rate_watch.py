"""Detects that training is far slower or faster than before, for example because of another program."""

import os

from shala_framework.support.machine import available_cores


class RateWatch:
    """Detects that a stage has become far slower than at first, or is far faster than when its steps were counted.

    Args:
        planned_seconds: Seconds that a step took when the number of steps was chosen for a time; None if it was given.
    """

    SLOW, FAST = 0.5, 2.0  # shares of the first rate
    WINDOWS = 3  # number of such windows in a row

    def __init__(self, planned_seconds: float | None = None) -> None:
        self.planned = planned_seconds is not None
        self.first = 1 / planned_seconds if planned_seconds else None
        self.slow = self.fast = 0

    def see(self, rate: float) -> str:
        """Add the rate of another window of steps; return a warning, once, if training is far slower or faster."""
        if self.first is None:
            self.first = rate
        self.slow = self.slow + 1 if rate < self.SLOW * self.first else 0
        self.fast = self.fast + 1 if self.planned and rate > self.FAST * self.first else 0
        if self.WINDOWS not in (self.slow, self.fast):
            return ""
        took = f"{1 / self.first:.3g} s {'when the number of steps was chosen' if self.planned else 'at first'}"
        changed = f"a step takes {1 / rate:.3g} s, and took {took}"
        if self.fast:
            return (
                f"{changed}, when another program used the processor or the disk; this stage will end early, and a run "
                "in another folder would take more steps"
            )
        load = f"; the machine's load is {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        return (
            f"{changed}: another program uses the processor or the disk{load}, and this process may use "
            f"{available_cores()} cores"
        )
