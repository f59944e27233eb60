"""Joint samples compared with real rows and the controls: coherence, distances, diversity and cost.

Shapes: K samples, N rows, A attributes.
"""

import math
import time
from functools import partial

import attrs
import torch
from torch import Tensor

from shala_framework.evaluation.intervals import Figure, share_figure, spread_figure
from shala_framework.evaluation.judges import Panel, all_known
from shala_framework.evaluation.methods import Method, joint_methods
from shala_framework.evaluation.parts import Part, Parts
from shala_framework.model import ShaLa
from shala_framework.refiner import Refinement
from shala_framework.spec.schema import Evaluate
from shala_framework.support.progress import Reporter
from shala_framework.support.seeds import mix_seed


@attrs.frozen(kw_only=True)
class JointFigures:
    """Figures of joint samples by one method; every dict is by modality, in the features of its judge.

    Attributes:
        method: "diffusion", with its autoguidance scale; "mixture" or "normal"; or "real rows": training rows that no
            judge was trained on, which show the distances of real data.
        coherence: Share of samples for which all judges name one class; None with one judge. Where labels name several
            attributes, share for which the judges agree in each attribute that two of them can tell.
        frechet: Distance from the held-out rows, of sets of `count` samples.
        kernel: The same by an unbiased kernel, of all samples.
        precision: Share of samples that look real.
        recall: Share of held-out rows that sets of `count` samples cover.
        spread: Distance between two samples of a class divided by that between two held-out rows; 1 is as diverse.
        classes: Total variation between the classes of samples and of held-out rows; a mean over attributes.
        classes_noise: The total variation that chance alone would give.
        second_coherence: As `coherence`, by the second judges.
        second_frechet: As `frechet`, by the second judges.
        second_kernel: As `kernel`, by the second judges.
        evaluations: Evaluations of a denoiser for one sample; 0 without diffusion.
        milliseconds: Time for one sample with all its modalities, drawn many at a time.
        attributes: Coherence in each attribute that two judges can tell; empty for plain labels.
    """

    method: str
    coherence: Figure | None
    frechet: dict[str, Figure]
    kernel: dict[str, Figure]
    precision: dict[str, Figure]
    recall: dict[str, Figure]
    spread: dict[str, Figure]
    classes: dict[str, Figure]
    classes_noise: dict[str, Figure]
    second_coherence: Figure | None
    second_frechet: dict[str, Figure]
    second_kernel: dict[str, Figure]
    evaluations: int = 0
    milliseconds: float | None = None
    attributes: dict[str, Figure] = attrs.field(factory=dict)


def measure_joint(
    model: ShaLa,
    panel: Panel,
    second: Panel,
    settings: Evaluate,
    num_samples: int,
    *,
    seed: int,
    reporter: Reporter,
    parts: Parts,
) -> list[JointFigures]:
    """Return figures of each method's samples under each seed.

    Args:
        model: Model with both stages trained.
        panel: The judges.
        second: The second judges.
        settings: Scales of autoguidance, and the number of seeds.
        num_samples: Number of samples for each seed.
        seed: Seed of the samples.
        reporter: Receives progress.
        parts: Keeps the figures of each method.
    """
    depends = [
        num_samples,
        settings.num_seeds,
        panel.description(),
        second.description(),
    ]
    return parts.values(
        [
            Part(
                f"joint, {method.title}",
                [*depends, *method.settings(model.spec)],
                JointFigures,
                partial(_measure_method, model, panel, second, method, num_samples, settings.num_seeds, seed, reporter),
            )
            for method in joint_methods(model, settings)
        ]
    )


def _measure_method(
    model: ShaLa,
    panel: Panel,
    second: Panel,
    method: Method,
    num_samples: int,
    num_seeds: int,
    seed: int,
    reporter: Reporter,
) -> JointFigures:
    reporter.begin(f"joint samples, {method.title}", num_seeds, "seed")
    views = [_View(panel), _View(second)]
    seconds = 0.0
    for number in range(num_seeds):
        start = time.perf_counter()
        x = model.generate(
            num_samples,
            prior=method.prior,
            guidance_scale=1,
            autoguidance_scale=method.autoguidance_scale,
            refine=method.refine,
            seed=mix_seed(seed, number),
        )
        seconds += time.perf_counter() - start
        for view in views:
            view.add({name: judge.features(x[name]) for name, judge in view.panel.judges.items()})
        reporter.advance(number + 1)
    reporter.finish()
    by_judge, by_second = views
    return _figures(
        method.title,
        by_judge,
        by_second,
        by_judge.coherence(),
        by_second.coherence(),
        by_judge.attributes(),
        evaluations=method.num_evaluations(model.spec.generate, Refinement.from_table(model.spec.refine)),
        milliseconds=1e3 * seconds / (num_seeds * num_samples),
    )


