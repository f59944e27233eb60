"""Kernel distance between samples and real rows in a judge's features.

Unlike that of Frechet's distance, its expectation does not depend on the number of rows, so few samples give a noisy
figure but no flattering one. Reference: Binkowski et al. 2018, "Demystifying MMD GANs" (KID), with the features of a
modality's own judge in place of Inception's. Shapes: N rows, F features.
"""

from torch import Tensor


def kernel_distance(x_NF: Tensor, y_NF: Tensor, *, within_y: float | None = None) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy under the kernel (x . y / F + 1)^3.

    Args:
        x_NF: Features of one set, float, at least 2 rows.
        y_NF: Features of the other set; the numbers of rows may differ.
        within_y: `mean_kernel` of the other set, which is computed if it is not given.

    Returns:
        The estimate. For two sets of one distribution its mean is 0, so it is negative in about half of these cases.

    Raises:
        ValueError: A set has fewer than two rows, or the features differ in number.
    """
    if min(len(x_NF), len(y_NF)) < 2 or x_NF.shape[1:] != y_NF.shape[1:]:
        raise ValueError(f"expected two sets of at least 2 equal features, got {list(x_NF.shape)}, {list(y_NF.shape)}")
    x, y = x_NF.double(), y_NF.double()
    within_y = mean_kernel(y) if within_y is None else within_y
    return mean_kernel(x) + within_y - 2 * float(_kernel(x, y).mean())


def mean_kernel(x_NF: Tensor) -> float:
    """Return the mean of the kernel over pairs of two different rows."""
    x = x_NF.double()
    kernel_NN = _kernel(x, x)
    return float((kernel_NN.sum() - kernel_NN.trace()) / (len(x) * (len(x) - 1)))


def _kernel(x_NF: Tensor, y_KF: Tensor) -> Tensor:
    return (x_NF @ y_KF.T / x_NF.shape[1] + 1) ** 3
