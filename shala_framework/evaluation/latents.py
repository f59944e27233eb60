"""Content of the shared latent: how well a linear probe finds classes, and how many dimensions are in use.

Shapes: N rows, D latent_dim.
"""

import warnings

import torch
from torch import Tensor

ACTIVE_VARIANCE = 0.01


def linear_probe(
    z_ND: Tensor, classes_N: Tensor, held_out_ND: Tensor, *, weight_decay: float = 1e-3, max_iterations: int = 200
) -> Tensor:
    """Fit a logistic regression to some latents, and return the classes that it predicts for others.

    Args:
        z_ND: Latents to fit; they are standardised here.
        classes_N: Their classes, int64.
        held_out_ND: Latents to classify [K, D].
        weight_decay: Half the weight of the squared coefficients, in nats a row.
        max_iterations: Largest number of L-BFGS iterations; the result need not have converged.

    Returns:
        int64 [K].
    """
    from sklearn.exceptions import ConvergenceWarning  # importing it takes a second
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if bool((classes_N == classes_N[0]).all()):
        return classes_N[:1].repeat(len(held_out_ND))
    regression = LogisticRegression(C=1 / (2 * weight_decay * len(z_ND)), max_iter=max_iterations)
    probe = make_pipeline(StandardScaler(), regression)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(z_ND.double().numpy(), classes_N.numpy())
    return torch.from_numpy(probe.predict(held_out_ND.double().numpy()))


def active_dimensions(mean_ND: Tensor) -> int:
    """Return the number of dimensions whose posterior mean has a variance over rows above 0.01 (Burda et al. 2016)."""
    return int((mean_ND.var(0, correction=0) > ACTIVE_VARIANCE).sum())


def effective_dimensions(mean_ND: Tensor) -> float:
    """Participation ratio of the posterior means' covariance: D for equal variances, 1 for a line, 0 for a point."""
    covariance_DD = mean_ND.double().T.cov(correction=0).reshape(mean_ND.shape[1], -1)
    eigenvalues = torch.linalg.eigvalsh(covariance_DD).clamp_min(0)
    return float(eigenvalues.sum().square() / eigenvalues.square().sum().clamp_min(1e-30))
