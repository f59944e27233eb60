"""metrics.jsonl: one JSON object a line, in the order of training. Trackers receive the same figures."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shala_framework.plugin.tracker import Tracker
from shala_framework.support.checkpoint import naming_file, write_file
from shala_framework.support.json_files import dump_line, join_lines, parse_lines

WEIGHT = "weight/"  # prefix of the name of a term by whose mean another term's mean is divided


def weighted(means: Mapping[str, float]) -> dict[str, float]:
    """Turn means over all rows into means over the rows that count.

    A term is divided by its companion `weight/NAME`, or left out if that is 0. For a modality that few rows have, the
    mean log-likelihood and the share of rows are both means over all rows. Their quotient is the mean over the rows
    that have the modality, however these are distributed over batches, micro-batches and processes.

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
    """Return the undamaged lines of a run's metrics, in order.

    Args:
        path: Path of the file, which may be missing.
        owner: Fingerprint of the run; lines of other runs count as damaged.
        warn: Called with a sentence if lines are damaged; a crash may have cut the last one short.
    """
    if not path.exists():
        return []
    entries, damaged = parse_lines(path.read_bytes(), {"stage": str, "step": int}, owner)
    if damaged:
        warn(f"{path}: {damaged} of {len(entries) + damaged} lines are damaged and left out")
    return entries


def training_seconds(path: Path, owner: str = "") -> float:
    """Return the seconds that a run's stages have trained, including earlier calls, without saving and validating."""
    total, last = 0.0, dict[str, int]()
    for entry in read_metrics(path, owner):
        rate = entry.get("steps_per_second")
        if isinstance(rate, int | float) and rate > 0:
            step = entry["step"]
            total += (step - last.get(entry["stage"], 0)) / rate
            last[entry["stage"]] = step
    return total


class MetricsFile:
    """Appends to a run's metrics. When a stage resumes, lines past its step are dropped.

    Args:
        path: Path of the file; None writes nothing, for all processes but the first.
        trackers: Receive the same figures.
        warn: Receives a sentence if a tracker fails, which is then left out, or if lines are damaged.
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
        self.num_lines: Counter[str] = Counter()  # number of lines by stage

    def rewind(self, stage: str, step: int, num_lines: int = 0) -> None:
        """Drop the lines that a stage wrote after a step, and damaged lines.

        Args:
            stage: Name of the stage.
            step: Step from which the stage resumes.
            num_lines: Number of lines that the stage had written when that step was saved.
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
        """Append one line. Trackers receive the numbers of a stage."""
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        if step:
            self._tell(lambda tracker: tracker.log(stage, step, numbers))
        if self.path is None:
            return
        with naming_file(self.path), self.path.open("ab+") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 1))
            torn = file.read(1) not in (b"", b"\n")  # keep a line that a crash cut short apart from the next one
            self.num_lines[stage] += 1
            file.write(
                (b"\n" if torn else b"") + dump_line({"stage": stage, "step": step, **values}, self.owner).encode()
            )

    def results(self, files: Sequence[Path]) -> None:
        """Tell the trackers which files have the results of the run."""
        self._tell(lambda tracker: tracker.results(files))

    def close(self) -> None:
        """Close the trackers."""
        self._tell(lambda tracker: tracker.close())

    def _tell(self, say: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            try:
                say(tracker)
            except Exception as error:  # no failure of a tracker, such as that of a network, ends training
                self.trackers.remove(tracker)
                self.warn(
                    f"the tracker {type(tracker).__name__} failed and is left out: {type(error).__name__}: {error}"
                )
