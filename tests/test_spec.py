"""Specs as a user sees them: every mistake is reported at its place, and valid specs mean what they say."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import tomli

from shala_framework import SpecError
from shala_framework.cli.main import main, main_run
from shala_framework.spec import parse_override, read_spec, resolve_spec, unstructure
from shala_framework.spec.lines import key_lines
from shala_framework.support.urls import permit_pipes

SPECS = sorted((Path(__file__).parent.parent / "specs").glob("*.toml"))
TRAIN = 'train = "nowhere/train-{000..001}.tar"'
SET = 'set = { "train.prior.steps" = 40 }'
FIRST = 'plugin = "two-floats"\noptions = { field = "a" }'
SECOND = 'plugin = "two-floats"\noptions = { field = "b" }'
DATA_TABLES = f"""\
[data]
{TRAIN}
in_memory = true

[data.stand_in]
dataset = "two-floats-made"
options = {{ missing = 0.2, train = 200 }}
{SET}
"""
MODALITY_TABLES = f"[modality.first]\n{FIRST}\n\n[modality.second]\n{SECOND}\n"


class Mistake(NamedTuple):
    """An edit of a valid spec, the line that its error must name (None: the whole file), and the error."""

    old: str
    new: str
    at: str | None
    expected: str  # after `FILE:LINE: `; "..." stands for anything


MISTAKES = {
    # Unknown keys, at every depth.
    "unknown top key": Mistake(
        "schema = 1", "schema = 1\nsede = 3", "sede", "sede: unknown key (did you mean 'seed'?)"
    ),
    "unknown table": Mistake(
        "[posterior]", "[postrior]", "[postrior]", "postrior: unknown key (did you mean 'posterior'?)"
    ),
    "unknown key": Mistake(
        "latent_dim = 4", "latnet_dim = 4", "latnet", "posterior.latnet_dim: unknown key (did you mean 'latent_dim'?)"
    ),
    "unknown key at depth 3": Mistake(
        "steps = 99", "setps = 99", "setps", "train.prior.setps: unknown key (did you mean 'steps'?)"
    ),
    "unknown key of a modality": Mistake(
        FIRST,
        'plugin = "two-floats"\noption = {}',
        "option =",
        "modality.first.option: unknown key (did you mean 'options'?)",
    ),
    "unknown option of a plugin": Mistake(
        'field = "a"', "widht = 3", "widht", "modality.first.options.widht: unknown key (did you mean 'width'?)"
    ),
    "unknown key of the stand-in": Mistake(
        "options = { missing", "optoins = { missing", "optoins", "data.stand_in.optoins: unknown key (did you mean ..."
    ),
    "unknown key like no other": Mistake(
        "num_joint = 3",
        "zzz = 3",
        "zzz",
        "generate.zzz: unknown key (known keys: autoguidance_scale, guidance_scale, ...)",
    ),
    # Wrong types; TOML's own, none is turned into another.
    "float for int": Mistake(
        "latent_dim = 4", "latent_dim = 4.0", "latent_dim", "posterior.latent_dim: expected int, got float 4.0"
    ),
    "string for boolean": Mistake(
        "in_memory = true", 'in_memory = "false"', "in_mem", "data.in_memory: expected boolean, got string 'false'"
    ),
    "int for boolean": Mistake(
        "in_memory = true", "in_memory = 1", "in_mem", "data.in_memory: expected boolean, got int 1"
    ),
    "int for string": Mistake('name = "two"', "name = 2", "name", "name: expected string, got int 2"),
    "boolean for int": Mistake(
        "steps = 99", "steps = true", "steps = true", "train.prior.steps: expected int, got boolean true"
    ),
    "boolean for float": Mistake(
        "num_blocks = 1", "dropout = false", "dropout", "prior.dropout: expected float, got ..."
    ),
    "string for float": Mistake(
        "num_blocks = 1", 'dropout = "0.5"', "dropout", "prior.dropout: expected float, got string '0.5'"
    ),
    "array for table": Mistake("[generate]", "[[generate]]", "[[gen", "generate: expected a table, got an array of 1"),
    "table for int": Mistake(
        "num_joint = 3", "num_joint.x = 3", "joint", "generate.num_joint: expected int, got a table"
    ),
    "value for table": Mistake(
        'options = { field = "a" }', "options = 3", "options = 3", "modality.first.options: expected a table, got int 3"
    ),
    "int among strings": Mistake(
        TRAIN, 'train = [\n  "a.tar",\n  3,\n]', "  3,", "data.train[1]: expected string or a table, got int 3"
    ),
    "neither of two types": Mistake(
        TRAIN,
        "train = 5",
        "train = 5",
        "data.train: expected string or an array whose items are string or a table, got int 5",
    ),
    "wrong type in a plugin's option": Mistake(
        'field = "a"', "width = 3.0", "3.0", "modality.first.options.width: expected int, got float 3.0"
    ),
    "inline table over several lines": Mistake(
        'field = "a" }',
        'field = [ # a comment }\n "a",\n], width = 3 }',
        "field = [",
        "modality.first.options.field: expected string, got an array of 1",
    ),
    # Ranges.
    "below its range": Mistake(
        "latent_dim = 4", "latent_dim = 0", "latent_dim", "posterior.latent_dim: expected a number of at least 1, got 0"
    ),
    "not above": Mistake(
        "steps = 99", "learning_rate = 0", "rate", "train.prior.learning_rate: expected a number above 0, got 0.0"
    ),
    "outside its range": Mistake(
        "num_blocks = 1", "dropout = 1.5", "dropout", "prior.dropout: expected a number from 0 to 0.9, got 1.5"
    ),
    "not a number": Mistake(
        "num_blocks = 1", "log_sigma_mean = nan", "nan", "prior.log_sigma_mean: expected a finite number, got float nan"
    ),
    "plugin's range": Mistake(
        'field = "a"', "width = 0", "width = 0", "modality.first.options.width: expected a number of at least 1, got 0"
    ),
    "plugin's empty string": Mistake(
        'field = "a"', 'field = ""', 'field = ""', "modality.first.options.field: expected at least one element, got ''"
    ),
    "rule of two keys": Mistake(
        "num_blocks = 1",
        "sigma_min = 3\nsigma_max = 2",
        "[prior]",
        "prior: expected sigma_min < sigma_max, got 3.0 and 2.0",
    ),
    "no shard named": Mistake(TRAIN, "train = []", "train = []", "data.train: expected at least one element, got ()"),
    # Names.
    "name that is no file name": Mistake('"two"', '"a/b"', "a/b", "name: expected letters, digits, ..., got 'a/b'"),
    "modality's name": Mistake(
        "[modality.first]", '[modality."a b"]', "a b", "modality.\"a b\": expected letters, ..., got 'a b'"
    ),
    "misspelt plugin": Mistake(
        FIRST,
        'plugin = "two-flots"',
        "two-flots",
        "modality.first.plugin: no installed plugin offers 'two-flots'; install the package that does "
        "(did you mean 'two-floats'?)",
    ),
    "absent plugin": Mistake(
        FIRST,
        'plugin = "qqq"',
        "qqq",
        "modality.first.plugin: no installed plugin offers 'qqq'; install the package that does (known plugins: ...)",
    ),
    "data set for a modality": Mistake(
        FIRST,
        'plugin = "two-floats-made"',
        'plugin = "two-floats-made"',
        "modality.first.plugin: 'two-floats-made' is a data set (of two-floats 1.0), not a modality",
    ),
    "wrong choice": Mistake(
        "[train]\n",
        '[train]\ndevice = "cdua"\n',
        "cdua",
        "train.device: expected one of 'auto', 'cpu', 'cuda', got string 'cdua' (did you mean 'cuda'?)",
    ),
    "other schema": Mistake("schema = 1", "schema = 2", "schema", "schema: expected 1, got int 2"),
    "schema as a string": Mistake("schema = 1", 'schema = "1"', "schema", "schema: expected 1, got string '1'"),
    # Absent.
    "no [data]": Mistake(DATA_TABLES, "", None, "data: missing; expected a table (add it)"),
    "no modality": Mistake(MODALITY_TABLES, "", None, "modality: missing; expected a table (add it)"),
    "empty [modality]": Mistake(
        MODALITY_TABLES, "[modality]", "[modality]", "modality: expected at least one [modality.<name>] table, got none"
    ),
    "no plugin": Mistake(FIRST, "", "[modality.first]", "modality.first.plugin: missing; expected string (add it)"),
    "no train": Mistake(
        TRAIN,
        "",
        "[data]",
        "data.train: missing; expected string or an array whose items are string or a table (add it)",
    ),
    "no schema": Mistake("schema = 1", "", None, "schema: missing; expected 1 (add it)"),
    # TOML itself.
    "duplicate key": Mistake(
        "latent_dim = 4",
        "latent_dim = 4\nlatent_dim = 5",
        "latent_dim = 5",
        "not valid TOML: Cannot overwrite a value ...",
    ),
    "duplicate table": Mistake(
        "[generate]", "[prior] # again", "# again", "not valid TOML: Cannot declare ('prior',) twice at column 7"
    ),
    "no value": Mistake("latent_dim = 4", "latent_dim =", "latent_dim", "not valid TOML: Invalid value at column 13"),
    "string without quotes": Mistake('"two"', "two", "name", "not valid TOML: Invalid value at column 8"),
    # Names of shards.
    "unbalanced braces": Mistake(
        TRAIN, 'train = "a-{0..9.tar"', "train =", "data.train: expected balanced braces in shard names, got 'a-{0..."
    ),
    "shell command": Mistake(
        TRAIN,
        'train = "pipe:cat a.tar"',
        "train =",
        "data.train: expected a path or URL, got 'pipe:cat a.tar', which runs a shell command; "
        "allow it with --allow-pipe",
    ),
    "shell command from braces": Mistake(
        TRAIN, 'train = "{pipe:cat,b.tar}"', "train =", "data.train: expected a path or URL, got 'pipe:cat', which ..."
    ),
    "shell command in capitals": Mistake(
        TRAIN,
        'train = ["a.tar", "PIPE:cat"]',
        "train =",
        "data.train: expected a path or URL, got 'PIPE:cat', which ...",
    ),
    "shell command for validation": Mistake(
        TRAIN,
        f'{TRAIN}\nvalidation = " pipe:cat"',
        "validation",
        "data.validation: expected a path or URL, got ' pipe:...",
    ),
    # The stand-in.
    "unknown stand-in": Mistake(
        "two-floats-made",
        "two-flats-made",
        "two-flats-made",
        "data.stand_in.dataset: no installed plugin offers 'two-flats-made'; ... (did you mean 'two-floats-made'?)",
    ),
    "stand-in's option": Mistake(
        "train = 200", "train = 0", "train = 0", "data.stand_in.options.train: expected a number of at least 1, got 0"
    ),
    "stand-in sets an unknown key": Mistake(
        SET,
        'set = { "train.autoencoder.steps" = 4,\n"train.prior.setps" = 40 }',
        '"train.prior.setps"',
        "train.prior.setps: unknown key (did you mean 'steps'?)",
    ),
    "stand-in sets a wrong type": Mistake(
        SET,
        "[data.stand_in.set]\ntrain.prior.steps = 4.0",
        "steps = 4.0",
        "train.prior.steps: expected int, got float 4.0",
    ),
    "stand-in sets no key": Mistake(
        SET, 'set = { "#" = 1 }', '"#"', "data.stand_in.set.\"#\": expected a dotted key, got '#'"
    ),
}


def line_of(text: str, part: str) -> int:
    """Return the 1-based number of the first line that contains part."""
    return next(number for number, line in enumerate(text.split("\n"), 1) if part in line)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the refusal of `shala-run`: status 2, one message on standard error, nothing on standard output."""
    with pytest.raises(SystemExit) as caught:
        main_run(arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert not out
    assert "Traceback" not in err
    return err


def assert_says(message: str, expected: str) -> None:
    pattern = re.escape(expected).replace(re.escape("..."), ".*")
    assert re.fullmatch(pattern, message), f"\n     got {message}expected {expected}"


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named_at_its_line_with_the_value_and_what_was_expected(mistake, two_spec, capsys):
    """Each mistake gives one error with file, line, dotted path, expected and given values, and nearest name."""
    sound = two_spec.read_text()
    assert mistake.old in sound
    text = sound.replace(mistake.old, mistake.new, 1)
    two_spec.write_text(text)
    line = f":{line_of(text, mistake.at)}" if mistake.at else ""
    assert_says(refusal(capsys, "two.toml"), f"error: two.toml{line}: {mistake.expected}\n")
    assert sorted(path.name for path in two_spec.parent.iterdir()) == ["two.toml"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.prior.steps", "expected KEY=VALUE, got 'train.prior.steps' (such as --set train.prior.steps=2000)"),
        ("=3", "expected a dotted key before '=', got '' (such as --set train.prior.steps=2000)"),
        ("#=3", "expected a dotted key before '=', got '#' (such as --set train.prior.steps=2000)"),
        ("a b=3", "expected a dotted key before '=', got 'a b' (such as --set train.prior.steps=2000)"),
        ("train.prior.setps=3", "train.prior.setps: unknown key (did you mean 'steps'?)"),
        ("postrior.latent_dim=3", "postrior: unknown key (did you mean 'posterior'?)"),
        ("posterior.latent_dim=x", "posterior.latent_dim: expected int, got string 'x'"),
        ("posterior.latent_dim=1.5", "posterior.latent_dim: expected int, got float 1.5"),
        ("posterior.latent_dim=0", "posterior.latent_dim: expected a number of at least 1, got 0"),
        ("modality.first.options={width=2.5}", "modality.first.options.width: expected int, got float 2.5"),
        ("modality.first.options.field=7", "modality.first.options.field: expected string, got int 7"),
        ("name.x=3", "name.x: expected name to be a table, got string 'two'"),
        ("train.device=gpu", "train.device: expected one of 'auto', 'cpu', 'cuda', got string 'gpu' (did you mean ..."),
        ("data.train=pipe:cat", "data.train: expected a path or URL, got 'pipe:cat', which runs a shell command; ..."),
    ],
)
def test_a_wrong_override_is_blamed_on_the_command_line(override, expected, two_spec, capsys):
    """An error in --set names --set instead of a line of the file, and uses the same schema."""
    assert_says(refusal(capsys, "two.toml", "--set", override), f"error: --set: {expected}\n")


