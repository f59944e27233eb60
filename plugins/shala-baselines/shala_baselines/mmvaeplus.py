"""MMVAE+: a mixture of experts over a shared latent, and a private latent for each modality.

Reference: Palumbo, Daunhawer and Vogt 2023, "MMVAE+: Enhancing the Generative Quality of Multimodal VAEs without
Compromises", ICLR.

The latent is u = (z, w_1, ..., w_M): z is shared, and w_m is seen by the decoder of modality m alone. All have N(0, I)
as their prior p. The posterior of z is the mixture of the experts, q(z | X) = 1/M sum_m q(z | x_m), and w_m has
q(w_m | x_m). What is maximised uses auxiliary distributions r_n(w_n) = N(0, diag s_n^2) of learned scale, from which
the other modalities' private latents are drawn, so that z alone can carry what is shared:

    1/M sum_m E[log 1/K sum_k p(x_m | z_k, w_k) prod_{n != m} p(x_n | z_k, v_nk)
                              (p(z_k) p(w_k) / (q(z_k | X) q(w_k | x_m)))^beta],
    z_k ~ q(z | x_m),  w_k ~ q(w_m | x_m),  v_nk ~ r_n.

Its gradient is the ordinary one of reparametrised draws, or that of DReG (see mmvae.py), in which v_nk takes no part.

q(u | x_S) of given modalities S is the mixture over m in S of q(z | x_m) prod_{i in S} q(w_i | x_i) with N(0, I) for
the private latents of the others, as the authors' code generates them; r is for training alone. The diffusion prior and
the mixture on top learn the joint distribution of all of u, which the paper takes for N(0, I). Rows that lack
modalities take part: their mixture is of the experts that they have.

Settings in the authors' code for PolyMNIST (github.com/epalu/mmvaeplus, and its release of 2024): K = 1 and the
ordinary gradient, beta 2.5 without annealing, 32 dimensions for z and for each w_m, Laplace distributions, Adam with
AMSGrad at 1e-3, batches of 128 and 250 epochs. Here distributions over u are Gaussian, and both experts of a modality
are linear layers on one feature h, where that code has a network for each. latent_dim counts all of u: 192 dimensions
are the authors' for five modalities.

Shapes: B batch, K draws, M modalities, D latent_dim, Z dimensions of z, P dimensions of each w_m.
"""

import math
from collections.abc import Sequence
from typing import Literal, final

import attrs
import torch
from attrs.validators import optional
from torch import Tensor, nn

from shala_baselines.experts import MOST_WEIGHT
from shala_framework.plugin import (
    EncodedRows,
    GaussianHead,
    GaussianPosterior,
    MethodSizes,
    MixturePosterior,
    Objective,
    PosteriorMethod,
    at_least,
    standard_normal_log_prob,
)


