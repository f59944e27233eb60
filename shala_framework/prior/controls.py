"""The control that a diffusion prior must beat: a Gaussian mixture fitted to training latents.

The other control, N(0, I), needs no code of its own: it is the noise itself. Shapes: N rows, K components, D dims.
"""

import math
import warnings
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
        self, z_ND: Tensor, *, seed: int = 0, max_iterations: int = 200, tolerance: float = 1e-4, ridge: float = 1e-4
    ) -> float:
        """Maximise the likelihood of z by scikit-learn's expectation-maximisation, on the CPU.

        Args:
            z_ND: Finite latents; at least two rows, and as many as components.
            seed: Of the k-means++ start.
            max_iterations: Most iterations; what they reach is taken.
            tolerance: Stop once the mean log-likelihood gains less, in nats.
            ridge: Added to the covariances' diagonals.

        Returns:
            Mean log-likelihood before the last iteration.

        Raises:
            ValueError: There are fewer rows, or a value that is not finite.
        """
        from sklearn.exceptions import ConvergenceWarning  # importing it takes a second
        from sklearn.mixture import GaussianMixture as Mixture

        fitted = Mixture(
            len(self.weights),
            tol=tolerance,
            reg_covar=ridge,
            max_iter=max_iterations,
            init_params="k-means++",
            random_state=seed % 2**32,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted.fit(z_ND.double().cpu().numpy())
        self.weights.copy_(torch.from_numpy(fitted.weights_))
        self.means.copy_(torch.from_numpy(fitted.means_))
        self.cholesky.copy_(torch.linalg.cholesky(torch.from_numpy(fitted.covariances_)))
        return float(fitted.lower_bound_)

    def sample(self, seed: int, rows: Sequence[int]) -> Tensor:
        """Draws [N, D]; row n depends on (seed, rows[n]) alone."""
        device = self.means.device
        noise_ND = row_noise(seed, rows, self.means.shape[1]).to(device)
        choice_N = row_noise(mix_seed(seed, 1), rows, 1)[:, 0]
        uniform_N = torch.special.ndtr(choice_N.double()).to(device)
        edges_K = self.weights.double().cumsum(0)
        component_N = torch.searchsorted(edges_K, uniform_N * edges_K[-1]).clamp_max(len(edges_K) - 1)
        return self.means[component_N] + torch.einsum("nij,nj->ni", self.cholesky[component_N], noise_ND)