def test_a_file_that_is_no_spec_is_named(two_spec, capsys):
    """Missing files, folders and bytes that are not UTF-8 have different messages, the last with its line."""
    Path("latin.toml").write_bytes('schema = 1\nname = "é"\n'.encode("latin-1"))
    assert refusal(capsys, "none.toml") == "error: none.toml: cannot be read: No such file or directory\n"
    assert refusal(capsys, ".") == "error: .: cannot be read: Is a directory\n"
    assert refusal(capsys, "latin.toml") == (
        "error: latin.toml:2: expected UTF-8 text, got byte 0xe9 at offset 19 (save the file as UTF-8)\n"
    )


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(two_spec, capsys):
    """Nine mistakes in all parts of a spec give one message with each mistake once, overrides first, then by line."""
    edits = {
        "schema = 1": "schema = 3",
        "in_memory = true": "in_memory = 0",
        "train = 200": "train = -1",
        SET: 'set = { "prior.hidden_dim" = 1.5 }',
        FIRST: 'plugin = "nothing-like-it"',
        'field = "b"': "width = 0",
        "feature_dim = 16": "feature_din = 16",
        "num_rows = 2": "num_rows = -2",
    }
    text = two_spec.read_text()
    for old, new in edits.items():
        text = text.replace(old, new, 1)
    two_spec.write_text(text)
    first, *rest = refusal(capsys, "two.toml", "--set", "seed=no").splitlines()
    assert first == "error: 9 problems"
    places = [" ".join(line.split()[:2]) for line in rest]
    assert places == [
        "--set: seed:",
        f"two.toml:{line_of(text, 'schema')}: schema:",
        f"two.toml:{line_of(text, 'in_memory')}: data.in_memory:",
        f"two.toml:{line_of(text, 'train = -1')}: data.stand_in.options.train:",
        f"two.toml:{line_of(text, 'prior.hidden')}: prior.hidden_dim:",
        f"two.toml:{line_of(text, 'nothing-like')}: modality.first.plugin:",
        f"two.toml:{line_of(text, 'width')}: modality.second.options.width:",
        f"two.toml:{line_of(text, 'feature_din')}: posterior.feature_din:",
        f"two.toml:{line_of(text, 'num_rows')}: generate.num_rows:",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("steps = 99", "steps = 9.9", "train.prior.steps: expected int, got float 9.9"),
        ("two-floats-made", "qqq", "data.stand_in.dataset: no installed plugin offers 'qqq'; ..."),
        ("[data]", "[data #", "not valid TOML: Expected ']' at the end of a table declaration ..."),
    ],
)
def test_a_process_ends_with_status_2_and_one_message(old, new, expected, two_spec, command_environment):
    """A separate process also gives status 2, only the message on standard error, and nothing on standard output."""
    text = two_spec.read_text().replace(old, new, 1)
    two_spec.write_text(text)
    command = [sys.executable, "-c", "from shala_framework.cli.main import main_run; main_run()", "two.toml"]
    done = subprocess.run(command, env=command_environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert_says(done.stderr, f"error: two.toml:{line_of(text, new)}: {expected}\n")


def test_the_stand_in_applies_only_while_the_shards_are_absent(two_spec):
    """Its overrides apply without shards, and --set takes precedence; with a shard, the file's values apply."""
    made = read_spec(two_spec)
    assert made.stand_in_used
    assert made.spec.train.prior.steps == 40
    chosen = read_spec(two_spec, ["train.prior.steps=7", "train.prior.batch_size=8"])
    assert (chosen.spec.train.prior.steps, chosen.spec.train.prior.batch_size) == (7, 8)
    assert read_spec(two_spec, ["train.prior={batch_size=8}"]).spec.train.prior.steps == 10_000
    Path("nowhere").mkdir()
    Path("nowhere/train-001.tar").touch()
    real = read_spec(two_spec)
    assert not real.stand_in_used
    assert real.spec.train.prior.steps == 99


def test_none_takes_back_what_the_file_sets(two_spec, capsys):
    """An optional key gets its default back, also from the stand-in; a key that needs a value refuses it."""
    two_spec.write_text(two_spec.read_text().replace(SET, SET.replace("{", '{ "train.minutes" = 3.5, ', 1)))
    assert read_spec(two_spec).spec.train.minutes == 3.5
    loaded = read_spec(two_spec, ["train.minutes=none", "data.cache=none", "train.sharding=none"])
    assert (loaded.spec.train.minutes, loaded.spec.data.cache, loaded.spec.train.sharding) == (None, None, "none")
    assert refusal(capsys, "two.toml", "--set", "train.prior.steps=none") == (
        "error: --set: train.prior.steps: expected int, got string 'none'\n"
    )


def test_the_stand_in_hides_no_mistake(two_spec, capsys):
    """A wrong value that `set` replaces is still an error, because real shards would bring it to light."""
    two_spec.write_text(two_spec.read_text().replace("steps = 99", "steps = 9.9"))
    line = line_of(two_spec.read_text(), "9.9")
    assert refusal(capsys, "two.toml") == f"error: two.toml:{line}: train.prior.steps: expected int, got float 9.9\n"


@pytest.mark.parametrize(
    "written",
    [
        'set = { "train.prior.steps" = 40 }',
        "set = { train.prior.steps = 40 }",
        "[data.stand_in.set.train.prior]\nsteps = 40",
        '[data.stand_in.set]\ntrain = { "prior.steps" = 40 }',
    ],
)
def test_quotes_around_dots_do_not_change_what_the_stand_in_sets(written, two_spec):
    """A key of `set` without quotes is a nested table in TOML; it still sets only that key and keeps its neighbours."""
    two_spec.write_text(two_spec.read_text().replace(SET, written))
    train = read_spec(two_spec).spec.train
    assert train.prior.steps == 40
    assert (train.prior.save_every_steps, train.autoencoder.steps) == (20, 60)


def test_a_resolved_spec_survives_json(two_spec):
    """A saved spec is complete, including plugin options, and reads back as an equal spec; int serves for float."""
    loaded = read_spec(two_spec, ["prior.sigma_max=40", "data.validation=['a.tar']"])
    assert type(loaded.spec.prior.sigma_max) is float
    saved = json.loads(json.dumps(unstructure(loaded.spec)))
    again = resolve_spec(saved, "spec.json")
    assert again.spec == loaded.spec
    assert again.options == loaded.options
    assert saved["modality"]["first"]["options"] == {"field": "a", "width": 32}


def test_a_saved_spec_that_no_longer_fits_says_where(two_spec):
    """A checkpoint's spec uses the same schema, and its errors name the file."""
    saved = unstructure(read_spec(two_spec).spec)
    saved["modality"]["first"]["options"]["depth"] = 3
    with pytest.raises(SpecError, match=r"^runs/x: modality\.first\.options\.depth: unknown key"):
        resolve_spec(saved, "runs/x")


def test_a_byte_order_mark_and_crlf_are_no_mistakes(two_spec, capsys):
    """A file saved by a Windows editor reads the same, with the same lines in errors."""
    sound = two_spec.read_text()
    expected = read_spec(two_spec).spec
    two_spec.write_bytes(b"\xef\xbb\xbf" + sound.replace("\n", "\r\n").encode())
    assert read_spec(two_spec).spec == expected
    two_spec.write_bytes(sound.replace("num_joint", "num_joints").replace("\n", "\r\n").encode())
    assert refusal(capsys, "two.toml").startswith(
        f"error: two.toml:{line_of(sound, 'num_joint')}: generate.num_joints: "
    )


def test_pipes_run_where_the_command_line_allows_them(two_spec):
    """--allow-pipe permits a pipe: URL."""
    two_spec.write_text(two_spec.read_text().replace(TRAIN, 'train = "pipe:cat a.tar"'))
    with permit_pipes():
        assert read_spec(two_spec).spec.data.train == "pipe:cat a.tar"
    with pytest.raises(SpecError, match="--allow-pipe"):
        read_spec(two_spec)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("a.b=3", ("a", "b"), 3),
        ("a.b=3.0", ("a", "b"), 3.0),
        ("a=true", ("a",), True),
        ("a=True", ("a",), "True"),
        ("a=", ("a",), ""),
        ("a=cpu", ("a",), "cpu"),
        ("a='3'", ("a",), "3"),
        ("a=x-{000..127}.tar", ("a",), "x-{000..127}.tar"),
        ("a=s3://bucket/a=b.tar", ("a",), "s3://bucket/a=b.tar"),
        ("a = [1, 2]", ("a",), [1, 2]),
        ("a={ b = 1 }", ("a",), {"b": 1}),
        ("a=1\nb=2", ("a",), "1\nb=2"),
        ('modality."my rgb".plugin=p', ("modality", "my rgb", "plugin"), "p"),
        ('modality."m{0..2}".plugin=p', ("modality", "m{0..2}", "plugin"), "p"),
        ("modality.m{0..2}.plugin=p", ("modality", "m{0..2}", "plugin"), "p"),
        ("modality.{a,b}{0..1}.plugin=p", ("modality", "{a,b}{0..1}", "plugin"), "p"),
        ("modality.view-{a,b}_x.options.height=32", ("modality", "view-{a,b}_x", "options", "height"), 32),
    ],
)
def test_an_override_is_toml_or_a_bare_string(text, path, value):
    """A VALUE that is TOML has TOML's type; any other text is a string."""
    override = parse_override(text)
    assert (override.path, override.value, type(override.value)) == (path, value, type(value))


