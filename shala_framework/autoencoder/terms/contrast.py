"""The contrastive term of stage 1: features of one row's modalities are distinguished from those of other rows.

Only shared content can match rows across modalities. The term therefore brings it into every feature h_i early, in
a form that the prior can read, however few pixels it explains.

Shapes: B batch, Q rows that are matched (queries), M modalities, F feature_dim, P projection.
Reference: van den Oord et al. 2018 (InfoNCE); Radford et al. 2021 (CLIP) for the learned temperature.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Self

import attrs
import torch
from torch import Tensor, nn

from shala_framework.autoencoder.stage_pass import Pass
from shala_framework.autoencoder.terms.base import Term
from shala_framework.plugin.posterior import MethodSizes
from shala_framework.spec.schema import Posterior
from shala_framework.support.autocasting import without_autocast
from shala_framework.support.distributed.processes import gather_rows


@attrs.frozen(eq=False)
class Match:
    """Queries of one modality, matched with the rows of every modality.

    Attributes:
        nats_MQ: -log p(the query's row) among the candidates of each modality.
        both_MQ: Which rows have both modalities; the other queries do not count.
        candidates_M: Number of candidates in each modality.
    """

    nats_MQ: Tensor
    both_MQ: Tensor
    candidates_M: Tensor


@attrs.frozen(eq=False)
class Information:
    """What the features of one modality (first index) tell about another (second), by InfoNCE.

    Attributes:
        nats_MM: Nats of a guess less those of the queries: their mean.
        squares_MM: Mean of their squares.
        queries_MM: Number of queries.
        candidates_MM: Number of candidates among which a row is found.
    """

    nats_MM: Tensor
    squares_MM: Tensor
    queries_MM: Tensor
    candidates_MM: Tensor

    @property
    def known_MM(self) -> Tensor:
        """Pairs of two modalities with anything to choose from."""
        others_MM = ~torch.eye(len(self.nats_MM), dtype=torch.bool, device=self.nats_MM.device)
        return others_MM & (self.candidates_MM > 1)


class ContrastTerm(Term):
    """InfoNCE between the features of every two modalities, in nats.

    Attributes:
        tolerance: Share of what the term teaches about training rows that need not hold on held-out ones.
        gate: Factor of the weight, a scalar tensor, which training sets by held-out rows.
        seen: Sums over training steps of each pair's information and candidates, and the number of steps with such a
            pair: [3, M, M]. Whoever reads it sets it to 0.
        seen_share: Share of a step's other candidates that this information is about.
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
        self.register_buffer("seen", torch.zeros(3, num_modalities, num_modalities), persistent=False)
        self.seen_share = 1.0
        self.projections = nn.ModuleList(nn.Linear(feature_dim, self.PROJECTION_DIM) for _ in range(num_modalities))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    @classmethod
    def from_table(cls, table: Posterior, sizes: MethodSizes, others: dict[str, Term]) -> Self | None:
        if not table.contrast_weight or sizes.num_modalities < 2:
            return None
        return cls(table.contrast_weight, sizes.num_modalities, sizes.feature_dim, tolerance=table.contrast_tolerance)

    def forward(self, batch: Pass) -> Tensor:
        matches = self._matches(list(batch.h.values()), batch.presence_BM)
        if self.training:
            with torch.no_grad():
                found = _information(matches, self.seen_share, None)
                counted = torch.stack([found.nats_MM, found.candidates_MM, torch.ones_like(found.nats_MM)])
                self.seen += counted * found.known_MM
        return _mean(matches)

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
        return _mean(self._matches(h_MBF, presence_BM))

    def information(self, h_MBF: Sequence[Tensor], presence_BM: Tensor, most_MM: Tensor) -> Information:
        """Return what each modality's features tell about each other one.

        Args:
            h_MBF: As for `between`.
            presence_BM: As for `between`.
            most_MM: Largest number of candidates of each pair. Information among more is converted to this number: the
                others' share of the softmax's sum is then taken as that of a part of them.
        """
        return _information(self._matches(h_MBF, presence_BM), 1.0, most_MM)

    def _matches(self, h_MBF: Sequence[Tensor], presence_BM: Tensor) -> dict[int, Match]:
        unit_MBP = torch.stack([self._gathered(self._project(i, h)) for i, h in enumerate(h_MBF)])
        presence_BM = self._gathered(presence_BM)
        return self._matched(dict(enumerate(unit_MBP)), unit_MBP, presence_BM, presence_BM, self.log_scale)

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
        everywhere_BM = torch.ones_like(presence_BM)
        return _mean(self._matched(asked, answers_MBP, everywhere_BM, presence_BM, self.log_scale.detach()))

    def _gathered(self, x: Tensor) -> Tensor:
        """Return the rows of all processes in training, because a query is matched among all of them."""
        return gather_rows(x) if self.training else x

    def _project(self, i: int, h_BF: Tensor) -> Tensor:
        return nn.functional.normalize(self.projections[i](h_BF).float(), dim=1)

    def _matched(
        self,
        asked: Mapping[int, Tensor],
        answers_MBP: Tensor,
        asks_BM: Tensor,
        presence_BM: Tensor,
        log_scale: Tensor,
    ) -> dict[int, Match]:
        found = {}
        with without_autocast(answers_MBP.device):  # in bfloat16, logits of 100 have steps of 0.5
            scale = log_scale.exp().clamp_max(self.LARGEST_SCALE)
            for i, asked_QP in asked.items():
                logits_QMB = torch.einsum("qp,mbp->qmb", scale * asked_QP, answers_MBP)
                both_MB = (asks_BM[:, i, None] & presence_BM).T
                logits_QMB = logits_QMB.masked_fill(~both_MB, torch.finfo(logits_QMB.dtype).min)
                nats_MQ = logits_QMB.logsumexp(2).T - logits_QMB.diagonal(dim1=0, dim2=2)
                found[i] = Match(
                    nats_MQ=nats_MQ, both_MQ=both_MB[:, : len(asked_QP)], candidates_M=both_MB.sum(1).float()
                )
        return found


def _mean(matches: Mapping[int, Match]) -> Tensor:
    """Return the mean over pairs of modalities of the mean nats of their queries; 0 for a pair without queries."""
    totals = []
    for i, match in matches.items():
        mean_M = (match.nats_MQ * match.both_MQ).sum(1) / match.both_MQ.sum(1).clamp_min(1)
        totals.append((mean_M.sum() - mean_M[i]) / max(1, len(mean_M) - 1))  # no modality is matched with itself
    return torch.stack(totals).mean()


def _information(matches: Mapping[int, Match], share: float, most_MM: Tensor | None) -> Information:
    """Return the information among a share of the other candidates, and at most among a number of candidates."""
    nats, squares, queries, candidates = [], [], [], []
    for i, match in matches.items():
        kept_M = 1 + share * (match.candidates_M - 1).clamp_min(0)
        if most_MM is not None:
            kept_M = torch.minimum(kept_M, most_MM[i])
        part_M = (kept_M - 1) / (match.candidates_M - 1).clamp_min(1)
        told_MQ = kept_M.log()[:, None] - _among_a_part(match.nats_MQ, part_M[:, None])
        told_MQ = torch.where(match.both_MQ, told_MQ, 0)
        count_M = match.both_MQ.sum(1)
        nats.append(told_MQ.sum(1) / count_M.clamp_min(1))
        squares.append(told_MQ.square().sum(1) / count_M.clamp_min(1))
        queries.append(count_M)
        candidates.append(kept_M)
    return Information(*map(torch.stack, (nats, squares, queries, candidates)))


def _among_a_part(nats: Tensor, part: Tensor) -> Tensor:
    """Return -log of the softmax of an answer if the other candidates' sum is a part of what it is in `nats`.

    log(1 + part (e^nats - 1)), also where e^nats is not a number.
    """
    nats = nats.clamp_min(0)
    return torch.logaddexp(torch.zeros_like(nats), part.log() + nats + torch.log(-torch.expm1(-nats)))
