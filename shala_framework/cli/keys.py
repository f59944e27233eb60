"""`shala keys`: list every key of a spec as text, as a page of documentation or as a schema for editors."""

import json

from shala_framework.cli.commands import argument, flag, verb
from shala_framework.cli.completion import complete_tables
from shala_framework.cli.output import remark
from shala_framework.support.errors import PluginError, ShalaError


@verb(
    "  shala keys\n"
    "  shala keys train.prior\n"
    "  shala keys --markdown > docs/spec.md\n"
    "  shala keys --json-schema > shala.schema.json\n"
)
@argument("table", "Show only this table and the tables inside it.", required=False, shell_complete=complete_tables)
@flag("--markdown", "Print a page of Markdown.")
@flag("--json-schema", "Print a JSON Schema of the whole spec, with the options of every installed plugin.")
def keys(table: str | None, markdown: bool, json_schema: bool) -> None:
    """List the keys of a spec with their types, defaults and meanings."""
    from shala_framework.spec.reference import as_markdown, as_text, spec_tables
    from shala_framework.support.hints import nearest

    if json_schema:
        if table is not None or markdown:
            raise ShalaError("expected --json-schema alone, got it with TABLE or --markdown; it covers the whole spec")
        _print_json_schema()
        return
    tables = spec_tables()
    if table is not None:
        wanted = table.strip("[]")
        chosen = tuple(t for t in tables if t.name == wanted or t.name.startswith(f"{wanted}."))
        if not chosen:
            hint = nearest(wanted, [t.name for t in tables if t.name], "tables")
            raise ShalaError(f"expected a table of the spec, got {wanted!r}; {hint}")
        tables = chosen
    print(as_markdown(tables) if markdown else as_text(tables), end="")


def _print_json_schema() -> None:
    """Print the schema, with a note for each plugin whose options are absent because it fails to load."""
    from shala_framework.plugin.loading import installed_offers, kind_of, load_offer
    from shala_framework.spec.json_schema import PluginTable, json_schema

    plugins = []
    for name in sorted({offer.name for offer in installed_offers()}):
        try:
            found = load_offer(name)
            plugins.append(PluginTable(name=name, kind=kind_of(found), plugin=found))
        except PluginError as error:
            remark(f"note: the schema lacks {name!r}: {error}")
    print(json.dumps(json_schema(plugins), indent=2))
