"""`shala check`, `shala plugins` and `shala keys`: what is there, what is wrong with it, what can be written."""

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice

import attrs

from shala_framework.cli.output import say
from shala_framework.data.fitting import Watched, needs_fit
from shala_framework.data.prepared import load_preparation
from shala_framework.data.presence import Look, absent_from_first, look_around
from shala_framework.data.rows import fit_watched
from shala_framework.data.shards import RawSample
from shala_framework.data.splits import SPLITS, split_urls
from shala_framework.errors import DataError, PluginError, Problem, ShalaError, SpecError
from shala_framework.escaping import printable
from shala_framework.plugin.loading import NOUNS, installed_offers, kind_of, load_offer
from shala_framework.plugin.modality import Modality
from shala_framework.spec import LoadedSpec, doubts, read_spec
from shala_framework.spec.reference import as_markdown, as_text, keys_as_text, keys_of, spec_tables
from shala_framework.spec.structuring import nearest
from shala_framework.training.precision import check_precision
from shala_framework.urls import is_remote

FIT_SAMPLES = 100  # that `check` fits modalities to: enough to read some
LOOK_SAMPLES, LOOK_SECONDS = 200, 10.0  # at most, for each split
MOST_ERRORS = 3  # samples that cannot be read, of each split


def check(arguments: argparse.Namespace) -> int:
    """Check a spec, that its shards are there, and that some of their samples can be read as it says."""
    lines: list[str] = []
    problems: list[Problem] = []
    try:
        _look(arguments, lines, problems)
    except SpecError as error:
        if not arguments.json:
            raise
        problems = error.problems
    if arguments.json:
        print(
            json.dumps(
                {"sound": not problems, "notes": lines, "problems": [attrs.asdict(p) for p in problems]}, indent=2
            )
        )
        return 2 if problems else 0
    for line in lines:
        say(line)
    if problems:
        raise SpecError(problems)
    return 0


def _look(arguments: argparse.Namespace, lines: list[str], problems: list[Problem]) -> None:
    """Put what there is to say of a spec and its shards into the two lists."""
    loaded = read_spec(arguments.spec, arguments.set)
    spec = loaded.spec
    said = f"{len(spec.modality)} modalities: {', '.join(spec.modality)}"
    lines += doubts(spec)
    _look_at_precision(loaded, problems)
    if loaded.stand_in_used and spec.data.stand_in is not None:
        lines.insert(0, f"{arguments.spec}: sound; {said}")
        lines.append(f"data.train matches no shard; a run would use the stand-in {spec.data.stand_in.dataset!r}")
        return
    modalities = {name: loaded.modality_classes[name](loaded.options[name]) for name in spec.modality}
    for split in SPLITS:
        try:
            urls = split_urls(spec.data, split)
            problems += [
                Problem(path=f"data.{split}", message=message, origin=loaded.origins(("data", split)))
                for message in _look_at(split, urls, modalities, spec.data.max_field_bytes, lines)
            ]
        except DataError as error:
            message = str(error).removeprefix(f"data.{split}: ")
            problems.append(Problem(path=f"data.{split}", message=message, origin=loaded.origins(("data", split))))
    lines.insert(0, f"{arguments.spec}: {'not sound' if problems else 'sound'}; {said}")


def _names(names: Iterable[str]) -> str:
    return ", ".join(printable(name, lines=False) for name in sorted(names))


def _look_at_precision(loaded: LoadedSpec, problems: list[Problem]) -> None:
    """Whether the device that is here can compute as the spec says; one that is not here is the run's to find."""
    import torch

    train = loaded.spec.train
    if train.device == "cpu" or not torch.cuda.is_available():
        return
    try:
        check_precision(train.precision, torch.device("cuda", torch.cuda.current_device()))
    except SpecError as error:
        problems += error.problems


