"""Joint samples beside real rows and the controls: coherence, Frechet distance, precision and recall, and their cost.

Shapes: K samples.
"""

import math
import time
from functools import partial

import attrs
import torch
from torch import Tensor

from shala_framework.data.rows import Rows
from shala_framework.evaluation.coherence import agreement
from shala_framework.evaluation.intervals import Figure, mean_figure, spread_figure
from shala_framework.evaluation.judges import Panel
from shala_framework.evaluation.methods import Method, joint_methods
from shala_framework.evaluation.parts import Parts
from shala_framework.model import ShaLa
from shala_framework.refiner import Refinement
from shala_framework.spec.schema import Evaluate
from shala_framework.support.progress import Reporter
from shala_framework.support.seeds import mix_seed


@attrs.frozen(kw_only=True)
class JointFigures:
    """Joint samples by one method.

    Attributes:
        method: "diffusion", with its autoguidance scale; "mixture" or "normal"; or "real rows", training rows that
            show what the distances of real data are.
        coherence: Share of samples for which all judges name one class; None of one judge.
        frechet: Modality to the distance from the held-out rows, in its judge's features.
        precision: Modality to the share of samples that look real.
        recall: Modality to the share of held-out rows that samples cover.
        evaluations: Of a denoiser for one sample; 0 without diffusion.
        milliseconds: For one sample with all its modalities, drawn many at a time.
    """

    method: str
    coherence: Figure | None
    frechet: dict[str, Figure]
    precision: dict[str, Figure]
    recall: dict[str, Figure]
    evaluations: int = 0
    milliseconds: float | None = None


def measure_joint(
    model: ShaLa, panel: Panel, settings: Evaluate, num_samples: int, *, seed: int, reporter: Reporter, parts: Parts
) -> list[JointFigures]:
    """Figures of each method's samples under each seed.

    Args:
        model: With both stages trained.
        panel: The judges.
        settings: Scales of autoguidance, and the number of seeds.
        num_samples: Samples a seed.
        seed: Of the samples.
        reporter: Receives progress.
        parts: Where the figures of each method are kept.
    """
    return [
        parts.value(
            f"joint, {method.title}",
            [num_samples, settings.num_seeds, *method.settings(model.spec), panel.description()],
            JointFigures,
            partial(_measure_method, model, panel, method, num_samples, settings.num_seeds, seed, reporter),
        )
        for method in joint_methods(settings, refined=bool(model.refined_names))
    ]


def _measure_method(
    model: ShaLa, panel: Panel, method: Method, num_samples: int, num_seeds: int, seed: int, reporter: Reporter
) -> JointFigures:
    reporter.begin(f"joint samples, {method.title}", num_seeds, "seed")
    agreed: list[Tensor] = []
    found: dict[str, dict[str, list[float]]] = {"frechet": {}, "precision": {}, "recall": {}}
    seconds = 0.0
    for number in range(num_seeds):
        start = time.perf_counter()
        x = model.generate(
            num_samples,
            prior=method.prior,
            autoguidance_scale=method.autoguidance_scale,
            refine=method.refine,
            seed=mix_seed(seed, number),
        )
        seconds += time.perf_counter() - start
        features = {name: judge.features(x[name]) for name, judge in panel.judges.items()}
        agreed.append(agreement({name: panel.judges[name].verdicts(value) for name, value in features.items()}))
        for name, value in features.items():
            for what, figure in panel.compare(name, value).items():
                found[what].setdefault(name, []).append(figure)
        reporter.advance(number + 1)
    reporter.finish()
    return JointFigures(
        method=method.title,
        coherence=mean_figure(_apart(torch.stack(agreed).float())) if len(panel.judges) > 1 else None,
        evaluations=method.num_evaluations(model.spec.generate, Refinement.from_table(model.spec.refine)),
        milliseconds=1e3 * seconds / (num_seeds * num_samples),
        frechet=_figures(found["frechet"], num_samples),
        precision=_figures(found["precision"], num_samples),
        recall=_figures(found["recall"], num_samples),
    )


def measure_real(train: Rows, panel: Panel, num_samples: int) -> JointFigures:
    """What held-out rows agree in, and how far training rows, as many as there would be samples, are from them."""
    complete = panel.held_out.having(list(panel.judges))
    verdicts = {name: judge.classify(complete.x[name]) for name, judge in panel.judges.items()} if len(complete) else {}
    found: dict[str, dict[str, list[float]]] = {"frechet": {}, "precision": {}, "recall": {}}
    count = min(num_samples, len(train))
    for name, judge in panel.judges.items():
        rows = train.having([name]).spread(count)
        for what, value in panel.compare(name, judge.features(rows.x[name])).items():
            found[what][name] = [value]
    coherence = mean_figure(agreement(verdicts).float()[None]) if len(verdicts) > 1 else None
    return JointFigures(
        method="real rows",
        coherence=coherence,
        frechet=_figures(found["frechet"], count),
        precision=_figures(found["precision"], count),
        recall=_figures(found["recall"], count),
    )


def _figures(values: dict[str, list[float]], count: int) -> dict[str, Figure]:
    return {name: spread_figure(by_seed, count) for name, by_seed in values.items()}


def _apart(values_SK: Tensor) -> Tensor:
    """A column for every sample of every seed, as samples of two seeds have nothing in common: [S, S * K]."""
    num_seeds, num_samples = values_SK.shape
    apart = torch.full((num_seeds, num_seeds, num_samples), math.nan)
    apart[torch.arange(num_seeds), torch.arange(num_seeds)] = values_SK
    return apart.flatten(1)
