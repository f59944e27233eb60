"""The linear part of stage 3's denoiser, for residuals that are correlated along their axes, as motion is in time.

EDM's scalar c_skip presumes the same variance in all directions. A decoder's jitter from frame to frame is small beside
its errors in position: the scalar passes noise on there, which the network then has to remove at every level. Here, the
residual is a Gaussian whose variance each direction has for itself, and whose mean follows the decoder's.

Shapes: B batch, N values along an axis; an ellipsis is the shape of one x.
Reference: the Wiener filter, in the eigenvectors of each axis' second moments (a separable Karhunen-Loeve transform).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from shala_framework.refiner.residuals import ResidualUnit
from shala_framework.support.autocasting import without_autocast

UNMEASURED = 0.25**2  # variance of every direction before it is measured
PRESUMED = 0.5  # share of the measured variances that the filter presumes, as the network predicts some of the residual
SMALLEST = 1e-4  # smallest variance that is measured; their mean is 1
SIGNIFICANT = 3.0  # standard errors beyond which the residual's mean follows the decoder's
SHRINKAGE_ROWS = 10  # rows whose weight the mean of the variances has, on a logarithmic scale, in each of them
MOST_VALUES = 4_096  # along an axis: its covariance has the square of that


class LinearFilter(nn.Module):
    """E[r | u] of a Gaussian residual r, where u = r + sigma * noise, given the decoder's mean.

    Its variances are a share of those that were measured, because a network predicts some of the residual.
    """

    centre: Tensor
    slope: Tensor
    variance: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        """Make a filter of equal directions.

        Args:
            shape: Shape of one x.

        Raises:
            ValueError: An axis is too long.
        """
        super().__init__()
        self.shape = tuple(shape)
        if max(self.shape) > MOST_VALUES:
            raise ValueError(f"expected at most {MOST_VALUES:,} values along each axis, got the shape {self.shape}")
        for axis, side in enumerate(self.shape):
            self.register_buffer(f"basis_{axis}", torch.eye(side))
        self.register_buffer("centre", torch.zeros(self.shape))
        self.register_buffer("slope", torch.zeros(self.shape))
        self.register_buffer("variance", torch.full(self.shape, UNMEASURED))

    def forward(self, u: Tensor, sigma: Tensor, residual: ResidualUnit) -> Tensor:
        """Filter noisy residuals [B, ...] of the noise levels sigma, which broadcast to them."""
        with without_autocast(u.device):
            expected = self.slope * self.turned(self.offset(residual))
            kept = self.variance / (self.variance + sigma.square())
            return self.turned(expected + kept * (self.turned(u) - expected), back=True)

    def offset(self, residual: ResidualUnit) -> Tensor:
        """The decoder's mean less that of all rows, in units of the residual: [B, ...]."""
        return (residual.mean - self.centre) / residual.scale

    def turned(self, x: Tensor, *, back: bool = False) -> Tensor:
        """Coordinates of x [B, ...] in the eigenvectors of each axis, or x from these coordinates."""
        for axis in range(len(self.shape)):
            basis: Tensor = getattr(self, f"basis_{axis}").to(x.dtype)
            x = (x.transpose(axis + 1, -1) @ (basis.T if back else basis)).transpose(axis + 1, -1)
        return x

    def axis_sums(self, mean: Tensor, r: Tensor) -> dict[str, Tensor]:
        """Sums that `set_axes` needs, float64, over rows of the decoder's mean and the residual: [B, ...]."""
        sums = {"mean": mean.double().sum(0)}
        for axis in range(len(self.shape)):
            lines_KN = r.double().transpose(axis + 1, -1).flatten(0, -2)
            sums[f"axis {axis}"] = lines_KN.T @ lines_KN
        return sums

    def set_axes(self, sums: Mapping[str, Tensor], num_rows: float) -> None:
        """Set the filter's axes and centre."""
        self.centre.copy_(sums["mean"] / num_rows)
        for axis in range(len(self.shape)):
            getattr(self, f"basis_{axis}").copy_(torch.linalg.eigh(sums[f"axis {axis}"])[1])

    def moment_sums(self, offset: Tensor, r: Tensor) -> dict[str, Tensor]:
        """Sums that `set_moments` needs, float64, over rows of `offset` and the residual, once the axes are set."""
        r, m = self.turned(r.double()), self.turned(offset.double())
        return {
            "rr": r.square().sum(0), "rm": (r * m).sum(0), "mm": m.square().sum(0), "rrmm": (r * m).square().sum(0)
        }  # fmt: skip

    def set_moments(self, sums: Mapping[str, Tensor], num_rows: float) -> None:
        """Set what each direction has: its variance, and its slope where that is significant."""
        # By a standard error for rows of unequal variance (White 1980), three of which no nine rows exceed.
        significant = sums["rm"].abs() > SIGNIFICANT * sums["rrmm"].sqrt()
        slope = torch.where(significant, sums["rm"] / sums["mm"].clamp_min(1e-12), 0.0)
        variance = ((sums["rr"] - slope * sums["rm"]) / num_rows).clamp_min(SMALLEST)
        weight = SHRINKAGE_ROWS / (SHRINKAGE_ROWS + num_rows)
        variance = variance.log().lerp(variance.mean().log(), weight).exp()
        self.slope.copy_(slope)
        self.variance.copy_(PRESUMED * variance)
