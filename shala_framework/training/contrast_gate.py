"""The weight of stage 1's contrastive terms, by what they teach about held-out rows.

In a small set, a network soon learns by heart which rows' modalities belong together. The contrast of held-out rows,
which fell at first, then rises above that of guessing. The features have by then lost what the modalities share, and
stage 2 takes a given modality for the row that it reminds of, so that its samples are too much alike. The contrast of
held-out rows is therefore measured often, and the contrastive terms are faded out as it departs from that of training.

Shapes: M modalities.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.autoencoder.terms import ContrastTerm
from shala_framework.data.rows import Rows
from shala_framework.spec.stages import AutoencoderStage
from shala_framework.support.distributed.processes import mean_of
from shala_framework.training.compiling import uncompiled

MOST_ROWS = 256  # held-out rows that are measured
FIRST_STEPS, SHARE_OF_STEPS = 5, 0.1  # steps between measurements: at least so many, and a share of the steps so far
LEAST_SHARE = 0.25  # of the nats of guessing: the information of training rows counts as at least this
STATE, SEEN = "contrast_gate", "contrast_information"  # names in the extra state of stage 1


class ContrastGate:
    """Fades out the contrastive terms as far as what they teach does not hold on held-out rows.

    Features of one modality have information about another: the nats of guessing the row less the contrast. With T that
    of training rows since the last measurement and H that of held-out rows, both means over the pairs of modalities
    that both have, the share (T - H) / T is memorised. H counts as higher by its standard error, so that a few
    held-out rows decide nothing by chance. In training, weights are multiplied by 2 - share / tolerance, within 0 and
    1: they are whole up to a share of the tolerance, and 0 from twice that on. They never grow again, because a network
    without these terms forgets what it had memorised, and would begin again. The held-out loss by which weights are
    chosen keeps the terms at full weight, so that it is comparable.

    Information depends on how many rows there are to choose from, which micro-batches, hidden modalities and a small
    held-out set lower: both are of the smaller number.

    Attributes:
        weight: The present factor of the terms' weights.
        held_out: H at the last measurement, in nats.
        widest: T and H where the memorised share was largest, in nats.
    """

    def __init__(
        self, autoencoder: Autoencoder, held_out: Rows | None, settings: AutoencoderStage, device: torch.device
    ) -> None:
        """Begin with whole weights.

        Args:
            autoencoder: Stage 1. Without a contrast term nothing is ever measured.
            held_out: Rows to measure, in an order without meaning; None never measures.
            settings: Say how many rows are compared with each other.
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
        if self._term is None:
            return
        rows = settings.batch_size // settings.micro_batches
        size = min(rows, len(held_out), MOST_ROWS) if held_out is not None else 0
        self._term.gate.fill_(1.0)
        self._term.seen.zero_()
        self._term.seen_share = (size - 1) / (rows - 1) if size > 1 else 1.0
        if held_out is not None and size > 1:
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
        found = mean_of(self._measure(self._term))  # the same in every process, whatever its rounding
        self._term.seen.zero_()
        if not found["pairs"]:
            return
        training, self.held_out, error, guessing = (
            float(found[name] / found["pairs"]) for name in ("training", "held_out", "error", "guessing")
        )
        share = (training - self.held_out - error) / max(training, LEAST_SHARE * guessing)
        weight = max(0.0, 2 - share / self._term.tolerance)
        if weight < self.weight:
            self.weight = weight
            self._term.gate.fill_(weight)
            self.widest = training, self.held_out

    def _measure(self, term: ContrastTerm) -> dict[str, Tensor]:
        """Return sums over the pairs that training and held-out rows have, and the number of these."""
        sums_MM, candidates_MM, steps_MM = term.seen
        training_MM = sums_MM / steps_MM.clamp_min(1)
        most_MM = candidates_MM / steps_MM.clamp_min(1)
        held_out_MM, error_MM, found_MM, known_MM = self._held_out(term, most_MM.clamp_min(1))
        known_MM = known_MM & (steps_MM > 0)
        guessing_MM, fewer_MM = most_MM.clamp_min(1).log(), found_MM.log()
        # Held-out rows that lack more have fewer candidates: no more than their share of the nats can be told of them.
        training_MM = training_MM * (fewer_MM / guessing_MM.clamp_min(1e-6)).clamp_max(1)
        values = {"training": training_MM, "held_out": held_out_MM, "error": error_MM, "guessing": fewer_MM}
        sums = {name: torch.where(known_MM, value_MM, 0).sum() for name, value_MM in values.items()}
        return {**sums, "pairs": known_MM.sum().float()}

    @torch.no_grad()
    def _held_out(self, term: ContrastTerm, most_MM: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return mean and standard error of held-out rows' information, the candidates, and the pairs they have."""
        self._autoencoder.eval()
        with uncompiled():
            parts = []
            for batch in self._batches:
                rows = batch.to(self._device)
                h = list(self._autoencoder.encode(rows.x).values())
                parts.append(term.information(h, rows.presence, most_MM))
        self._autoencoder.train()
        weight_KMM = torch.stack([part.queries_MM * part.known_MM for part in parts]).float()
        count_MM = weight_KMM.sum(0)

        def mean_MM(values: list[Tensor]) -> Tensor:
            return (torch.stack(values) * weight_KMM).sum(0) / count_MM.clamp_min(1)

        told_MM = mean_MM([part.nats_MM for part in parts])
        variance_MM = (mean_MM([part.squares_MM for part in parts]) - told_MM.square()).clamp_min(0)
        error_MM = (variance_MM / count_MM.clamp_min(1)).sqrt()
        return told_MM, error_MM, mean_MM([part.candidates_MM for part in parts]).clamp_min(1), count_MM > 0

    def describe(self) -> str:
        """Say so if the terms are faded out for the most part; empty otherwise."""
        if self.weight > 0.5:
            return ""
        return (
            "stage autoencoder: the contrastive terms had begun to memorise which training rows belong together, and "
            f"were faded out to {self.weight:.2g} of their weights: one modality told {self.widest[0]:.2g} nats about "
            f"another in training rows, and {self.widest[1]:.2g} in held-out rows; more rows or the option `augment` "
            "help, and prior.feature_noise keeps samples from given modalities from being too much alike"
        )

    def state(self) -> dict[str, Tensor]:
        """Return what resuming needs."""
        if self._term is None:
            return {}
        figures = torch.tensor([self._due, self.weight, *self.widest], dtype=torch.float64)
        return {STATE: figures, SEEN: self._term.seen.clone()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore it. Without such a state, which earlier versions did not write, the terms keep their full weight."""
        if self._term is not None and SEEN in tensors:
            due, self.weight, *widest = tensors[STATE].tolist()
            self._due, self.widest = int(due), (widest[0], widest[1])
            self._term.gate.fill_(self.weight)
            self._term.seen.copy_(tensors[SEEN])