def _look_at(
    split: str, urls: list[str], modalities: Mapping[str, Modality], max_field_bytes: int, lines: list[str]
) -> list[str]:
    """Read some samples of a split's shards on disk, as a run would.

    Args:
        split: Its name.
        urls: Its shards.
        modalities: Of the spec; those that learn from data are fitted to the training split's.
        max_field_bytes: A field of more bytes is an error.
        lines: Takes what was found.

    Returns:
        What a run would stop at.
    """
    local = [url for url in urls if not is_remote(url)]
    if not local:
        lines += [f"{split}: {len(urls)} shards"] if urls else []
        return []
    begun, look = time.monotonic(), Look()

    def some(limit: int) -> Iterator[RawSample]:
        left = LOOK_SECONDS - (time.monotonic() - begun)
        return look_around(local, limit=limit, seconds=left, max_field_bytes=max_field_bytes, tally=look.tally)

    first = next(some(1), None)
    fields = f"; first sample {first.key!r} has {_names(first.fields)}" if first else ""
    lines.append(f"{split}: {len(urls)} shards{fields}")
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
                    if one is None:  # a run finds more of it, as `absent_from_first` did
                        lines.append(f"train: {name} is too rare to be fitted to what was looked at; it was not read")
                        modalities = {other: m for other, m in modalities.items() if other != name}
                    else:
                        fit_watched(name, modality, Watched(chain([one], having)))
    look.tally.clear()
    for sample in some(LOOK_SAMPLES):
        look.add(sample, modalities)
    seconds = time.monotonic() - begun
    lines.append(
        f"{split}: looked at {look.samples} samples of {len(look.shards)} shards in {seconds:.1f} s "
        f"(at most {LOOK_SAMPLES} in {LOOK_SECONDS:.0f} s); present: {look.shares(modalities)}"
    )
    lines += [f"{split}: {sentence}" for sentence in (*look.tally.sentences(), *look.unread(modalities))]
    errors = list(islice(look.errors, MOST_ERRORS))
    if len(look.errors) > MOST_ERRORS:
        errors.append(f"{len(look.errors) - MOST_ERRORS} more samples of {look.samples} cannot be read")
    if not errors and not look.present:
        errors.append(f"in none of {look.samples} samples is a modality present: {'; '.join(look.tally.sentences())}")
    return errors


def plugins(arguments: argparse.Namespace) -> int:
    """List plugins by kind, or the options of one."""
    if arguments.name is None:
        _list(arguments.json)
        return 0
    found = load_offer(arguments.name)
    options = keys_of(found.Options)
    if arguments.json:
        described = {
            "name": arguments.name,
            "kind": kind_of(found),
            "summary": _summary(found),
            "options": [attrs.asdict(key) for key in options],
        }
        print(json.dumps(described, indent=2))
        return 0
    say(f"{arguments.name}, a {kind_of(found)}: {_summary(found)}\n")
    say(keys_as_text(options))
    return 0


def _list(as_json: bool) -> None:
    """Print every installed plugin under its kind; one that cannot be loaded says why, and stops no other."""
    listed: list[dict[str, str | None]] = []
    for offer in installed_offers():
        row: dict[str, str | None] = {**attrs.asdict(offer), "kind": None, "summary": None, "error": None}
        try:
            found = load_offer(offer.name)
            row |= {"kind": kind_of(found), "summary": _summary(found)}
        except PluginError as error:
            row["error"] = str(error)
        listed.append(row)
    if as_json:
        print(json.dumps(listed, indent=2))
        return
    if not listed:
        say("no plugins are installed; `pip install ./plugins/*` installs this project's own")
    width = max((len(row["name"] or "") for row in listed), default=0)
    for kind in (*NOUNS.values(), None):
        rows = [row for row in listed if row["kind"] == kind]
        if rows:
            say(f"{kind or 'cannot be loaded'}:")
        for row in rows:
            said = row["summary"] or row["error"]
            owner = f"  ({row['distribution']} {row['version']})" if kind else ""
            say(f"  {row['name']:<{width}}  {said}{owner}")


def _summary(found: type) -> str:
    """The first line of a class's docstring."""
    lines = (found.__doc__ or "").strip().splitlines() or [found.__name__]
    return lines[0]


def keys(arguments: argparse.Namespace) -> int:
    """The keys of a spec's tables, or of one of them and those inside it."""
    tables = spec_tables()
    if arguments.table is not None:
        wanted = arguments.table.strip("[]")
        chosen = tuple(t for t in tables if t.name == wanted or t.name.startswith(f"{wanted}."))
        if not chosen:
            hint = nearest(wanted, [t.name for t in tables if t.name], "tables")
            raise ShalaError(f"expected a table of the spec, got {wanted!r}; {hint}")
        tables = chosen
    print(as_markdown(tables) if arguments.markdown else as_text(tables), end="")
    return 0
