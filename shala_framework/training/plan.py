"""What a run decides once, at its first start, and keeps whenever it is resumed: number format and numbers of steps."""

import json
from pathlib import Path

import attrs

from shala_framework.checkpoint import write_file
from shala_framework.errors import CheckpointError
from shala_framework.spec.schema import Train
from shala_framework.spec.structuring import structure, unstructure
from shala_framework.training.budget import StageCost, resized, stages_of
from shala_framework.training.precision import Precision, PrecisionName

PLAN_FILE = "plan.json"  # in a run's state folder


@attrs.frozen(kw_only=True)
class TrainingPlan:
    """The decisions of a run.

    Attributes:
        precision: In which it computes.
        reason: Why that one.
        minutes: The budget that the steps were fixed for; None where the spec gives them.
        steps: Of each stage, where there is a budget.
        costs: What was measured of each stage for it.
    """

    precision: PrecisionName
    reason: str = ""
    minutes: float | None = None
    steps: dict[str, int] = attrs.field(factory=dict)
    costs: dict[str, StageCost] = attrs.field(factory=dict)

    @classmethod
    def read(cls, state: Path) -> "TrainingPlan | None":
        """The plan in a run's state folder; None where there is none yet.

        Raises:
            CheckpointError: It is damaged.
        """
        path = state / PLAN_FILE
        if not path.exists():
            return None
        try:
            return structure(json.loads(path.read_bytes()), cls)
        except Exception as error:
            raise CheckpointError(
                f"{path} is damaged: {error}; it fixes how the run goes on: remove the run's folder, or choose another "
                "--out"
            ) from error

    def write(self, state: Path) -> None:
        """Save it."""
        write_file(state / PLAN_FILE, (json.dumps(unstructure(self), indent=2) + "\n").encode())

    def applied(self, settings: Train) -> Train:
        """The settings that the run trains with: as if the spec had said what was decided."""
        stages = {
            name: resized(stage, self.steps.get(name, stage.steps)) for name, stage in stages_of(settings).items()
        }
        return attrs.evolve(settings, precision=self.precision, minutes=None, **stages)

    def number_format(self) -> Precision:
        """The format, as training takes it."""
        return Precision(name=self.precision, reason=self.reason)

    def describe(self) -> str:
        """The budget's outcome, in a sentence."""
        stages = ", ".join(
            f"{name} {steps:,} steps of {self.costs[name].step_seconds:.3g} s" for name, steps in self.steps.items()
        )
        return f"{self.minutes:g} minutes of training: {stages}; fixed for this run, however often it is resumed"
