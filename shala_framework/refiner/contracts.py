"""Checks of plugins' networks for stage 3, made before training. Shapes: B batch, D latent_dim."""

from collections.abc import Mapping

import torch
from torch import nn

from shala_framework.plugin.modality import Modality
from shala_framework.plugin.refining import Refinable
from shala_framework.refiner.model import Refiner
from shala_framework.support.errors import PluginError
from shala_framework.support.modes import evaluating


@torch.no_grad()
def check_refiner(refiner: Refiner, decoders: nn.ModuleDict, modalities: Mapping[str, Modality]) -> None:
    """Denoise one batch of every refined modality, and check the results.

    Args:
        refiner: The refiner.
        decoders: Stage 1's decoders, by modality.
        modalities: Modalities by name.

    Raises:
        PluginError: A likelihood cannot be refined, or a network does not keep its contract.
    """
    z_BD = torch.zeros(2, refiner.latent_dim)
    for name in refiner.names:
        with evaluating(decoders[name]):
            likelihood = decoders[name](z_BD)
        shape = (2, *modalities[name].shape)
        if not isinstance(likelihood, Refinable):
            raise PluginError(
                f"modality {name!r}: it offers a refiner, and its decoder returned {type(likelihood).__name__}, "
                "which has no residual_space(); expected a Refinable likelihood, or a refiner that is None"
            )
        residual = refiner.residual(name, likelihood)
        if tuple(residual.mean.shape) != shape:
            raise PluginError(f"modality {name!r}: its mean is {tuple(residual.mean.shape)}; expected {shape}")
        zeros, sigma_B = torch.zeros(shape), torch.ones(2)
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
