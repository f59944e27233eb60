"""metrics.jsonl: one JSON object a line, in the order of training; and the trackers that are told the same."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from shala_framework.plugin.tracker import Tracker
from shala_framework.support.checkpoint import naming_file, write_file
from shala_framework.support.json_files import dump_line, join_lines, parse_lines

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


def read_metrics(path: Path, owner: str = "", warn: Callable[[str], None] = lambda _: None) -> list[dict[str, Any]]:
    """The lines of a run's metrics that are sound, in order.

    Args:
        path: Path of the file, which need not be there.
        owner: Fingerprint of the run; lines of others count as damaged.
        warn: Called with a sentence where lines are damaged; the last one may have been cut short by a crash.
    """
    if not path.exists():
        return []
    entries, damaged = parse_lines(path.read_bytes(), {"stage": str, "step": int}, owner)
    if damaged:
        warn(f"{path}: {damaged} damaged lines are left out of {len(entries) + damaged}")
    return entries


def training_seconds(path: Path, owner: str = "") -> float:
    """Seconds that a run's stages have trained, those of earlier calls included, without saving and validating."""
    total, last = 0.0, dict[str, int]()
    for entry in read_metrics(path, owner):
        rate = entry.get("steps_per_second")
        if isinstance(rate, int | float) and rate > 0:
            step = entry["step"]
            total += (step - last.get(entry["stage"], 0)) / rate
            last[entry["stage"]] = step
    return total


class MetricsFile:
    """Appends to a run's metrics; lines past the step at which a stage goes on are dropped.

    Args:
        path: Path of the file; None writes nothing, for all processes but the first.
        trackers: Receive the same figures.
        warn: Told of a tracker that fails, which is then left out, and of damaged lines.
        owner: Fingerprint of the run.
    """

    def __init__(
        self,
        path: Path | None,
        trackers: Iterable[Tracker] = (),
        warn: Callable[[str], None] = lambda _: None,
        owner: str = "",
    ) -> None:
        self.path, self.trackers, self.warn, self.owner = path, list(trackers), warn, owner
        self.num_lines: Counter[str] = Counter()  # by stage

    def rewind(self, stage: str, step: int, num_lines: int = 0) -> None:
        """Drop what a stage wrote after a step, and damaged lines.

        Args:
            stage: Name of the stage.
            step: Step from which the stage goes on.
            num_lines: How many lines the stage had written when that step was saved.
        """
        self._tell(lambda tracker: tracker.resume(stage, step))
        if self.path is None:
            return
        found = read_metrics(self.path, self.owner, self.warn)
        kept = [line for line in found if line["stage"] != stage or line["step"] <= step]
        self.num_lines = Counter(line["stage"] for line in kept)
        missing = num_lines - self.num_lines[stage]
        if missing > 0:
            self.warn(
                f"{self.path} is damaged: {missing} of the first {num_lines} lines of stage {stage} are gone; "
                "curves lack them, and training does not depend on them"
            )
        if kept or self.path.exists():
            write_file(self.path, join_lines(kept, self.owner))

    def write(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line; trackers are told the numbers of a stage."""
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        if step:
            self._tell(lambda tracker: tracker.log(stage, step, numbers))
        if self.path is None:
            return
        with naming_file(self.path), self.path.open("ab+") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 1))
            torn = file.read(1) not in (b"", b"\n")  # a line that a crash cut short stays a line of its own
            self.num_lines[stage] += 1
            file.write(
                (b"\n" if torn else b"") + dump_line({"stage": stage, "step": step, **values}, self.owner).encode()
            )

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
