"""The contrastive term of stage 1: features of one row's modalities are distinguished from those of other rows.

Only shared content can match rows across modalities. The term therefore brings it into every feature h_i early, in
a form that the prior can read, however few pixels it explains.

Shapes: B batch, Q rows that are matched, M modalities, F feature_dim, P projection.
Reference: van den Oord et al. 2018 (InfoNCE); Radford et al. 2021 (CLIP) for the learned temperature.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from shala_framework.autoencoder.stage_pass import Pass
from shala_framework.autoencoder.terms.base import Term
from shala_framework.plugin.posterior import MethodSizes
from shala_framework.spec.schema import Posterior
from shala_framework.support.autocasting import without_autocast
from shala_framework.support.distributed.processes import gather_rows


class ContrastTerm(Term):
    """InfoNCE between the features of every two modalities, in nats.

    Attributes:
        tolerance: Share of what the term teaches about training rows that need not hold on held-out ones.
        gate: Factor of the weight, a scalar tensor, which training sets by held-out rows.
        seen: Sum of the term over training steps, in nats, and their number; whoever reads it sets it to 0.
    """

    name = "contrast"
    PROJECTION_DIM = 64
    LARGEST_SCALE = 100.0

    gate: Tensor
    seen: Tensor

    def __init__(self, weight: float, num_modalities: int, feature_dim: int, *, tolerance: float) -> None:
        super().__init__(weight)
        self.tolerance = tolerance
        self.register_buffer("gate", torch.ones(()), persistent=False)
        self.register_buffer("seen", torch.zeros(2), persistent=False)
        self.projections = nn.ModuleList(nn.Linear(feature_dim, self.PROJECTION_DIM) for _ in range(num_modalities))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    @classmethod
    def from_table(cls, table: Posterior, sizes: MethodSizes, others: dict[str, Term]) -> Self | None:
        if not table.contrast_weight or sizes.num_modalities < 2:
            return None
        return cls(table.contrast_weight, sizes.num_modalities, sizes.feature_dim, tolerance=table.contrast_tolerance)

    def forward(self, batch: Pass) -> Tensor:
        value = self.between(list(batch.h.values()), batch.presence_BM)
        if self.training:
            self.seen += torch.stack([value.detach(), torch.ones_like(value)])
        return value

    def loss(self, value: Tensor) -> Tensor:
        return self.gated(self.weight * value)

    def gated(self, loss: Tensor) -> Tensor:
        """Return a part of the loss as far as it is not faded out, which it never is on held-out rows."""
        return self.gate * loss if self.training else loss

    def between(self, h_MBF: Sequence[Tensor], presence_BM: Tensor) -> Tensor:
        """Return the mean over ordered pairs of modalities of -log p(row | a feature of one, features of the other).

        Args:
            h_MBF: One feature tensor [B, F] for each modality; rows that lack it may hold anything finite.
            presence_BM: bool [B, M]; a row that lacks one of a pair is neither a query nor a candidate.

        Returns:
            Scalar in nats; log B minus it is a lower bound of the pairs' mean mutual information. 0 if no row of the
            batch has two modalities.
        """
        unit_MBP = torch.stack([self._gathered(self._project(i, h)) for i, h in enumerate(h_MBF)])
        presence_BM = self._gathered(presence_BM)
        return self._nats(dict(enumerate(unit_MBP)), unit_MBP, presence_BM, presence_BM, self.log_scale)

    def recognition(self, decoded: Mapping[int, Tensor], h_MBF: Sequence[Tensor], presence_BM: Tensor) -> Tensor:
        """Return the same with features of decoded modalities as queries, whatever is present.

        Only the decoded features get a gradient, neither the projections nor the features h.

        Args:
            decoded: Index of a modality to features [Q, F] of the decoded first Q rows.
            h_MBF: As for `between`.
            presence_BM: As for `between`.
        """
        with torch.no_grad():
            answers_MBP = torch.stack([self._gathered(self._project(i, h)) for i, h in enumerate(h_MBF)])
        frozen = {i: {name: p.detach() for name, p in self.projections[i].named_parameters()} for i in decoded}
        asked = {
            i: self._gathered(
                nn.functional.normalize(torch.func.functional_call(self.projections[i], frozen[i], (h,)).float(), dim=1)
            )
            for i, h in decoded.items()
        }
        presence_BM = self._gathered(presence_BM)
        return self._nats(asked, answers_MBP, torch.ones_like(presence_BM), presence_BM, self.log_scale.detach())

    def _gathered(self, x: Tensor) -> Tensor:
        """Return the rows of all processes in training, because a query is matched among all of them."""
        return gather_rows(x) if self.training else x

    def _project(self, i: int, h_BF: Tensor) -> Tensor:
        return nn.functional.normalize(self.projections[i](h_BF).float(), dim=1)

    def _nats(
        self,
        asked: Mapping[int, Tensor],
        answers_MBP: Tensor,
        asks_BM: Tensor,
        presence_BM: Tensor,
        log_scale: Tensor,
    ) -> Tensor:
        with without_autocast(answers_MBP.device):  # in bfloat16, logits of 100 have steps of 0.5
            scale = log_scale.exp().clamp_max(self.LARGEST_SCALE)
            total, num_pairs = 0 * scale, len(asked) * (presence_BM.shape[1] - 1)
            for i, asked_QP in asked.items():
                logits_QMB = torch.einsum("qp,mbp->qmb", scale * asked_QP, answers_MBP)
                both_MB = (asks_BM[:, i, None] & presence_BM).T
                logits_QMB = logits_QMB.masked_fill(~both_MB, torch.finfo(logits_QMB.dtype).min)
                nats_MQ = logits_QMB.logsumexp(2).T - logits_QMB.diagonal(dim1=0, dim2=2)
                both_MQ = both_MB[:, : len(asked_QP)]
                mean_M = (nats_MQ * both_MQ).sum(1) / both_MQ.sum(1).clamp_min(1)
                total = total + mean_M.sum() - mean_M[i]  # no modality is matched with itself
        return total / max(1, num_pairs)
