"""p(x | z) with the refiner: the likelihood of a decoder and stage 3 together. Shapes: B batch, D latent_dim."""

import torch
from torch import Tensor

from shala_framework.plugin.modality import Likelihood
from shala_framework.refiner.model import Refinement, Refiner
from shala_framework.support.modes import evaluating


class Refined:
    """A decoder's likelihood whose draws are refined, and whose log_prob is the diffusion's variational bound.

    `mode` is stage 1's. Every call estimates the bound with the same noise, so the same rows have the same bound, and
    the difference between two latents does not depend on the noise. Draws of an adversarial refiner have no density:
    log_prob is then stage 1's.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        refiner: Refiner,
        name: str,
        z_BD: Tensor,
        refinement: Refinement | None = None,
    ) -> None:
        self.likelihood, self.refiner, self.name, self.z_BD = likelihood, refiner, name, z_BD
        self.refinement = refinement or Refinement()

    @property
    def is_bound(self) -> bool:
        return not self.refinement.one_step or self.likelihood.is_bound

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """Return a lower bound of the log-likelihood of x [B, ...] in nats: [B]."""
        settings, refiner = self.refinement, self.refiner
        if settings.one_step:
            return self.likelihood.log_prob(x)
        residual = refiner.residual(self.name, self.likelihood)
        with evaluating(refiner):
            return residual.bound(
                refiner.denoiser(self.name, residual, self.z_BD),
                x,
                sigma_min=settings.bound_sigma_min,
                sigma_max=settings.bound_sigma_max,
                num_levels=settings.num_levels,
                generator=torch.Generator(x.device).manual_seed(0),
            )

    def mode(self) -> Tensor:
        return self.likelihood.mode()

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        mean = self.refiner.residual(self.name, self.likelihood).mean
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        with evaluating(self.refiner):
            return self.refiner.sample(self.name, self.likelihood, self.z_BD, noise, self.refinement)
