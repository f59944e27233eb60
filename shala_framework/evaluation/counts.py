"""How many samples and rows an evaluation measures, where the spec leaves it open."""

import time
from functools import partial

import attrs

from shala_framework.evaluation.judges import Panel
from shala_framework.evaluation.methods import conditional_methods, joint_methods
from shala_framework.evaluation.pace import Pace
from shala_framework.evaluation.parts import Parts
from shala_framework.evaluation.subsets import cyclic_subsets
from shala_framework.model import ShaLa
from shala_framework.spec import unstructure
from shala_framework.spec.schema import Evaluate

LEAST_SAMPLES, LEAST_WORTH_SAMPLES, MOST_SAMPLES, TRIAL_SAMPLES = 40, 100, 500, 16
LEAST_ROWS, MOST_ROWS = 20, 200
_KINDS = {"joint": "joint samples", "conditional": "samples from given modalities"}


@attrs.frozen
class Counts:
    """How many samples and rows are measured, where the settings leave it open.

    Attributes:
        model: That samples.
        panel: The judges of what it samples.
        settings: With the counts that were asked for.
        pace: The time that there is.
        parts: Where a count is kept, so that a resumed evaluation has the same.
        notes: Takes what is left out, and why.
    """

    model: ShaLa
    panel: Panel
    settings: Evaluate
    pace: Pace
    parts: Parts
    notes: list[str]

    def joint_samples(self) -> int:
        """Joint samples a seed."""
        most = min(MOST_SAMPLES, max(LEAST_WORTH_SAMPLES, 4 * len(self.panel.held_out)))
        times = (
            len(list(joint_methods(self.settings, refined=bool(self.model.refined_names)))) * self.settings.num_seeds
        )
        return self._count("joint", "evaluate.num_samples", self.settings.num_samples, most, LEAST_SAMPLES, times)

    def conditional_rows(self) -> int:
        """Held-out rows whose modalities are given."""
        names = self.model.names
        if len(names) < 2:
            return 0
        most = min(MOST_ROWS, len(self.panel.held_out))
        subsets = sum(len(list(cyclic_subsets(names, size))) for size in range(1, len(names)))
        refined = bool(self.model.refined_names)
        methods = len(list(conditional_methods(self.settings, self.model.spec.generate, refined=refined)))
        times = methods * subsets * self.settings.num_row_samples
        return self._count("conditional", "evaluate.num_rows", self.settings.num_rows, most, LEAST_ROWS, times)

    def _count(self, part: str, key: str, asked: int | None, most: int, least: int, times: int) -> int:
        if asked is not None:
            if not asked:
                self.notes.append(f"no figures of {_KINDS[part]}: {key} is 0")
            return asked
        depends = [times, unstructure(self.model.spec.generate), self.panel.description()]
        count = self.parts.value(f"number for {part}", depends, int, partial(self._fitting, part, most, least, times))
        if not count:
            self.notes.append(
                f"no figures of {_KINDS[part]}: {min(least, most)} take longer than their share of the time; raise "
                f"evaluate.minutes, or set {key}"
            )
        return count

    def _fitting(self, part: str, most: int, least: int, times: int) -> int:
        return self.pace.count(part, most, least, lambda: times * self._sample_seconds())

    def _sample_seconds(self) -> float:
        """Of generating one sample with autoguidance and judging it, drawn many at a time."""
        self.model.generate(2, autoguidance_scale=2.0)  # which sets things up
        start = time.perf_counter()
        x = self.model.generate(TRIAL_SAMPLES, autoguidance_scale=2.0)
        for name, judge in self.panel.judges.items():
            judge.features(x[name])
        return (time.perf_counter() - start) / TRIAL_SAMPLES
