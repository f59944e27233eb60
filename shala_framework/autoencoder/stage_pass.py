"""One pass of a batch through stage 1: what the ELBO and the terms added to it are computed from.

Shapes: B batch, M modalities, F feature_dim, D latent_dim, C channels.
"""

import math
from collections.abc import Callable, Mapping

import attrs
import torch
from torch import Tensor

from shala_framework.autoencoder.posterior import GaussianPosterior
from shala_framework.plugin.modality import Likelihood


@attrs.frozen(eq=False)
class Reencoded:
    """What a modality's encoder, with its weights held fixed, makes of a decoded x.

    Attributes:
        h_QF: Features of the first Q rows, with gradients to the decoder and to z.
        statistics: Statistics of each convolution's map, as `map_statistics` returns them; empty without a recorder.
    """

    h_QF: Tensor
    statistics: list[Tensor]


@attrs.frozen(kw_only=True, eq=False)
class Pass:
    """A batch, its features, its posterior and the likelihoods of one draw of z.

    Attributes:
        x: Every modality's tensor [B, ...].
        presence_BM: bool, the modalities that each row has.
        h: Features of every modality [B, F].
        statistics: Statistics of the encoders' maps of x, without gradient; only of modalities with convolutions, and
            only where a term uses them.
        posterior: q(z | x_present).
        subset_posterior: q(z | x_S) for a random non-empty subset S of what each row has, of features without gradient.
        likelihoods: p(x_i | z) of one draw of z.
        num_reencoded: Rows Q that `reencode` takes, the first of the batch.
        training: Whether this is a training step, in which all processes take part.
    """

    x: Mapping[str, Tensor]
    presence_BM: Tensor
    h: dict[str, Tensor]
    statistics: dict[str, list[Tensor]]
    posterior: GaussianPosterior
    subset_posterior: GaussianPosterior
    likelihoods: dict[str, Likelihood]
    num_reencoded: int
    training: bool
    _encode: Callable[[str, Likelihood, int], Reencoded | None]
    _reencoded: dict[str, Reencoded | None] = attrs.field(factory=dict, init=False)

    def log_prob(self) -> dict[str, Tensor]:
        """Log p(x_i | z) [B] of every modality, in nats; 0 in rows that lack it."""
        # A product with zero, not a selection of rows: every process touches every modality's parameters.
        return {
            name: likelihood.log_prob(self.x[name]) * self.presence_BM[:, i]
            for i, (name, likelihood) in enumerate(self.likelihoods.items())
        }

    def reencode(self, name: str) -> Reencoded | None:
        """The decoded modality as its own encoder sees it; None where its likelihood cannot be differentiated."""
        if name not in self._reencoded:
            self._reencoded[name] = self._encode(name, self.likelihoods[name], self.num_reencoded)
        return self._reencoded[name]


@attrs.frozen(eq=False)
class Bound:
    """The terms of the ELBO of each row, and the values of the terms that stage 1 adds to it.

    Attributes:
        log_prob: Modality name to log p(x_i | z) [B] in nats, 0 in rows that lack it.
        kl_B: KL(q(z | x) || N(0, I)) in nats.
        added: Scalar value of each added term, by its name.
    """

    log_prob: dict[str, Tensor]
    kl_B: Tensor
    added: dict[str, Tensor]

    def elbo(self, kl_weight: float | Tensor = 1.0, likelihood_weights: Mapping[str, float] | None = None) -> Tensor:
        """Weighted sum of the log-likelihoods of the present modalities less the weighted KL: [B].

        Without arguments it is the evidence lower bound.
        """
        weights = likelihood_weights or {}
        terms = [weights.get(name, 1.0) * value for name, value in self.log_prob.items()]
        return torch.stack(terms).sum(0) - kl_weight * self.kl_B


def share_of_rows(share: float, num_rows: int) -> int:
    """Rows that make up a share of a batch, rounded up."""
    return math.ceil(share * num_rows)
