"""`shala plugins`: list the installed plugins, or the options of one."""

import json

import attrs

from shala_framework.cli.commands import argument, json_flag, verb
from shala_framework.cli.completion import complete_plugins
from shala_framework.cli.output import say
from shala_framework.support.errors import PluginError


@verb("  shala plugins\n  shala plugins skeleton\n")
@argument(
    "name",
    "A modality, data set, method or tracker whose options to show.",
    required=False,
    shell_complete=complete_plugins,
)
@json_flag("the list")
def plugins(name: str | None, as_json: bool) -> None:
    """List installed plugins by kind, or the options of one."""
    if name is None:
        _list_plugins(as_json)
    else:
        _describe(name, as_json)


def _describe(name: str, as_json: bool) -> None:
    """Print the kind, summary and options of a plugin."""
    from shala_framework.plugin.loading import kind_of, load_offer
    from shala_framework.spec.reference import keys_as_text, option_keys_of, summary_of

    found = load_offer(name)
    kind, summary, options = kind_of(found), summary_of(found), option_keys_of(found.Options)
    if as_json:
        described = {"name": name, "kind": kind, "summary": summary, "options": [attrs.asdict(key) for key in options]}
        print(json.dumps(described, indent=2))
        return
    say(f"{name}, a {kind}: {summary}\n")
    say(keys_as_text(options))


def _list_plugins(as_json: bool) -> None:
    """Print every installed plugin under its kind, and the error of each plugin that fails to load."""
    from shala_framework.plugin.loading import NOUNS, installed_offers, kind_of, load_offer
    from shala_framework.spec.reference import summary_of

    listed: list[dict[str, str | None]] = []
    for offer in installed_offers():
        row: dict[str, str | None] = {**attrs.asdict(offer), "kind": None, "summary": None, "error": None}
        try:
            found = load_offer(offer.name)
            row |= {"kind": kind_of(found), "summary": summary_of(found)}
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
            owner = f"  ({row['distribution']} {row['version']})" if kind else ""
            say(f"  {row['name']:<{width}}  {row['summary'] or row['error']}{owner}")
