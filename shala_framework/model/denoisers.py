"""The diffusion prior around a network that a method of inference brings for stage 2.

Shapes: B batch, D latent_dim, W width of the condition.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from shala_framework.plugin.denoising import DenoiserSizes, LatentDenoiser
from shala_framework.plugin.posterior import PosteriorMethod
from shala_framework.prior import DiffusionPrior, GaussianMixture
from shala_framework.prior.guidance import NO_GUIDANCE, Guidance
from shala_framework.prior.sampling import Denoise
from shala_framework.spec.schema import Prior
from shala_framework.support.errors import PluginError, Problem, SpecError


class BroughtPrior(DiffusionPrior):
    """The prior whose denoiser is the method's network behind EDM's skip connection, as the contract says.

    The network knows no clusters, so for the denoiser all latents are of one, N(0, I); the control keeps its own.

    Attributes:
        single: The only cluster.
    """

    few_rows_have_noise: ClassVar[bool] = False  # features may be what has to be kept, as MLD's latents

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.single = GaussianMixture(1, self.latent_dim)

    @property
    def clusters(self) -> GaussianMixture:
        return self.single

    def raw(
        self, z_BD: Tensor, level_B: Tensor, condition_BW: Tensor, cluster_B: Tensor, *, guide: bool = False
    ) -> Tensor:
        network = self.guide if guide else self.network
        output: Tensor = network(z_BD, level_B, condition_BW)
        return output

    def denoiser(
        self, h_MBF: Sequence[Tensor], subset_BM: Tensor, cluster_B: Tensor, guidance: Guidance = NO_GUIDANCE
    ) -> Denoise:
        denoise, kept = super().denoiser(h_MBF, subset_BM, cluster_B, guidance), self._kept(h_MBF, subset_BM)
        if kept is None:
            return denoise
        latents_BD, determined_BD = kept
        clean_BD = self.standardise(latents_BD)

        def keeping(z_ND: Tensor, sigma_N: Tensor) -> Tensor:
            return torch.where(determined_BD, clean_BD, denoise(z_ND, sigma_N))

        return keeping

    def sample(
        self, noise_BD: Tensor, h_MBF: Sequence[Tensor], subset_BM: Tensor, *others: Any, **settings: Any
    ) -> Tensor:
        z_BD, kept = super().sample(noise_BD, h_MBF, subset_BM, *others, **settings), self._kept(h_MBF, subset_BM)
        return z_BD if kept is None else torch.where(kept[1], kept[0], z_BD)  # without the solver's error

    def _kept(self, h_MBF: Sequence[Tensor], subset_BM: Tensor) -> tuple[Tensor, Tensor] | None:
        network: Any = self.network
        kept: tuple[Tensor, Tensor] | None = network.kept(h_MBF, subset_BM)
        return kept


def make_prior(
    method: PosteriorMethod, table: Prior, *, latent_dim: int, num_modalities: int, feature_dim: int
) -> DiffusionPrior:
    """Make the prior that a spec's [prior] describes, with the networks of the method if the method brings any.

    Args:
        method: The method of inference.
        table: [prior].
        latent_dim: Dimensions of z.
        num_modalities: Number of modalities.
        feature_dim: Dimensions of a feature h.

    Raises:
        SpecError: [prior] asks for what only the networks of the core can do.
        PluginError: The method does not keep its contract.
    """
    sizes = {"latent_dim": latent_dim, "num_modalities": num_modalities, "feature_dim": feature_dim}
    network = method.latent_denoiser(
        DenoiserSizes(hidden_dim=table.hidden_dim, num_blocks=table.num_blocks, dropout=table.dropout)
    )
    if network is None:
        return DiffusionPrior.from_table(table, **sizes)
    name = type(method).__name__
    if table.whiten:
        message = f"expected false with {name}, which brings its own denoiser"
        raise SpecError([Problem(path="prior.whiten", message=message)])
    guide = method.latent_denoiser(
        DenoiserSizes(hidden_dim=table.guide_hidden_dim, num_blocks=table.guide_num_blocks, dropout=table.dropout)
    )
    prior = BroughtPrior.from_table(table, **sizes)
    for key, found in (("network", network), ("guide", guide)):
        if not isinstance(found, LatentDenoiser):
            raise PluginError(
                f"{name}.latent_denoiser returned {type(found).__name__}; expected a LatentDenoiser each time, or None"
            )
        prior.add_module(key, found)
    return prior
