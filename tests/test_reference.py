"""The keys of a spec as documentation, on a terminal, and as JSON Schema for editors."""

import json
import math
from importlib.metadata import entry_points
from pathlib import Path

import attrs
import jsonschema
import pytest
import tomli

from shala_framework.cli.main import main
from shala_framework.plugin.loading import kind_of, load_offer
from shala_framework.spec import read_spec
from shala_framework.spec.json_schema import PluginTable, json_schema
from shala_framework.spec.reference import as_markdown, keys_as_text, keys_of, option_keys_of, spec_tables, table_class
from shala_framework.spec.schema import Spec
from shala_framework.support.errors import PluginError, SpecError

SPECS = sorted((Path(__file__).parent.parent / "specs").glob("*.toml"))
INSTALLED = {entry.name for entry in entry_points(group="shala.plugins")}


def call(*arguments):
    with pytest.raises(SystemExit) as leaving:
        main(list(arguments))
    return leaving.value.code


def test_the_documentation_has_every_key(request):
    """docs/spec.md equals the schema's classes; `shala keys --markdown > docs/spec.md` writes it."""
    assert (request.config.rootpath / "docs" / "spec.md").read_text() == as_markdown(spec_tables())


def test_every_key_says_what_it_means():
    unexplained = [f"{table.name}.{key.name}" for table in spec_tables() for key in table.keys if not key.meaning]
    assert unexplained == []


def test_keys_of_one_table_and_those_inside_it(capsys):
    assert call("keys", "train") == 0
    out = capsys.readouterr().out
    assert "[train]" in out
    assert "[train.prior]" in out
    assert "[prior]" not in out
    assert "learning_rate         float; default 0.001" in out.partition("[train.prior]")[2]  # not its parent's 0.01
    assert "Peak of the schedule" in out.partition("[train.prior]")[2]  # but the parent's words
    assert call("keys", "trian") == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


def test_options_that_are_tables_are_listed_key_by_key():
    """`shala plugins NAME` names what a table within the options takes, and a table of tables by a placeholder."""

    @attrs.frozen
    class Inner:
        """Inner.

        Attributes:
            depth: How deep.
        """

        depth: int = 3

    @attrs.frozen
    class Outer:
        """Outer.

        Attributes:
            width: How wide.
            inner: A table.
            each: Tables by name.
        """

        width: int = 1
        inner: Inner = attrs.field(factory=Inner)
        each: dict[str, Inner] = attrs.field(factory=dict)

    found = {key.name: (key.default, key.meaning) for key in option_keys_of(Outer)}
    assert found == {
        "width": ("1", "How wide."),
        "inner.depth": ("3", "How deep."),
        "each.<name>.depth": ("3", "How deep."),
    }


def test_an_extended_class_explains_with_both_docstrings():
    @attrs.frozen
    class Parent:
        """One.

        Attributes:
            a: The first,
                in two lines.
            b: The second.

        Raises:
            ValueError: Never.
        """

        a: int
        b: tuple[int, ...] = (1, 2)

    @attrs.frozen
    class Child(Parent):
        """Two.

        Attributes:
            b: Another second.
            c: The third.
        """

        b: tuple[int, ...] = (3,)
        c: float | None = None

    found = {key.name: (key.kind, key.default, key.meaning) for key in keys_of(Child)}
    assert found == {
        "a": ("int", "required", "The first, in two lines."),
        "b": ("an array of int", "[3]", "Another second."),
        "c": ("float", "none", "The third."),
    }
    assert "a                     int; required\n" in keys_as_text(keys_of(Parent))


def test_experimental_choices_are_marked_in_every_listing(capsys):
    """As text, as Markdown and as JSON Schema; the default is not marked."""
    for table, text in (
        ("posterior", "'concatenation', 'attention' (experimental)"),
        ("prior", "'sum', 'attention' (experimental)"),
    ):
        assert call("keys", table) == 0
        assert text in capsys.readouterr().out
        assert text in as_markdown(spec_tables())
    properties = json_schema()["properties"]
    for key in (properties["posterior"]["properties"]["fusion"], properties["prior"]["properties"]["condition"]):
        assert key["x-experimental"] == ["attention"]
        assert key["description"].endswith("Experimental: 'attention'.")


@pytest.mark.parametrize(
    ("old", "new"), [("data.lanes=4", "interleave"), ("posterior.checked_share=0.5", "auxiliary_share")]
)
def test_a_renamed_key_is_refused_with_its_new_name(old, new, two_spec):
    with pytest.raises(SpecError, match=f"unknown key.*renamed to '{new}'"):
        read_spec(two_spec, [old])


def plugin(name):
    found = load_offer(name)
    return PluginTable(name=name, kind=kind_of(found), plugin=found)


