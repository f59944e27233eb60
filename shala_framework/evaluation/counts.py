"""How many samples and rows an evaluation measures, where the spec leaves it open."""

import time
from collections.abc import Callable
from functools import partial

import attrs

from shala_framework.evaluation.calibration import NUM_DRAWS
from shala_framework.evaluation.judges import Panel
from shala_framework.evaluation.methods import conditional_methods, joint_methods
from shala_framework.evaluation.pace import Pace
from shala_framework.evaluation.parts import Parts
from shala_framework.evaluation.subsets import cyclic_subsets
from shala_framework.model import ShaLa
from shala_framework.spec import unstructure
from shala_framework.spec.schema import Evaluate
from shala_framework.support.distributed.processes import largest_share

LEAST_SAMPLES, LEAST_WORTH_SAMPLES, MOST_SAMPLES, TRIAL_SAMPLES = 40, 100, 1_000, 16
LEAST_ROWS, MOST_ROWS = 20, 200
_KINDS = {"joint": "joint samples", "conditional": "samples from given modalities", "calibration": "calibration"}


@attrs.frozen
class Counts:
    """How many samples and rows are measured, where the settings leave it open.

    Attributes:
        model: That samples.
        panel: The judges of what it samples.
        second: The second judges.
        settings: With the counts that were asked for.
        pace: The time that there is.
        parts: Where a count is kept, so that a resumed evaluation has the same.
        notes: Takes what is left out, and why.
    """

    model: ShaLa
    panel: Panel
    second: Panel
    settings: Evaluate
    pace: Pace
    parts: Parts
    notes: list[str]

    def joint_samples(self) -> int:
        """Joint samples a seed."""
        most = min(MOST_SAMPLES, max(LEAST_WORTH_SAMPLES, 4 * len(self.panel.held_out)))
        methods = len(list(joint_methods(self.model, self.settings)))
        key, asked, times = "evaluate.num_samples", self.settings.num_samples, methods * self.settings.num_seeds
        return self._count("joint", key, asked, most, LEAST_SAMPLES, times, methods)

    def conditional_rows(self) -> int:
        """Held-out rows whose modalities are given."""
        names = self.model.names
        if len(names) < 2:
            return 0
        most = min(MOST_ROWS, len(self.panel.held_out))
        subsets = sum(len(list(cyclic_subsets(names, size))) for size in range(1, len(names)))
        methods = len(list(conditional_methods(self.model, self.settings)))
        key, asked, times = (
            "evaluate.num_rows",
            self.settings.num_rows,
            methods * subsets * self.settings.num_row_samples,
        )
        return self._count("conditional", key, asked, most, LEAST_ROWS, times, methods * (len(names) - 1))

    def calibration_rows(self, num_questions: int) -> int:
        """Held-out rows whose latent is compared with samples of it."""
        most, times = min(MOST_ROWS, len(self.panel.held_out)), num_questions * NUM_DRAWS
        key, asked = "evaluate.calibration_rows", self.settings.calibration_rows
        return self._count("calibration", key, asked, most, LEAST_ROWS, times, num_questions, self._latent_seconds)

    def _count(
        self,
        part: str,
        key: str,
        asked: int | None,
        most: int,
        least: int,
        times: int,
        num_parts: int,
        unit: Callable[[], float] | None = None,
    ) -> int:
        """Return the number of units of a part; `times` as many samples are drawn, in parts that processes share."""
        if asked is not None:
            if not asked:
                self.notes.append(f"no figures of {_KINDS[part]}: {key} is 0")
            return asked
        depends = [
            times,
            self.pace.limit,
            unstructure(self.model.spec.generate),
            self.panel.description(),
            self.second.description(),
        ]
        seconds = unit or self._sample_seconds
        fitting = partial(self.pace.count, part, most, least, lambda: times * largest_share(num_parts) * seconds())
        count = self.parts.value(f"number for {part}", depends, int, fitting)
        if not count:
            self.notes.append(
                f"no figures of {_KINDS[part]}: {min(least, most)} take longer than their share of the time; raise "
                f"evaluate.minutes, or set {key}"
            )
        return count

    def _sample_seconds(self) -> float:
        """Of generating one sample with autoguidance and judging it, drawn many at a time."""
        self.model.generate(2, autoguidance_scale=2.0)  # which sets things up
        start = time.perf_counter()
        x = self.model.generate(TRIAL_SAMPLES, autoguidance_scale=2.0)
        for panel in (self.panel, self.second):
            for name, judge in panel.judges.items():
                judge.features(x[name])
        return (time.perf_counter() - start) / TRIAL_SAMPLES

    def _latent_seconds(self) -> float:
        """Of drawing one latent with autoguidance, many at a time."""
        self.model.sample_latents(2, autoguidance_scale=2.0)
        start = time.perf_counter()
        self.model.sample_latents(NUM_DRAWS, autoguidance_scale=2.0)
        return (time.perf_counter() - start) / NUM_DRAWS
