"""A shared latent with a mixture of experts, and a private latent for each modality, for MMVAE+ and CMVAE.

The latent is u = (z, w_1, ..., w_M): z is shared, and w_m is seen by the decoder of modality m alone. The posterior of
z is the mixture of the experts, q(z | X) = 1/M sum_m q(z | x_m), and w_m has q(w_m | x_m).

Shapes: B batch, K draws, M modalities, D latent_dim, Z dimensions of z, P dimensions of each w_m.
"""

from collections.abc import Callable, Sequence

import attrs
import torch
from attrs.validators import optional
from torch import Tensor, nn

from shala_baselines.bounds import BoundOptions, expert_shares, log_mean_weight, of_experts, random_expert
from shala_framework.plugin import (
    EncodedRows,
    GaussianHead,
    GaussianPosterior,
    MethodSizes,
    MixturePosterior,
    Objective,
    at_least,
    standard_normal_log_prob,
)


@attrs.frozen(kw_only=True)
class PrivateOptions(BoundOptions):
    """Options of the bound and of the latents.

    Attributes:
        private_dim: Dimensions of the private latent of each modality. z has the rest of posterior.latent_dim. None
            gives z and each private latent an equal part, and z what is left over.
    """

    private_dim: int | None = attrs.field(default=None, validator=optional(at_least(1, at_most=65_536)))


