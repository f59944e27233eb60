"""Coherence: whether modalities that were generated together, or from each other, show the same class.

Shapes: N rows or samples.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from shala_framework.data.rows import Rows
from shala_framework.evaluation.judges import Judge
from shala_framework.model import PriorName, ShaLa


def agreement(verdicts: Mapping[str, Tensor]) -> float:
    """Share of samples for which the judges of all modalities name one class.

    Args:
        verdicts: Class indices [N] of each modality.
    """
    columns = torch.stack(list(verdicts.values()))
    return float((columns == columns[0]).all(0).float().mean())


def joint_coherence(
    model: ShaLa, judges: Mapping[str, Judge], num_samples: int, *, prior: PriorName = "diffusion", seed: int = 0
) -> float:
    """Share of joint samples whose modalities agree on the class.

    Args:
        model: Trained.
        judges: One a modality.
        num_samples: Joint samples.
        prior: "diffusion", or a control: "mixture", "normal".
        seed: Of the samples.
    """
    x = model.generate(num_samples, prior=prior, seed=seed)
    return agreement({name: judge.classify(x[name]) for name, judge in judges.items()})


def conditional_coherence(
    model: ShaLa,
    judges: Mapping[str, Judge],
    rows: Rows,
    given: str,
    *,
    prior: PriorName = "diffusion",
    guidance_scale: float | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """For each other modality, the share of samples that show the class of the row they were generated from.

    Args:
        model: Trained.
        judges: One a modality.
        rows: Labelled held-out rows; those without the given modality are passed over.
        given: The modality to generate from.
        prior: "diffusion", or the control "posterior".
        guidance_scale: None takes the spec's.
        seed: Of the samples.
    """
    able = torch.nonzero(rows.presence[:, list(rows.x).index(given)])[:, 0]
    chosen = rows.take(able)
    x = model.generate(given={given: chosen.x[given]}, prior=prior, guidance_scale=guidance_scale, seed=seed)
    return {
        name: float((judge.classify(x[name][:, 0]) == judge.targets(chosen.labels)).float().mean())
        for name, judge in judges.items()
        if name != given
    }
