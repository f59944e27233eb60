"""Find the problems of a spec, its shards and their samples, for `shala check`."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

import attrs
import torch

from shala_framework.data.fitting import Watched
from shala_framework.data.prepared import load_preparation
from shala_framework.data.presence import Look, absent_from_first, look_around
from shala_framework.data.rows import fit_watched
from shala_framework.data.shards import RawSample
from shala_framework.data.splits import SPLITS, split_urls
from shala_framework.plugin.modality import Modality, needs_fit
from shala_framework.spec import LoadedSpec, doubts, read_spec
from shala_framework.support.errors import DataError, Problem, SpecError
from shala_framework.support.escaping import printable
from shala_framework.support.urls import is_remote
from shala_framework.training.precision import check_precision

FIT_SAMPLES = 100  # samples that `check` fits a modality to; enough for reading some others
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


def diagnose(path: Path, overrides: Sequence[str]) -> Diagnosis:
    """Check a spec, whether its shards exist, and whether some of their samples can be read as it says.

    Args:
        path: TOML file of the spec.
        overrides: Overrides of its keys in the form `KEY=VALUE`.

    Raises:
        SpecError: The spec itself is invalid.
    """
    loaded = read_spec(path, overrides)
    spec, found = loaded.spec, Diagnosis()
    described = f"{len(spec.modality)} modalities: {', '.join(spec.modality)}"
    found.notes.extend(doubts(spec))
    _check_precision(loaded, found.problems)
    if loaded.stand_in_used and spec.data.stand_in is not None:
        found.notes.insert(0, f"{path}: sound; {described}")
        found.notes.append(f"data.train matches no shard; a run would use the stand-in {spec.data.stand_in.dataset!r}")
        return found
    modalities = {name: loaded.modality_classes[name](loaded.options[name]) for name in spec.modality}
    for split in SPLITS:
        try:
            urls = split_urls(spec.data, split)
            messages = _look_at(split, urls, modalities, spec.data.max_field_bytes, found.notes)
        except DataError as error:
            messages = [str(error).removeprefix(f"data.{split}: ")]
        origin = loaded.origins(("data", split))
        found.problems.extend(Problem(path=f"data.{split}", message=text, origin=origin) for text in messages)
    found.notes.insert(0, f"{path}: {'not sound' if found.problems else 'sound'}; {described}")
    return found


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
    split: str, urls: list[str], modalities: Mapping[str, Modality], max_field_bytes: int, notes: list[str]
) -> list[str]:
    """Read some samples of a split's shards on disk, as a run would.

    Args:
        split: Name of the split.
        urls: The split's shards.
        modalities: Modalities of the spec. Those that learn from data are fitted to samples of the training split.
        max_field_bytes: Size limit of a field; a larger field is an error.
        notes: Receives a description of what was read.

    Returns:
        Errors that would stop a run.
    """
    local = [url for url in urls if not is_remote(url)]
    if not local:
        notes += [f"{split}: {len(urls)} shards"] if urls else []
        return []
    begun, look = time.monotonic(), Look()

    def some(limit: int) -> Iterator[RawSample]:
        left = LOOK_SECONDS - (time.monotonic() - begun)
        return look_around(local, limit=limit, seconds=left, max_field_bytes=max_field_bytes, tally=look.tally)

    first = next(some(1), None)
    fields = f"; first sample {first.key!r} has {_names(first.fields)}" if first else ""
    notes.append(f"{split}: {len(urls)} shards{fields}")
    if first is None:
        return []
    if split == "train":
        for sentence in absent_from_first(local, modalities, max_field_bytes=max_field_bytes):
            raise DataError(sentence)
        if not load_preparation(local, modalities):
            for name, modality in modalities.items():
                if needs_fit(modality):
                    having = (raw for raw in some(FIT_SAMPLES) if not raw.fields.keys().isdisjoint(modality.fields))
                    one = next(having, None)
                    if one is None:  # a run keeps reading until it finds some, as `absent_from_first` did
                        notes.append(f"train: {name} was not checked: no inspected sample has it")
                        modalities = {other: m for other, m in modalities.items() if other != name}
                    else:
                        fit_watched(name, modality, Watched(chain([one], having)))
    look.tally.clear()
    for sample in some(LOOK_SAMPLES):
        look.add(sample, modalities)
    seconds = time.monotonic() - begun
    notes.append(
        f"{split}: read {look.samples} samples of {len(look.shards)} shards in {seconds:.1f} s "
        f"(at most {LOOK_SAMPLES} in {LOOK_SECONDS:.0f} s); present: {look.shares(modalities)}"
    )
    notes += [f"{split}: {sentence}" for sentence in (*look.tally.sentences(), *look.unread(modalities))]
    errors = list(islice(look.errors, MOST_ERRORS))
    if len(look.errors) > MOST_ERRORS:
        errors.append(f"{len(look.errors) - MOST_ERRORS} more samples of {look.samples} cannot be read")
    if not errors and not look.present:
        errors.append(f"none of {look.samples} samples has any modality: {'; '.join(look.tally.sentences())}")
    return errors
