"""What the shared latent holds: whether classes can be read off it linearly, and how many dimensions it uses.

Shapes: N rows, D latent_dim, C classes.
"""

import torch
from torch import Tensor, nn

ACTIVE_VARIANCE = 0.01


def linear_probe(
    z_ND: Tensor, classes_N: Tensor, held_out_ND: Tensor, num_classes: int, *, weight_decay: float = 1e-3
) -> Tensor:
    """Classes that a logistic regression, fitted to some latents, reads off others.

    Args:
        z_ND: Latents to fit, standardised here.
        classes_N: Their classes, int64.
        held_out_ND: Latents to classify [K, D].
        num_classes: C.
        weight_decay: Half the weight of the squared coefficients, in nats a row.

    Returns:
        int64 [K].
    """
    mean_D, std_D = z_ND.mean(0), z_ND.std(0, correction=0).clamp_min(1e-6)
    z = ((z_ND - mean_D) / std_D).double()
    weight_DC = torch.zeros(z.shape[1], num_classes, dtype=torch.float64, requires_grad=True)
    bias_C = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight_DC, bias_C], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = nn.functional.cross_entropy(z @ weight_DC + bias_C, classes_N)
        loss = loss + weight_decay * weight_DC.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        held_out = ((held_out_ND - mean_D) / std_D).double()
        return (held_out @ weight_DC + bias_C).argmax(1)


def active_dimensions(mean_ND: Tensor) -> int:
    """Dimensions whose posterior mean varies over rows by more than 0.01 (Burda et al. 2016)."""
    return int((mean_ND.var(0, correction=0) > ACTIVE_VARIANCE).sum())


def effective_dimensions(mean_ND: Tensor) -> float:
    """Participation ratio of the posterior means' covariance: D for equal variances, 1 for a line, 0 for a point."""
    covariance_DD = mean_ND.double().T.cov(correction=0).reshape(mean_ND.shape[1], -1)
    eigenvalues = torch.linalg.eigvalsh(covariance_DD).clamp_min(0)
    return float(eigenvalues.sum().square() / eigenvalues.square().sum().clamp_min(1e-30))
