"""MMVAE+: a mixture of experts over a shared latent, and a private latent for each modality.

Reference: Palumbo, Daunhawer and Vogt 2023, "MMVAE+: Enhancing the Generative Quality of Multimodal VAEs without
Compromises", ICLR.

The latent is u = (z, w_1, ..., w_M): z is shared, and w_m is seen by the decoder of modality m alone. All have N(0, I)
as their prior p. The posterior of z is the mixture of the experts, q(z | X) = 1/M sum_m q(z | x_m), and w_m has
q(w_m | x_m). What is maximised uses auxiliary distributions r_n(w_n) = N(0, diag s_n^2) of learned scale, whose mean
over the dimensions is 1, from which the other modalities' private latents are drawn, so that z alone can carry what is
shared:

    1/M sum_m E[log 1/K sum_k p(x_m | z_k, w_k) prod_{n != m} p(x_n | z_k, v_nk)
                              (p(z_k) p(w_k) / (q(z_k | X) q(w_k | x_m)))^beta],
    z_k ~ q(z | x_m),  w_k ~ q(w_m | x_m),  v_nk ~ r_n.

Its gradient is the ordinary one of reparametrised draws, or that of DReG (see bounds.py), in which v_nk takes no part.

q(u | x_S) of given modalities S is the mixture over m in S of q(z | x_m) prod_{i in S} q(w_i | x_i) with N(0, I) for
the private latents of the others, as the authors' code generates them; r is for training alone. The diffusion prior and
the mixture on top learn the joint distribution of all of u, which the paper takes for N(0, I). Rows that lack
modalities take part: their mixture is of the experts that they have.

Settings in the authors' code for PolyMNIST (github.com/epalu/mmvaeplus, and its release of 2024): K = 1 and the
ordinary gradient, beta 2.5 without annealing, 32 dimensions for z and for each w_m, Laplace distributions, Adam with
AMSGrad at 1e-3, batches of 128 and 250 epochs. That code also holds the mean scale of each posterior at 1; here it is
free. Distributions over u are Gaussian here, and both experts of a modality are linear layers on one feature h, where
that code has a network for each. latent_dim counts all of u: 192 dimensions are the authors' for five modalities.

Shapes: B batch, F feature_dim, M modalities.
"""

from collections.abc import Sequence
from typing import Literal, final

import attrs
from torch import Tensor

from shala_baselines.bounds import factor, number_of_draws
from shala_baselines.private import PrivateLatents, PrivateOptions
from shala_framework.plugin import (
    EncodedRows,
    MethodSizes,
    MixturePosterior,
    Objective,
    PosteriorMethod,
    standard_normal_log_prob,
)


@final
class MMVAEPlus(PosteriorMethod):
    """MMVAE+ (Palumbo et al. 2023): mixture of experts, private latents with auxiliary priors."""

    @attrs.frozen(kw_only=True)
    class Options(PrivateOptions):
        """Options."""

        num_samples: int = number_of_draws(1)
        gradient: Literal["iwae", "dreg"] = "iwae"
        beta: float = factor(2.5)

    def __init__(self, options: Options, sizes: MethodSizes) -> None:
        super().__init__(options, sizes)
        self.latents = PrivateLatents(options, sizes)

    def decoder_dimensions(self, modality: int) -> Sequence[int]:
        return self.latents.seen_by(modality)

    def fuse(self, h_MBF: list[Tensor], presence_BM: Tensor) -> MixturePosterior:
        return self.latents.posterior(h_MBF, presence_BM)

    def objective(self, batch: EncodedRows) -> Objective:
        return self.latents.objective(batch, standard_normal_log_prob)
