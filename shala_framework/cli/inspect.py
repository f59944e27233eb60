"""`shala check`, `shala plugins` and `shala keys`: what is there, what is wrong with it, what can be written."""

import argparse
import json

import attrs

from shala_framework.data.presence import absent_from_first
from shala_framework.data.rows import decode
from shala_framework.data.shards import read_shards
from shala_framework.data.splits import SPLITS
from shala_framework.errors import DataError, Problem, ShalaError, SpecError
from shala_framework.plugins import installed_offers, load_offer
from shala_framework.spec import read_spec
from shala_framework.spec.reference import as_markdown, as_text, keys_as_text, keys_of, spec_tables
from shala_framework.spec.structuring import nearest
from shala_framework.urls import expand_urls, is_remote


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
        print(line)
    if problems:
        raise SpecError(problems)
    return 0


def _look(arguments: argparse.Namespace, lines: list[str], problems: list[Problem]) -> None:
    """Put what there is to say of a spec and its shards into the two lists."""
    loaded = read_spec(arguments.spec, arguments.set, allow_pipe=arguments.allow_pipe)
    spec = loaded.spec
    said = f"{len(spec.modality)} modalities: {', '.join(spec.modality)}"
    if loaded.stand_in_used and spec.data.stand_in is not None:
        lines.append(f"{arguments.spec}: sound; {said}")
        lines.append(f"data.train matches no shard; a run would use the stand-in {spec.data.stand_in.dataset!r}")
        return
    modalities = {name: loaded.modality_classes[name](loaded.options[name]) for name in spec.modality}
    for split in SPLITS:
        names = getattr(spec.data, split)
        try:
            urls = expand_urls(names) if names else []
            local = [url for url in urls if not is_remote(url)]
            first = next(read_shards(local[:1]), None)
            fields = f"; first sample {first.key!r} has {', '.join(sorted(first.fields))}" if first else ""
            if urls:
                lines.append(f"{split}: {len(urls)} shards{fields}")
            if first is not None and split == "train":
                for sentence in absent_from_first(local, modalities):
                    raise DataError(sentence)
                decode(first, modalities)
        except DataError as error:
            problems.append(Problem(path=f"data.{split}", message=str(error), origin=loaded.origins(("data", split))))
    lines.insert(0, f"{arguments.spec}: {'not sound' if problems else 'sound'}; {said}")


def plugins(arguments: argparse.Namespace) -> int:
    """List plugins, or the options of one."""
    if arguments.name is None:
        offers = installed_offers()
        if arguments.json:
            print(json.dumps([attrs.asdict(offer) for offer in offers], indent=2))
            return 0
        if not offers:
            print("no plugins are installed; `pip install ./plugins/*` installs this project's own")
        width = max((len(offer.name) for offer in offers), default=0)
        for offer in offers:
            print(f"{offer.name:<{width}}  {offer.distribution} {offer.version}  ({offer.module})")
        return 0
    found = load_offer(arguments.name)
    summary = (found.__doc__ or "").strip().splitlines() or [found.__name__]
    options = keys_of(found.Options)
    if arguments.json:
        described = {"name": arguments.name, "summary": summary[0], "options": [attrs.asdict(key) for key in options]}
        print(json.dumps(described, indent=2))
        return 0
    print(f"{arguments.name}: {summary[0]}\n")
    print(keys_as_text(options))
    return 0


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
