"""The importance-weighted bound of stratified draws that MMVAE, MMVAE+ and CMVAE maximise, and its options.

References: Burda et al. 2016, "Importance Weighted Autoencoders"; Tucker et al. 2019, "Doubly Reparameterized Gradient
Estimators for Monte Carlo Objectives".

Of K draws of each expert m with weights w_mk it is

    1/M sum_m log 1/K sum_k w_mk,

and a row that lacks modalities has the mean over the experts that it has.

"dreg" is what the papers of MMVAE and CMVAE state. Its identity asks for draws from the density in w; here they come
from one expert and w has the mixture of all, so that with K above 1 its gradient is not that of the bound, as that of
"iwae" is. With K = 1 both are.

Shapes: B batch, K draws, M modalities.
"""

import math
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from shala_baselines.experts import MOST_WEIGHT
from shala_framework.plugin import EncodedRows, at_least


def number_of_draws(default: int) -> Any:
    """Return the option num_samples with a method's default."""
    return attrs.field(default=default, validator=at_least(1, at_most=10_000))


def factor(default: float) -> Any:
    """Return the option beta with a method's default."""
    return attrs.field(default=default, validator=at_least(0, at_most=MOST_WEIGHT))


@attrs.frozen(kw_only=True)
class BoundOptions:
    """Options of the bound.

    Attributes:
        num_samples: Number K of draws of each expert. A step decodes K latents a row and modality.
        gradient: "iwae" follows reparametrised draws, "dreg" has doubly reparametrised gradients.
        beta: Factor of the log-ratio of posterior and prior, beside train.autoencoder.kl_weight.
    """

    num_samples: int = number_of_draws(30)
    gradient: Literal["iwae", "dreg"] = "dreg"
    beta: float = factor(1.0)


def expert_shares(batch: EncodedRows) -> Tensor:
    """Return the weight of each expert's term: 1 over the number of modalities that the row has, [M, B]."""
    bits_MB = batch.presence_BM.T.float()
    return bits_MB / bits_MB.sum(0).clamp_min(1)


def log_mean_weight(log_weight_MKB: Tensor, draws: Tensor, options: BoundOptions) -> Tensor:
    """Return log 1/K sum_k w_mk for each expert and row: [M, B].

    With DReG, decoders follow sum_k r_k grad log w_k, where r_k = w_k / sum_j w_j, and encoders
    sum_k r_k^2 (d log w_k / d z_k) grad z_k. The caller holds the densities of q in log w fixed for that.

    Args:
        log_weight_MKB: Logarithms of the weights.
        draws: Reparametrised draws [M, K, B, ...] that the weights were computed from, by a name of their own: a view
            of what else the draws are used for.
        options: Number of draws, and which gradient.
    """
    if options.gradient == "dreg" and draws.requires_grad:
        share_MKB = log_weight_MKB.detach().softmax(1)
        # On the way to encoders, each draw's gradient is multiplied by its weight once more.
        draws.register_hook(lambda gradient: share_MKB[..., None] * gradient)
    return log_weight_MKB.logsumexp(1) - math.log(options.num_samples)


def random_expert(shares_MB: Tensor, batch: EncodedRows) -> Tensor:
    """Return the index of an expert for each row, picked at random among those that the row has: int64 [B]."""
    edge_MB = shares_MB.cumsum(0)
    return (edge_MB <= batch.rand() * edge_MB[-1].clamp_max(1 - 1e-6)).sum(0).clamp_max(len(shares_MB) - 1)


def of_experts(values_MB: Tensor, index_B: Tensor) -> Tensor:
    """Return each row's value of one expert: [B, ...] of [M, B, ...]."""
    return values_MB[index_B, torch.arange(len(index_B), device=index_B.device)]
