"""Fit modalities for `shala check`: to all training samples if that is quick, otherwise to some of them.

What a modality has learned from some samples may not cover the others: a table knows the categories that it has seen.
A sample that cannot be read is then no problem of the data if the modality can read it once it has learned from it too.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain

import attrs

from shala_framework.data.fitting import Watched
from shala_framework.data.random_access import read_in_order
from shala_framework.data.rows import decode, fit_watched
from shala_framework.data.shards import RawSample
from shala_framework.plugin.modality import Modality, needs_fit
from shala_framework.support.errors import DataError

FIT_SECONDS, FIT_SAMPLES = 5.0, 20_000  # limits for fitting one modality to all training samples
MOST_REFITS = 10  # unreadable samples of a split that modalities are fitted to once more

Samples = Callable[[], Iterator[RawSample]]


@attrs.frozen
class TrialFit:
    """Modalities for reading samples.

    Attributes:
        modalities: Those that could be fitted, and those that learn nothing, by name.
        partial: Those that were fitted to some samples only, with the number of these.
        some: Reads these samples.
        notes: Sentences about what is not known.
    """

    modalities: dict[str, Modality]
    partial: dict[str, int]
    some: Samples
    notes: list[str]

    def may_be_read(self, sample: RawSample) -> bool:
        """Return whether a sample can be read once the modalities have learned from it too."""
        again = dict(self.modalities)
        try:
            for name in self.partial:
                again[name] = type(again[name])(again[name].options)
                fit_watched(name, again[name], Watched(chain(self.some(), [sample])))
            decode(sample, again)
        except DataError:
            return False
        return True


def fit_on_trial(
    modalities: Mapping[str, Modality], urls: list[str], some: Samples, *, max_field_bytes: int
) -> TrialFit:
    """Fit modalities as a run would, or to some samples if that takes long.

    Args:
        modalities: Modalities by name.
        urls: Training shards on disk.
        some: Reads samples from all over these shards.
        max_field_bytes: Size limit of a field; a larger field is an error.

    Raises:
        DataError: A sample cannot be read, or there is too little to learn from.
    """
    fitted = TrialFit(dict(modalities), {}, some, [])
    for name, modality in modalities.items():
        if not needs_fit(modality) or _fit_to_all(name, modality, urls, max_field_bytes):
            continue
        having = (raw for raw in some() if not raw.fields.keys().isdisjoint(modality.fields))
        one = next(having, None)
        if one is None:  # a run keeps reading until it finds some
            fitted.notes.append(f"{name} was not checked: no inspected sample has it")
            del fitted.modalities[name]
            continue
        counts: list[int] = []
        fit_watched(name, modality, Watched(chain([one], having), counts.append))
        fitted.partial[name] = len(counts)
        fitted.notes.append(
            f"{name} was fitted to {len(counts)} samples from all over the shards; a run fits it to all of them"
        )
    return fitted


def _fit_to_all(name: str, modality: Modality, urls: list[str], max_field_bytes: int) -> bool:
    """Fit a modality to all training samples; return False if that reaches a limit."""
    end, cut = time.monotonic() + FIT_SECONDS, False

    def samples() -> Iterator[RawSample]:
        nonlocal cut
        found = read_in_order(urls, wanted=frozenset(modality.fields), max_field_bytes=max_field_bytes)
        for number, raw in enumerate(found):
            if number == FIT_SAMPLES or time.monotonic() > end:
                cut = True
                return
            yield raw

    watched = Watched(samples())
    try:
        fit_watched(name, modality, watched)
    except DataError:
        if cut and watched.current is None:  # it lacks samples that were not read
            return False
        raise
    return not cut