def measure_real(panel: Panel, second: Panel, num_samples: int) -> JointFigures:
    """Return coherence of held-out rows, and distances between them and training rows that no judge has seen.

    Modalities that too few of these training rows have are left out.

    Args:
        panel: The judges.
        second: The second judges.
        num_samples: Number of samples for each seed that the figures stand beside, in sets as large as theirs.
    """
    views = [_View(panel), _View(second)]
    for view in views:
        view.compare(view.panel.compared_reference, num_samples)
    by_judge, by_second = views
    attributes = {name: _real_figure(panel, values) for name, values in panel.by_attribute(_real_agreed(panel)).items()}
    return _figures("real rows", by_judge, by_second, real_coherence(panel), real_coherence(second), attributes)


def real_coherence(panel: Panel) -> Figure | None:
    """Return the share of complete held-out rows for which all judges name one class; None if there is none."""
    agreed_NA = _real_agreed(panel)
    return None if agreed_NA.isnan().all() else _real_figure(panel, all_known(agreed_NA))


def _real_agreed(panel: Panel) -> Tensor:
    """Whether judges agree on complete held-out rows in each attribute: float [N, A], NaN in other rows."""
    agreed_NA = torch.full((len(panel.held_out), len(panel.attributes)), math.nan)
    index = panel.held_out.index_having(list(panel.judges))
    if panel.judges and len(index):
        complete = panel.held_out.take(index)
        agreed_NA[index] = panel.agreed({n: judge.classify(complete.x[n]) for n, judge in panel.judges.items()})
    return agreed_NA


def _real_figure(panel: Panel, values_N: Tensor) -> Figure:
    known = ~values_N.isnan()
    return share_figure(values_N[known][None], None if panel.groups_N is None else panel.groups_N[known])


_BY_MODALITY = ("frechet", "kernel", "precision", "recall", "spread", "classes", "classes_noise")


class _View:
    """Collects one panel's figures of samples under each seed."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.agreed_KA: list[Tensor] = []
        self.found: dict[str, dict[str, list[float]]] = {what: {} for what in _BY_MODALITY}
        self.counts: dict[str, int] = {}

    def add(self, features: dict[str, Tensor]) -> None:
        """Judge the samples of a seed, by their features."""
        if len(features) > 1:
            judges = self.panel.judges
            verdicts = {name: judges[name].verdicts(value) for name, value in features.items()}
            self.agreed_KA.append(self.panel.agreed(verdicts))
        self.compare(features, len(next(iter(features.values()), ())))

    def compare(self, features: dict[str, Tensor], num_samples: int) -> None:
        """Compare features with those of held-out rows, in sets that suit so many samples."""
        for name, value in features.items():
            self.counts[name] = self.panel.set_size(name, min(num_samples, len(value)))
            for what, figure in self.panel.compare(name, value, self.counts[name]).items():
                self.found[what].setdefault(name, []).append(figure)

    def coherence(self) -> Figure | None:
        """Return the coherence over all seeds; None if fewer than two judges can tell an attribute."""
        agreed = [all_known(agreed_KA) for agreed_KA in self.agreed_KA]
        return share_figure(_apart(torch.stack(agreed))) if agreed and not agreed[0].isnan().all() else None

    def attributes(self) -> dict[str, Figure]:
        """Return the coherence in each attribute over all seeds."""
        by_seed = [self.panel.by_attribute(agreed_KA) for agreed_KA in self.agreed_KA]
        names = by_seed[0] if by_seed else {}
        return {name: share_figure(_apart(torch.stack([found[name] for found in by_seed]))) for name in names}

    def figures(self, what: str) -> dict[str, Figure]:
        """Return the figures by modality."""
        return {name: spread_figure(by_seed, self.counts[name]) for name, by_seed in self.found[what].items()}


def _figures(
    method: str,
    by_judge: _View,
    by_second: _View,
    coherence: Figure | None,
    second_coherence: Figure | None,
    attributes: dict[str, Figure],
    *,
    evaluations: int = 0,
    milliseconds: float | None = None,
) -> JointFigures:
    return JointFigures(
        method=method,
        coherence=coherence,
        frechet=by_judge.figures("frechet"),
        kernel=by_judge.figures("kernel"),
        precision=by_judge.figures("precision"),
        recall=by_judge.figures("recall"),
        spread=by_judge.figures("spread"),
        classes=by_judge.figures("classes"),
        classes_noise=by_judge.figures("classes_noise"),
        second_coherence=second_coherence,
        second_frechet=by_second.figures("frechet"),
        second_kernel=by_second.figures("kernel"),
        evaluations=evaluations,
        milliseconds=milliseconds,
        attributes=attributes,
    )


def _apart(values_SK: Tensor) -> Tensor:
    """Put every sample of every seed into a column of its own, because two seeds share no sample: [S, S * K]."""
    num_seeds, num_samples = values_SK.shape
    apart = torch.full((num_seeds, num_seeds, num_samples), math.nan)
    apart[torch.arange(num_seeds), torch.arange(num_seeds)] = values_SK
    return apart.flatten(1)