class PrivateLatents(nn.Module):
    """Experts of z and of each w_m, and auxiliary distributions r_m(w_m) = N(0, diag s_m^2) of learned scale.

    The scales s_m have a mean of 1 over the dimensions, as in the authors' code of MMVAE+. Free ones would shrink to 0:
    nothing in the bound asks for noise, and decoders would then see whether a private latent is of their own rows.
    """

    def __init__(self, options: PrivateOptions, sizes: MethodSizes) -> None:
        super().__init__()
        self.options, count = options, sizes.num_modalities
        self.latent_dim = sizes.latent_dim
        self.private_dim = sizes.latent_dim // (count + 1) if options.private_dim is None else options.private_dim
        self.shared_dim = sizes.latent_dim - count * self.private_dim
        if self.private_dim < 1 or self.shared_dim < 1:
            raise ValueError(
                f"expected a latent_dim above {count * max(1, self.private_dim)}, which {count} private latents of "
                f"{max(1, self.private_dim)} dimensions take, got {sizes.latent_dim}"
            )
        width = self.shared_dim + self.private_dim
        self.heads: nn.Module = nn.ModuleList(GaussianHead(sizes.feature_dim, width) for _ in range(count))
        self.scale_logit_MP = nn.Parameter(torch.zeros(count, self.private_dim))

    def auxiliary_scales(self) -> Tensor:
        """Return the deviations s_m of the auxiliary distributions, with a mean of 1 for each modality: [M, P]."""
        return self.scale_logit_MP.softmax(1) * self.private_dim

    def seen_by(self, modality: int) -> Sequence[int]:
        """Return the dimensions of u that the decoder of a modality sees."""
        start = self.shared_dim + modality * self.private_dim
        return [*range(self.shared_dim), *range(start, start + self.private_dim)]

    def experts(self, h_MBF: Sequence[Tensor]) -> tuple[list[GaussianPosterior], list[GaussianPosterior]]:
        """Return q(z | x_m) and q(w_m | x_m) of every modality, whatever rows have."""
        sizes = [self.shared_dim, self.private_dim]
        shared, private = [], []
        for head, h_BF in zip(self.heads.children(), h_MBF, strict=True):
            q = head(h_BF)
            parts = zip(q.mean_BD.split(sizes, 1), q.log_var_BD.split(sizes, 1), strict=True)
            of_z, of_w = (GaussianPosterior(mean, log_var) for mean, log_var in parts)
            shared.append(of_z)
            private.append(of_w)
        return shared, private

    def posterior(self, h_MBF: Sequence[Tensor], presence_BM: Tensor) -> MixturePosterior:
        """Return q(u | x_S): a mixture over m in S of q(z | x_m) prod_{i in S} q(w_i | x_i), N(0, I) for other w_i."""
        shared, private = self.experts(h_MBF)
        bits = [presence_BM[:, i, None] for i in range(len(private))]
        means = [q.mean_BD.masked_fill(~has_B1, 0.0) for q, has_B1 in zip(private, bits, strict=True)]
        log_vars = [q.log_var_BD.masked_fill(~has_B1, 0.0) for q, has_B1 in zip(private, bits, strict=True)]
        components = [
            GaussianPosterior(torch.cat([q.mean_BD, *means], 1), torch.cat([q.log_var_BD, *log_vars], 1))
            for q in shared
        ]
        return MixturePosterior.uniform(components, presence_BM.T)

    def objective(self, batch: EncodedRows, log_prior: Callable[[Tensor], Tensor]) -> Objective:
        """Return the bound with this log density of z and N(0, I) for each w_m.

        Args:
            batch: Rows of stage 1.
            log_prior: Log density of z [..., Z]: [...].
        """
        (shared, private), count = self.experts(batch.h_MBF), len(batch.h_MBF)
        num_draws, doubly = self.options.num_samples, self.options.gradient == "dreg"
        noise_MKBD = torch.stack([batch.randn(num_draws, self.latent_dim).transpose(0, 1) for _ in range(count)])
        noise_z, noise_w = noise_MKBD.split([self.shared_dim, count * self.private_dim], -1)
        noise_w = noise_w.unflatten(-1, (count, self.private_dim))
        z_MKBZ = torch.stack([q.draw(noise) for q, noise in zip(shared, noise_z, strict=True)])
        w_MKBP = torch.stack([q.draw(noise_w[m, ..., m, :]) for m, q in enumerate(private)])
        own_MKBW = torch.cat([z_MKBZ, w_MKBP], -1)
        z, w = own_MKBW.split([self.shared_dim, self.private_dim], -1)
        others = self.auxiliary_scales() * noise_w
        eye = torch.eye(count, dtype=torch.bool, device=z.device).view(count, 1, 1, count, 1)
        u_MKBD = torch.cat([z, torch.where(eye, w.unsqueeze(-2), others).flatten(-2)], -1)
        log_prob = batch.log_prob(u_MKBD)
        mixture = MixturePosterior.uniform(shared, batch.presence_BM.T)
        mixture, of_w = (mixture.detach(), [q.detach() for q in private]) if doubly else (mixture, private)
        kl_MKB = mixture.log_prob(z) + torch.stack([q.log_prob(value) for q, value in zip(of_w, w, strict=True)])
        kl_MKB = kl_MKB - log_prior(z) - standard_normal_log_prob(w)
        log_weight_MKB = batch.weighted(log_prob) - self.options.beta * batch.kl_weight * kl_MKB
        bound_MB = log_mean_weight(log_weight_MKB, own_MKBW, self.options)
        shares_MB = expert_shares(batch)
        return Objective(
            value_B=(shares_MB * bound_MB).sum(0),
            z_BD=self._one_draw(z_MKBZ[:, 0], w_MKBP[:, 0], shares_MB, batch),
            log_prob={name: (shares_MB * value.mean(1)).sum(0) for name, value in log_prob.items()},
            kl_B=(shares_MB * kl_MKB.mean(1)).sum(0),
        )

    def _one_draw(self, z_MBZ: Tensor, w_MBP: Tensor, shares_MB: Tensor, batch: EncodedRows) -> Tensor:
        """Return a draw of q(u | x): z of one of the row's experts, and what is private to each modality."""
        z_BZ = of_experts(z_MBZ, random_expert(shares_MB, batch))
        noise_BMP = batch.randn(*w_MBP.shape[::2])
        w_BMP = torch.where(batch.presence_BM[..., None], w_MBP.transpose(0, 1), noise_BMP)
        return torch.cat([z_BZ, w_BMP.flatten(1)], 1)
