"""What a run decides once, at its first start, and keeps whenever it is resumed: number format and numbers of steps."""

from collections.abc import Callable
from pathlib import Path

import attrs

from shala_framework.spec.schema import Train
from shala_framework.support.checkpoint import write_file
from shala_framework.support.errors import CheckpointError, ShalaError
from shala_framework.support.json_files import dump_json, read_json
from shala_framework.support.structuring import structure, unstructure
from shala_framework.training.budget import StageCost, resized
from shala_framework.training.precision import Precision, PrecisionName

PLAN_FILE, PLAN_COPY = "plan.json", "plan.copy.json"  # in a run's state folder; nothing else knows what it says


@attrs.frozen(kw_only=True)
class TrainingPlan:
    """The decisions of a run.

    Attributes:
        precision: In which it computes.
        reason: Why that one.
        minutes: The budget that the steps were fixed for; None where the spec gives them.
        steps: Steps of each stage, where there is a budget.
        costs: What was measured of each stage for it.
    """

    precision: PrecisionName
    reason: str = ""
    minutes: float | None = None
    steps: dict[str, int] = attrs.field(factory=dict)
    costs: dict[str, StageCost] = attrs.field(factory=dict)

    @classmethod
    def read(
        cls, state: Path, fingerprint: str | None = None, warn: Callable[[str], None] = lambda _: None
    ) -> "TrainingPlan | None":
        """The plan in a run's state folder; None where there is none yet.

        Args:
            state: The folder.
            fingerprint: The run's; None takes any.
            warn: Called with a sentence where the file is damaged and its copy is not.

        Raises:
            CheckpointError: Both are damaged, or another run's.
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
                warn(f"{reasons[0]}; {path} is taken in its place")
            return plan
        if reasons:
            raise CheckpointError(
                f"{reasons[0]}; it fixes how the run goes on: restore it, remove the run's folder, or choose another "
                "--out"
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
            raise CheckpointError(f"{path} is of another version: {error}") from error

    def write(self, state: Path, fingerprint: str) -> None:
        """Save it, and a copy."""
        content = dump_json({"fingerprint": fingerprint, "plan": unstructure(self)}, indent=2)
        for name in (PLAN_COPY, PLAN_FILE):
            write_file(state / name, content)

    def applied(self, settings: Train) -> Train:
        """The settings that the run trains with: as if the spec had said what was decided."""
        first, second, third = settings.autoencoder, settings.prior, settings.refiner
        left_out = bool(self.steps) and "refiner" not in self.steps  # its time was not part of the budget
        return attrs.evolve(
            settings,
            precision=self.precision,
            minutes=None,
            autoencoder=resized(first, self.steps.get("autoencoder", first.steps)),
            prior=resized(second, self.steps.get("prior", second.steps)),
            refiner=attrs.evolve(third, steps=0)
            if left_out
            else resized(third, self.steps.get("refiner", third.steps)),
        )

    def number_format(self) -> Precision:
        """The format, as training takes it."""
        return Precision(name=self.precision, reason=self.reason)

    def describe(self) -> str:
        """The budget's outcome, in a sentence."""
        stages = ", ".join(
            f"{name} {steps:,} steps of {self.costs[name].step_seconds:.3g} s" for name, steps in self.steps.items()
        )
        return f"{self.minutes:g} minutes of training: {stages}; fixed for this run, however often it is resumed"
