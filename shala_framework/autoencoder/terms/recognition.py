"""The recognition term of stage 1: a decoded modality shows the content of its row's other modalities.

A likelihood of independent pixels reproduces content with a blur in which nothing can be recognised. This term requires
that the encoders, with fixed weights, match a decoded modality with the other modalities' features of its row.

Shapes: as in contrast.py.
"""

from typing import Self

from torch import Tensor

from shala_framework.autoencoder.stage_pass import Pass
from shala_framework.autoencoder.terms.base import Term
from shala_framework.autoencoder.terms.contrast import ContrastTerm
from shala_framework.plugin.posterior import MethodSizes
from shala_framework.spec.schema import Posterior


class RecognitionTerm(Term):
    """InfoNCE between features of decoded modalities and of the row's other modalities, in nats.

    It uses the projections of the contrast term and gives them no gradient; decoders get one, and through z so do the
    posterior and the encoders. It is faded out with the contrast term, whose projections then say less and less.
    """

    name = "recognition"

    def __init__(self, weight: float, contrast: ContrastTerm) -> None:
        super().__init__(weight)
        self.__dict__["contrast"] = contrast  # registered elsewhere

    @property
    def _contrast(self) -> ContrastTerm:
        contrast: ContrastTerm = self.__dict__["contrast"]
        return contrast

    @classmethod
    def from_table(cls, table: Posterior, sizes: MethodSizes, others: dict[str, Term]) -> Self | None:
        contrast = others.get(ContrastTerm.name)
        if not table.recognition_weight or not isinstance(contrast, ContrastTerm):
            return None
        return cls(table.recognition_weight, contrast)

    def forward(self, batch: Pass) -> Tensor | None:
        seen = {i: batch.reencode(name) for i, name in enumerate(batch.h)}
        decoded = {i: again.h_QF for i, again in seen.items() if again is not None}
        if not decoded:
            return None
        return self._contrast.recognition(decoded, list(batch.h.values()), batch.presence_BM)

    def loss(self, value: Tensor) -> Tensor:
        return self._contrast.gated(self.weight * value)