HAIRY = (
    r'''# [not.a.table]
top = 1   # key = "no"
"quoted # key" = 'a = b'
'lit.eral' . sub = """first
[no.table] = 3
  also.not = "a key" # \"""
"""
"esc\"aped\u00e9" = 1979-05-27 07:32:00

[ spaced . "table" ]  # x = 1
list = [
  1, # ], 2
  "]", [ 3,
    4 ],
  { inner = "}", deep . er = [ '''
    + "'''"
    + r"""
}]"""
    + "'''"
    + r''' ] },
]
after = '\'  # a backslash does not escape here
a.b.c = 1
a.b.d = { e = { f = 1 }, "g h" = [] }
quotes = """two quotes inside: "" and two at the end"""""

[late.child]
x = 1
[late]
y = [[], [ # c
  ]]

[[many]]
n = 1
[many.inside]
m = 2
[[many.rows]]
[[many.rows]]
k = 3

[[many]]
n = 4
[many.inside]
m = 5
'''
)
HAIRY_LINES = {
    ("top",): 2,
    ("quoted # key",): 3,
    ("lit.eral",): 4,
    ("lit.eral", "sub"): 4,
    ('esc"apedé',): 8,
    ("spaced",): 10,
    ("spaced", "table"): 10,
    ("spaced", "table", "list"): 11,
    ("spaced", "table", "list", 0): 12,
    ("spaced", "table", "list", 1): 13,
    ("spaced", "table", "list", 2): 13,
    ("spaced", "table", "list", 2, 0): 13,
    ("spaced", "table", "list", 2, 1): 14,
    ("spaced", "table", "list", 3): 15,
    ("spaced", "table", "list", 3, "inner"): 15,
    ("spaced", "table", "list", 3, "deep"): 15,
    ("spaced", "table", "list", 3, "deep", "er"): 15,
    ("spaced", "table", "list", 3, "deep", "er", 0): 15,
    ("spaced", "table", "after"): 18,
    ("spaced", "table", "a"): 19,
    ("spaced", "table", "a", "b"): 19,
    ("spaced", "table", "a", "b", "c"): 19,
    ("spaced", "table", "a", "b", "d"): 20,
    ("spaced", "table", "a", "b", "d", "e"): 20,
    ("spaced", "table", "a", "b", "d", "e", "f"): 20,
    ("spaced", "table", "a", "b", "d", "g h"): 20,
    ("spaced", "table", "quotes"): 21,
    ("late",): 25,
    ("late", "child"): 23,
    ("late", "child", "x"): 24,
    ("late", "y"): 26,
    ("late", "y", 0): 26,
    ("late", "y", 1): 26,
    ("many",): 29,
    ("many", 0): 29,
    ("many", 0, "n"): 30,
    ("many", 0, "inside"): 31,
    ("many", 0, "inside", "m"): 32,
    ("many", 0, "rows"): 33,
    ("many", 0, "rows", 0): 33,
    ("many", 0, "rows", 1): 34,
    ("many", 0, "rows", 1, "k"): 35,
    ("many", 1): 37,
    ("many", 1, "n"): 38,
    ("many", 1, "inside"): 39,
    ("many", 1, "inside", "m"): 40,
}


