"""What other people's specs, shards and run folders cannot do. SECURITY.md names the test for each statement."""

import json
import os
import random
import shutil
import sys
import time
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import attrs
import pytest
import torch
from braceexpand import braceexpand

import shala_framework.support.urls as urls_module
from shala_framework import DataError, SpecError
from shala_framework.cli.main import main, main_run
from shala_framework.data.splits import split_urls
from shala_framework.data.streams import ShardStream, stream_batches
from shala_framework.model import STAGES, checkpoint_file
from shala_framework.report.data_uris import Media
from shala_framework.report.explore import OwnPageOnly, Request, panels_as_html, refusal_as_html
from shala_framework.report.signal_groups import Cell, SignalGroup
from shala_framework.run.files import SPEC_FILE
from shala_framework.run.loading import load
from shala_framework.spec import read_spec
from shala_framework.spec.fingerprint import run_fingerprint
from shala_framework.spec.overrides import parse_override
from shala_framework.spec.schema import Data
from shala_framework.support import retrying
from shala_framework.support.checkpoint import read_checkpoint, write_checkpoint
from shala_framework.support.escaping import printable
from shala_framework.support.json_files import dump_json
from shala_framework.support.shard_names import count_names, expand_braces, expand_urls
from shala_framework.support.urls import is_cache, permit_pipes

pytestmark = pytest.mark.long


def outcome(capsys, *arguments: str) -> tuple[int, str]:
    """Return status and messages of a verb."""
    with pytest.raises(SystemExit) as leaving:
        (main if arguments[0] != "shala-run" else main_run)(
            list(arguments if arguments[0] != "shala-run" else arguments[1:])
        )
    said = capsys.readouterr()
    return int(leaving.value.code or 0), said.out + said.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a run, and a spec that names its shards."""
    home = tmp_path_factory.mktemp("home")
    before = Path.cwd()
    os.chdir(home)
    try:
        sys.path.insert(0, str(Path(__file__).parent))
        from conftest import TWO_SPEC

        (home / "two.toml").write_text(TWO_SPEC)
        with pytest.raises(SystemExit, match="0"):
            main_run(["two.toml"])
    finally:
        os.chdir(before)
        sys.path.remove(str(Path(__file__).parent))
    return home / "runs" / "two"


@pytest.fixture
def given(trained, tmp_path, monkeypatch):
    """Return a function that makes a run folder from someone else, with the given values in [data]."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(retrying, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(retrying, "LEAST_TRIES", 1)
    gradio = ModuleType("gradio")  # `explore` looks for it first; the true one would serve its page for ever
    gradio.__spec__ = ModuleSpec("gradio", None)
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    monkeypatch.setattr("shala_framework.report.explore.build_page", no_page)

    def give(folder="given", **data) -> Path:
        target = tmp_path / folder
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(trained, target)
        saved = json.loads((target / SPEC_FILE).read_text())
        saved["spec"]["data"] |= data
        saved["stand_in_used"] = False
        del saved["checksum"]  # neither it nor the fingerprint is a secret
        (target / SPEC_FILE).write_bytes(dump_json(saved))
        for stage in (stage for stage in STAGES if checkpoint_file(target, stage).exists()):
            tensors, description = read_checkpoint(checkpoint_file(target, stage))
            description["spec"]["data"] |= data
            description["synthetic"] = False
            description["fingerprint"] = run_fingerprint(saved)
            write_checkpoint(checkpoint_file(target, stage), tensors, description)
        return target

    return give


