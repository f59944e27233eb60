"""Stage 2: the conditional diffusion prior over the shared latent, and the controls that it must beat."""

from shala_framework.prior.controls import GaussianMixture
from shala_framework.prior.diffusion import DiffusionPrior
from shala_framework.prior.sampling import karras_sigmas, row_noise, sample_heun

__all__ = ["DiffusionPrior", "GaussianMixture", "karras_sigmas", "row_noise", "sample_heun"]
