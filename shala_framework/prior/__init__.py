"""Stage 2: the conditional diffusion prior over the shared latent, and the controls that it must beat."""

from shala_framework.prior.density import log_density
from shala_framework.prior.diffusion import DiffusionPrior
from shala_framework.prior.guidance import Guidance
from shala_framework.prior.mixture import GaussianMixture
from shala_framework.prior.sampling import SAMPLERS, karras_sigmas, num_evaluations, row_noise, sample_dpm, sample_heun

__all__ = [
    "SAMPLERS",
    "DiffusionPrior",
    "GaussianMixture",
    "Guidance",
    "karras_sigmas",
    "log_density",
    "num_evaluations",
    "row_noise",
    "sample_dpm",
    "sample_heun",
]