COMMAND = "touch ran"
SPELLINGS = [
    f"pipe:{COMMAND}",
    f"PIPE:{COMMAND}",
    f" \x0bpipe:{COMMAND}",
    f"pi\npe:{COMMAND}",
    f"p\tipe:{COMMAND}",
    f"pipe::{COMMAND}",
    f"pipe://[{COMMAND}",
    f"pipe://{COMMAND}",
    f"{{pipe:{COMMAND},b.tar}}",
    f"p{{i,o}}pe:{COMMAND}",
    ["sound-000.tar", f"pipe:{COMMAND}"],
    f"simplecache::pipe:{COMMAND}",
    f"filecache::pipe://{COMMAND}",
    f"pipe:{COMMAND}::http://127.0.0.1:1/a.tar",
    f"shell::{COMMAND}",
    f"file:pipe:{COMMAND}",
    f"ais://$({COMMAND})/a.tar",
    f"scp://127.0.0.1:1/';{COMMAND};'.tar",
    f"htgs://;{COMMAND};",
    f"gs://`{COMMAND}`/a.tar",
    f"http://127.0.0.1:1/';{COMMAND};'.tar",
    "reference://refs.json",
    "-",
]


def spec_text(**data) -> str:
    """Return a spec of two modalities with other values in [data]."""
    values = {"train": "nowhere-*.tar", "in_memory": True, **data}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
    tables = "".join(
        f'[modality.{name}]\nplugin = "two-floats"\noptions = {{ field = "{field}" }}\n'
        for name, field in (("first", "a"), ("second", "b"))
    )
    return f'schema = 1\nname = "two"\n[data]\n{lines}\n{tables}'


def no_page(*_):
    raise DataError("this page is not served")


def no_program(*_, **__):
    pytest.fail("a program was started")


ALL = ("train", "validation", "test")
NAMED = [((key,), SPELLINGS[0]) for key in ALL] + [(ALL, spelling) for spelling in SPELLINGS]


@pytest.mark.parametrize(("keys", "spelling"), NAMED, ids=map(repr, NAMED))
def test_no_verb_runs_a_command_that_a_run_folder_or_spec_names(keys, spelling, given, capsys, monkeypatch):
    """For every verb, key of shards and spelling, no program runs, none is started, and there is no traceback."""
    monkeypatch.setattr("subprocess.Popen.__init__", no_program)
    monkeypatch.setattr("os.system", no_program)
    template = "{{ cycler.__init__.__globals__.os.system('touch ran') }}"
    Path("refs.json").write_text(json.dumps({"version": 1, "templates": {"u": template}, "refs": {"a": ["{{u}}"]}}))
    data = dict.fromkeys(keys, spelling)
    run = given(**data)
    Path("stolen.toml").write_text(spec_text(**data))
    Path("plain.toml").write_text(spec_text())
    sets = [part for key in keys for part in ("--set", f"data.{key}={json.dumps(spelling)}")]
    verbs = [
        ("sample", str(run), "--num", "1"),
        ("explore", str(run), "--port", "1"),
        ("evaluate", str(run)),
        ("evaluate", str(run), "--split", "test"),
        ("evaluate", str(run), *sets),
        ("evaluate", str(run), "--split", "test", *sets),
        ("check", "stolen.toml"),
        ("check", "plain.toml", *sets),
        ("shala-run", "stolen.toml", "--out", "out"),
        ("shala-run", "plain.toml", "--out", "out", *sets),
        ("report", str(run)),
    ]
    for verb in verbs:
        status, said = outcome(capsys, *verb)
        assert "Traceback" not in said, (verb, said)
        assert status == 0 if verb[0] in ("sample", "report") and "validation" not in keys else status in (0, 2), said
    if "validation" in keys:
        status, said = outcome(capsys, "evaluate", str(run))
        assert status == 2
        if spelling not in ("-", "file:pipe:touch ran") and not str(spelling).startswith(("gs:", "http:")):
            assert "allow it with --allow-pipe" in said
    assert not list(Path().rglob("ran*"))


@pytest.fixture
def shard(trained):
    """Return the absolute path of a shard of the run."""
    return next((trained / "data").glob("validation-*.tar"))


