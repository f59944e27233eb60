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
    num_votes: int = 1,
    seed: int = 0,
) -> dict[str, float]:
    """For each other modality, the share of samples that show the class of the row they were generated from.

    A sample of p(x_i | x_given) shows how sure the model is, where a classifier gives the likeliest class alone; to
    compare the two, let several samples of a row vote.

    Args:
        model: Trained.
        judges: One a modality.
        rows: Labelled held-out rows; those without the given modality are passed over.
        given: The modality to generate from.
        prior: "diffusion", or the control "posterior".
        guidance_scale: None takes the spec's.
        num_votes: Samples a row, whose most frequent class counts.
        seed: Of the samples.
    """
    able = torch.nonzero(rows.presence[:, list(rows.x).index(given)])[:, 0]
    chosen = rows.take(able)
    x = model.generate(num_votes, given={given: chosen.x[given]}, prior=prior, guidance_scale=guidance_scale, seed=seed)
    shares = {}
    for name, judge in judges.items():
        if name != given:
            verdicts = judge.classify(x[name].flatten(0, 1)).unflatten(0, (len(chosen), num_votes))
            shares[name] = float((verdicts.mode(1).values == judge.targets(chosen.labels)).float().mean())
    return shares
