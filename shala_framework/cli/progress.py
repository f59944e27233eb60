"""Progress as a person sees it: one live line on a terminal, plain lines now and then in a log."""

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

from shala_framework.training.progress import Reporter


def make_reporter() -> Reporter:
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

    def describe(self) -> str:
        rate = self.per_second
        text = f"{rate:.1f} {self.unit}s/s" if rate >= 1 or rate == 0 else f"{1 / rate:.1f} s/{self.unit}"
        if self.total is not None and rate > 0:
            text += f", {_clock((self.total - self.done) / rate)} left"
        return text


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


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

    def begin(self, title: str, total: int | None, unit: str = "step", done: int = 0) -> None:
        self.title, self.terms, self.rate = title, "", _Rate(total, unit, done)
        self.display = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self.console,
            transient=True,
            refresh_per_second=4,
        )
        self.display.start()
        self.task = self.display.add_task(title, total=total, completed=done, detail="")

    def advance(self, done: int, terms: Mapping[str, float] | None = None) -> None:
        if self.display is None:
            return
        self.rate.done = done
        if terms:
            self.terms = _figures(terms)
        self.display.update(self.task, completed=done, detail=f"{self.rate.describe()}  {self.terms}")

    def finish(self) -> None:
        if self.display is not None:
            self.display.stop()
            self.display = None
            seconds = time.perf_counter() - self.rate.start
            detail = f"  {self.terms}" if self.terms else ""
            self.console.print(f"{self.title}: {self.rate.done} {self.rate.unit}s in {_clock(seconds)}{detail}")

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        if self.display is not None:
            self.display.stop()
            self.display = None
        self.console.print(text, style="bold red", markup=False)


class LogProgress:
    """A line when a task starts, every so many seconds, and when it ends."""

    def __init__(self, interval_seconds: float = 15.0) -> None:
        self.interval_seconds = interval_seconds
        self.terms = ""

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
            self._print(f"{self.title}: {done}{of} {self.rate.unit}s, {self.rate.describe()}  {self.terms}".rstrip())

    def finish(self) -> None:
        seconds = time.perf_counter() - self.rate.start
        self._print(f"{self.title}: done, {self.rate.done} {self.rate.unit}s in {_clock(seconds)}  {self.terms}".rstrip())

    def note(self, text: str) -> None:
        self._print(text)

    def warn(self, text: str) -> None:
        rule = "!" * 78
        self._print(f"{rule}\n{text}\n{rule}")

    @staticmethod
    def _print(text: str) -> None:
        print(text, file=sys.stderr, flush=True)