@pytest.mark.parametrize("verb", ["evaluate", "evaluate --set", "report", "explore", "check", "shala-run"])
def test_each_verb_that_opens_shards_runs_commands_where_it_is_allowed_to(verb, given, shard, capsys):
    """--allow-pipe permits it for one verb, not for the spec, and ends with the verb."""
    url = f"pipe:touch ran; cat {shard}"
    run = given(validation=url, train=str(shard)) if verb != "evaluate --set" else given(train=str(shard))
    small = [f"evaluate.{key}=2" for key in ("num_samples", "num_rows", "likelihood_rows", "importance_samples")]
    sets = [part for text in (*small, "evaluate.judge_steps=1") for part in ("--set", text)]
    Path("own.toml").write_text(spec_text(train=url))
    arguments = {
        "evaluate": ("evaluate", str(run), *sets),
        "evaluate --set": ("evaluate", str(run), "--set", f"data.validation={url}", *sets),
        "report": ("report", str(run)),
        "explore": ("explore", str(run), "--port", "1"),
        "check": ("check", "own.toml"),
        "shala-run": (
            "shala-run",
            "own.toml",
            *(p for s in ("autoencoder", "prior") for p in ("--set", f"train.{s}.steps=1")),
        ),
    }[verb]
    status, said = outcome(capsys, *arguments)
    assert "allow it with --allow-pipe" in said
    assert not Path("ran").exists()
    status, said = outcome(capsys, *arguments, "--allow-pipe")
    assert "allow it with --allow-pipe" not in said
    assert status == (2 if verb == "explore" else 0), said  # Gradio may be absent, and port 1 is not available
    assert Path("ran").exists() == (verb != "check")  # `check` reads only local shards
    assert not urls_module.pipes_permitted()


def test_a_worker_process_may_open_what_its_parent_may(trained, shard, tmp_path):
    """The permission is neither an environment variable nor an option of a spec; it passes to decoding processes."""
    model = load(trained)
    url = f"pipe:touch {tmp_path / 'ran'}; cat {shard}"
    stream = ShardStream([url], model.modalities, batch_size=2, buffer_size=2, seed=0)
    with permit_pipes():
        assert len(next(stream_batches(stream, 1))) == 2
    (tmp_path / "ran").unlink()
    with pytest.raises(DataError, match="--allow-pipe"):
        next(stream_batches(stream, 1))
    assert not (tmp_path / "ran").exists()


def test_a_file_or_folder_that_is_called_like_a_command_is_a_file(given, trained, tmp_path, monkeypatch, capsys):
    """It may also be behind a symlink, match a wildcard, or be the name of a run with a stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.Popen.__init__", no_program)
    shard = next((trained / "data").glob("validation-*.tar"))
    Path("pipe:touch ran;").mkdir()
    Path("pipe:touch ran;/a.tar").symlink_to(shard)
    Path("link.tar").symlink_to("pipe:touch ran;/a.tar")
    for name in ("*/a.tar", "link.tar", "pip[e]:touch ran;/*.tar", "file:pipe:touch ran;/a.tar"):
        assert [Path(url).resolve() for url in expand_urls(name)] == [shard]
        assert all(not urls_module.is_remote(url) for url in expand_urls(name))
    shutil.copytree(trained, "pipe:touch ran;/two")
    assert all(not urls_module.is_remote(u) for u in split_urls(Data(train="x"), "train", Path("pipe:touch ran;/two")))
    status, said = outcome(capsys, "report", "pipe:touch ran;/two")
    assert status == 0, said
    assert not Path("ran").exists()


def test_a_shard_that_is_no_regular_file_is_an_error_at_once(given, tmp_path, capsys):
    """Opening a named pipe would block, and a device never ends."""
    os.mkfifo("fifo.tar")
    for name, reason in (("fifo.tar", "expected a regular file"), ("/dev/zero", "expected a regular file")):
        status, said = outcome(capsys, "evaluate", str(given(validation=name)))
        assert (status, reason in said) == (2, True), said


def test_a_saved_spec_cannot_choose_a_folder_to_write_to(given, tmp_path):
    """Its data.cache is used only if one of the user's own runs has made that folder a cache."""
    mine = tmp_path / "autostart"
    mine.mkdir()
    assert load(given(cache=str(mine))).spec.data.cache is None
    assert load(given(cache=str(tmp_path / "none"))).spec.data.cache is None
    urls_module.mark_cache(tmp_path / "cache")
    assert is_cache(tmp_path / "cache")
    assert load(given(cache=str(tmp_path / "cache"))).spec.data.cache == str(tmp_path / "cache")


