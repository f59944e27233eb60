"""Density of refined modalities: stage 3's bound, compared with stage 1's density and with another latent.

Shapes: N rows, D latent_dim.
"""

import attrs
import torch
from torch import Tensor

from shala_framework.data.order import spread_positions
from shala_framework.data.rows import Rows
from shala_framework.evaluation.intervals import Figure, mean_figure
from shala_framework.model import ShaLa
from shala_framework.refiner import Refined, Refinement
from shala_framework.support.modes import evaluating

MOST_ROWS = 64  # a bound takes as many passes as it has noise levels


@attrs.frozen(kw_only=True)
class RefinedFigures:
    """Stage 3's density of one modality's held-out rows, in nats a value of x.

    Attributes:
        decoder: log p(x | z) of stage 1, z ~ q(z | all present).
        refined: The refiner's lower bound of the same.
        gain: Loss of that bound under another row's latent; above 0 if the refiner uses the latent.
    """

    decoder: Figure
    refined: Figure
    gain: Figure


@torch.no_grad()
def measure_refinement(
    model: ShaLa, held_out: Rows, z_ND: Tensor, groups_N: Tensor | None = None, *, batch_size: int = 32
) -> dict[str, RefinedFigures]:
    """Return figures of every refined modality that at least two rows have.

    Args:
        model: Model with all stages trained.
        held_out: Held-out rows, of which some are taken that are spread over all: they may be sorted by class.
        z_ND: A draw of q(z | x) of each row.
        groups_N: Groups of held-out rows that are resampled together, or None.
        batch_size: Number of latents decoded at a time.

    Returns:
        Nothing of an adversarial refiner, whose draws have no density.
    """
    figures: dict[str, RefinedFigures] = {}
    if model.spec.refine.method == "adversarial":
        return figures
    for name in model.refined_names:
        index = held_out.index_having([name])
        index = index[spread_positions(len(index), MOST_ROWS)]
        if len(index) < 2:
            continue
        x, z = held_out.x[name][index], z_ND[index]
        decoder_N = model.autoencoder.decoded_log_prob(held_out.x, name, z, index, batch_size=batch_size)
        # The other row is far away in the order of the rows, because neighbours are often of one class.
        own_N, other_N = (_bounds(model, name, x, latents, batch_size) for latents in (z, z.roll(len(z) // 2, 0)))
        count = model.modalities[name].count_values(x).cpu().clamp_min(1)
        some_groups_N = None if groups_N is None else groups_N[index]
        figures[name] = RefinedFigures(
            decoder=mean_figure(decoder_N[None] / count, some_groups_N),
            refined=mean_figure(own_N[None] / count, some_groups_N),
            gain=mean_figure((own_N - other_N)[None] / count, some_groups_N),
        )
    return figures


def _bounds(model: ShaLa, name: str, x: Tensor, z_ND: Tensor, batch_size: int) -> Tensor:
    """Return the bound of each row at its latent: [N] on the CPU."""
    found = []
    with evaluating(model.autoencoder):
        for rows in torch.arange(len(x)).split(batch_size):
            z_BD = z_ND[rows].to(model.device)
            likelihood = model.autoencoder.decoders[name](z_BD)
            refined = Refined(likelihood, model.refiner, name, z_BD, Refinement.from_table(model.spec.refine))
            found.append(refined.log_prob(x[rows].to(model.device)).cpu())
    return torch.cat(found)
