"""JMVAE: a joint encoder, and unimodal ones that are drawn to it.

Reference: Suzuki, Nakayama and Matsuo 2016, "Joint Multimodal Learning with Deep Generative Models", arXiv 1611.01891.

What JMVAE-kl maximises is the ELBO of a joint encoder, less the divergence from it to each unimodal one,

    E_{q(z | X)}[sum_i log p(x_i | z)] - KL(q(z | X) || p(z)) - alpha sum_i KL(q(z | X) || q(z | x_i)).

It needs complete rows, as the joint encoder takes all modalities: training on rows that lack one is an error. The paper
has two modalities. With more, q(z | x_S) of a proper subset of several is the product of their unimodal encoders, which
is no part of the paper but what its users do. The joint encoder has two hidden layers on the features h, which the
unimodal ones share, where the paper's are networks of their own.

No code of the authors was found to check the settings against. alpha 0.1 is MultiVae's default
(github.com/AgatheSenellart/MultiVae), which anneals the KL terms over its first 10 epochs and says that beta is not in
the paper.

Shapes: B batch, M modalities, F feature_dim, D latent_dim.
"""

from typing import final

import attrs
import torch
from torch import Tensor, nn

from shala_baselines.experts import MOST_WEIGHT, Experts, product
from shala_framework.plugin import (
    EncodedRows,
    GaussianHead,
    GaussianPosterior,
    MethodSizes,
    Objective,
    PosteriorMethod,
    at_least,
)


@final
class JMVAE(PosteriorMethod):
    """JMVAE (Suzuki et al. 2016): joint encoder, KL to unimodal ones; complete rows only."""

    needs_complete_rows = True

    @attrs.frozen(kw_only=True)
    class Options:
        """Options.

        Attributes:
            alpha: Weight of the divergences to the unimodal encoders.
            beta: Factor of the KL to the prior, beside train.autoencoder.kl_weight.
        """

        alpha: float = attrs.field(default=0.1, validator=at_least(0, at_most=MOST_WEIGHT))
        beta: float = attrs.field(default=1.0, validator=at_least(0, at_most=MOST_WEIGHT))

    def __init__(self, options: Options, sizes: MethodSizes) -> None:
        super().__init__(options, sizes)
        self.experts: nn.Module = Experts(sizes)
        width = sizes.hidden_dim
        self.joint = nn.Sequential(
            nn.Linear(sizes.num_modalities * sizes.feature_dim, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            GaussianHead(width, sizes.latent_dim),
        )

    def fuse(self, h_MBF: list[Tensor], presence_BM: Tensor) -> GaussianPosterior:
        joint: GaussianPosterior = self.joint(torch.cat(h_MBF, 1))
        part = product(self.experts(h_MBF), presence_BM)
        all_B1 = presence_BM.all(1, keepdim=True)
        return GaussianPosterior(
            torch.where(all_B1, joint.mean_BD, part.mean_BD), torch.where(all_B1, joint.log_var_BD, part.log_var_BD)
        )

    def objective(self, batch: EncodedRows) -> Objective:
        q = self.fuse(batch.h_MBF, batch.presence_BM)
        z_BD = q.draw(batch.randn(self.sizes.latent_dim))
        log_prob, kl_B = batch.log_prob(z_BD), q.kl_BD().sum(1)
        divergences = [q.kl_to(expert) for expert in self.experts(batch.h_MBF)]
        unimodal_B = (torch.stack(divergences) * batch.presence_BM.T).sum(0)
        value_B = batch.weighted(log_prob) - batch.kl_weight * (
            self.options.beta * kl_B + self.options.alpha * unimodal_B
        )
        return Objective(
            value_B=value_B,
            z_BD=z_BD,
            log_prob=log_prob,
            kl_B=kl_B,
            figures={"unimodal_kl": unimodal_B.mean()},
        )