@pytest.mark.parametrize(
    ("scheme", "package"),
    [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs"), ("sftp", "paramiko"), ("webdav", "webdav4")],
)
def test_a_client_that_is_missing_is_named_at_once(scheme, package, two_spec, capsys, monkeypatch):
    """Every verb that would open the shards and `shala check` do so; a traceback came after 11 s before."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    two_spec.write_text(spec_text(train=f"{scheme}://bucket/a-{{0..3}}.tar"))
    start = time.monotonic()
    for verb in (("check", "two.toml"), ("shala-run", "two.toml")):
        status, said = outcome(capsys, *verb)
        assert status == 2
        assert f"data.train: '{scheme}://bucket/a-0.tar' needs the package {package}" in said
        assert f"pip install {package}" in said
    assert time.monotonic() - start < 20
    assert not Path("runs").exists()


# Braces and depth.


def test_braces_are_counted_as_they_are_expanded():
    """The count of random patterns, including nested, escaped and broken ones, equals braceexpand's."""
    draw = random.Random(0)
    pieces = ["{", "}", ",", "a", "..", "3", "12", "-1", "\\", "{1..4}", "{a..e}", "{0..9..3}", "{x,y}", "{x,{1..3}}"]
    compared = 0
    for _ in range(5_000):
        pattern = "".join(draw.choices(pieces, k=draw.randint(1, 9)))
        try:
            expected = len(list(braceexpand(pattern)))
        except ValueError:
            continue
        assert count_names(pattern) == expected, pattern
        compared += 1
    assert compared > 1_000


@pytest.mark.parametrize(
    "pattern",
    [
        "train-{0..99999999}.tar",
        "{0..999}{0..999}{0..999}",
        "{a,{0..999999},{0..999999}}",
        "{0..99999999999999999999}",
        f"{{{'0' * 5000}..1}}",
        "{a,b}" * 40,
        "{{" * 500 + "a,b" + "}}" * 500,
        "{0..500000}" + "x" * 1_000,
    ],
    ids=lambda text: text[:20],
)
def test_braces_that_stand_for_too_much_are_refused_before_they_are_expanded(pattern, two_spec, capsys):
    """They are refused at the line of the spec, in URLs, in names of modalities and in --set, without delay."""
    start = time.process_time()
    with pytest.raises(DataError, match=r"expected (braces|balanced)"):
        expand_braces(pattern)
    sound = spec_text()
    for text, where in (
        (spec_text(train=["a.tar", pattern]), "two.toml:4: data.train: expected b"),
        (sound.replace("modality.first", f'modality."{pattern}"'), "two.toml:6: modality."),
    ):
        two_spec.write_text(text)
        status, said = outcome(capsys, "check", "two.toml")
        assert status == 2
        assert where in said, said
        assert len(said) < 2_000
    two_spec.write_text(sound)
    for option in (f"data.train={pattern}", f'modality."{pattern}".plugin=two-floats'):
        status, said = outcome(capsys, "check", "two.toml", "--set", option)
        assert (status, said.startswith("error: --set: ")) == (2, True), said[:300]
    assert time.process_time() - start < 20


DEEP = {
    "arrays": ("x = " + "[" * 5_000 + "]" * 5_000, "nested at most 32 deep"),
    "inline tables": ("x = " + "{a=" * 5_000 + "1" + "}" * 5_000, "nested at most 32 deep"),
    "dotted key": ("a" + ".a" * 100_000 + " = 1", "keys of at most 32 parts"),
    "quoted dotted key": ('"a"' + '."a"' * 10_000 + " = 1", "keys of at most 32 parts"),
    "table": ("[" + "a." * 100_000 + "a]", "keys of at most 32 parts"),
    "digits": ("seed = " + "9" * 5_000, "numbers of at most 400 digits"),
    "digits with underscores": ("seed = 1" + "_000" * 2_000, "numbers of at most 400 digits"),
    "hexadecimal digits": ("seed = 0x" + "f" * 100_000, "numbers of at most 400 digits"),
    "digits after a point": ("x = 0." + "3" * 5_000, "numbers of at most 400 digits"),
    "half an integer": ("seed = " + "9" * 300, "seed: expected an int of at most 64 bits, got an int of 997 bits"),
    "a whole float": ("posterior.subset_weight = 1" + "0" * 350, "expected a number of at most 64 bits"),
    "a string of some size": ('seed = "' + "9" * 100_000 + '"', "seed: expected int, got string '9999"),
    "a key of some size": ("k" * 100_000 + " = 1", "unknown key"),
    "long list": (f"x = [{'1,' * 100_000}]", "x: unknown key"),
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP.keys())
def test_depth_and_digits_are_errors_at_their_line(text, two_spec, capsys):
    """There is no RecursionError, no ValueError and no delay of a minute, also for values of --set."""
    line, message = text
    start = time.process_time()
    two_spec.write_text(f"# a comment\n{line}\n{spec_text()}")
    status, said = outcome(capsys, "check", "two.toml")
    assert (status, "Traceback" in said, len(said) < 3_000) == (2, False, True), said[:3_000]
    assert "two.toml:2: " in said
    assert message in said
    key, equals, value = line.partition(" = ")
    if equals and key:
        two_spec.write_text(spec_text())
        status, said = outcome(capsys, "check", "two.toml", "--set", f"{key}={value}")
        assert (status, "Traceback" in said, len(said) < 3_000) == (2, False, True), said[:3_000]
        assert said.startswith("error: --set: ")
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    "key",
    ["k-" * 50_000, "{" + "k" * 100_000, "k{" * 50_000, "{," * 50_000, "{a}" * 30_000 + "{"],
    ids=lambda key: key[:4],
)
def test_long_keys_of_set_are_refused_without_delay(key):
    """The time to find the names with braces grows with the key's length, not with its square."""
    start = time.process_time()
    with pytest.raises(SpecError, match="expected a dotted key before '=', got") as caught:
        parse_override(f"{key}..x=1")
    assert len(str(caught.value)) < 2_000
    assert time.process_time() - start < 5


