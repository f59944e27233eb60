"""Fit modalities for `shala check`: to all training samples if that is quick, otherwise to some of them.

What a modality has learned from some samples may not cover the others: a table knows the categories that it has seen.
A sample that cannot be read is then no problem of the data if the modality can read it once it has learned from it too.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Set
from itertools import chain

import attrs

from shala_framework.data.fitting import Watched
from shala_framework.data.random_access import read_in_order
from shala_framework.data.rows import decode, fit_watched
from shala_framework.data.shards import RawSample
from shala_framework.plugin.modality import Modality, needs_fit
from shala_framework.support.errors import DataError

FIT_SECONDS, FIT_SAMPLES = 5.0, 20_000  # limits for fitting one modality to all training samples
MOST_BAD = 4  # unreadable samples that a modality is fitted without
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
        errors: Errors of samples that a run would stop at while it fits the modalities.
    """

    modalities: dict[str, Modality]
    partial: dict[str, int]
    some: Samples
    notes: list[str]
    errors: list[str] = attrs.field(factory=list)

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
    """Fit modalities as a run would, or to some samples if that takes long; without the first unreadable ones.

    Args:
        modalities: Modalities by name.
        urls: Training shards on disk.
        some: Reads samples from all over these shards.
        max_field_bytes: Size limit of a field; a larger field is an error.

    Returns:
        The modalities, of which those are left out that could not be fitted, and the errors.
    """
    fitted = TrialFit(dict(modalities), {}, some, [])
    for name, modality in modalities.items():
        if not needs_fit(modality):
            continue
        bad: set[tuple[str, str]] = set()
        while name in fitted.modalities:
            try:
                if not _fit_to_all(name, modality, urls, bad, max_field_bytes):
                    _fit_to_some(name, modality, fitted, bad)
                break
            except _BadSampleError as error:
                fitted.errors.append(str(error))
                bad.add(error.place)
                if len(bad) > MOST_BAD:
                    del fitted.modalities[name]
            except DataError as error:
                fitted.errors.append(str(error))
                del fitted.modalities[name]
    return fitted


class _BadSampleError(DataError):
    """A sample that cannot be read, with its shard and key."""

    def __init__(self, text: str, sample: RawSample) -> None:
        super().__init__(text)
        self.place = sample.shard, sample.key


def _fit(name: str, modality: Modality, watched: Watched[RawSample]) -> None:
    try:
        fit_watched(name, modality, watched)
    except DataError as error:
        if watched.current is not None:
            raise _BadSampleError(str(error), watched.current) from error
        raise


def _fit_to_some(name: str, modality: Modality, fitted: TrialFit, bad: Set[tuple[str, str]]) -> None:
    """Fit a modality to the samples that were inspected, and note how many these are."""
    having = (
        raw
        for raw in fitted.some()
        if not raw.fields.keys().isdisjoint(modality.fields) and (raw.shard, raw.key) not in bad
    )
    one = next(having, None)
    if one is None:  # a run keeps reading until it finds some
        fitted.notes.append(f"{name} was not checked: no inspected sample has it")
        del fitted.modalities[name]
        return
    counts: list[int] = []
    _fit(name, modality, Watched(chain([one], having), counts.append))
    fitted.partial[name] = len(counts)
    fitted.notes.append(
        f"{name} was fitted to {len(counts)} samples from all over the shards; a run fits it to all of them"
    )


def _fit_to_all(
    name: str, modality: Modality, urls: list[str], bad: Set[tuple[str, str]], max_field_bytes: int
) -> bool:
    """Fit a modality to all training samples but bad ones; return False if that reaches a limit."""
    end, cut = time.monotonic() + FIT_SECONDS, False

    def samples() -> Iterator[RawSample]:
        nonlocal cut
        found = read_in_order(urls, wanted=frozenset(modality.fields), max_field_bytes=max_field_bytes)
        for number, raw in enumerate(found):
            if number == FIT_SAMPLES or time.monotonic() > end:
                cut = True
                return
            if (raw.shard, raw.key) not in bad:
                yield raw

    watched = Watched(samples())
    try:
        _fit(name, modality, watched)
    except DataError:
        if cut and watched.current is None:  # it lacks samples that were not read
            return False
        raise
    return not cut
