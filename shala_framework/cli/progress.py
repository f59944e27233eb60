"""Progress as a person sees it: one live line on a terminal, plain lines now and then in a log."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TaskID, TextColumn
from rich.table import Column

from shala_framework.cli.output import remark
from shala_framework.escaping import printable
from shala_framework.training.progress import Outlook

BAR_WIDTH = 24
LEAST_WIDTH_WITH_BAR = 110  # of a terminal; on a narrower one figures matter more


def make_reporter() -> "TerminalProgress | LogProgress":
    """A live display where standard error is a terminal, else plain lines."""
    console = Console(stderr=True, highlight=False)
    return TerminalProgress(console) if console.is_terminal else LogProgress()


class _Rate:
    """Units a second and the time left, over a task."""

    def __init__(self, total: int | None, unit: str, done: int) -> None:
        self.total, self.unit, self.start, self.first = total, unit, time.perf_counter(), done
        self.done = done

    @property
    def per_second(self) -> float:
        return (self.done - self.first) / max(1e-9, time.perf_counter() - self.start)

    @property
    def seconds_left(self) -> float | None:
        rate = self.per_second
        return (self.total - self.done) / rate if self.total is not None and rate > 0 else None

    def describe(self) -> str:
        rate = self.per_second
        text = f"{rate:.1f} {self.unit}s/s" if rate >= 1 or rate == 0 else f"{1 / rate:.1f} s/{self.unit}"
        left = self.seconds_left
        return text if left is None else f"{text}, {_clock(left)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Run:
    """When the whole run will end, by its latest outlook and the rate of the task under way."""

    def __init__(self) -> None:
        self.outlook: Outlook | None = None
        self.phase_start = 0.0

    def take(self, outlook: Outlook) -> str:
        """Keep an outlook; returns a line for a phase that begins."""
        before, self.outlook = self.outlook, outlook
        if before is not None and before.current == outlook.current:
            return ""
        self.phase_start = time.perf_counter()
        listed = "" if before is not None else f" of: {', '.join(outlook.phases)}"
        end = f"; {self.describe(None)}" if before is not None and outlook.later_seconds else ""
        return f"phase {outlook.current + 1}/{len(outlook.phases)}, {outlook.phases[outlook.current]}{listed}{end}"

    def describe(self, task_seconds: float | None) -> str:
        """When the run will end, with the time that the task under way still takes; empty where nothing is known."""
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


def _figures(terms: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in terms.items() if name != "gradient_norm")


class TerminalProgress:
    """One line that is redrawn: what, how far, how fast, how long still, and the latest figures."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.display: Progress | None = None
        self.task = TaskID(0)
        self.terms = ""
        self.title = ""
        self.run = _Run()

    def begin(self, title: str, total: int | None, unit: str = "step", done: int = 0) -> None:
        self.close()
        self.title, self.terms, self.rate = title, "", _Rate(total, unit, done)
        columns: list[ProgressColumn] = [SpinnerColumn()]
        if self.console.width >= LEAST_WIDTH_WITH_BAR:
            columns.append(BarColumn(bar_width=BAR_WIDTH))
        # One column, so that what does not fit is cut off at its end, where the least important figures are.
        line = Column(no_wrap=True, overflow="ellipsis")
        columns.append(TextColumn("{task.description}", markup=False, table_column=line))
        self.display = Progress(*columns, console=self.console, transient=True, refresh_per_second=4)
        self.display.start()
        self.task = self.display.add_task(self._line(), total=total, completed=done)

    def advance(self, done: int, terms: Mapping[str, float] | None = None) -> None:
        if self.display is None:
            return
        self.rate.done = done
        if terms:
            self.terms = _figures(terms)
        self.display.update(self.task, completed=done, description=self._line())

    def _line(self) -> str:
        of = f"/{self.rate.total}" if self.rate.total is not None else ""
        parts = (self.rate.describe(), self.run.describe(self.rate.seconds_left), self.terms)
        return printable("  ".join([f"{self.title} {self.rate.done}{of}", *filter(None, parts)]))

    def close(self) -> None:
        """Take the live line away, as an error does before its message; else the cursor would stay hidden."""
        if self.display is not None:
            self.display.stop()
            self.display = None

    def finish(self) -> None:
        if self.display is not None:
            self.close()
            seconds = time.perf_counter() - self.rate.start
            detail = f"  {self.terms}" if self.terms else ""
            text = f"{self.title}: {self.rate.done} {self.rate.unit}s in {_clock(seconds)}{detail}"
            self.console.print(printable(text), markup=False)

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
    """A line when a task starts, every so many seconds, and when it ends."""

    def __init__(self, interval_seconds: float = 15.0) -> None:
        self.interval_seconds = interval_seconds
        self.terms = ""
        self.run = _Run()

    def begin(self, title: str, total: int | None, unit: str = "step", done: int = 0) -> None:
        self.title, self.terms, self.rate = title, "", _Rate(total, unit, done)
        self.printed = time.perf_counter()
        of = f" of {total} {unit}s" if total is not None else ""
        self._print(f"{title}: starts at {done}{of}" if done else f"{title}: starts{of}")

    def advance(self, done: int, terms: Mapping[str, float] | None = None) -> None:
        self.rate.done = done
        if terms:
            self.terms = _figures(terms)
        if time.perf_counter() - self.printed >= self.interval_seconds:
            self.printed = time.perf_counter()
            of = f"/{self.rate.total}" if self.rate.total is not None else ""
            end = self.run.describe(self.rate.seconds_left)
            rate = ", ".join(filter(None, (f"{done}{of} {self.rate.unit}s", self.rate.describe(), end)))
            self._print(f"{self.title}: {rate}  {self.terms}".rstrip())

    def close(self) -> None:
        """Nothing is left open."""

    def finish(self) -> None:
        seconds = time.perf_counter() - self.rate.start
        self._print(
            f"{self.title}: done, {self.rate.done} {self.rate.unit}s in {_clock(seconds)}  {self.terms}".rstrip()
        )

    def outlook(self, outlook: Outlook) -> None:
        line = self.run.take(outlook)
        if line:
            self._print(line)

    def note(self, text: str) -> None:
        self._print(text)

    def warn(self, text: str) -> None:
        rule = "!" * 78
        self._print(f"{rule}\n{text}\n{rule}")

    @staticmethod
    def _print(text: str) -> None:
        remark(text)
