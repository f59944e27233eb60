"""Decisions that a run makes once, at its first start, and keeps when resumed: number format and numbers of steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from shala_framework.spec.schema import Train
from shala_framework.support.checkpoint import write_file
from shala_framework.support.errors import CheckpointError, ShalaError
from shala_framework.support.json_files import dump_json, read_json
from shala_framework.support.structuring import structure, unstructure
from shala_framework.training.budget import StageCost, resized, stages_of
from shala_framework.training.precision import Precision, PrecisionName

PLAN_FILE, PLAN_COPY = "plan.json", "plan.copy.json"  # in a run's state folder
FEW_STEPS = 100  # below these, no stage learns anything worth sampling from


@attrs.frozen(kw_only=True)
class TrainingPlan:
    """The decisions of a run.

    Attributes:
        precision: Number format.
        reason: Reason for the number format.
        minutes: Time budget from which the steps follow; None if the spec gives the steps.
        steps: Steps of each stage if there is a budget.
        validations: Validations of each stage if there is a budget.
        costs: Measured cost of each stage if there is a budget.
    """

    precision: PrecisionName
    reason: str = ""
    minutes: float | None = None
    steps: dict[str, int] = attrs.field(factory=dict)
    validations: dict[str, int] = attrs.field(factory=dict)
    costs: dict[str, StageCost] = attrs.field(factory=dict)

    @classmethod
    def read(
        cls, state: Path, fingerprint: str | None = None, warn: Callable[[str], None] = lambda _: None
    ) -> "TrainingPlan | None":
        """Read the plan in a run's state folder; None if there is none yet.

        Args:
            state: The folder.
            fingerprint: Fingerprint of the run; None accepts any.
            warn: Called with a sentence if the file is damaged and its copy is not.

        Raises:
            CheckpointError: Both files are damaged or belong to another run.
        """
        reasons = []
        for path in (state / PLAN_FILE, state / PLAN_COPY):
            if not path.exists():
                continue
            try:
                plan = cls._read(path, fingerprint)
            except CheckpointError as error:
                reasons.append(str(error))
                continue
            if reasons:
                warn(f"{reasons[0]}; {path} replaces it")
            return plan
        if reasons:
            raise CheckpointError(
                f"{reasons[0]}; the run cannot resume without it: restore it, remove the run's folder, or choose "
                "another --out"
            )
        return None

    @classmethod
    def _read(cls, path: Path, fingerprint: str | None) -> "TrainingPlan":
        found = read_json(path, {"fingerprint": str, "plan": dict}, error=CheckpointError, advice="it cannot be used")
        if fingerprint is not None and found["fingerprint"] != fingerprint:
            raise CheckpointError(f"{path} belongs to another run")
        try:
            return structure(found["plan"], cls)
        except ShalaError as error:
            raise CheckpointError(f"{path} was written by another version: {error}") from error

    def write(self, state: Path, fingerprint: str) -> None:
        """Save the plan and a copy of it."""
        content = dump_json({"fingerprint": fingerprint, "plan": unstructure(self)}, indent=2)
        for name in (PLAN_COPY, PLAN_FILE):
            write_file(state / name, content)

    def applied(self, settings: Train) -> Train:
        """Return the settings of a spec with the decisions filled in."""
        left_out = bool(self.steps) and "refiner" not in self.steps  # it had no share in the time budget
        stages: dict[str, Any] = {
            name: resized(stage, self.steps.get(name, stage.steps), self.validations.get(name))
            for name, stage in stages_of(settings).items()
        }
        if left_out:
            stages["refiner"] = attrs.evolve(settings.refiner, steps=0)
        return attrs.evolve(settings, precision=self.precision, minutes=None, **stages)

    def number_format(self) -> Precision:
        """Return the number format in the form that training needs."""
        return Precision(name=self.precision, reason=self.reason)

    def describe(self) -> str:
        """Describe the outcome of the time budget in a sentence."""
        stages = ", ".join(
            f"{name} {steps:,} steps of {self.costs[name].step_seconds:.3g} s" for name, steps in self.steps.items()
        )
        return f"{self.minutes:g} minutes of training: {stages}; fixed for this run, however often it is resumed"

    def doubt(self) -> str:
        """Return a sentence if the time budget holds too few steps of some stage for it to learn anything, or ""."""
        few = {name: steps for name, steps in self.steps.items() if steps < FEW_STEPS}
        if not few or self.minutes is None:
            return ""
        found = " and ".join(
            f"{steps} step{'s' * (steps > 1)} of stage {name}, {self.costs[name].step_seconds:.3g} s each"
            for name, steps in few.items()
        )
        enough = self.minutes * FEW_STEPS / min(few.values())
        return (
            f"{self.minutes:g} minutes hold {found}: too few to learn anything; close other programs, or set "
            f"train.minutes to more than {enough:.2g}, and start again in another folder"
        )
