"""Detects that training has slowed down, for example because another program uses the processor."""

import os

from shala_framework.support.machine import available_cores


class RateWatch:
    """Detects that a stage has become far slower than at first, for example because another program uses the cores."""

    SLOW = 0.5  # share of the first rate
    WINDOWS = 3  # number of slow windows in a row

    def __init__(self) -> None:
        self.first: float | None = None
        self.slow = 0

    def see(self, rate: float) -> str:
        """Add the rate of another window of steps, and return a warning, once, if training has slowed down."""
        if self.first is None:
            self.first = rate
        self.slow = self.slow + 1 if rate < self.SLOW * self.first else 0
        if self.slow != self.WINDOWS:
            return ""
        load = f"; the machine's load is {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        return (
            f"a step takes {1 / rate:.3g} s, and took {1 / self.first:.3g} s at first: another program uses the "
            f"processor or the disk{load}, and this process may use {available_cores()} cores"
        )
