"""What long work tells whoever watches; the command line draws it, a library user may ignore it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs


@attrs.frozen(kw_only=True)
class Outlook:
    """Where a run is as a whole, when one of its phases begins or more is known of the later ones.

    Attributes:
        phases: Titles of all phases, in order.
        current: Index of the one under way.
        seconds: That this phase is expected to take; None where nothing is known of it yet.
        later_seconds: That the phases after it are expected to take, as far as is known.
        complete: Whether something is known of each of them.
    """

    phases: Sequence[str]
    current: int
    seconds: float | None
    later_seconds: float
    complete: bool


class Reporter(Protocol):
    """Receives progress. A task is one thing with a known or unknown number of units, one at a time."""

    def begin(self, title: str, total: int | None, unit: str = "step", done: int = 0) -> None:
        """A task starts, with `done` of its units already behind it."""

    def advance(self, done: int, terms: Mapping[str, float] | None = None) -> None:
        """So many units are done; terms are the latest figures, where there are new ones."""

    def finish(self) -> None:
        """The task is over."""

    def outlook(self, outlook: Outlook) -> None:
        """A phase of the whole run begins, or more is known of when the run will end."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def warn(self, text: str) -> None:
        """Something that nobody may miss."""


class Logged:
    """Writes progress to the logger "shala_framework": notes and figures at level INFO, warnings at WARNING."""

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
    """Tells nobody."""

    def begin(self, title: str, total: int | None, unit: str = "step", done: int = 0) -> None: ...

    def advance(self, done: int, terms: Mapping[str, float] | None = None) -> None: ...

    def finish(self) -> None: ...

    def outlook(self, outlook: Outlook) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...
