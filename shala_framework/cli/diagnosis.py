"""Find the problems of a spec, its shards and their samples, for `shala check`."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import attrs
import torch

from shala_framework.cli.trial_fit import MOST_REFITS, TrialFit, fit_on_trial
from shala_framework.data.prepared import load_preparation, prepared_field
from shala_framework.data.presence import Look, absent_from_first, look_around
from shala_framework.data.shards import LABEL_FIELD, RawSample
from shala_framework.data.splits import SPLITS, split_urls
from shala_framework.plugin.modality import Modality, needs_fit
from shala_framework.spec import LoadedSpec, doubts, read_spec
from shala_framework.spec.schema import Data
from shala_framework.support.errors import DataError, Problem, SpecError
from shala_framework.support.escaping import printable
from shala_framework.support.urls import is_remote
from shala_framework.training.precision import check_precision

LOOK_SAMPLES, LOOK_SECONDS = 200, 10.0  # limits for each split
MOST_ERRORS = 3  # unreadable samples to show per split


@attrs.frozen
class Diagnosis:
    """The findings of `shala check`.

    Attributes:
        notes: Lines that describe the spec and its shards.
        problems: All problems that would stop a run.
    """

    notes: list[str] = attrs.field(factory=list)
    problems: list[Problem] = attrs.field(factory=list)


def diagnose(path: Path, overrides: Sequence[str], profile: str | None = None) -> Diagnosis:
    """Check a spec, whether its shards exist, and whether some of their samples can be read as it says.

    Args:
        path: TOML file of the spec.
        overrides: Overrides of its keys in the form `KEY=VALUE`.
        profile: Name of the profile to apply.

    Raises:
        SpecError: The spec itself is invalid.
    """
    loaded = read_spec(path, overrides, profile=profile)
    spec, found = loaded.spec, Diagnosis()
    described = f"{len(spec.modality)} modalities: {', '.join(spec.modality)}"
    found.notes.extend(doubts(spec))
    _check_precision(loaded, found.problems)
    if loaded.stand_in_used and spec.data.stand_in is not None:
        found.notes.insert(0, f"{path}: sound; {described}")
        found.notes.append(f"data.train matches no shard; a run would use the stand-in {spec.data.stand_in.dataset!r}")
        return found
    modalities = {name: loaded.modality_classes[name](loaded.options[name]) for name in spec.modality}
    fitted = TrialFit(modalities, {}, lambda: iter(()), [])
    for split in SPLITS:
        try:
            urls = split_urls(spec.data, split)
            fitted, messages = _look_at(split, urls, fitted, modalities, spec.data, found.notes)
        except DataError as error:
            messages = [str(error).removeprefix(f"data.{split}: ")]
            if split == "train":  # what learns from it cannot read other splits
                learned = {name: m for name, m in modalities.items() if not needs_fit(m)}
                fitted = attrs.evolve(fitted, modalities=learned)
        origin = loaded.origins(("data", split))
        found.problems.extend(Problem(path=f"data.{split}", message=text, origin=origin) for text in messages)
    found.notes.insert(0, f"{path}: {'not sound' if found.problems else 'sound'}; {described}")
    return found


def _concerns(sample: RawSample, modalities: Mapping[str, Modality], declared: Mapping[str, Modality]) -> bool:
    """Return whether a sample can be judged: it has a field of a fitted modality, or none of any modality."""
    there = [name for name, m in declared.items() if not {*m.fields, prepared_field(name)}.isdisjoint(sample.fields)]
    return not there or any(name in modalities for name in there)


def _names(names: Iterable[str]) -> str:
    return ", ".join(printable(name, lines=False) for name in sorted(names))


def _check_precision(loaded: LoadedSpec, problems: list[Problem]) -> None:
    """Check that the CUDA device of this machine, if any, supports the spec's number format."""
    train = loaded.spec.train
    if train.device == "cpu" or not torch.cuda.is_available():
        return
    try:
        check_precision(train.precision, torch.device("cuda", torch.cuda.current_device()))
    except SpecError as error:
        problems += error.problems


