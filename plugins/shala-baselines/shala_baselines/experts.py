"""Experts q(z | x_i), one a modality, and their product.

Shapes: B batch, M modalities, F feature_dim, D latent_dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shala_framework.plugin import GaussianHead, GaussianPosterior, MethodSizes

MOST_WEIGHT = 1_000_000  # of one term of a loss beside others of weight 1


class Experts(nn.Module):
    """A Gaussian for each modality, from its feature alone."""

    def __init__(self, sizes: MethodSizes) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            GaussianHead(sizes.feature_dim, sizes.latent_dim) for _ in range(sizes.num_modalities)
        )

    def forward(self, h_MBF: Sequence[Tensor]) -> list[GaussianPosterior]:
        """q(z | x_i) of every modality, whatever rows have."""
        return [head(h_BF) for head, h_BF in zip(self.heads, h_MBF, strict=True)]


def product(experts: Sequence[GaussianPosterior], present_BM: Tensor, *, prior: bool = False) -> GaussianPosterior:
    """The normalised product of the densities of those experts that are present; N(0, I) of none.

    Args:
        experts: One for each modality.
        present_BM: bool, which of them each row multiplies.
        prior: Whether N(0, I) is a factor too.
    """
    bits_BM = present_BM.float()
    alone_B1 = torch.ones_like(bits_BM[:, :1]) if prior else (~present_BM.any(1, keepdim=True)).float()
    precisions = [(-q.log_var_BD).exp() * bits_BM[:, i, None] for i, q in enumerate(experts)]
    precision_BD = torch.stack(precisions).sum(0) + alone_B1
    weighted = [q.mean_BD * precision for q, precision in zip(experts, precisions, strict=True)]
    return GaussianPosterior(torch.stack(weighted).sum(0) / precision_BD, -precision_BD.log())
