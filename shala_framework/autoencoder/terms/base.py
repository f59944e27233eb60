"""The base class of terms that stage 1 adds to the objective of any method."""

import abc
from typing import ClassVar, Self

from torch import Tensor, nn

from shala_framework.autoencoder.stage_pass import Pass
from shala_framework.plugin.posterior import MethodSizes
from shala_framework.spec.schema import Posterior


class Term(nn.Module, abc.ABC):
    """One addition to the loss of stage 1, with its own parameters, if it has any.

    Attributes:
        name: Name of its value in metrics.jsonl.
        weight: Factor of the term in the loss.
        needs_maps: Whether it compares statistics of the encoders' convolutional maps.
    """

    name: ClassVar[str]
    needs_maps: ClassVar[bool] = False

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    @classmethod
    @abc.abstractmethod
    def from_table(cls, table: Posterior, sizes: MethodSizes, others: "dict[str, Term]") -> Self | None:
        """Make the term that a spec's [posterior] asks for; return None if it asks for none.

        Args:
            table: Weights of the terms.
            sizes: Sizes of the networks.
            others: Terms made so far, by name; a term may use another one's parameters.
        """

    @abc.abstractmethod
    def forward(self, batch: Pass) -> Tensor | None:
        """Return the term's value, a scalar to minimise; None if the batch does not determine it."""

    def loss(self, value: Tensor) -> Tensor:
        """Return the part of the loss, from the value that `forward` returned."""
        return self.weight * value
