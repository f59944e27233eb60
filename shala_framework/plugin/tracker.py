"""The contract between the core and a tracker plugin, which receives the values of metrics.jsonl during a run."""

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs


@attrs.frozen(kw_only=True)
class TrackedRun:
    """Description of a run that a tracker receives at the start.

    Attributes:
        name: Name in the spec.
        folder: Folder of the run.
        spec: The resolved spec, as JSON values.
    """

    name: str
    folder: Path
    spec: dict[str, Any]


class Tracker(abc.ABC):
    """Follows one run. A plugin's class is final and declares a frozen attrs class `Options`.

    Only the first process has trackers. If a tracker raises an exception, the run warns, drops it and continues
    training.
    """

    Options: ClassVar[type[Any]]

    def __init__(self, options: Any, run: TrackedRun) -> None:
        self.options, self.run = options, run

    @abc.abstractmethod
    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Log values of a stage ("autoencoder", "prior") after this many of its steps."""

    def resume(self, stage: str, step: int) -> None:  # noqa: B027  (optional: not every tracker can discard steps)
        """A stage starts after this step; values that were logged for later steps will be logged again."""

    def results(self, files: Sequence[Path]) -> None:  # noqa: B027  (optional)
        """The run has succeeded, and its results are written. It is called once, before `close`.

        Args:
            files: The report, the model card, contact sheets of samples and evaluations, all in the run's folder.
        """

    def close(self) -> None:  # noqa: B027  (optional)
        """The run ends, whether or not it succeeded."""
