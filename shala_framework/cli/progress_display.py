"""Display progress as one live line on a terminal, or as plain lines at intervals in a log."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TaskID, TextColumn
from rich.table import Column

from shala_framework.cli.output import remark
from shala_framework.support.escaping import printable
from shala_framework.support.progress import Outlook, Reporter

BAR_WIDTH = 24
LEAST_WIDTH_WITH_BAR = 110  # columns; a narrower terminal shows the values without the bar


def make_reporter() -> "TerminalProgress | LogProgress":
    """Return a live display if standard error is a terminal, otherwise plain lines."""
    console = Console(stderr=True, highlight=False)
    return TerminalProgress(console) if console.is_terminal else LogProgress()


@contextmanager
def saying_how_to_resume(reporter: Reporter, command: str) -> Iterator[None]:
    """Report the command that resumes the work if the user interrupts it within the context."""
    try:
        yield
    except KeyboardInterrupt:
        reporter.warn(f"stopped; to resume: {command}")
        raise


class _Task:
    """A task with its rate and its latest values.

    Attributes:
        title: Title of the task.
        total: Number of units, or None if unknown.
        unit: Name of a unit, in the singular.
        done: Number of units done so far.
        figures: Latest values, formatted.
        start: Start time in seconds.
    """

    def __init__(self, title: str, total: int | None, unit: str, done: int) -> None:
        self.title, self.total, self.unit, self.done, self.figures = title, total, unit, done, ""
        self.start, self.first = time.perf_counter(), done

    def update(self, done: int, terms: Mapping[str, float] | None) -> None:
        """Update the number of units done and, if given, the latest values."""
        self.done = done
        if terms:
            named = (f"{name} {value:.4g}" for name, value in terms.items() if name != "gradient_norm")
            self.figures = "  ".join(named)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    @property
    def per_second(self) -> float:
        """Number of units done per second since the start."""
        return (self.done - self.first) / max(1e-9, self.seconds)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end, or None if unknown."""
        rate = self.per_second
        return (self.total - self.done) / rate if self.total is not None and rate > 0 else None

    def count(self) -> str:
        """Format the number of units done, and the total if known."""
        return f"{self.done}/{self.total}" if self.total is not None else str(self.done)

    def rate(self) -> str:
        """Format the rate and the remaining time."""
        rate = self.per_second
        text = f"{rate:.1f} {self.unit}s/s" if rate >= 1 or rate == 0 else f"{1 / rate:.1f} s/{self.unit}"
        left = self.seconds_left
        return text if left is None else f"{text}, {_clock(left)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Run:
    """Estimate when the whole run will end, from its latest outlook and the rate of the current task."""

    def __init__(self) -> None:
        self.outlook: Outlook | None = None
        self.phase_start = 0.0

    def take(self, outlook: Outlook) -> str:
        """Store an outlook. Return a line to print if a phase begins, otherwise an empty string."""
        before, self.outlook = self.outlook, outlook
        if before is not None and before.current == outlook.current:
            return ""
        self.phase_start = time.perf_counter()
        later = ", ".join(outlook.phases[outlook.current + 1 :])
        listed = f", then {later}" if before is None and later else ""
        end = self.describe(None) if before is not None and outlook.later_seconds else ""
        line = f"phase {outlook.current + 1}/{len(outlook.phases)}: {outlook.phases[outlook.current]}{listed}"
        return f"{line}; {end}" if end else line

    def describe(self, task_seconds: float | None) -> str:
        """Describe when the run will end, given the remaining seconds of the current task; empty if unknown."""
        if self.outlook is None:
            return ""
        expected = self.outlook.seconds
        known = [task_seconds] if task_seconds is not None else []
        known += [expected - (time.perf_counter() - self.phase_start)] if expected is not None else []
        if not known:
            return ""
        left = max(0.0, *known) + self.outlook.later_seconds
        about = "about" if self.outlook.complete else "not before"
        return f"the run ends {about} {time.strftime('%H:%M:%S', time.localtime(time.time() + left))}"


