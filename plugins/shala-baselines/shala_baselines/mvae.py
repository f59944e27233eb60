"""MVAE: a product of experts, trained by sub-sampled ELBOs.

Reference: Wu and Goodman 2018, "Multimodal Generative Models for Scalable Weakly-Supervised Learning", NeurIPS,
arXiv 1802.05335.

Its posterior of a set X of modalities is the product of their experts and of the prior,

    q(z | X) proportional to p(z) prod_{x_i in X} q(z | x_i),

and what it maximises is a sum of ELBOs: of all modalities, of each one alone, and of k random subsets,

    ELBO(x_1, ..., x_M) + sum_i ELBO(x_i) + sum_{j=1..k} ELBO(X_j),
    ELBO(X) = E_{q(z | X)}[sum_{x_i in X} lambda_i log p(x_i | z)] - beta KL(q(z | X) || p(z)).

Rows that lack modalities take part, as the paper has it: "all" is then what is there. The paper leaves open how the k
subsets are drawn; here their size is uniform from 2 to one less than a row has, and then their members, so that none
repeats another term. lambda_i are the framework's likelihood weights.

Settings in the authors' code (github.com/mhw32/multimodal-vae-public): beta 1 after linear annealing from 0 over 200 of
500 epochs on MNIST, and over 20 of 100 on CelebA's 19 modalities (train.autoencoder.kl_warmup_steps here); k = 1 on
these 19, and no random subset of two modalities, which have none but all and each alone; lambda 1 for images and 10 for
labels and attributes; 64 and 100 latent dimensions. For PolyMNIST, the authors of MoPoE and of MVTCAE give it beta 2.5.

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
)


@final
class MVAE(PosteriorMethod):
    """MVAE (Wu and Goodman 2018): product of experts, sub-sampled ELBOs."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options.

        Attributes:
            num_subsets: Number k of random subsets whose ELBOs are added in each step.
            beta: Factor of the KL terms, beside train.autoencoder.kl_weight.
        """

        num_subsets: int = attrs.field(default=1, validator=at_least(0, at_most=1_000))
        beta: float = attrs.field(default=1.0, validator=at_least(0, at_most=MOST_WEIGHT))

    def __init__(self, options: Options, sizes: MethodSizes) -> None:
        super().__init__(options, sizes)
        self.experts: nn.Module = Experts(sizes)

    def fuse(self, h_MBF: list[Tensor], presence_BM: Tensor) -> GaussianPosterior:
        return product(self.experts(h_MBF), presence_BM, prior=True)

    def objective(self, batch: EncodedRows) -> Objective:
        experts, presence_BM = self.experts(batch.h_MBF), batch.presence_BM
        whole = product(experts, presence_BM, prior=True)
        z_BD = whole.draw(batch.randn(self.sizes.latent_dim))
        log_prob, kl_B = batch.log_prob(z_BD), whole.kl_BD().sum(1)
        beta = self.options.beta * batch.kl_weight
        value_B = batch.weighted(log_prob) - beta * kl_B
        alone = torch.eye(self.sizes.num_modalities, dtype=torch.bool, device=presence_BM.device)
        subsets = [presence_BM & alone[i] for i in range(self.sizes.num_modalities)]
        subsets += [random_middle_subset(batch) for _ in range(self.options.num_subsets)]
        for subset_BM in subsets:
            q = product(experts, subset_BM, prior=True)
            found = batch.log_prob(q.draw(batch.randn(self.sizes.latent_dim)))
            own = {name: value * subset_BM[:, i] for i, (name, value) in enumerate(found.items())}
            # A row that lacks the modality has the empty set, whose ELBO is 0: its posterior is the prior.
            value_B = value_B + batch.weighted(own) - beta * q.kl_BD().sum(1)
        return Objective(value_B=value_B, z_BD=z_BD, log_prob=log_prob, kl_B=kl_B)


def random_middle_subset(batch: EncodedRows) -> Tensor:
    """Return a random subset of 2 to m - 1 of each row's m modalities, empty of fewer than 3: bool [B, M]."""
    presence_BM = batch.presence_BM
    count_B1 = presence_BM.sum(1, keepdim=True)
    size_B1 = 2 + (batch.rand(1) * (count_B1 - 2)).floor().long()
    order_BM = batch.rand(presence_BM.shape[1]).masked_fill(~presence_BM, 2.0)
    return presence_BM & (order_BM.argsort(1).argsort(1) < size_B1) & (count_B1 > 2)
