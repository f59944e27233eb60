"""The phases of a run and their expected times, from which a run estimates its end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from shala_framework.support.progress import Outlook, Reporter

SAMPLE_SECONDS = 0.15  # rough time to generate and write one sample with its pictures
REPORT_SECONDS = 8.0  # rough


class RunPhases:
    """Reports the progress of a run as a whole.

    Args:
        titles: Titles of the phases, in order.
        reporter: Receives the outlook.

    Attributes:
        seconds: Expected time of a phase by title; absent if nothing is known.
    """

    def __init__(self, titles: list[str], reporter: Reporter) -> None:
        self.titles, self.reporter = titles, reporter
        self.seconds: dict[str, float] = {}
        self.current = 0

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Update the expected times of some phases."""
        self.seconds |= {title: value for title, value in seconds.items() if title in self.titles}
        self._tell()

    def add(self, titles: Sequence[str], before: str) -> None:
        """Insert phases that turned out to be needed before another one, in their order."""
        rest = [title for title in self.titles if title not in titles]
        place = rest.index(before)
        self.titles = [*rest[:place], *titles, *rest[place:]]

    def remove(self, titles: Sequence[str]) -> None:
        """Remove phases that turned out not to be needed."""
        self.titles = [title for title in self.titles if title not in titles]

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """Mark the duration of a context as one of the phases."""
        self.current = self.titles.index(title)
        self._tell()
        yield

    def _tell(self) -> None:
        later = self.titles[self.current + 1 :]
        self.reporter.outlook(
            Outlook(
                phases=self.titles,
                current=self.current,
                seconds=self.seconds.get(self.titles[self.current]),
                later_seconds=sum(self.seconds.get(title, 0.0) for title in later),
                complete=all(title in self.seconds for title in later),
            )
        )
