"""The units of the diffusion prior: latents with mean zero and covariance near the identity.

EDM's preconditioning suits data with identity covariance: its skip connection is then the best linear denoiser, and the
network learns only what is not Gaussian. Latents that are scaled per dimension are far from this if dimensions are
correlated. Shapes: D latent_dim.
"""

import torch
from torch import Tensor


def whitening(covariance_DD: Tensor, num_rows: int, *, enabled: bool = True) -> tuple[Tensor, Tensor]:
    """Return a linear map W that whitens rows z W with the given covariance, and its inverse.

    W first scales each dimension to variance 1 and then rotates, scales and rotates back (ZCA), so it does not depend
    on the order or the signs of eigenvectors. The correlation matrix is shrunk towards the identity, as if D more rows
    without any correlation had been seen. With few rows, some directions have almost no variance and would otherwise be
    magnified for unseen rows.

    Args:
        covariance_DD: Covariance of the latents.
        num_rows: Number of rows from which it was estimated.
        enabled: Whether to remove correlations. Otherwise W only scales each dimension.

    Returns:
        W and its inverse, float32 [D, D].
    """
    covariance_DD = covariance_DD.detach().cpu().double()
    dim = len(covariance_DD)
    std_D = covariance_DD.diagonal().sqrt().clamp_min(1e-6)
    eye_DD = torch.eye(dim, dtype=torch.float64)
    shrinkage = dim / (dim + num_rows) if enabled else 1.0
    correlation_DD = covariance_DD / std_D[:, None] / std_D
    values_D, vectors_DD = torch.linalg.eigh(correlation_DD.lerp(eye_DD, shrinkage))
    root_D = values_D.clamp_min(1e-6).sqrt()
    whiten_DD = (vectors_DD / root_D) @ vectors_DD.T / std_D[:, None]
    restore_DD = (vectors_DD * root_D) @ vectors_DD.T * std_D
    return whiten_DD.float(), restore_DD.float()
