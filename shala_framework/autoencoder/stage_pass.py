"""One pass of a batch through stage 1: inputs of the terms added to the objective, and its result.

Shapes: B batch, M modalities, F feature_dim, D latent_dim, C channels.
"""

import math
from collections.abc import Callable, Mapping

import attrs
from torch import Tensor

from shala_framework.plugin.modality import Likelihood


@attrs.frozen(eq=False)
class Reencoded:
    """Output of a modality's encoder, with fixed weights, for a decoded x.

    Attributes:
        h_QF: Features of the first Q rows, with gradients to the decoder and to z.
        statistics: Statistics of each convolution's map, as `map_statistics` returns them; empty without a recorder.
    """

    h_QF: Tensor
    statistics: list[Tensor]


@attrs.frozen(kw_only=True, eq=False)
class Pass:
    """A batch, its features, and its decoded draws of z.

    Attributes:
        x: Every modality's tensor [B, ...].
        presence_BM: bool, the modalities that each row has.
        h: Features of every modality [B, F].
        statistics: Statistics of the encoders' maps of x, without gradient; only for modalities with convolutions, and
            only if a term uses them.
        num_reencoded: Number Q of rows that `reencode` uses, the first ones of the batch.
        training: Whether this is a training step, in which all processes take part.
    """

    x: Mapping[str, Tensor]
    presence_BM: Tensor
    h: dict[str, Tensor]
    statistics: dict[str, list[Tensor]]
    num_reencoded: int
    training: bool
    _decode: Callable[[], dict[str, Likelihood]]
    _encode: Callable[[str, Likelihood, int], Reencoded | None]
    _reencoded: dict[str, Reencoded | None] = attrs.field(factory=dict, init=False)

    def reencode(self, name: str) -> Reencoded | None:
        """Encode a decoded modality by its own encoder; return None if its likelihood cannot be differentiated."""
        if name not in self._reencoded:
            self._reencoded[name] = self._encode(name, self._decode()[name], self.num_reencoded)
        return self._reencoded[name]


@attrs.frozen(eq=False)
class Bound:
    """The objective of each row, and the values of the terms that stage 1 adds to it.

    Attributes:
        value_B: Objective to maximise, in nats; the evidence lower bound for the default method at weights of 1.
        log_prob: Modality name to log p(x_i | z) [B] in nats, 0 in rows that lack it.
        kl_B: KL(q(z | x) || N(0, I)) in nats, or an estimate of it.
        added: Scalar figure of each added term and of the method's own, by name.
        losses: Scalars that are added to the loss.
    """

    value_B: Tensor
    log_prob: Mapping[str, Tensor]
    kl_B: Tensor
    added: dict[str, Tensor]
    losses: dict[str, Tensor]

    def loss(self, unit: float) -> Tensor:
        """Return the loss: the negative mean objective in a unit of nats, plus the added losses."""
        total = -self.value_B.mean() / unit
        for loss in self.losses.values():
            total = total + loss
        return total


def share_of_rows(share: float, num_rows: int) -> int:
    """Return the number of rows that make up a share of a batch, rounded up."""
    return math.ceil(share * num_rows)
