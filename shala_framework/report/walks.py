"""Latents on a line: between two held-out rows, and from a sample along the leading principal directions.

Shapes: N rows, D latent_dim, K directions, S positions on each.
"""

from typing import Any

import attrs
import torch
from torch import Tensor

from shala_framework.data.labels import label_title
from shala_framework.data.rows import Rows
from shala_framework.model import ShaLa
from shala_framework.report.data_uris import media_of
from shala_framework.report.signal_groups import Cell, SignalGroup

NUM_STEPS = 7  # steps of an interpolation
NUM_DIRECTIONS = 3
POSITIONS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # in standard deviations from the mean
LEAST_ROWS = 8  # directions of fewer rows say nothing
LEAST_SHARE = 1e-4  # of the variance, in a direction that is worth a look


@attrs.frozen(kw_only=True, eq=False)
class Traversal:
    """Latents along some directions.

    Attributes:
        shares: Share of the variance of latents in each direction.
        z_KSD: The latent at each position of each direction.
    """

    shares: tuple[float, ...]
    z_KSD: Tensor


def traverse(z_ND: Tensor, start_D: Tensor) -> Traversal | None:
    """Replace a latent's coordinate along each leading principal direction; its other coordinates stay.

    Positions are relative to the mean of the latents, so none of them is far from what decoders have seen. The sign of
    a direction is such that its largest component is positive.

    Args:
        z_ND: Latents whose directions are taken.
        start_D: The latent that is moved.

    Returns:
        The latents, or None if there are too few rows or they do not differ.
    """
    if len(z_ND) < LEAST_ROWS:
        return None
    z_ND, start_D = z_ND.double(), start_D.double()
    mean_D = z_ND.mean(0)
    _, singular_K, direction_KD = torch.linalg.svd(z_ND - mean_D, full_matrices=False)
    variance_K = singular_K.square() / (len(z_ND) - 1)
    share_K = variance_K / variance_K.sum().clamp_min(1e-30)
    count = int((share_K[:NUM_DIRECTIONS] >= LEAST_SHARE).sum())
    if not count:
        return None
    direction_KD, std_K = direction_KD[:count], variance_K[:count].sqrt()
    largest_K1 = direction_KD.gather(1, direction_KD.abs().argmax(1, keepdim=True))
    direction_KD = direction_KD * largest_K1.sign()
    own_K = direction_KD @ (start_D - mean_D)
    wanted_KS = std_K[:, None] * torch.tensor(POSITIONS, dtype=torch.float64)
    z_KSD = start_D + (wanted_KS - own_K[:, None])[:, :, None] * direction_KD[:, None]
    return Traversal(shares=tuple(share_K[:count].tolist()), z_KSD=z_KSD.float())


def traversal(model: ShaLa, z_ND: Tensor) -> list[SignalGroup]:
    """Decode the latent of the first joint sample at positions along the leading principal directions of latents."""
    found = traverse(z_ND, model.sample_latents(1, seed=model.spec.seed)[0].cpu())
    if found is None:
        return []
    x = model.decode(found.z_KSD.flatten(0, 1))
    panels = []
    for k, share in enumerate(found.shares):
        for name in model.names:
            places = range(k * len(POSITIONS), (k + 1) * len(POSITIONS))
            cells = [
                Cell(f"{position:+g} sd", media_of(model.modalities[name].preview(x[name][n])), "generated")
                for position, n in zip(POSITIONS, places, strict=True)
            ]
            panels.append(SignalGroup(f"direction {k + 1}, {share:.0%} of the variance: {name}", cells))
    return panels


def interpolation(model: ShaLa, held_out: Rows) -> dict[str, Any] | None:
    """Decode latents on the line between two rows that have all modalities, from two classes if possible."""
    rows = held_out.having(model.names)
    if len(rows) < 2:
        return None
    other = next((n for n in range(len(rows) - 1, 0, -1) if rows.labels[n] != rows.labels[0]), len(rows) - 1)
    ends = rows.take(torch.tensor([0, other]))
    z_2D = model.embed(ends.x)
    x = model.decode(torch.lerp(z_2D[:1], z_2D[1:], torch.linspace(0, 1, NUM_STEPS)[:, None]))
    shares = torch.linspace(0, 1, NUM_STEPS).tolist()
    return {
        "ends": [
            f"{key}{f' ({label_title(label)})' if label else ''}"
            for key, label in zip(ends.keys, ends.labels, strict=True)
        ],
        "lines": [
            SignalGroup(
                name,
                [
                    Cell(f"{share:.0%}", media_of(model.modalities[name].preview(x[name][n])), "generated")
                    for n, share in enumerate(shares)
                ],
            )
            for name in model.names
        ],
    }
