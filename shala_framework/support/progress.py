"""Progress of long work. The command line displays it; users of the library may ignore it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs


@attrs.frozen(kw_only=True)
class Outlook:
    """Forecast for a whole run, sent when a phase begins or when more is known about the later ones.

    Attributes:
        current: Index of the current phase.
        current: Index of the one under way.
        seconds: Expected duration of the current phase; None if unknown.
        later_seconds: Expected duration of all later phases, as far as it is known.
        complete: Whether an expected duration is known for each of them.
    """

    phases: Sequence[str]
    current: int
    seconds: float | None
    later_seconds: float
    complete: bool


class Reporter(Protocol):
    """Receives progress updates. There is one task at a time, with a known or unknown number of units."""

    def begin(self, title: str, total: int | None, unit: str = "step", done: int = 0) -> None:
        """Start a task with `done` of its units already complete."""

    def advance(self, done: int, terms: Mapping[str, float] | None = None) -> None:
        """Report the number of units done. terms are the latest values, if there are new ones."""

    def finish(self) -> None:
        """End the task."""

    def outlook(self, outlook: Outlook) -> None:
        """Report that a phase of the run begins, or that more is known about the end of the run."""

    def note(self, text: str) -> None:
        """Report something worth a line."""

    def warn(self, text: str) -> None:
        """Report something that the user must see."""


class Logged:
    """Writes progress to the logger "shala_framework": notes and values at level INFO, warnings at WARNING."""

    def __init__(self) -> None:
        self.logger = logging.getLogger("shala_framework")
        self.title = ""
        self.total: int | None = None

    def begin(self, title: str, total: int | None, unit: str = "step", done: int = 0) -> None:
        self.title, self.total = title, total

    def advance(self, done: int, terms: Mapping[str, float] | None = None) -> None:
        if terms:
            figures = "  ".join(f"{name} {value:.4g}" for name, value in terms.items())
            of = f" of {self.total}" if self.total is not None else ""
            self.logger.info("%s %d%s: %s", self.title, done, of, figures)

    def finish(self) -> None: ...

    def outlook(self, outlook: Outlook) -> None: ...

    def note(self, text: str) -> None:
        self.logger.info("%s", text)

    def warn(self, text: str) -> None:
        self.logger.warning("%s", text)


class Silent:
    """Ignores all progress updates."""

    def begin(self, title: str, total: int | None, unit: str = "step", done: int = 0) -> None: ...

    def advance(self, done: int, terms: Mapping[str, float] | None = None) -> None: ...

    def finish(self) -> None: ...

    def outlook(self, outlook: Outlook) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...