def key_paths(value: object, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    """Yield every key path of what tomli returned."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {p for key, inner in items for p in ((*path, key), *key_paths(inner, (*path, key)))}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_key_of_a_hairy_text_has_its_true_line(newline):
    """Strings, comments and brackets that look like keys are ignored; the expected table is written by hand."""
    text = HAIRY.replace("\n", newline)
    assert key_paths(tomli.loads(text)) == set(HAIRY_LINES)
    assert key_lines(text) == HAIRY_LINES


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_key_of_our_specs_has_a_line(path):
    """tomli and the scanner see the same keys, and each is on the stated line."""
    text = path.read_text()
    lines = key_lines(text)
    assert set(lines) == key_paths(tomli.loads(text))
    for keys, line in lines.items():
        if isinstance(keys[-1], str):
            assert keys[-1] in text.splitlines()[line - 1]


@pytest.mark.parametrize("verb", ["main_run(['--help'])", "main(['--help'])", "main_run(['broken.toml'])"])
def test_help_and_broken_toml_need_no_torch(verb, tmp_path, command_environment):
    """The answer comes before torch is imported."""
    (tmp_path / "broken.toml").write_text("a = [")
    code = (
        "import sys\nfrom shala_framework.cli.main import main, main_run\n"
        f"try:\n    {verb}\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'webdataset', 'av'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=command_environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: shala" in done.stdout or "broken.toml:1: not valid TOML" in done.stderr


def test_a_dry_run_prints_the_resolved_spec_and_the_model(two_spec, capsys):
    """--dry-run prints the spec with every default and override, parameter counts and shapes, and creates no folder."""
    with pytest.raises(SystemExit) as caught:
        main_run(["two.toml", "--dry-run", "--set", "generate.num_steps=5"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert "two-floats-made" in out[: out.index("{")]
    described, end = json.JSONDecoder().raw_decode(out[out.index("{") :])
    assert described == unstructure(read_spec(two_spec, ["generate.num_steps=5"]).spec)
    table = re.findall(r"^  (\w[\w ]*?) {2,}([\d,]+)$", out[out.index("{") + end :], re.MULTILINE)
    counts = {name: int(count.replace(",", "")) for name, count in table}
    total = counts.pop("total")
    assert set(counts) == {"first encoder", "second encoder", "posterior", "first decoder", "second decoder", "prior"}
    assert total == sum(counts.values())
    assert counts["first encoder"] == (2 * 32 + 32) + (32 * 16 + 16)
    for shape in (r"x first +\[B, 2\] float32", r"h second +\[B, 16\]", r"z +\[B, 4\]"):
        assert re.search(shape, out)
    assert [path.name for path in two_spec.parent.iterdir()] == ["two.toml"]


def test_check_reports_like_a_run(two_spec, capsys):
    """`shala check` and `shala-run` refuse with the same words."""
    two_spec.write_text(two_spec.read_text().replace("num_rows", "num_row"))
    of_run = refusal(capsys, "two.toml")
    with pytest.raises(SystemExit) as caught:
        main(["check", "two.toml"])
    assert (caught.value.code, capsys.readouterr()) == (2, ("", of_run))
