"""The control that a diffusion prior must beat: a Gaussian mixture fitted to training latents.

The other control, N(0, I), needs no code of its own: it is the noise itself. Shapes: N rows, K components, D dims.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shala_framework.prior.sampling import row_noise
from shala_framework.support.seeds import mix_seed


class GaussianMixture(nn.Module):
    """A mixture of Gaussians with full covariances; parameters are buffers, so that it is saved like a module."""

    weights: Tensor
    means: Tensor
    cholesky: Tensor

    def __init__(self, num_components: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((num_components,), 1 / num_components))
        self.register_buffer("means", torch.zeros(num_components, dim))
        self.register_buffer("cholesky", torch.eye(dim).repeat(num_components, 1, 1))

    def log_joint(self, z_ND: Tensor) -> Tensor:
        """Log p(z, component): [N, K]."""
        gap_KDN = (z_ND[None] - self.means[:, None]).transpose(1, 2)
        whitened_KDN: Tensor = torch.linalg.solve_triangular(self.cholesky, gap_KDN, upper=False)
        half_log_det_K = self.cholesky.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = 0.5 * z_ND.shape[1] * math.log(2 * math.pi)
        log_density_KN: Tensor = -0.5 * whitened_KDN.square().sum(1) - half_log_det_K[:, None] - constant
        return (log_density_KN + self.weights.log()[:, None]).T

    def log_prob(self, z_ND: Tensor) -> Tensor:
        """Log p(z): [N]."""
        return self.log_joint(z_ND).logsumexp(1)

    def fit(
        self,
        z_ND: Tensor,
        *,
        seed: int = 0,
        max_iterations: int = 200,
        tolerance: float = 1e-4,
        ridge: float = 1e-4,
        rows_of_identity: float = 0.0,
    ) -> list[float]:
        """Maximise the likelihood of z by expectation-maximisation.

        Args:
            z_ND: Latents; more rows than components.
            seed: Seed of the k-means++ start.
            max_iterations: Most iterations.
            tolerance: Stop once the mean log-likelihood gains less, in nats.
            ridge: Added to the covariances' diagonals.
            rows_of_identity: Rows of covariance I that each component's covariance is estimated with, beside its own:
                few rows leave no direction without any variance then.

        Returns:
            Mean log-likelihood before each iteration.

        Raises:
            ValueError: There are fewer rows than components.
        """
        num_components, dim = self.means.shape
        if len(z_ND) < num_components:
            raise ValueError(f"expected at least {num_components} rows, got {len(z_ND)}")
        z = z_ND.double()
        eye = torch.eye(dim, dtype=torch.float64, device=z.device)
        self.double()
        try:
            self.means.copy_(_spread_rows(z, num_components, seed))
            spread = torch.cov(z.T).reshape(dim, dim) if len(z) > 1 else eye
            self.cholesky.copy_(torch.linalg.cholesky(spread + ridge * eye).expand_as(self.cholesky))
            self.weights.fill_(1 / num_components)
            history: list[float] = []
            for _ in range(max_iterations):
                log_joint_NK = self.log_joint(z)
                log_prob_N1 = log_joint_NK.logsumexp(1, keepdim=True)
                history.append(float(log_prob_N1.mean()))
                if len(history) > 1 and history[-1] - history[-2] < tolerance:
                    break
                share_NK = (log_joint_NK - log_prob_N1).exp()
                mass_K = share_NK.sum(0).clamp_min(1e-10)
                self.weights.copy_(mass_K / mass_K.sum())
                self.means.copy_(share_NK.T @ z / mass_K[:, None])
                for k in range(num_components):
                    gap_ND = z - self.means[k]
                    products = (share_NK[:, k, None] * gap_ND).T @ gap_ND
                    covariance = (products + rows_of_identity * eye) / (mass_K[k] + rows_of_identity)
                    self.cholesky[k] = torch.linalg.cholesky(covariance + ridge * eye)
        finally:
            self.float()
        return history

    def sample(self, seed: int, rows: Sequence[int]) -> Tensor:
        """Draws [N, D]; row n depends on (seed, rows[n]) alone."""
        device = self.means.device
        noise_ND = row_noise(seed, rows, self.means.shape[1]).to(device)
        choice_N = row_noise(mix_seed(seed, 1), rows, 1)[:, 0]
        uniform_N = torch.special.ndtr(choice_N.double()).to(device)
        edges_K = self.weights.double().cumsum(0)
        component_N = torch.searchsorted(edges_K, uniform_N * edges_K[-1]).clamp_max(len(edges_K) - 1)
        return self.means[component_N] + torch.einsum("nij,nj->ni", self.cholesky[component_N], noise_ND)


def _spread_rows(z_ND: Tensor, count: int, seed: int) -> Tensor:
    """Rows far from each other: k-means++ seeding (Arthur and Vassilvitskii 2007)."""
    generator = torch.Generator(device=z_ND.device).manual_seed(seed)
    chosen = [int(torch.randint(len(z_ND), (), generator=generator, device=z_ND.device))]
    nearest_N = (z_ND - z_ND[chosen[0]]).square().sum(1)
    for _ in range(count - 1):
        weights_N = nearest_N if bool(nearest_N.sum() > 0) else torch.ones_like(nearest_N)
        chosen.append(int(torch.multinomial(weights_N, 1, generator=generator)))
        nearest_N = torch.minimum(nearest_N, (z_ND - z_ND[chosen[-1]]).square().sum(1))
    return z_ND[chosen]
