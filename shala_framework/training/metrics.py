"""metrics.jsonl: one JSON object a line, in the order of training; and the trackers that are told the same."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from shala_framework.checkpoint import naming_file, write_file
from shala_framework.tracking import Tracker

WEIGHT = "weight/"  # begins the name of a term that another term's mean is divided by


def weighted(means: Mapping[str, float]) -> dict[str, float]:
    """Means over the rows that count: a term is divided by its companion `weight/NAME`, or left out where that is 0.

    Of a modality that few rows have, the mean log-likelihood and the share of rows are both taken over all rows, so
    that their quotient is of the rows that have it, however they fall into batches, micro-batches and processes.

        >>> weighted({"kl": 2.0, "log_prob/a": -3.0, "weight/log_prob/a": 0.5})
        {'kl': 2.0, 'log_prob/a': -6.0}
    """
    weights = {name.removeprefix(WEIGHT): value for name, value in means.items() if name.startswith(WEIGHT)}
    return {
        name: value / weights.get(name, 1.0)
        for name, value in means.items()
        if not name.startswith(WEIGHT) and weights.get(name, 1.0)
    }


def training_seconds(path: Path) -> float:
    """Seconds that a run's stages have trained, those of earlier calls included, without saving and validating."""
    total, last = 0.0, {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry.get("steps_per_second"):
            step = entry["step"]
            total += (step - last.get(entry["stage"], 0)) / entry["steps_per_second"]
            last[entry["stage"]] = step
    return total


class MetricsFile:
    """Appends to a run's metrics; lines past the step at which a stage goes on are dropped.

    Args:
        path: Of the file; None writes nothing, for all processes but the first.
        trackers: Who is told as well.
        warn: Told of a tracker that fails, which is then left out.
    """

    def __init__(
        self, path: Path | None, trackers: Iterable[Tracker] = (), warn: Callable[[str], None] = lambda _: None
    ) -> None:
        self.path, self.trackers, self.warn = path, list(trackers), warn
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    def rewind(self, stage: str, step: int) -> None:
        """Drop what a stage wrote after a step; a last line cut short by a crash goes too."""
        self._tell(lambda tracker: tracker.resume(stage, step))
        if self.path is None or not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if entry.get("stage") != stage or entry.get("step", 0) <= step:
                kept.append(line + "\n")
        write_file(self.path, "".join(kept).encode())

    def write(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line; trackers are told the numbers of a stage."""
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        if step:
            self._tell(lambda tracker: tracker.log(stage, step, numbers))
        if self.path is None:
            return
        with naming_file(self.path), self.path.open("a") as file:
            file.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")

    def close(self) -> None:
        """Let trackers finish."""
        self._tell(lambda tracker: tracker.close())

    def _tell(self, say: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            try:
                say(tracker)
            except Exception as error:  # whatever a tracker meets, a network that fails at night too, training goes on
                self.trackers.remove(tracker)
                self.warn(
                    f"the tracker {type(tracker).__name__} failed and is left out: {type(error).__name__}: {error}"
                )
