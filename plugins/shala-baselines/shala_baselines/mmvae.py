"""MMVAE: a mixture of experts, trained by an importance-weighted bound with doubly reparametrised gradients.

References: Shi et al. 2019, "Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models",
NeurIPS, arXiv 1911.03393; Tucker et al. 2019, "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives".

Its posterior is the mixture of the experts, q(z | x_1..M) = 1/M sum_m q(z | x_m), and what it maximises is
the importance-weighted bound with stratified draws of each expert,

    1/M sum_m E_{z_1..K ~ q(z | x_m)}[log 1/K sum_k w_k],    w_k = p(z_k) prod_i p(x_i | z_k) / q(z_k | x_1..M).

Its gradient is that of DReG: with the normalised weights r_k = w_k / sum_j w_j held fixed, decoders follow
sum_k r_k grad log w_k, and encoders, whose density in w_k is held fixed, sum_k r_k^2 (d log w_k / d z_k) grad z_k.

Rows that lack modalities take part: their mixture is of the experts that they have. Here experts and prior are Gaussian
and the prior is fixed, N(0, I), on which stage 2 builds; the paper's main experiments have Laplace ones, and a prior of
learned scale. A kl_weight other than 1 weights log q(z | X) - log p(z) in w. The cost of a step is M K decodings.

Settings in the authors' code (github.com/iffsid/mmvae) for the paper's models: DReG with the mean over experts outside
the logarithm, which its option --looser names and which the bound above is; K = 30 and 20 latent dimensions for MNIST
and SVHN, K = 50 and 64 for CUB; no annealing; MNIST's likelihood weighted by the ratio of the modalities' sizes, 3.92,
as train.autoencoder.likelihood_rescaling does; Adam with AMSGrad at 1e-3 and batches of 128 and 64.

Shapes: B batch, K draws, M modalities, D latent_dim.
"""

import math
from typing import final

import attrs
import torch
from torch import Tensor, nn

from shala_baselines.experts import MOST_WEIGHT, Experts
from shala_framework.plugin import (
    EncodedRows,
    MethodSizes,
    MixturePosterior,
    Objective,
    PosteriorMethod,
    at_least,
    standard_normal_log_prob,
)


@final
class MMVAE(PosteriorMethod):
    """MMVAE (Shi et al. 2019): mixture of experts, importance-weighted bound."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options.

        Attributes:
            num_samples: Number K of draws of each expert. A step decodes K latents a row and modality.
            beta: Factor of log q(z | X) - log p(z), beside train.autoencoder.kl_weight.
        """

        num_samples: int = attrs.field(default=30, validator=at_least(1, at_most=10_000))
        beta: float = attrs.field(default=1.0, validator=at_least(0, at_most=MOST_WEIGHT))

    def __init__(self, options: Options, sizes: MethodSizes) -> None:
        super().__init__(options, sizes)
        self.experts: nn.Module = Experts(sizes)

    def fuse(self, h_MBF: list[Tensor], presence_BM: Tensor) -> MixturePosterior:
        return MixturePosterior.uniform(self.experts(h_MBF), presence_BM.T)

    def objective(self, batch: EncodedRows) -> Objective:
        experts, num_draws = self.experts(batch.h_MBF), self.options.num_samples
        fixed = MixturePosterior.uniform(experts, batch.presence_BM.T).detach()
        shape = (num_draws, self.sizes.latent_dim)
        drawn_MKBD = torch.stack([q.draw(batch.randn(*shape).transpose(0, 1)) for q in experts])
        z_MKBD = drawn_MKBD.view_as(drawn_MKBD)  # the same draws by a name of their own, for the hook below
        log_prob = batch.log_prob(z_MKBD)
        kl_MKB = fixed.log_prob(z_MKBD) - standard_normal_log_prob(z_MKBD)
        log_weight_MKB = batch.weighted(log_prob) - self.options.beta * batch.kl_weight * kl_MKB
        share_MKB = log_weight_MKB.detach().softmax(1)
        if z_MKBD.requires_grad:  # on the way to encoders each draw's gradient is multiplied by its weight once more
            z_MKBD.register_hook(lambda gradient: share_MKB[..., None] * gradient)
        bound_MB = log_weight_MKB.detach().logsumexp(1) - math.log(num_draws)
        followed_MB = (share_MKB * log_weight_MKB).sum(1)
        value_MB = bound_MB + followed_MB - followed_MB.detach()  # the bound's value, with DReG's gradient
        bits_MB = batch.presence_BM.T.float()
        weight_MB = bits_MB / bits_MB.sum(0).clamp_min(1)
        return Objective(
            value_B=(weight_MB * value_MB).sum(0),
            z_BD=self._one_draw(drawn_MKBD[:, 0], weight_MB, batch),
            log_prob={name: (weight_MB * value.mean(1)).sum(0) for name, value in log_prob.items()},
            kl_B=(weight_MB * kl_MKB.mean(1)).sum(0),
        )

    def _one_draw(self, z_MBD: Tensor, weight_MB: Tensor, batch: EncodedRows) -> Tensor:
        """A draw of the mixture: each row's from an expert picked at random among those it has."""
        edge_MB = weight_MB.cumsum(0)
        chosen_B = (edge_MB <= batch.rand() * edge_MB[-1].clamp_max(1 - 1e-6)).sum(0).clamp_max(len(z_MBD) - 1)
        return z_MBD[chosen_B, torch.arange(len(chosen_B), device=chosen_B.device)]
