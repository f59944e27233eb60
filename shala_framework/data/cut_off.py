"""Count what reading leaves out of samples, such as the end of long texts."""

from collections import Counter
from collections.abc import Mapping
from statistics import median

import attrs
from torch import Tensor

from shala_framework.plugin.modality import Modality
from shala_framework.support.errors import DataError


@attrs.define
class CutOffs:
    """What modalities leave out of some samples.

    Attributes:
        read: Number of samples in which each modality is present.
        found: Modality, excess, unit and consequence to the amounts of the samples that exceed a limit.
    """

    read: Counter[str] = attrs.field(factory=Counter)
    found: dict[tuple[str, str, str, str], list[float]] = attrs.field(factory=dict)

    def add(
        self, fields: Mapping[str, bytes], x: Mapping[str, Tensor | None], modalities: Mapping[str, Modality]
    ) -> None:
        """Count one sample.

        Args:
            fields: Fields of the sample.
            x: What the modalities read of it.
            modalities: Modalities by name.
        """
        for name, modality in modalities.items():
            raw = {field: fields[field] for field in modality.fields if field in fields}
            if x.get(name) is None or not raw:  # it is missing, or it was prepared by `shala pack --for`
                continue
            self.read[name] += 1
            try:
                cut = modality.cut_off(raw)
            except DataError:  # `read` takes the sample, and may look at less of it
                continue
            if cut is not None:
                self.found.setdefault((name, cut.excess, cut.unit, cut.consequence), []).append(cut.amount)

    def sentences(self) -> list[str]:
        """Return a sentence for each limit that samples exceed."""
        return [
            f"{name}: {len(amounts)} of {self.read[name]} {'sample' if self.read[name] == 1 else 'samples'} {excess} "
            f"(median {median(amounts):.3g}{unit}); {consequence}"
            for (name, excess, unit, consequence), amounts in self.found.items()
        ]