@final
class MMVAEPlus(PosteriorMethod):
    """MMVAE+ (Palumbo et al. 2023): mixture of experts, private latents with auxiliary priors."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options.

        Attributes:
            private_dim: Dimensions of the private latent of each modality. z has the rest of posterior.latent_dim.
                None gives z and each private latent an equal part, and z what is left over.
            num_samples: Number K of draws of each expert. A step decodes K latents a row and modality.
            gradient: "iwae" follows reparametrised draws, "dreg" has doubly reparametrised gradients.
            beta: Factor of the log-ratio of posterior and prior, beside train.autoencoder.kl_weight; 2.5 as published
                for PolyMNIST.
        """

        private_dim: int | None = attrs.field(default=None, validator=optional(at_least(1, at_most=65_536)))
        num_samples: int = attrs.field(default=1, validator=at_least(1, at_most=10_000))
        gradient: Literal["iwae", "dreg"] = "iwae"
        beta: float = attrs.field(default=2.5, validator=at_least(0, at_most=MOST_WEIGHT))

    def __init__(self, options: Options, sizes: MethodSizes) -> None:
        super().__init__(options, sizes)
        count = sizes.num_modalities
        self.private_dim = sizes.latent_dim // (count + 1) if options.private_dim is None else options.private_dim
        self.shared_dim = sizes.latent_dim - count * self.private_dim
        if self.private_dim < 1 or self.shared_dim < 1:
            raise ValueError(
                f"expected a latent_dim above {count * max(1, self.private_dim)}, which {count} private latents of "
                f"{max(1, self.private_dim)} dimensions take, got {sizes.latent_dim}"
            )
        width = self.shared_dim + self.private_dim
        self.heads: nn.Module = nn.ModuleList(GaussianHead(sizes.feature_dim, width) for _ in range(count))
        self.log_scale_MP = nn.Parameter(torch.zeros(count, self.private_dim))  # of the auxiliary distributions

    def decoder_dimensions(self, modality: int) -> Sequence[int]:
        start = self.shared_dim + modality * self.private_dim
        return [*range(self.shared_dim), *range(start, start + self.private_dim)]

    def _experts(self, h_MBF: Sequence[Tensor]) -> tuple[list[GaussianPosterior], list[GaussianPosterior]]:
        """q(z | x_m) and q(w_m | x_m) of every modality, whatever rows have."""
        sizes = [self.shared_dim, self.private_dim]
        shared, private = [], []
        for head, h_BF in zip(self.heads.children(), h_MBF, strict=True):
            q = head(h_BF)
            parts = zip(q.mean_BD.split(sizes, 1), q.log_var_BD.split(sizes, 1), strict=True)
            of_z, of_w = (GaussianPosterior(mean, log_var) for mean, log_var in parts)
            shared.append(of_z)
            private.append(of_w)
        return shared, private

    def fuse(self, h_MBF: list[Tensor], presence_BM: Tensor) -> MixturePosterior:
        shared, private = self._experts(h_MBF)
        bits = [presence_BM[:, i, None] for i in range(len(private))]
        means = [q.mean_BD.masked_fill(~has_B1, 0.0) for q, has_B1 in zip(private, bits, strict=True)]
        log_vars = [q.log_var_BD.masked_fill(~has_B1, 0.0) for q, has_B1 in zip(private, bits, strict=True)]
        components = [
            GaussianPosterior(torch.cat([q.mean_BD, *means], 1), torch.cat([q.log_var_BD, *log_vars], 1))
            for q in shared
        ]
        return MixturePosterior.uniform(components, presence_BM.T)

    def objective(self, batch: EncodedRows) -> Objective:
        (shared, private), count = self._experts(batch.h_MBF), self.sizes.num_modalities
        num_draws, bits_MB = self.options.num_samples, batch.presence_BM.T.float()
        doubly = self.options.gradient == "dreg"
        noise_MKBD = torch.stack([batch.randn(num_draws, self.sizes.latent_dim).transpose(0, 1) for _ in range(count)])
        noise_z, noise_w = noise_MKBD.split([self.shared_dim, count * self.private_dim], -1)
        noise_w = noise_w.unflatten(-1, (count, self.private_dim))
        z_MKBZ = torch.stack([q.draw(noise) for q, noise in zip(shared, noise_z, strict=True)])
        w_MKBP = torch.stack([q.draw(noise_w[m, ..., m, :]) for m, q in enumerate(private)])
        own_MKBW = torch.cat([z_MKBZ, w_MKBP], -1)
        own_MKBW = own_MKBW.view_as(own_MKBW)  # the same draws by a name of their own, for the hook below
        z, w = own_MKBW.split([self.shared_dim, self.private_dim], -1)
        others = self.log_scale_MP.exp() * noise_w
        eye = torch.eye(count, dtype=torch.bool, device=z.device).view(count, 1, 1, count, 1)
        u_MKBD = torch.cat([z, torch.where(eye, w.unsqueeze(-2), others).flatten(-2)], -1)
        log_prob = batch.log_prob(u_MKBD)
        mixture = MixturePosterior.uniform(shared, batch.presence_BM.T)
        mixture, of_w = (mixture.detach(), [q.detach() for q in private]) if doubly else (mixture, private)
        kl_MKB = mixture.log_prob(z) + torch.stack([q.log_prob(value) for q, value in zip(of_w, w, strict=True)])
        kl_MKB = kl_MKB - standard_normal_log_prob(own_MKBW)
        log_weight_MKB = batch.weighted(log_prob) - self.options.beta * batch.kl_weight * kl_MKB
        bound_MB = log_weight_MKB.logsumexp(1) - math.log(num_draws)
        if doubly:
            share_MKB = log_weight_MKB.detach().softmax(1)
            if own_MKBW.requires_grad:  # on the way to encoders a draw's gradient is multiplied by its weight again
                own_MKBW.register_hook(lambda gradient: share_MKB[..., None] * gradient)
        weight_MB = bits_MB / bits_MB.sum(0).clamp_min(1)
        return Objective(
            value_B=(weight_MB * bound_MB).sum(0),
            z_BD=self._one_draw(z_MKBZ[:, 0], w_MKBP[:, 0], weight_MB, batch),
            log_prob={name: (weight_MB * value.mean(1)).sum(0) for name, value in log_prob.items()},
            kl_B=(weight_MB * kl_MKB.mean(1)).sum(0),
        )

    def _one_draw(self, z_MBZ: Tensor, w_MBP: Tensor, weight_MB: Tensor, batch: EncodedRows) -> Tensor:
        """A draw of q(u | x): z of an expert picked at random among those of the row, and what is private to each."""
        edge_MB = weight_MB.cumsum(0)
        chosen_B = (edge_MB <= batch.rand() * edge_MB[-1].clamp_max(1 - 1e-6)).sum(0).clamp_max(len(z_MBZ) - 1)
        z_BZ = z_MBZ[chosen_B, torch.arange(len(chosen_B), device=chosen_B.device)]
        noise_BMP = batch.randn(*w_MBP.shape[::2])
        w_BMP = torch.where(batch.presence_BM[..., None], w_MBP.transpose(0, 1), noise_BMP)
        return torch.cat([z_BZ, w_BMP.flatten(1)], 1)