LARGE = {
    "20,000 tables": ("".join(f'[modality.m{i}]\nplugin = "two-floats"\n' for i in range(20_000)), "at most 1,000 mod"),
    "tables of many braces": (
        "".join(f'[modality."v{i}_{{0..999}}"]\nplugin = "two-floats"\n' for i in range(20)),
        "at most 1,000 modality tables in all",
    ),
    "a large table of many names": (
        f'[modality."v_{{0..899}}"]\nplugin = "two-floats"\noptions = {{ field = "{"x" * 10_000}" }}\n',
        "expected a shorter table for 900 names, got one of 10,0",
    ),
    "a thousand plugins that are not there": (
        "".join(f'[modality.m{i}]\nplugin = "p{i}"\n' for i in range(900)),
        "no installed plugin offers 'p0'",
    ),
    "a plugin of a long name": (f'[modality.m]\nplugin = "{"p" * 1_000_000}"\n', "(1,000,000 characters)"),
    "thousands of overrides": (
        '[data.stand_in]\ndataset = "two-floats-made"\n[data.stand_in.set]\n'
        + "".join(f'"train.a{i}" = {i}\n' for i in range(20_000)),
        "train.a0: unknown key",
    ),
    "elements of a wrong type": (
        f"[track.t]\n[evaluate]\nnum_rows = [{'1,' * 200_000}]\n",
        "expected int, got an array",
    ),
    "values": (f"x = [{'[],' * 400_000}]\n", "expected at most 500,000 keys, elements and lines"),
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE.keys())
def test_large_specs_are_read_or_refused_within_seconds(text, two_spec, capsys):
    """The time grows with their size, and the message has at most a hundred lines."""
    addition, message = text
    two_spec.write_text(f"{spec_text()}\n{addition}")
    start = time.process_time()
    status, said = outcome(capsys, "check", "two.toml")
    assert (status, len(said) < 40_000) == (2, True), said[:1_000]
    assert message in said
    assert time.process_time() - start < 15


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{0,1}" * 18, "at most 2,000,000 pieces"),
        ("x*{0..20000}", "at most 10,000 shard names with wildcards"),
        ("[a" * 200 + "{0..9999}", "of 1,000,000 characters in all"),
        ("*/" * 1_000, "wildcards in at most 16 parts of a path"),
        ("{*/*/,}" * 9, "wildcards in at most 16 parts of a path"),
        ("[a" * 50_000, ""),
        ("_{0..999}y{0..999}:", ""),
        ("{" + ",".join(f"{i}*/a" for i in range(40)) + "}", ""),
    ],
)
def test_names_of_shards_are_looked_for_or_refused_within_seconds(pattern, message, two_spec):
    """Wildcards in a thousand folders were a RecursionError, and many names took a minute."""
    stand_in = '[data.stand_in]\ndataset = "two-floats-made"\n'
    two_spec.write_text(spec_text(train=pattern) + stand_in)
    start = time.process_time()
    if message:
        with pytest.raises(SpecError, match=message):
            read_spec(two_spec)
    else:
        assert read_spec(two_spec).stand_in_used
    assert time.process_time() - start < 20


