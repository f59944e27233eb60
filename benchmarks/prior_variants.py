"""Changes of the prior that the framework does not have, or does not have by default, for prior_study.py.

Shapes: B batch, D latent_dim, K components.
"""

from collections.abc import Sequence
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from shala_framework.autoencoder.posterior import random_subsets
from shala_framework.data.latents import LatentStore
from shala_framework.prior import DiffusionPrior, GaussianMixture


class StudiedPrior(DiffusionPrior):
    """The framework's."""

    def prepare(self, train: LatentStore, seed: int) -> None:
        """Learn what a variant needs before training, once the statistics are there."""

    def noise(self, clean_BD: Tensor) -> Tensor:
        """What is added to latents in training."""
        return torch.randn_like(clean_BD)

    def weighted(self, error_B: Tensor, sigma_B: Tensor) -> Tensor:
        """The loss of rows by their squared errors."""
        return error_B * (sigma_B.square() + 1) / sigma_B.square()

    def loss(
        self,
        z_BD: Tensor,
        h_MBF: Sequence[Tensor],
        presence_BM: Tensor,
        *,
        unconditional_share: float,
        log_sigma_mean: float,
        log_sigma_std: float,
        guide: bool = False,
        **_: Any,
    ) -> Tensor:
        clean_BD = self.standardise(z_BD)
        kept_B1 = torch.rand(len(z_BD), 1) >= unconditional_share
        subset_BM = random_subsets(presence_BM) & kept_B1
        sigma_B = (log_sigma_mean + log_sigma_std * torch.randn(len(z_BD))).exp()
        noisy_BD = clean_BD + sigma_B[:, None] * self.noise(clean_BD)
        condition_BW = self.condition(h_MBF, subset_BM, guide=guide)
        denoised_BD = self.denoise(noisy_BD, sigma_B, condition_BW, guide=guide)
        return self.weighted((denoised_BD - clean_BD).square().mean(1), sigma_B)


class MixtureSkip(StudiedPrior):
    """The skip connection is the exact denoiser of a Gaussian mixture that is fitted first; the network corrects it."""

    COMPONENTS = 10

    def prepare(self, train: LatentStore, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(train), generator=generator)[:10_000]
        chosen = train.take(rows)
        draws = self.standardise(chosen.sample(torch.randn(chosen.mean_ND.shape, generator=generator)))
        mixture = GaussianMixture(self.COMPONENTS, self.latent_dim)
        with torch.no_grad():
            mixture.fit(draws, seed=seed)
        covariance = mixture.cholesky @ mixture.cholesky.mT
        values, vectors = torch.linalg.eigh(covariance)
        self.means, self.log_weights = mixture.means, mixture.weights.log()
        self.values, self.vectors = values.clamp_min(1e-4), vectors

    def log_prior(self, condition_BW: Tensor) -> Tensor:
        """Log of each component's probability, [K, B] or [K, 1]."""
        return self.log_weights[:, None]

    def denoise_mixture(self, z_BD: Tensor, sigma_B: Tensor, condition_BW: Tensor) -> Tensor:
        """E[clean | z] under the mixture."""
        rotated_KBD = torch.einsum("kbd,kde->kbe", z_BD[None] - self.means[:, None], self.vectors)
        total_KBD = self.values[:, None] + sigma_B[None, :, None].square()
        log_KB = self.log_prior(condition_BW) - 0.5 * (rotated_KBD.square() / total_KBD + total_KBD.log()).sum(2)
        share_KB = log_KB.softmax(0)
        shrunk_KBD = rotated_KBD * (self.values[:, None] / total_KBD) * share_KB[:, :, None]
        restored_BD = torch.einsum("kbe,kde->bd", shrunk_KBD, self.vectors)
        return restored_BD + share_KB.T @ self.means

    def denoise(self, z_BD: Tensor, sigma_B: Tensor, condition_BW: Tensor, *, guide: bool = False) -> Tensor:
        if guide:
            return super().denoise(z_BD, sigma_B, condition_BW, guide=True)
        sigma_B1 = sigma_B[:, None]
        total = (sigma_B1.square() + 1).sqrt()
        raw: Tensor = self.network(z_BD / total, sigma_B.log() / 4, condition_BW)
        return self.denoise_mixture(z_BD, sigma_B, condition_BW) + sigma_B1 / total * raw


class GatedMixtureSkip(MixtureSkip):
    """The same with probabilities of the components that depend on what is given."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.gate = nn.Linear(sizes["hidden_dim"], self.COMPONENTS)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def log_prior(self, condition_BW: Tensor) -> Tensor:
        return (self.log_weights + self.gate(condition_BW)).log_softmax(1).T


class UncertaintyWeight(StudiedPrior):
    """The loss of each noise level divided by a learned scale (Karras et al. 2024, EDM2, equation 21)."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.log_scale = nn.Sequential(nn.Linear(16, 1))
        nn.init.zeros_(self.log_scale[0].weight)
        nn.init.zeros_(self.log_scale[0].bias)
        self.register_buffer("frequencies", torch.linspace(0.25, 3, 8))

    def weighted(self, error_B: Tensor, sigma_B: Tensor) -> Tensor:
        angles = sigma_B.log()[:, None] * self.frequencies
        u_B = self.log_scale(torch.cat([angles.cos(), angles.sin()], 1))[:, 0]
        return super().weighted(error_B, sigma_B) / u_B.exp() + u_B


class Coupling(StudiedPrior):
    """Noise is given to the latents of a batch that it is nearest to (Tong et al. 2024), in parts of 64 rows."""

    def noise(self, clean_BD: Tensor) -> Tensor:
        noise_BD = torch.randn_like(clean_BD)
        parts = []
        for clean, noise in zip(clean_BD.split(64), noise_BD.split(64), strict=True):
            _, order = linear_sum_assignment(torch.cdist(clean, noise).square().numpy())
            parts.append(noise[torch.from_numpy(order)])
        return torch.cat(parts)


PRIORS: dict[str, type[StudiedPrior]] = {
    "diffusion": StudiedPrior,
    "mixture": MixtureSkip,
    "gated": GatedMixtureSkip,
    "uncertainty": UncertaintyWeight,
    "coupling": Coupling,
}