class TerminalProgress:
    """One live line: title, count, rate, time left and the latest values."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.display: Progress | None = None
        self.bar = TaskID(0)
        self.task = _Task("", None, "step", 0)
        self.run = _Run()

    def begin(self, title: str, total: int | None, unit: str = "step", done: int = 0) -> None:
        self.close()
        self.task = _Task(title, total, unit, done)
        columns: list[ProgressColumn] = [SpinnerColumn()]
        if self.console.width >= LEAST_WIDTH_WITH_BAR:
            columns.append(BarColumn(bar_width=BAR_WIDTH))
        # All text is in one column, so a narrow terminal cuts it off at the end, where the least important values are.
        line = Column(no_wrap=True, overflow="ellipsis")
        columns.append(TextColumn("{task.description}", markup=False, table_column=line))
        self.display = Progress(*columns, console=self.console, transient=True, refresh_per_second=4)
        self.display.start()
        self.bar = self.display.add_task(self._line(), total=total, completed=done)

    def advance(self, done: int, terms: Mapping[str, float] | None = None) -> None:
        if self.display is not None:
            self.task.update(done, terms)
            self.display.update(self.bar, completed=done, description=self._line())

    def _line(self) -> str:
        task = self.task
        parts = (task.rate(), self.run.describe(task.seconds_left), task.figures)
        return printable("  ".join([f"{task.title} {task.count()}", *filter(None, parts)]))

    def close(self) -> None:
        """Remove the live line and show the cursor again. Also called before an error message."""
        if self.display is not None:
            self.display.stop()
            self.display = None

    def finish(self) -> None:
        if self.display is not None:
            self.close()
            task = self.task
            self.note(f"{task.title}: {task.done} {task.unit}s in {_clock(task.seconds)}  {task.figures}".rstrip())

    def outlook(self, outlook: Outlook) -> None:
        line = self.run.take(outlook)
        if line:
            self.note(line)

    def note(self, text: str) -> None:
        self.console.print(printable(text), markup=False)

    def warn(self, text: str) -> None:
        self.close()
        self.console.print(printable(text), style="bold red", markup=False)


class LogProgress:
    """Print a line when a task starts, one at every interval, and one when it ends."""

    def __init__(self, interval_seconds: float = 15.0) -> None:
        self.interval_seconds = interval_seconds
        self.task = _Task("", None, "step", 0)
        self.printed = 0.0
        self.run = _Run()

    def begin(self, title: str, total: int | None, unit: str = "step", done: int = 0) -> None:
        self.task = _Task(title, total, unit, done)
        self.printed = time.perf_counter()
        parts = [f"starts at {done}" if done else "starts", *([] if total is None else [f"{total} {unit}s"])]
        remark(f"{title}: {(' of ' if done else ', ').join(parts)}")

    def advance(self, done: int, terms: Mapping[str, float] | None = None) -> None:
        task = self.task
        task.update(done, terms)
        if time.perf_counter() - self.printed >= self.interval_seconds:
            self.printed = time.perf_counter()
            parts = (f"{task.count()} {task.unit}s", task.rate(), self.run.describe(task.seconds_left))
            remark(f"{task.title}: {', '.join(filter(None, parts))}  {task.figures}".rstrip())

    def close(self) -> None:
        """Do nothing: a log has no line to remove."""

    def finish(self) -> None:
        task = self.task
        remark(f"{task.title}: done, {task.done} {task.unit}s in {_clock(task.seconds)}  {task.figures}".rstrip())

    def outlook(self, outlook: Outlook) -> None:
        line = self.run.take(outlook)
        if line:
            remark(line)

    def note(self, text: str) -> None:
        remark(text)

    def warn(self, text: str) -> None:
        rule = "!" * 78
        remark(f"{rule}\n{text}\n{rule}")
