"""The default method of inference, ShaLa's: one network fuses the features of what is present.

Shapes: B batch, M modalities, F feature_dim, D latent_dim.
"""

from typing import Literal, final

import attrs
import torch
from torch import Tensor

from shala_framework.autoencoder.posterior import FUSIONS, random_subsets
from shala_framework.plugin.posterior import EncodedRows, GaussianPosterior, MethodSizes, Objective, PosteriorMethod
from shala_framework.spec.schema import Posterior


@final
class ShaLaMethod(PosteriorMethod):
    """The ELBO of a row's present modalities; a second network for q(z | x_S) is distilled from q(z | x_present).

    The distillation minimises KL(q(z | x_present) || q(z | x_S)) for a random subset S of each row's modalities, also
    where modality_dropout hides modalities from the q that z is drawn from. Only the network of q(z | x_S) gets a
    gradient from it: neither the features nor q(z | x_present) do. The loss is in nats a latent dimension.
    """

    maximises_elbo = True

    @attrs.frozen(kw_only=True)
    class Options:
        """Keys of [posterior] that only this method has; `Posterior` describes them."""

        fusion: Literal["concatenation", "attention"]
        modality_dropout: float
        subset_weight: float

    def __init__(self, options: Options, sizes: MethodSizes) -> None:
        super().__init__(options, sizes)
        self.posterior, self.subset_posterior = (
            FUSIONS[options.fusion](sizes.num_modalities, sizes.feature_dim, sizes.hidden_dim, sizes.latent_dim)
            for _ in range(2)
        )

    @classmethod
    def options_of(cls, table: Posterior) -> Options:
        """Return the options in a spec's [posterior]."""
        return cls.Options(
            fusion=table.fusion, modality_dropout=table.modality_dropout, subset_weight=table.subset_weight
        )

    def fuse(self, h_MBF: list[Tensor], presence_BM: Tensor) -> GaussianPosterior:
        posterior: GaussianPosterior = self.posterior(h_MBF, presence_BM)
        return posterior

    def fuse_subset(self, h_MBF: list[Tensor], subset_BM: Tensor) -> GaussianPosterior:
        posterior: GaussianPosterior = self.subset_posterior(h_MBF, subset_BM)
        return posterior

    def objective(self, batch: EncodedRows) -> Objective:
        presence_BM, dropout = batch.presence_BM, self.options.modality_dropout
        seen_BM = presence_BM
        if batch.training and dropout:
            seen_BM = torch.where(batch.rand(1) >= dropout, presence_BM, random_subsets(presence_BM))
        posterior = self.fuse(batch.h_MBF, seen_BM)
        subset = self.fuse_subset([h.detach() for h in batch.h_MBF], random_subsets(presence_BM))
        z_BD = posterior.draw(batch.randn(self.sizes.latent_dim))
        log_prob, kl_B = batch.log_prob(z_BD), posterior.kl_BD().sum(1)
        teacher = posterior
        if seen_BM is not presence_BM:  # q saw less in some rows
            with torch.no_grad():
                teacher = self.fuse(batch.h_MBF, presence_BM)
        imitation = teacher.detach().kl_to(subset).mean()
        return Objective(
            value_B=batch.weighted(log_prob) - batch.kl_weight * kl_B,
            z_BD=z_BD,
            log_prob=log_prob,
            kl_B=kl_B,
            figures={"subset_kl": imitation},
            losses={"subset_kl": self.options.subset_weight * imitation / self.sizes.latent_dim},
        )
