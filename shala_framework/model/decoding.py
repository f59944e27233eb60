"""From latents to samples: the mode or a draw of each likelihood, or a refined draw.

Shapes: N rows, D latent_dim, B rows of a batch.
"""

from collections.abc import Collection

import torch
from torch import Tensor

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.prior.sampling import row_noise
from shala_framework.refiner import Refinement, Refiner
from shala_framework.support.modes import evaluating
from shala_framework.support.seeds import mix_seed

_DECODING = 2  # purpose of the seeds, or they are those of some rows' latents


def decode_latents(
    autoencoder: Autoencoder,
    z_ND: Tensor,
    *,
    refiner: Refiner,
    refined: Collection[str],
    refinement: Refinement,
    draw: bool,
    seed: int,
    batch_size: int,
) -> dict[str, Tensor]:
    """Return every modality of some latents, on the CPU.

    Args:
        autoencoder: Stage 1.
        z_ND: Latents.
        refiner: Stage 3.
        refined: Modalities to refine; each draw depends only on (seed, row) and its latent.
        refinement: Settings of the refinement.
        draw: Whether to draw from the other likelihoods; otherwise their modes are returned.
        seed: Seed of the draws.
        batch_size: Number of latents decoded at a time.
    """
    device = next(autoencoder.parameters()).device
    generator = torch.Generator(device).manual_seed(mix_seed(seed, _DECODING, 0))
    parts: dict[str, list[Tensor]] = {name: [] for name in autoencoder.names}
    with evaluating(autoencoder), evaluating(refiner):
        for rows in torch.arange(len(z_ND)).split(batch_size):
            z_BD = z_ND[rows].to(device)
            for i, (name, likelihood) in enumerate(autoencoder.decode(z_BD).items()):
                if name in refined:
                    shape = refiner.residual(name, likelihood).mean.shape
                    noise = row_noise(mix_seed(seed, _DECODING, 1 + i), rows.tolist(), shape[1:].numel())
                    noise = noise.view(shape).to(device)
                    x = refiner.sample(name, likelihood, z_BD, noise, refinement)
                else:
                    x = likelihood.sample(generator) if draw else likelihood.mode()
                parts[name].append(x.cpu())
    return {name: torch.cat(values) for name, values in parts.items()}