@pytest.mark.parametrize("value", ["1979-05-27T07:32:00Z", "07:32:00", "[1.0, inf]", "{ a = { b = nan } }", "9" * 30])
def test_values_that_a_saved_spec_cannot_hold_are_refused(value, two_spec):
    """This applies where any type is allowed, as in unused overrides; saving the spec failed before."""
    stand_in = f'[data.stand_in]\ndataset = "two-floats-made"\n[data.stand_in.set]\nseed = {value}\n'
    two_spec.write_text(spec_text() + stand_in)
    with pytest.raises(SpecError, match=r"data\.stand_in\.set\.seed.*: expected "):
        read_spec(two_spec, use_stand_in=False)


# Text on terminals and pages.

EVIL = "\x1b]0;owned\x07\x1b[2J\r\x08\x9b31m\u202e\u2066\u200b\u2028\x7f\ud800<img src=x onerror=alert(1)>"


def test_what_a_terminal_would_obey_is_written_out():
    shown = printable(EVIL)
    assert shown.isprintable()
    assert "\\x1b]0;owned\\x07" in shown
    assert "\\u202e" in shown
    assert shown.encode()
    assert printable("größe 漢字 \N{GRINNING FACE}\tx\ny") == "größe 漢字 \N{GRINNING FACE}\tx\ny"
    assert printable("a\nb", lines=False) == "a\\nb"


def test_names_of_files_reach_a_terminal_escaped(two_spec, trained, capsys, monkeypatch):
    """Fields of a shard, keys of a spec, names of folders and errors are escaped on both streams and in tracebacks."""
    import tarfile

    with tarfile.open("a.tar", "w") as tar:
        for field in ("a", "b", "\x1b[31mred\nfake: sound"):
            Path("member").write_text("[0.0, 1.0]")
            tar.add("member", f"k.{field}")
    two_spec.write_text(spec_text(train="a.tar") + '[track."\\u001b[2J\\u202e"]\n')
    for arguments in (
        ("check", "two.toml"),
        ("check", "no\x1b[2J.toml"),
        ("report", "no\x1b[2J"),
        ("index", "no\x1b[2J"),
        ("check", "two.toml", "--set", "modality.first.options.field='\x1b[2J'"),
    ):
        status, said = outcome(capsys, *arguments)
        assert status == 2
        assert not set(said) & {"\x1b", "\u202e", "\r"}, said
    two_spec.write_text(spec_text(train="a.tar"))
    status, said = outcome(capsys, "check", "two.toml")
    assert status == 0
    assert "first sample 'k' has \\x1b[31mred\\nfake: sound, a, b" in said
    sys.excepthook(ValueError, ValueError("\x1b[2J"), None)
    assert capsys.readouterr().err == "ValueError: \\x1b[2J\n"


