"""What a shell completes: names of plugins, keys of a spec, folders of runs. Loads no torch."""

import argparse
import os
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any


def complete(parser: argparse.ArgumentParser) -> None:
    """Where a shell asks (`register-python-argcomplete shala shala-run`), print what can follow and exit."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    argcomplete.autocomplete(_with_completers(parser), always_complete_options=False)


def _with_completers(parser: argparse.ArgumentParser, verb: str = "run") -> argparse.ArgumentParser:
    """Say of each argument what can stand there."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, nested in action.choices.items():
                _with_completers(nested, name)
        else:
            completer = _COMPLETERS.get((verb, action.dest)) or _COMPLETERS.get(("", action.dest))
            if completer:
                action.completer = completer  # type: ignore[attr-defined]  # argcomplete's own road
    return parser


def _plugins(**_: Any) -> list[str]:
    return sorted({entry.name for entry in entry_points(group="shala.plugins")})


def _runs(prefix: str, **_: Any) -> list[str]:
    """Folders that hold a run, and those on the way to one."""
    start = prefix[: prefix.rfind("/") + 1]
    inside = [path for path in Path(start or ".").glob("*") if path.is_dir() and not path.name.startswith(".")]
    return [start + path.name + ("" if (path / "spec.json").exists() else "/") for path in sorted(inside)]


def _spec_keys(**_: Any) -> Iterator[str]:
    from shala_framework.spec.reference import spec_tables

    for table in spec_tables():
        if "<name>" not in table.name:
            yield from (".".join(filter(None, (table.name, key.name))) + "=" for key in table.keys)


def _tables(**_: Any) -> Iterator[str]:
    from shala_framework.spec.reference import spec_tables

    return (table.name for table in spec_tables() if table.name)


def _nothing(**_: Any) -> list[str]:
    return []


_COMPLETERS = {
    ("plugins", "name"): _plugins,
    ("pack", "dataset"): _plugins,
    ("keys", "table"): _tables,
    ("pack", "set"): _nothing,
    ("", "set"): _spec_keys,
    **{(verb, "run"): _runs for verb in ("sample", "evaluate", "report", "explore")},
}
