"""The phases of a run and what each is expected to take, so that a run can say when the last of them will end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from shala_framework.support.progress import Outlook, Reporter

SAMPLE_SECONDS = 0.15  # rough: of generating and writing one sample with its pictures
REPORT_SECONDS = 8.0  # rough


class RunPhases:
    """Tells a reporter where a run is as a whole.

    Args:
        titles: Of the phases, in order.
        reporter: Receives the outlook.

    Attributes:
        seconds: What a phase is expected to take, by title; absent where nothing is known.
    """

    def __init__(self, titles: list[str], reporter: Reporter) -> None:
        self.titles, self.reporter = titles, reporter
        self.seconds: dict[str, float] = {}
        self.current = 0

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Take what is now known of some phases."""
        self.seconds |= {title: value for title, value in seconds.items() if title in self.titles}
        self._tell()

    def add(self, titles: Sequence[str], before: str) -> None:
        """Take phases in that turned out to be needed, in their order, before another one."""
        rest = [title for title in self.titles if title not in titles]
        place = rest.index(before)
        self.titles = [*rest[:place], *titles, *rest[place:]]

    def remove(self, titles: Sequence[str]) -> None:
        """Leave phases out that turned out not to be needed."""
        self.titles = [title for title in self.titles if title not in titles]

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """A context that is one of the phases."""
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
