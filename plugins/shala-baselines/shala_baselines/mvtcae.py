"""MVTCAE: a product of experts, trained by a bound of the total correlation.

Reference: Hwang et al. 2021, "Multi-View Representation Learning via Total Correlation Objective", NeurIPS.

Its posterior is the product of the experts, without the prior, and what it maximises is a convex combination of two
bounds of the total correlation: the variational information bottleneck of all modalities, by 1 - alpha, and the
conditional one of each modality, by alpha,

    (M - alpha)/M E_{q(z | X)}[sum_i log p(x_i | z)]
        - beta [(1 - alpha) KL(q(z | X) || p(z)) + alpha/M sum_i KL(q(z | X) || q(z | x_i))].

Rows that lack modalities take part with M the number that they have, which the paper does not consider.

Settings in the authors' code (github.com/gr8joo/MVTCAE) for PolyMNIST, whose loss is the one above: alpha 5/6, beta 2.5
without annealing, 512 latent dimensions, Adam at 1e-3, batches of 256 and 300 epochs.

Shapes: B batch, M modalities, D latent_dim.
"""

from typing import final

import attrs
import torch
from torch import Tensor, nn

from shala_baselines.experts import MOST_WEIGHT, Experts, product
from shala_framework.plugin import (
    EncodedRows,
    GaussianPosterior,
    MethodSizes,
    Objective,
    PosteriorMethod,
    at_least,
    between,
)


@final
class MVTCAE(PosteriorMethod):
    """MVTCAE (Hwang et al. 2021): product of experts, total correlation."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options.

        Attributes:
            alpha: Share of the conditional bottlenecks, 0 to 1; 5/6 as published for PolyMNIST.
            beta: Factor of the KL terms, beside train.autoencoder.kl_weight; 2.5 as published for PolyMNIST.
        """

        alpha: float = attrs.field(default=5 / 6, validator=between(0, 1))
        beta: float = attrs.field(default=2.5, validator=at_least(0, at_most=MOST_WEIGHT))

    def __init__(self, options: Options, sizes: MethodSizes) -> None:
        super().__init__(options, sizes)
        self.experts: nn.Module = Experts(sizes)

    def fuse(self, h_MBF: list[Tensor], presence_BM: Tensor) -> GaussianPosterior:
        return product(self.experts(h_MBF), presence_BM)

    def objective(self, batch: EncodedRows) -> Objective:
        experts, alpha = self.experts(batch.h_MBF), self.options.alpha
        q = product(experts, batch.presence_BM)
        z_BD = q.draw(batch.randn(self.sizes.latent_dim))
        log_prob, kl_B = batch.log_prob(z_BD), q.kl_BD().sum(1)
        bits_MB = batch.presence_BM.T.float()
        count_B = bits_MB.sum(0).clamp_min(1)
        conditional_B = (torch.stack([q.kl_to(expert) for expert in experts]) * bits_MB).sum(0) / count_B
        bottleneck_B = (1 - alpha) * kl_B + alpha * conditional_B
        reconstruction_B = (count_B - alpha) / count_B * batch.weighted(log_prob)
        return Objective(
            value_B=reconstruction_B - self.options.beta * batch.kl_weight * bottleneck_B,
            z_BD=z_BD,
            log_prob=log_prob,
            kl_B=kl_B,
            figures={"conditional_kl": conditional_B.mean()},
        )
