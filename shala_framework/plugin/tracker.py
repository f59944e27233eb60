"""The contract between the core and a tracker plugin: whoever wants a run's figures besides metrics.jsonl."""

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs


@attrs.frozen(kw_only=True)
class TrackedRun:
    """What a tracker is told of the run at its start.

    Attributes:
        name: Of the spec.
        folder: The run's.
        spec: The resolved spec, as JSON values.
    """

    name: str
    folder: Path
    spec: dict[str, Any]


class Tracker(abc.ABC):
    """Follows one run. A plugin's class declares a frozen attrs class `Options` and is final.

    Only the first process has trackers. One that raises is dropped with a warning, and training goes on.
    """

    Options: ClassVar[type[Any]]

    def __init__(self, options: Any, run: TrackedRun) -> None:
        self.options, self.run = options, run

    @abc.abstractmethod
    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Take figures of a stage ("autoencoder", "prior") after so many of its steps."""

    def resume(self, stage: str, step: int) -> None:  # noqa: B027  (optional: not every tracker can forget)
        """A stage begins after this step; what was logged of later ones comes again."""

    def close(self) -> None:  # noqa: B027  (optional)
        """The run ends, one way or another."""
