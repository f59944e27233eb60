"""TensorBoard as a tracker: `tensorboard --logdir runs` shows the values of every run."""

from collections.abc import Mapping
from typing import Any, final

import attrs
from torch.utils.tensorboard import SummaryWriter

from shala_framework.plugin import TrackedRun, Tracker, hookimpl

FOLDER = "tensorboard"


@final
class TensorBoard(Tracker):
    """Writes event files into the run's folder, with one series for each stage and value."""

    @attrs.frozen(kw_only=True)
    class Options:
        """None."""

    def __init__(self, options: Options, run: TrackedRun) -> None:
        super().__init__(options, run)
        self._writers: dict[str, SummaryWriter] = {}

    def resume(self, stage: str, step: int) -> None:
        """Start a file for a stage. TensorBoard then hides what earlier files hold for later steps."""
        self._writers[stage] = SummaryWriter(str(self.run.folder / FOLDER / stage), purge_step=step + 1)

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Add a point to the series of each value."""
        if stage not in self._writers:
            self.resume(stage, 0)
        for name, value in figures.items():
            self._writers[stage].add_scalar(name, value, step)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


@hookimpl
def shala_register_trackers(register: Any) -> None:
    register("tensorboard", TensorBoard)
