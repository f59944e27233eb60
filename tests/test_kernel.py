"""The kernel distance is unbiased for any number of rows, and detects samples that shrink or lose a mode."""

import pytest
import torch

from shala_framework.evaluation.frechet import frechet_distance
from shala_framework.evaluation.kernel import kernel_distance
from shala_framework.evaluation.manifold import precision_recall
from shala_framework.evaluation.real_features import RealFeatures


def test_few_rows_of_one_distribution_are_no_distance_apart():
    """Its mean over trials is 0 within its error, with 20 rows and with 200; Frechet's distance is far above 0."""
    generator = torch.Generator().manual_seed(0)
    for size in (20, 200):
        pairs = [torch.randn(2, size, 16, generator=generator) for _ in range(100)]
        values = torch.tensor([kernel_distance(x, y) for x, y in pairs])
        assert abs(float(values.mean())) < 3 * float(values.std()) / 10
        assert min(frechet_distance(x, y) for x, y in pairs) > 0.5


def test_shrunken_features_do_not_win():
    """With 60 rows of 64 features, Frechet's distance prefers 0.8 of the deviation; the kernel distance does not."""
    generator = torch.Generator().manual_seed(0)
    real, fair = torch.randn(2, 60, 64, generator=generator)
    assert frechet_distance(0.8 * fair, real) < frechet_distance(fair, real)
    many = [torch.randn(2, 60, 64, generator=generator) for _ in range(30)]
    fair_mean = sum(kernel_distance(x, y) for x, y in many) / 30
    shrunken_mean = sum(kernel_distance(0.8 * x, y) for x, y in many) / 30
    assert fair_mean < shrunken_mean


def test_figures_of_the_same_real_rows_do_not_depend_on_earlier_ones():
    """What is taken from the real rows once is right for every set of samples."""
    generator = torch.Generator().manual_seed(0)
    y_NF = torch.randn(70, 8, generator=generator)
    real = RealFeatures(y_NF)
    for size in (30, 90):
        x_KF = 1.5 * torch.randn(size, 8, generator=generator)
        assert real.kernel(x_KF) == kernel_distance(x_KF, y_NF)
        assert real.precision_recall(x_KF) == precision_recall(x_KF, y_NF)
        assert real.frechet(x_KF) == frechet_distance(x_KF, y_NF)
    apart = torch.pdist(y_NF.double()).mean()
    assert real.spread == pytest.approx(float(apart), rel=1e-5)


def test_it_is_the_closed_form_of_two_points():
    """With x at the origin and y at (1, 1), kernels are 1 and 8 within the sets and 1 between them."""
    x, y = torch.zeros(5, 2), torch.ones(4, 2)
    assert kernel_distance(x, y) == pytest.approx(1 + 8 - 2)
    with pytest.raises(ValueError, match="at least 2 equal features"):
        kernel_distance(x[:1], y)
