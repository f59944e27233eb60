"""A judge's features of real rows, and the comparison of samples' features with them.

An evaluation compares hundreds of sets of samples with the same real rows, which are often more than the samples. What
a figure takes from the real rows alone is therefore computed once.
Shapes: N real rows, K samples, F features.
"""

from functools import cached_property

import torch
from torch import Tensor

from shala_framework.evaluation.frechet import frechet_distance
from shala_framework.evaluation.kernel import kernel_distance, mean_kernel
from shala_framework.evaluation.manifold import ball_radii, precision_recall
from shala_framework.evaluation.spread import class_spread


class RealFeatures:
    """A judge's features of real rows.

    Attributes:
        features: The features, float [N, F].
    """

    def __init__(self, features_NF: Tensor) -> None:
        self.features = features_NF

    def __len__(self) -> int:
        return len(self.features)

    def frechet(self, samples_KF: Tensor) -> float:
        """Return the Frechet distance of samples' features; both sets have at least 2 rows."""
        return frechet_distance(samples_KF, self.features)

    def kernel(self, samples_KF: Tensor) -> float:
        """Return the kernel distance of samples' features; both sets have at least 2 rows."""
        return kernel_distance(samples_KF, self.features, within_y=self._within)

    def precision_recall(self, samples_KF: Tensor) -> tuple[float, float]:
        """Return precision and recall of samples' features; both sets have more than NUM_NEIGHBOURS rows."""
        return precision_recall(samples_KF, self.features, real_radius_N=self._radius_N)

    @cached_property
    def spread(self) -> float:
        """Mean distance between two real rows of any class."""
        return class_spread(self.features, torch.zeros(len(self.features)))

    @cached_property
    def _within(self) -> float:
        return mean_kernel(self.features)

    @cached_property
    def _radius_N(self) -> Tensor:
        return ball_radii(self.features)
