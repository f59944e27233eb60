"""Stage 1 of ShaLa: encoders, posterior and decoders, trained by the evidence lower bound.

Shapes: B batch, M modalities, F feature_dim, D latent_dim.
"""

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

from shala_framework.modality import Likelihood, Modality
from shala_framework.posterior import ConcatenationPosterior, GaussianPosterior, random_subsets


@attrs.frozen(eq=False)
class Bound:
    """The terms of the ELBO of each row, in nats.

    Attributes:
        log_prob: Modality name to log p(x_i | z) [B], 0 in rows that lack it.
        kl_B: KL(q(z|x) || N(0, I)).
        subset_kl_B: KL(q(z|x) || q(z|x_S)) for a random subset S of what is present, without gradient through its
            first argument.
    """

    log_prob: dict[str, Tensor]
    kl_B: Tensor
    subset_kl_B: Tensor

    def elbo(self, kl_weight: float = 1.0, likelihood_weights: Mapping[str, float] | None = None) -> Tensor:
        """Weighted sum of the log-likelihoods of the present modalities less the weighted KL: [B].

        Without arguments it is the evidence lower bound.
        """
        weights = likelihood_weights or {}
        terms = [weights.get(name, 1.0) * value for name, value in self.log_prob.items()]
        return torch.stack(terms).sum(0) - kl_weight * self.kl_B


class Autoencoder(nn.Module):
    """p(x_1..x_M | z) = prod_i p(x_i | z) with q(z | x_present).

    Attributes:
        names: Modalities, in the order of every presence matrix's columns.
        num_values: Numbers in one x of each modality.
    """

    def __init__(
        self, modalities: Mapping[str, Modality], *, latent_dim: int, feature_dim: int, hidden_dim: int
    ) -> None:
        super().__init__()
        self.names = tuple(modalities)
        self.latent_dim, self.feature_dim = latent_dim, feature_dim
        self.num_values = {name: torch.Size(modality.shape).numel() for name, modality in modalities.items()}
        self.encoders = nn.ModuleDict({name: m.encoder(feature_dim) for name, m in modalities.items()})
        self.posterior = ConcatenationPosterior(len(modalities), feature_dim, hidden_dim, latent_dim)
        self.decoders = nn.ModuleDict({name: m.decoder(latent_dim) for name, m in modalities.items()})

    def encode(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features h_i = I(x_i) of the modalities in x: name to float [B, F]."""
        return {name: self.encoders[name](x[name]).float() for name in self.names if name in x}

    def fuse(self, h: Mapping[str, Tensor], presence_BM: Tensor) -> GaussianPosterior:
        """q(z | the modalities that are in h and present)."""
        some = next(iter(h.values()))
        absent = some.new_zeros(len(presence_BM), self.feature_dim)
        known = torch.tensor([name in h for name in self.names], device=presence_BM.device)
        posterior: GaussianPosterior = self.posterior(
            [h.get(name, absent) for name in self.names], presence_BM.bool() & known
        )
        return posterior

    def decode(self, z_BD: Tensor) -> dict[str, Likelihood]:
        """p(x_i | z) of every modality."""
        return {name: self.decoders[name](z_BD) for name in self.names}

    def bound(self, x: Mapping[str, Tensor], presence_BM: Tensor) -> Bound:
        """One-sample estimate of the ELBO's terms, and how far the posterior of a random subset is from it.

        Args:
            x: Every modality's tensor [B, ...]; rows that lack it may hold anything finite.
            presence_BM: bool [B, M].
        """
        h = self.encode(x)
        posterior = self.fuse(h, presence_BM)
        subset = self.fuse(h, random_subsets(presence_BM))
        log_prob = {}
        for i, (name, likelihood) in enumerate(self.decode(posterior.sample()).items()):
            # A product with zero, not a selection of rows: every rank touches every modality's parameters.
            log_prob[name] = likelihood.log_prob(x[name]) * presence_BM[:, i]
        return Bound(log_prob, posterior.kl_BD().sum(1), posterior.detach().kl_to(subset))
