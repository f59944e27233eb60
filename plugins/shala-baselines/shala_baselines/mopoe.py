"""MoPoE: a mixture of the products of experts of all subsets.

Reference: Sutter, Daunhawer and Vogt 2021, "Generalized Multimodal ELBO", ICLR, arXiv 2105.02470.

With q(z | X_S), the product of the experts of a subset S, its posterior is the mixture over all non-empty subsets

    q(z | X) = 1/(2^M - 1) sum_S q(z | X_S),

and what it maximises is

    E_{q(z | X)}[sum_i log p(x_i | z)] - beta 1/(2^M - 1) sum_S KL(q(z | X_S) || p(z)),

whose second term is an upper bound of the mixture's KL, by convexity. Each row draws z from one component, picked at
random. The paper writes 2^M subsets; the empty one, whose product is the prior, takes part neither in its code nor
here.

Rows that lack modalities take part: the mixture is over the subsets of what they have. q(z | x_S) of given modalities S
is the product of their experts, as the paper has it; of everything a row has it is the mixture.

Settings in the authors' code (github.com/thomassutter/MoPoE) for PolyMNIST: beta 2.5 without annealing, 512 latent
dimensions, Laplace likelihoods of fixed scale 0.75, Adam at 5e-4, batches of 256 and 300 epochs. That code multiplies
the product of all modalities, and of no smaller subset, by the prior as well; the equations above have no such factor,
and neither has this one.

Shapes: B batch, C subsets, M modalities, D latent_dim.
"""

from itertools import product as choices
from typing import final

import attrs
import torch
from torch import Tensor, nn

from shala_baselines.experts import MOST_WEIGHT, Experts, product
from shala_framework.plugin import (
    EncodedRows,
    GaussianPosterior,
    MethodSizes,
    MixturePosterior,
    Objective,
    PosteriorMethod,
    at_least,
)

MOST_MODALITIES = 12  # of which there are 4,095 subsets


@final
class MoPoE(PosteriorMethod):
    """MoPoE (Sutter et al. 2021): mixture of products of experts of all subsets."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options.

        Attributes:
            beta: Factor of the KL term, beside train.autoencoder.kl_weight; 2.5 as published for PolyMNIST.
        """

        beta: float = attrs.field(default=2.5, validator=at_least(0, at_most=MOST_WEIGHT))

    def __init__(self, options: Options, sizes: MethodSizes) -> None:
        super().__init__(options, sizes)
        if sizes.num_modalities > MOST_MODALITIES:
            raise ValueError(
                f"expected at most {MOST_MODALITIES} modalities, of which it computes all "
                f"{2**MOST_MODALITIES - 1:,} subsets, got {sizes.num_modalities}"
            )
        self.experts: nn.Module = Experts(sizes)
        subsets = [bits for bits in choices((False, True), repeat=sizes.num_modalities) if any(bits)]
        self.register_buffer("subsets_CM", torch.tensor(subsets), persistent=False)

    def fuse(self, h_MBF: list[Tensor], presence_BM: Tensor) -> MixturePosterior:
        return MixturePosterior.uniform(*self._components(h_MBF, presence_BM))

    def fuse_subset(self, h_MBF: list[Tensor], subset_BM: Tensor) -> GaussianPosterior:
        return product(self.experts(h_MBF), subset_BM)

    def _components(self, h_MBF: list[Tensor], presence_BM: Tensor) -> tuple[list[GaussianPosterior], Tensor]:
        """The products of all subsets, and which of these subsets each row has: bool [C, B]."""
        experts, subsets_CM = self.experts(h_MBF), self.get_buffer("subsets_CM")
        components = [product(experts, subset_M.expand_as(presence_BM)) for subset_M in subsets_CM]
        return components, (presence_BM | ~subsets_CM[:, None]).all(2)

    def objective(self, batch: EncodedRows) -> Objective:
        components, has_CB = self._components(batch.h_MBF, batch.presence_BM)
        mixture = MixturePosterior.uniform(components, has_CB)
        z_BD = mixture.draw(batch.randn(self.sizes.latent_dim), batch.rand())
        log_prob = batch.log_prob(z_BD)
        kl_CB = torch.stack([q.kl_BD().sum(1) for q in components]) * has_CB
        kl_B = kl_CB.sum(0) / has_CB.sum(0).clamp_min(1)
        value_B = batch.weighted(log_prob) - self.options.beta * batch.kl_weight * kl_B
        return Objective(value_B=value_B, z_BD=z_BD, log_prob=log_prob, kl_B=kl_B)
