"""`shala check`, `shala plugins` and `shala keys`: what is there, what is wrong with it, what can be written."""

import argparse
import json
from collections.abc import Iterable

import attrs

from shala_framework.cli.output import say
from shala_framework.data.fitting import needs_fit
from shala_framework.data.prepared import load_preparation
from shala_framework.data.presence import absent_from_first
from shala_framework.data.rows import decode, fit_to_shards
from shala_framework.data.shards import read_shards
from shala_framework.data.splits import SPLITS, split_urls
from shala_framework.errors import DataError, PluginError, Problem, ShalaError, SpecError
from shala_framework.escaping import printable
from shala_framework.plugins import NOUNS, installed_offers, kind_of, load_offer
from shala_framework.spec import doubts, read_spec
from shala_framework.spec.reference import as_markdown, as_text, keys_as_text, keys_of, spec_tables
from shala_framework.spec.structuring import nearest
from shala_framework.urls import is_remote

FIT_SAMPLES = 100  # that `check` fits modalities to: enough to read the first one


def check(arguments: argparse.Namespace) -> int:
    """Check a spec, that its shards are there, and that a sample can be read as it says."""
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
    if loaded.stand_in_used and spec.data.stand_in is not None:
        lines.insert(0, f"{arguments.spec}: sound; {said}")
        lines.append(f"data.train matches no shard; a run would use the stand-in {spec.data.stand_in.dataset!r}")
        return
    modalities = {name: loaded.modality_classes[name](loaded.options[name]) for name in spec.modality}
    for split in SPLITS:
        try:
            urls = split_urls(spec.data, split)
            local = [url for url in urls if not is_remote(url)]
            first = next(read_shards(local[:1]), None)
            fields = f"; first sample {first.key!r} has {_names(first.fields)}" if first else ""
            if urls:
                lines.append(f"{split}: {len(urls)} shards{fields}")
            if first is not None and split == "train":
                for sentence in absent_from_first(local, modalities):
                    raise DataError(sentence)
                if not load_preparation(local, modalities):
                    for name, modality in modalities.items():
                        if needs_fit(modality) and not first.fields.keys().isdisjoint(modality.fields):
                            fit_to_shards(name, modality, local, limit=FIT_SAMPLES)
                decode(first, modalities)
        except DataError as error:
            message = str(error).removeprefix(f"data.{split}: ")
            problems.append(Problem(path=f"data.{split}", message=message, origin=loaded.origins(("data", split))))
    lines.insert(0, f"{arguments.spec}: {'not sound' if problems else 'sound'}; {said}")


def _names(names: Iterable[str]) -> str:
    return ", ".join(printable(name, lines=False) for name in sorted(names))


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