def test_texts_of_files_are_text_on_pages():
    """The explore page and the report's template escape texts, and its script escapes labels for Plotly."""
    page = panels_as_html([SignalGroup(EVIL, [Cell(EVIL, [Media("words", EVIL)], "given")])])
    for shown in (page, refusal_as_html(DataError(EVIL))):
        assert "<img src=x" not in shown
        assert "&lt;img" in shown


def test_a_report_shows_labels_and_keys_as_text(trained, given, capsys):
    """Keys and labels of held-out rows may contain what HTML, scripts and Plotly would execute."""
    import tarfile

    evil = "<script>alert(1)</script>%{x}"
    with tarfile.open("a.tar", "w") as tar:
        for n in range(4):
            for field, content in (("a", f"[{n}, 1.0]"), ("b", f"[1.0, {n}]"), ("cls", f"{evil}{n}\x1b[2J")):
                Path("member").write_text(content)
                tar.add("member", f"</script><b>{n}.{field}")
    run = given(validation="a.tar", train="a.tar")
    status, said = outcome(capsys, "report", str(run))
    assert status == 0, said
    page = (run / "report.html").read_text()
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page
    assert "</script><b>" not in page
    assert 'hovertemplate: "%{text}<extra>" + (label ? "%{fullData.name}" : "")' in page


# The local page.


def asked(host: str, own: str = "127.0.0.1", **headers) -> str:
    """Return the reason why the page of an address refuses a request."""
    others = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return OwnPageOnly(None, own).refusal([("Host", host), *others])


def test_the_page_answers_its_own_requests_alone():
    """A foreign Host is DNS rebinding, a foreign Origin another page in the same browser."""
    for host in ("127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860"):
        assert not asked(host)
        assert not asked(host, origin=f"http://{host}".lower())
        assert asked(host, origin="http://evil.example")
        assert asked(host, origin="null")
        assert asked(host, origin="http://localhost:3000")  # another program on this machine
        assert asked(host, sec_fetch_site="cross-site", sec_fetch_mode="no-cors")
        assert not asked(host, sec_fetch_site="cross-site", sec_fetch_mode="navigate")  # a link to the page
        assert not asked(host, sec_fetch_site="same-origin")
    for host in (
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "192.168.0.7:7860",
        "",
        "[::1",
        "a@b:1",
    ):
        assert asked(host)
    assert not asked("192.168.0.7:7860", own="0.0.0.0")  # served to other machines under an address
    assert asked("evil.example:7860", own="0.0.0.0")
    assert not asked("box.lan:7860", own="box.lan")
    assert OwnPageOnly(None, "127.0.0.1").refusal([])
    assert OwnPageOnly(None, "127.0.0.1").refusal([("host", "localhost"), ("host", "evil.example")])


def test_a_refused_request_gets_403_and_never_reaches_the_page():
    import asyncio

    sent: list[dict] = []

    async def page(scope, receive, send):
        sent.append({"reached": scope["type"]})

    async def send(message):
        sent.append(message)

    guard = OwnPageOnly(page, "127.0.0.1")
    for kind, host in (
        ("http", b"evil.example"),
        ("websocket", b"evil.example"),
        ("http", b"localhost"),
        ("lifespan", b""),
    ):
        asyncio.run(guard({"type": kind, "headers": [(b"host", host)]}, None, send))
    assert [m.get("status", m.get("code", m.get("reached"))) for m in sent] == [403, None, 1008, "http", "lifespan"]