def _look_at(
    split: str,
    urls: list[str],
    fitted: TrialFit,
    declared: Mapping[str, Modality],
    data: Data,
    notes: list[str],
) -> tuple[TrialFit, list[str]]:
    """Read some samples of a split's shards on disk, as a run would.

    Args:
        split: Name of the split.
        urls: The split's shards.
        fitted: Modalities of the spec. With the training split, those that learn from data are fitted to it.
        declared: All modalities of the spec, of which some may not have been fitted.
        data: The spec's table [data].
        notes: Receives a description of what was read.

    Returns:
        The fitted modalities, and errors that would stop a run.
    """
    local, max_field_bytes = [url for url in urls if not is_remote(url)], data.max_field_bytes
    if not local:
        notes += [f"{split}: {len(urls)} shards"] if urls else []
        return fitted, []
    look = Look()

    def some(limit: int = LOOK_SAMPLES) -> Iterator[RawSample]:
        return look_around(local, limit=limit, seconds=LOOK_SECONDS, max_field_bytes=max_field_bytes, tally=look.tally)

    first = next(some(1), None)
    fields = f"; first sample {first.key!r} has {_names(first.fields)}" if first else ""
    notes.append(f"{split}: {len(urls)} shards{fields}")
    if first is None or not fitted.modalities:
        return fitted, []
    if split == "train":
        for sentence in absent_from_first(local, fitted.modalities, max_field_bytes=max_field_bytes):
            raise DataError(sentence)
        if not load_preparation(local, fitted.modalities):
            fitted = fit_on_trial(fitted.modalities, local, some, max_field_bytes=max_field_bytes)
            notes += [f"{split}: {sentence}" for sentence in fitted.notes]
            notes += [f"{split}: {name}: {text}" for name, m in fitted.modalities.items() for text in m.doubts()]
    modalities = fitted.modalities
    if not modalities:
        return fitted, fitted.errors[:MOST_ERRORS]
    look.tally.clear()
    begun, refused, unknown = time.monotonic(), 0, list[str]()
    for sample in some():
        if not _concerns(sample, modalities, declared):
            continue
        if look.add(sample, modalities) or not fitted.partial:
            continue
        refused += 1
        if refused > MOST_REFITS or fitted.may_be_read(sample):
            unknown.append(look.errors.pop())
    seconds = time.monotonic() - begun
    cut = [*look.apart(modalities), *look.cut_offs.sentences()]
    notes.append(
        f"{split}: read {look.samples} samples of {len(look.shards)} shards in {seconds:.1f} s "
        f"(at most {LOOK_SAMPLES} in {LOOK_SECONDS:.0f} s); present: {look.shares(modalities)}"
    )
    notes += [f"{split}: {sentence}" for sentence in (*look.tally.sentences(), *cut, *look.unread(declared))]
    if unknown:
        names = " and ".join(f"{name!r} to {count}" for name, count in fitted.partial.items())
        notes.append(
            f"{split}: {len(unknown)} of {look.samples} samples could not be read, such as: {unknown[0]}. A run may "
            f"read them, because it learns from all training samples; this check fitted {names} of them"
        )
    bad = [*dict.fromkeys((*(fitted.errors if split == "train" else ()), *look.errors))]
    errors = list(islice(bad, MOST_ERRORS))
    if len(bad) > MOST_ERRORS:
        errors.append(f"{len(bad) - MOST_ERRORS} more errors in the {look.samples} samples that were read")
    if not errors and not look.present:
        errors.append(f"none of {look.samples} samples has any modality: {'; '.join(look.tally.sentences())}")
    if split == "train" and data.balance and not look.fields[LABEL_FIELD]:
        notes.append(
            f"{split}: data.balance needs classes (field {LABEL_FIELD}), and none of the {look.samples} samples has one"
        )
    return fitted, errors