@pytest.fixture(scope="module")
def validator():
    """A validator of the schema with the options of every installed plugin."""
    schema = json_schema([plugin(name) for name in sorted(INSTALLED)])
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(json.loads(json.dumps(schema)))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_an_editor_accepts_every_shipped_spec(path, validator):
    spec = tomli.loads(path.read_text())
    missing = {table["plugin"] for table in spec["modality"].values()} - INSTALLED
    if missing:
        pytest.skip(f"plugins not installed: {sorted(missing)}")
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(spec)] == []


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("schema", 2),
        ("seed", -1),
        ("seed", 1.5),
        ("seed", [0, -1]),
        ("nmae", "two"),
        ("data.train", []),
        ("data.train", 3),
        ("data.stand_in.dataset", "two-floats"),
        ("data.stand_in.options.train", 0),
        ("modality.first", {}),
        ("modality.first.plugin", "two-floats-made"),
        ("modality.first.options.width", "wide"),
        ("modality.first.options.field", 3),
        ("posterior.fusion", "concat"),
        ("posterior.auxiliary_share", 0),
        ("prior.sigma_mn", 0.1),
        ("train.minutes", 0),
        ("train.compile", "yes"),
        ("train.prior.learning_rate", 0),
        ("evaluate.guidance_scales", [1.0, -1.0]),
        ("evaluate.num_rows", 1),
        ("evaluate.importance_samples", 7),
        ("track.nobody", {}),
    ],
)
def test_an_editor_marks_what_a_run_refuses(where, value, validator, two_spec):
    """Each key is tried alone: unknown, missing, of a wrong type, out of bounds, or not among its choices."""
    spec = tomli.loads(two_spec.read_text())
    assert not list(validator.iter_errors(spec))
    *tables, key = where.split(".")
    table = spec
    for name in tables:
        table = table.setdefault(name, {})
    table[key] = value
    marked = [error.json_path for error in validator.iter_errors(spec)]
    assert marked
    assert all(f"$.{where}".startswith(path) or path.startswith(f"$.{where}[") for path in marked), marked
    with pytest.raises((SpecError, PluginError)):
        read_spec(two_spec, [f"{where}={json.dumps(value)}"])


def test_an_editor_accepts_a_list_of_seeds(validator, two_spec):
    """`shala sweep` runs it."""
    spec = tomli.loads(two_spec.read_text())
    assert not list(validator.iter_errors({**spec, "seed": [0, 1, 2]}))
    assert [error.json_path for error in validator.iter_errors({**spec, "seed": []})] == ["$.seed"]


def fields_of(cls):
    """Yield every field of a table and of its nested tables."""
    for field in attrs.fields(attrs.resolve_types(cls)):
        inner = table_class(field.type)
        if inner is not None:
            yield from fields_of(inner)
        elif field.metadata.get("written", True):
            yield cls, field


def test_bounds_and_defaults_of_the_schema_are_those_of_the_code():
    """A default is valid for its key, and a bound is the last number that the key's validator accepts."""
    checked = 0
    for top in (Spec, *(load_offer(name).Options for name in sorted(INSTALLED))):
        for cls, field in fields_of(top):
            one = PluginTable(name="x", kind="tracker", plugin=type("X", (), {"Options": cls}))
            key = json_schema([one])["$defs"]["x-options"]["properties"][field.name]
            if "default" in key:
                jsonschema.validate(key["default"], key)
            for bound, direction in (("minimum", -1), ("maximum", 1), ("exclusiveMinimum", -1)):
                if bound not in key:
                    continue
                checked += 1
                step = 1 if key["type"] == "integer" else 2 * math.ulp(key[bound])
                with pytest.raises(ValueError, match="expected"):
                    field.validator(None, field, key[bound] + direction * step)
                if key[bound] != key.get("exclusiveMinimum"):
                    field.validator(None, field, key[bound])
    assert checked > 80


def test_a_tracker_is_refused_where_no_plugin_is_one():
    """The schema refuses it like a run; without any plugins named, every tracker may be installed."""
    modality = PluginTable(
        name="x", kind="modality", plugin=type("X", (), {"Options": attrs.make_class("Options", [])})
    )
    assert json_schema([modality])["properties"]["track"]["additionalProperties"] is False
    assert json_schema()["properties"]["track"]["additionalProperties"] == {}


def test_keys_prints_the_schema_and_names_a_plugin_that_it_lacks(monkeypatch, capsys):
    """A plugin that cannot be loaded costs the schema only its options."""
    from shala_framework.plugin import loading

    def load(name):
        if name == "two-floats-made":
            raise PluginError("importing it failed")
        return load_offer(name)

    monkeypatch.setattr(loading, "load_offer", load)
    assert call("keys", "--json-schema") == 0
    out, err = capsys.readouterr()
    schema = json.loads(out)
    assert "two-floats-options" in schema["$defs"]
    assert "two-floats-made-options" not in schema["$defs"]
    assert err == "note: the schema lacks 'two-floats-made': importing it failed\n"
    assert call("keys", "train", "--json-schema") == 2
    assert "expected --json-schema alone" in capsys.readouterr().err