def test_what_the_page_writes_is_gone_at_its_end(tmp_path, monkeypatch):
    """This includes uploads, which Gradio would leave in the temporary folder, also if a signal ends it."""
    import signal

    from shala_framework.cli.explore import _own_folder

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    for end in (None, signal.SIGTERM, signal.SIGHUP):
        leaving = nullcontext() if end is None else pytest.raises(SystemExit, match=str(128 + (end or 0)))
        with leaving, _own_folder() as folder:
            assert os.environ["GRADIO_TEMP_DIR"] == folder
            assert Path(folder).parent == tmp_path
            assert Path(folder).stat().st_mode & 0o077 == 0
            (Path(folder) / "upload.txt").write_text("private")
            if end is not None:
                os.kill(os.getpid(), end)
                time.sleep(1)
        assert not list(tmp_path.iterdir())
        assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)


@pytest.mark.parametrize(
    "values", [{"num_samples": 10**9}, {"num_steps": 10**9}, {"seed": 2**64}, {"guidance_scale": 1e300}, {"seed": -1}]
)
def test_values_that_no_slider_has_are_refused(values):
    with pytest.raises(ValueError, match="expected a number"):
        Request(**values)


def test_the_process_may_open_commands_only_within_the_block(two_spec):
    with permit_pipes():
        assert urls_module.pipes_permitted()
        with permit_pipes(False):
            assert not urls_module.pipes_permitted()
        two_spec.write_text(spec_text(train="pipe:x"))
        assert read_spec(two_spec).spec.data.train == "pipe:x"
    assert not urls_module.pipes_permitted()


def test_long_keys_names_and_labels_make_files_that_can_be_written(trained, tmp_path, monkeypatch):
    """A key of 300 characters failed before. Two that begin alike give two files, and a label stays on one line."""
    from shala_framework.data.rows import load_rows
    from shala_framework.report.samples import SampleWriter

    monkeypatch.chdir(tmp_path)
    model = load(trained)
    shard = str(next((trained / "data").glob("validation-*.tar")))
    rows = load_rows([shard], model.modalities).having(model.names)
    rows = rows.take(torch.tensor([0, 1]))
    keys = ("k/" * 150 + "1", "k/" * 150 + "2")
    rows = attrs.evolve(rows, keys=keys, labels=("two\nlines" + "x" * 100_000, "\x1b[2J"))
    SampleWriter(model=model, folder=Path("out")).cross_modal(rows, ["first"])
    assert len(list(Path("out/given_first").glob("*.second.json"))) == 2
    alike = ("ä/x y", "ö/x y", "ä/x_y")  # once other characters are replaced
    rows = attrs.evolve(rows.take(torch.tensor([0, 1, 0])), keys=alike)
    SampleWriter(model=model, folder=Path("alike")).cross_modal(rows, ["first"])
    found = sorted(path.name for path in Path("alike/given_first").glob("*.second.json"))
    assert [name[:5] for name in found] == ["ä_x_y", "ä_x_y", "ö_x_y"]
    Path("long.toml").write_text(spec_text().replace("modality.first", f"modality.{'m' * 65}"))
    with pytest.raises(SpecError, match="expected at most 64 characters"):
        read_spec(Path("long.toml"))


def test_a_link_in_a_run_folder_is_not_written_through(given, shard, tmp_path, capsys):
    """Its target does not change, whether the link has the name of the file or of its temporary file."""
    mine = tmp_path / "mine.txt"
    mine.write_text("precious")
    run = given(validation=str(shard), train=str(shard))
    (run / "report.html").unlink()
    (run / "report.html").symlink_to(mine)
    assert outcome(capsys, "report", str(run))[0] == 0
    (run / "report.html.partial").symlink_to(mine)
    status, said = outcome(capsys, "report", str(run))
    assert (status, "report.html.partial" in said) in ((0, False), (2, True)), said
    assert mine.read_text() == "precious"
