"""The weight of stage 1's contrastive terms, by what they teach about held-out rows.

In a small set, a network soon learns by heart which rows' modalities belong together. The contrast of held-out rows,
which fell at first, then rises above that of guessing. The features have by then lost what the modalities share, and
stage 2 takes a given modality for the row that it reminds of, so that its samples are too much alike. The contrast of
held-out rows is therefore measured often, and the contrastive terms are faded out as it departs from that of training.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.autoencoder.terms import ContrastTerm
from shala_framework.data.rows import Rows
from shala_framework.support.distributed.processes import mean_of
from shala_framework.training.compiling import uncompiled

MOST_ROWS = 256  # held-out rows that are measured
FIRST_STEPS, SHARE_OF_STEPS = 5, 0.1  # steps between measurements: at least so many, and a share of the steps so far
LEAST_SHARE = 0.25  # of the nats of guessing: the information of training rows counts as at least this
STATE, SEEN = "contrast_gate", "contrast_seen"  # names in the extra state of stage 1


class ContrastGate:
    """Fades out the contrastive terms as far as what they teach does not hold on held-out rows.

    Features have the information I about rows: the nats of guessing less the contrast. With T that of training rows
    since the last measurement and H that of held-out rows, the share (T - H) / T is memorised. In training, weights are
    multiplied by 2 - share / tolerance, within 0 and 1: they are whole up to a share of the tolerance, and 0 from twice
    that on. They never grow again, because a network without these terms forgets what it had memorised, and would
    begin again. The held-out loss by which weights are chosen keeps the terms at full weight, so that it is comparable.

    Attributes:
        weight: The present factor of the terms' weights.
        held_out: H at the last measurement, in nats.
        widest: T and H where the memorised share was largest, in nats.
    """

    def __init__(self, autoencoder: Autoencoder, held_out: Rows | None, batch_size: int, device: torch.device) -> None:
        """Begin with whole weights.

        Args:
            autoencoder: Stage 1. Without a contrast term nothing is ever measured.
            held_out: Rows to measure; None never measures.
            batch_size: Number of rows among which one is to be found.
            device: Device of the computation.
        """
        term = dict(autoencoder.added_terms.items()).get(ContrastTerm.name)
        self._term = term if isinstance(term, ContrastTerm) else None
        self._autoencoder, self._device = autoencoder, device
        self.weight = 1.0
        self.held_out = 0.0
        self.widest = 0.0, 0.0
        self._due = FIRST_STEPS
        self._batches: list[Rows] = []
        if self._term is not None:
            self._term.gate.fill_(1.0)
            self._term.seen.zero_()
        if self._term is not None and held_out is not None:
            size = min(batch_size, len(held_out))
            # Whole batches alone, because a smaller one has fewer rows to guess from.
            starts = range(0, min(MOST_ROWS, len(held_out)) - size + 1, size)
            self._batches = [held_out.take(torch.arange(start, start + size)) for start in starts]

    def terms(self) -> dict[str, Tensor]:
        """Return the factor as a term to log; empty without a contrast term."""
        return {} if self._term is None else {STATE: self._term.gate.clone()}

    def after_step(self, step: int) -> None:
        """Measure if it is time to. All processes must call this."""
        if self._term is None or not self._batches or step + 1 < self._due:
            return
        self._due = step + 1 + max(FIRST_STEPS, int(SHARE_OF_STEPS * (step + 1)))
        guessing = math.log(len(self._batches[0]))
        total, count = self._term.seen
        found = {"held_out": self._held_out_contrast(self._term), "training": total / count.clamp_min(1)}
        found = mean_of(found)  # the same in every process, whatever its rounding
        self._term.seen.zero_()
        training, self.held_out = (guessing - float(found[name]) for name in ("training", "held_out"))
        share = (training - self.held_out) / max(training, LEAST_SHARE * guessing)
        weight = max(0.0, 2 - share / self._term.tolerance)
        if weight < self.weight:
            self.weight = weight
            self._term.gate.fill_(weight)
            self.widest = training, self.held_out

    @torch.no_grad()
    def _held_out_contrast(self, term: ContrastTerm) -> Tensor:
        self._autoencoder.eval()
        with uncompiled():
            nats = [self._contrast(term, batch.to(self._device)) for batch in self._batches]
        self._autoencoder.train()
        return torch.stack(nats).mean()

    def _contrast(self, term: ContrastTerm, rows: Rows) -> Tensor:
        return term.between(list(self._autoencoder.encode(rows.x).values()), rows.presence)

    def describe(self) -> str:
        """Say so if the terms are faded out for the most part; empty otherwise."""
        if self.weight > 0.5:
            return ""
        return (
            "stage autoencoder: the contrastive terms had begun to memorise which training rows belong together, and "
            f"were faded out to {self.weight:.2g} of their weights: one modality told {self.widest[0]:.2g} nats about "
            f"another in training rows, and {self.widest[1]:.2g} in held-out rows; with so few rows, samples from "
            "given modalities may still be too much alike; set posterior.contrast_weight and "
            "posterior.recognition_weight to 0 and prior.feature_noise to 1, or add augmentation"
        )

    def state(self) -> dict[str, Tensor]:
        """Return what resuming needs."""
        if self._term is None:
            return {}
        figures = torch.tensor([self._due, self.weight, *self.widest], dtype=torch.float64)
        return {STATE: figures, SEEN: self._term.seen.clone()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore it. Without such a state, which earlier versions did not write, the terms keep their full weight."""
        if self._term is not None and STATE in tensors:
            due, self.weight, *widest = tensors[STATE].tolist()
            self._due, self.widest = int(due), (widest[0], widest[1])
            self._term.gate.fill_(self.weight)
            self._term.seen.copy_(tensors[SEEN])
