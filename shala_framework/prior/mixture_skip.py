"""The skip connection of the denoiser: the best denoiser of a Gaussian mixture instead of a single Gaussian's.

EDM's skip connection is the best denoiser of data from N(0, I), and its network learns everything else. Latents form
clusters, mostly classes. A network that has not yet learned them samples between them, where no class is. The best
denoiser of a mixture is also known in closed form, so the network starts from the distribution of the control and
learns only what that lacks. A learned gate lets the given modalities change the probabilities of the components. The
mixture skip is this project's choice. Shapes: B batch, D latent_dim, K components.
"""

import torch
from torch import Tensor, nn

from shala_framework.prior.controls import GaussianMixture


class MixtureSkip(nn.Module):
    """E[clean | clean + sigma * noise] for clean latents of a Gaussian mixture, which is N(0, I) initially."""

    log_weights: Tensor
    means: Tensor
    variances: Tensor
    directions: Tensor

    def __init__(self, num_components: int, dim: int) -> None:
        super().__init__()
        weights = torch.full((num_components,), 1 / num_components)
        self.register_buffer("log_weights", weights.log())
        self.register_buffer("means", torch.zeros(num_components, dim))
        self.register_buffer("variances", torch.ones(num_components, dim))
        self.register_buffer("directions", torch.eye(dim).repeat(num_components, 1, 1))

    def take(self, mixture: GaussianMixture) -> None:
        """Copy a fitted mixture with the same number of components."""
        factors = mixture.cholesky.detach().cpu().double()
        variances, directions = torch.linalg.eigh(factors @ factors.mT)
        self.log_weights.copy_(mixture.weights.clamp_min(1e-10).log())
        self.means.copy_(mixture.means)
        self.variances.copy_(variances.clamp_min(1e-6))
        self.directions.copy_(directions)

    def forward(self, z_BD: Tensor, sigma_B: Tensor, logits_BK: Tensor) -> Tensor:
        """Denoise.

        Args:
            z_BD: Noisy latents.
            sigma_B: Noise levels of the latents.
            logits_BK: Values added to the log-weights of the components, which are then renormalised.
        """
        with torch.autocast(z_BD.device.type, enabled=False):
            log_weights_KB = (self.log_weights + logits_BK.float()).log_softmax(1).T
            turned_KBD = torch.einsum("kbd,kde->kbe", z_BD - self.means[:, None], self.directions)
            total_KBD = self.variances[:, None] + sigma_B[:, None].square()
            squares_KB = (turned_KBD.square() / total_KBD + total_KBD.log()).sum(2)
            share_KB = (log_weights_KB - 0.5 * squares_KB).softmax(0)
            shrunk_KBD = share_KB[:, :, None] * (self.variances[:, None] / total_KBD) * turned_KBD
            return torch.einsum("kbe,kde->bd", shrunk_KBD, self.directions) + share_KB.T @ self.means
