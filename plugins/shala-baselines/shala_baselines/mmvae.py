"""MMVAE: a mixture of experts, trained by an importance-weighted bound with doubly reparametrised gradients.

References: Shi et al. 2019, "Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models",
NeurIPS, arXiv 1911.03393; Tucker et al. 2019, "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives".

Its posterior is the mixture of the experts, q(z | x_1..M) = 1/M sum_m q(z | x_m), and what it maximises is
the importance-weighted bound with stratified draws of each expert,

    1/M sum_m E_{z_1..K ~ q(z | x_m)}[log 1/K sum_k w_k],    w_k = p(z_k) prod_i p(x_i | z_k) / q(z_k | x_1..M).

Its gradient is that of DReG (see bounds.py), or the ordinary one of reparametrised draws.

Rows that lack modalities take part: their mixture is of the experts that they have. Here experts and prior are Gaussian
and the prior is fixed, N(0, I), on which stage 2 builds; the paper's main experiments have Laplace ones, and a prior of
learned scale. A kl_weight other than 1 weights log q(z | X) - log p(z) in w. The cost of a step is M K decodings.

Settings in the authors' code (github.com/iffsid/mmvae) for the paper's models: DReG with the mean over experts outside
the logarithm, which its option --looser names and which the bound above is; K = 30 and 20 latent dimensions for MNIST
and SVHN, K = 50 and 64 for CUB; no annealing; MNIST's likelihood weighted by the ratio of the modalities' sizes, 3.92,
as train.autoencoder.likelihood_rescaling does; Adam with AMSGrad at 1e-3 and batches of 128 and 64.

Shapes: B batch, K draws, M modalities, D latent_dim.
"""

from typing import final

import attrs
import torch
from torch import Tensor, nn

from shala_baselines.bounds import BoundOptions, expert_shares, log_mean_weight, of_experts, random_expert
from shala_baselines.experts import Experts
from shala_framework.plugin import (
    EncodedRows,
    MethodSizes,
    MixturePosterior,
    Objective,
    PosteriorMethod,
    standard_normal_log_prob,
)


@final
class MMVAE(PosteriorMethod):
    """MMVAE (Shi et al. 2019): mixture of experts, importance-weighted bound."""

    @attrs.frozen(kw_only=True)
    class Options(BoundOptions):
        """Options."""

    def __init__(self, options: Options, sizes: MethodSizes) -> None:
        super().__init__(options, sizes)
        self.experts: nn.Module = Experts(sizes)

    def fuse(self, h_MBF: list[Tensor], presence_BM: Tensor) -> MixturePosterior:
        return MixturePosterior.uniform(self.experts(h_MBF), presence_BM.T)

    def objective(self, batch: EncodedRows) -> Objective:
        experts, options = self.experts(batch.h_MBF), self.options
        mixture = MixturePosterior.uniform(experts, batch.presence_BM.T)
        shape = (options.num_samples, self.sizes.latent_dim)
        drawn_MKBD = torch.stack([q.draw(batch.randn(*shape).transpose(0, 1)) for q in experts])
        z_MKBD = drawn_MKBD.view_as(drawn_MKBD)  # the same draws by a name of their own, for the bound
        log_prob = batch.log_prob(z_MKBD)
        mixture = mixture.detach() if options.gradient == "dreg" else mixture
        kl_MKB = mixture.log_prob(z_MKBD) - standard_normal_log_prob(z_MKBD)
        log_weight_MKB = batch.weighted(log_prob) - options.beta * batch.kl_weight * kl_MKB
        bound_MB, shares_MB = log_mean_weight(log_weight_MKB, z_MKBD, options), expert_shares(batch)
        return Objective(
            value_B=(shares_MB * bound_MB).sum(0),
            z_BD=of_experts(drawn_MKBD[:, 0], random_expert(shares_MB, batch)),
            log_prob={name: (shares_MB * value.mean(1)).sum(0) for name, value in log_prob.items()},
            kl_B=(shares_MB * kl_MKB.mean(1)).sum(0),
        )
