"""Shell completion of plugin names, spec keys and run folders. It does not load torch."""

import os
import sys
from collections.abc import Callable, Collection, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, shell_complete

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem] | list[str]]


def complete(command: click.Command, program: str) -> None:
    """Answer the shell's request for completions and exit. Do nothing in an ordinary call."""
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    instruction = os.environ.get(variable)
    if instruction:
        add_completion_class(_Bash)
        sys.exit(shell_complete(command, {}, program, variable, instruction))


class _Bash(BashComplete):
    """Completion for Bash without a space after words that continue, such as `KEY=` and `folder/`."""

    source_template = BashComplete.source_template.replace("complete -o nosort", "complete -o nosort -o nospace")

    def format_completion(self, item: CompletionItem) -> str:
        continues = item.type != "plain" or item.value.endswith(("=", "/"))
        return super().format_completion(item) + ("" if continues else " ")


def complete_plugins(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """List the names of installed plugins."""
    names = {entry.name for entry in entry_points(group="shala.plugins")}
    return sorted(name for name in names if name.startswith(incomplete))


def complete_runs(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """List folders that hold a run, and folders that may contain runs."""
    start = incomplete[: incomplete.rfind("/") + 1]
    inside = (path for path in Path(start or ".").glob("*") if path.is_dir() and not path.name.startswith("."))
    folders = sorted(start + path.name + ("" if (path / "spec.json").exists() else "/") for path in inside)
    return [folder for folder in folders if folder.startswith(incomplete)]


def complete_spec_keys(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """List the dotted keys of a spec, each followed by `=`."""
    return [f"{key}=" for key in _spec_keys() if key.startswith(incomplete)]


def complete_keys_of(tables: Collection[str]) -> Completer:
    """Return a completer of the keys that a verb on a run may override, those of some tables."""

    def complete_keys(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
        from shala_framework.spec.schema import Generate, Refine

        keys = (key.rsplit(".", 1) for key in _spec_keys() if key.startswith(incomplete) and "." in key)
        return [
            f"{table}.{key}="
            for table, key in keys
            if table in tables
            and not (table == "generate" and key in Generate.COUNT_KEYS)
            and (table != "refine" or key in Refine.SAMPLING_KEYS)
        ]

    return complete_keys


def complete_run_keys(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """List the dotted keys of a spec."""
    return [key for key in _spec_keys() if key.startswith(incomplete)]


def _spec_keys() -> Iterator[str]:
    from shala_framework.spec.reference import spec_tables

    return (
        ".".join(filter(None, (table.name, key.name)))
        for table in spec_tables()
        if "<name>" not in table.name
        for key in table.keys
    )


def complete_profiles(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """List the names of the profiles of the spec on the command line."""
    from shala_framework.spec.toml import parse_toml

    try:
        found = parse_toml(Path(str(ctx.params.get("spec"))).read_text())["profile"]
        return [name for name in found if name.startswith(incomplete)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def complete_tables(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """List the names of a spec's tables."""
    from shala_framework.spec.reference import spec_tables

    return [table.name for table in spec_tables() if table.name and table.name.startswith(incomplete)]
