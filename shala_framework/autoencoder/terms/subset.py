"""The subset term of stage 1: q(z | x_S) of any subset S is distilled from q(z | x_present).

Shapes: B batch, M modalities.
"""

from typing import Self

from torch import Tensor

from shala_framework.autoencoder.stage_pass import Pass
from shala_framework.autoencoder.terms.base import Sizes, Term
from shala_framework.spec.schema import Posterior


class SubsetTerm(Term):
    """KL(q(z | x_present) || q(z | x_S)) for a random subset S of each row's modalities, in nats.

    Only the network of q(z | x_S) gets a gradient: neither the features nor q(z | x_present) do. The loss counts nats a
    latent dimension.
    """

    name = "subset_kl"

    def __init__(self, weight: float, latent_dim: int) -> None:
        super().__init__(weight)
        self.latent_dim = latent_dim

    @classmethod
    def from_table(cls, table: Posterior, sizes: Sizes, others: dict[str, Term]) -> Self | None:
        return cls(table.subset_weight, sizes.latent_dim)

    def forward(self, batch: Pass) -> Tensor:
        return batch.posterior.detach().kl_to(batch.subset_posterior).mean()

    def loss(self, value: Tensor) -> Tensor:
        return self.weight * value / self.latent_dim
