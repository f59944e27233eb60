"""`shala check` and `shala plugins`: what is there and what is wrong with it."""

import argparse
import inspect
import json
from typing import Any

import attrs

from shala_framework.data.shards import read_shards
from shala_framework.errors import DataError, Problem, SpecError
from shala_framework.plugins import installed_offers, load_offer
from shala_framework.spec import read_spec, unstructure
from shala_framework.spec.structuring import describe_type
from shala_framework.urls import expand_urls, is_remote


def check(arguments: argparse.Namespace) -> int:
    """Check a spec and the first sample of each of its splits."""
    loaded = read_spec(arguments.spec, arguments.set, allow_pipe=arguments.allow_pipe)
    spec = loaded.spec
    print(f"{arguments.spec}: sound; {len(spec.modality)} modalities: {', '.join(spec.modality)}")
    if loaded.stand_in_used and spec.data.stand_in is not None:
        print(f"data.train matches no shard; a run would use the stand-in {spec.data.stand_in.dataset!r}")
        return 0
    problems = []
    for split in ("train", "validation"):
        names = getattr(spec.data, split)
        try:
            urls = expand_urls(names) if names else []
            local = [url for url in urls if not is_remote(url)]
            first = next(read_shards(local[:1]), None)
            fields = f"; first sample {first.key!r} has {', '.join(sorted(first.fields))}" if first else ""
            print(f"{split}: {len(urls)} shards{fields}")
        except DataError as error:
            problems.append(Problem(path=f"data.{split}", message=str(error), origin=loaded.origins(("data", split))))
    if problems:
        raise SpecError(problems)
    return 0


def plugins(arguments: argparse.Namespace) -> int:
    """List plugins, or the options of one."""
    if arguments.name is None:
        offers = installed_offers()
        if not offers:
            print("no plugins are installed; `pip install ./plugins/*` installs this project's own")
        width = max((len(offer.name) for offer in offers), default=0)
        for offer in offers:
            print(f"{offer.name:<{width}}  {offer.distribution} {offer.version}  ({offer.module})")
        return 0
    found = load_offer(arguments.name)
    summary = (found.__doc__ or "").strip().splitlines()
    print(f"{arguments.name}: {summary[0] if summary else found.__name__}\n")
    for field in attrs.fields(attrs.resolve_types(found.Options)):
        default = "required" if field.default is attrs.NOTHING else f"default {_default(field)}"
        print(f"  {field.name:<22}{describe_type(field.type)}; {default}")
    details = inspect.cleandoc(found.Options.__doc__ or "")
    if details:
        print(f"\n{details}")
    return 0


def _default(field: "attrs.Attribute[object]") -> str:
    """A default as one writes it in TOML, as far as it can be written there."""
    value: Any = field.default
    if hasattr(value, "factory"):
        if value.takes_self:
            return "follows from other options"
        value = value.factory()
    return "none" if value is None else json.dumps(unstructure(value), ensure_ascii=False)
