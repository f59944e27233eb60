"""What plugins' networks of stage 3 have to keep, looked at before training. Shapes: B batch, D latent_dim."""

from collections.abc import Mapping

import torch
from torch import Tensor

from shala_framework.plugin.modality import Likelihood, Modality
from shala_framework.plugin.refining import Refinable
from shala_framework.refiner.model import Refiner
from shala_framework.support.errors import PluginError
from shala_framework.support.modes import evaluating


@torch.no_grad()
def check_refiner(
    refiner: Refiner, z_BD: Tensor, likelihoods: Mapping[str, Likelihood], modalities: Mapping[str, Modality]
) -> None:
    """Denoise one batch of every modality that is refined, and look at what comes out.

    Args:
        refiner: Whose networks.
        z_BD: Some latents.
        likelihoods: p(x | z) of each modality at them.
        modalities: By name.

    Raises:
        PluginError: A likelihood cannot be refined, or a network does not keep its contract.
    """
    for name in refiner.names:
        shape = (len(z_BD), *modalities[name].shape)
        if not isinstance(likelihoods[name], Refinable):
            raise PluginError(
                f"modality {name!r}: it offers a refiner, and its decoder returned {type(likelihoods[name]).__name__}, "
                "which has no residual_space(); expected a Refinable likelihood, or a refiner that is None"
            )
        residual = refiner.residual(name, likelihoods[name])
        if tuple(residual.mean.shape) != shape:
            raise PluginError(f"modality {name!r}: its mean is {tuple(residual.mean.shape)}; expected {shape}")
        zeros, sigma_B = torch.zeros(shape, device=z_BD.device), torch.ones(len(z_BD), device=z_BD.device)
        with evaluating(refiner):
            network = refiner.networks[refiner.home[name]]
            raw = network(zeros, residual.mean, refiner.condition(name, z_BD), sigma_B)
            x = residual.x(zeros)
        for what, got, expected in (
            ("refiner returned", tuple(raw.shape), shape),
            ("residual space leads back to", (x.dtype, tuple(x.shape)), (modalities[name].dtype, shape)),
        ):
            if got != expected:
                raise PluginError(f"modality {name!r}: its {what} {got}; expected {expected}")
