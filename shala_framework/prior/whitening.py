"""The unit in which the diffusion prior works: latents of mean zero and covariance near the identity.

EDM's preconditioning is that of data whose covariance is the identity: its skip connection then is the best linear
denoiser, and the network learns only what is not Gaussian. Latents scaled dimension by dimension are far from it where
dimensions are correlated. Shapes: D latent_dim.
"""

import torch
from torch import Tensor


def whitening(covariance_DD: Tensor, num_rows: int, *, enabled: bool = True) -> tuple[Tensor, Tensor]:
    """A linear map W that whitens rows z W of a given covariance, and its inverse.

    W first scales each dimension to variance 1 and then rotates, scales and rotates back (ZCA), so that it does not
    depend on the order or the signs of eigenvectors. The correlation matrix is shrunk towards the identity as if D more
    rows had been seen without any correlation: few rows leave some directions with next to no variance, which would
    be blown up where unseen rows have more.

    Args:
        covariance_DD: Covariance of the latents.
        num_rows: Number of rows that it was estimated from.
        enabled: False scales each dimension and leaves correlations as they are.

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
