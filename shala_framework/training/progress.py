"""What long work tells whoever watches; the command line draws it, a library user may ignore it."""

from collections.abc import Mapping
from typing import Protocol


class Reporter(Protocol):
    """Receives progress. A task is one thing with a known or unknown number of units, one at a time."""

    def begin(self, title: str, total: int | None, unit: str = "step", done: int = 0) -> None:
        """A task starts, with `done` of its units already behind it."""

    def advance(self, done: int, terms: Mapping[str, float] | None = None) -> None:
        """So many units are done; terms are the latest figures, where there are new ones."""

    def finish(self) -> None:
        """The task is over."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def warn(self, text: str) -> None:
        """Something that nobody may miss."""


class Silent:
    """Tells nobody."""

    def begin(self, title: str, total: int | None, unit: str = "step", done: int = 0) -> None: ...

    def advance(self, done: int, terms: Mapping[str, float] | None = None) -> None: ...

    def finish(self) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...
