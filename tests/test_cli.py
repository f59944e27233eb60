"""The command line as a user sees it: help, check, pack, and progress on a terminal and in a log."""

import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import attrs
import click
import pytest
import torch
from rich.console import Console

from shala_framework.cli import progress_display
from shala_framework.cli.main import VERBS, dispatch, main, main_run, parse
from shala_framework.cli.progress_display import LogProgress, TerminalProgress, make_reporter
from shala_framework.plugin import Sample


def call(*arguments: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("shala pa", ["pack "]),
        ("shala check two.toml --set train.autoencoder.st", ["train.autoencoder.steps="]),
        ("shala evaluate run --set generate.sampl", ["generate.sampler="]),
        ("shala keys train.p", ["train.prior "]),
        ("shala sample runs/", ["runs/mine ", "runs/more/"]),
        ("shala plugins two-floats-", ["two-floats-made "]),
        ("shala pack two-floats-", ["two-floats-made "]),
        ("shala pack two-floats-made - out --set trai", []),
        ("shala sample run --device cu", ["cuda "]),
        ("shala-run two.toml --al", ["--allow-pipe "]),
        ("shala-run two.to", ["two.toml"]),
        ("shala compare runs/mine --by train.prior.ema", ["train.prior.ema_halflife_steps "]),
        ("shala sweep two.toml --set posterior.latent", ["posterior.latent_dim="]),
        ("shala evaluate runs/mine --set evaluate.num_seed", ["evaluate.num_seeds="]),
        ("shala evaluate runs/mine --set generate.num_", ["generate.num_steps="]),  # of the others, a run's end
        ("shala sample runs/mine --set refine.sigma_m", ["refine.sigma_min=", "refine.sigma_max="]),
        ("shala sample runs/mine --set refine.log_sigma", []),  # for training
        ("shala embed runs/mine --set train.minut", []),
        ("shala-run two.toml --from runs/m", ["runs/mine ", "runs/more/"]),
    ],
)
def test_bash_completes(line, expected, two_spec, command_environment):
    """Bash's completion works through the printed function, without loading torch."""
    for run in ("runs/mine", "runs/more/deep"):
        (two_spec.parent / run).mkdir(parents=True)
    (two_spec.parent / "runs/mine/spec.json").touch()
    program, *_, last = line.split(" ")
    for name, function in (("shala", "main"), ("shala-run", "main_run")):
        Path(name).write_text(
            f"#!{sys.executable}\nimport sys\nsys.modules['torch'] = None\n"
            f"from shala_framework.cli.main import {function}\n{function}()\n"
        )
        Path(name).chmod(0o755)
    name = program.replace("-", "_")
    script = f"""
compopt() {{ COMPREPLY=($(compgen -f -- {last})); }}  # Bash's own completion of files, which is on only at a prompt
eval "$(_{name.upper()}_COMPLETE=bash_source {program})"
COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_{name}_completion {program}
printf '%s\\n' "${{COMPREPLY[@]}}"
complete -p {program} >&2
"""
    path = f"{Path.cwd()}:{command_environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**command_environment, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.removesuffix("\n").split("\n") == (expected or [""])
    assert "-o nospace" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_shala_alone_shows_its_verbs(arguments, capsys):
    """`shala` and `shala --help` list every verb with a sentence, and examples."""
    assert call(*arguments) == 0
    out = capsys.readouterr().out
    for verb in VERBS:
        assert re.search(rf"^  {verb}\s+[A-Z]\w+ ", out, re.MULTILINE)
    assert "Examples:\n  shala " in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_by_example(verb, capsys):
    """`shala VERB --help` ends with commands to copy."""
    assert call(verb, "--help") == 0
    examples = capsys.readouterr().out.partition("Examples:\n")[2].splitlines()
    assert examples
    assert all(line.startswith(f"  shala {verb}") for line in examples)


def test_shala_run_is_a_command_of_its_own(capsys):
    """`shala-run --help` refers to shala-run."""
    with pytest.raises(SystemExit) as caught:
        main_run(["--help"])
    assert caught.value.code == 0
    assert "  shala-run specs/" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("shala chekc two.toml", "no such verb 'chekc'; did you mean 'check'? (see shala --help)"),
        (
            "shala x",
            "no such verb 'x'; known verbs: check, compare, embed, evaluate, explore, export, index, keys, ",
        ),
        ("shala --versoin", "no such option '--versoin'; did you mean '--version'?"),
        ("shala-run a.toml --dry", "no such option '--dry'; did you mean '--dry-run'? (see shala-run --help)"),
        ("shala run a.toml --stes x", "no such option '--stes'; did you mean '--set'? (see shala run --help)"),
        ("shala check", "missing argument 'SPEC'"),
        ("shala check a.toml b.toml", "got unexpected extra argument (b.toml)"),
        ("shala run a.toml --out --dry-run", "invalid value for '--out': expected a value, got the option '--dry-run'"),
        ("shala check a.toml --set --json", "invalid value for '--set': expected a value, got the option '--json'"),
        ("shala sample run --out", "option '--out' requires an argument"),
        ("shala sample run --num many", "invalid value for '--num': 'many' is not a valid integer"),
        ("shala sample run --seed -1", "invalid value for '--seed': expected a whole number from 0 to 2**63 - 1, got"),
        ("shala evaluate run --split tset", "invalid value for '--split': 'tset' is not one of 'validation', 'test'"),
    ],
)
def test_a_wrong_command_line_is_one_message(line, message, capsys):
    """A wrong command line gives status 2, its usage, the problem and the nearest name, and does nothing."""
    program, *arguments = line.split(" ")
    assert dispatch(arguments, program) == 2
    out, err = capsys.readouterr()
    usage, error = err.splitlines()
    assert not out
    assert usage.startswith("Usage: shala")
    assert error.startswith(f"error: {message}")
    if arguments[0] in VERBS or program == "shala-run":
        with pytest.raises(click.UsageError):
            parse(arguments, program)


def test_a_command_line_is_parsed_without_being_run(two_spec):
    """`parse` returns the values of a verb, and treats shala-run like `shala run`."""
    arguments = ["two.toml", "--set", "seed=1", "--set", "seed=2"]
    parsed = parse(arguments, "shala-run").params
    assert parsed == parse(["run", *arguments]).params
    assert (parsed["spec"], parsed["overrides"], parsed["dry_run"]) == (Path("two.toml"), ("seed=1", "seed=2"), False)


@pytest.mark.parametrize("verb", VERBS)
def test_no_help_needs_torch(verb, command_environment):
    """`shala VERB --help` does not import torch."""
    code = (
        f"import sys\nfrom shala_framework.cli.main import dispatch\ndispatch([{verb!r}, '--help'])\n"
        "heavy = {'torch', 'numpy', 'webdataset', 'av', 'rich'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], env=command_environment, capture_output=True, check=True)


def test_check_of_a_spec_with_a_stand_in_says_what_a_run_would_use(two_spec, capsys):
    """A spec without shards is valid if it has a stand-in."""
    short = ("--set", "train.autoencoder.warmup_steps=9", "--set", "train.prior.warmup_steps=9")
    assert call("check", "two.toml", *short) == 0
    out, err = capsys.readouterr()
    assert out == (
        "two.toml: sound; 2 modalities: first, second\n"
        "data.train matches no shard; a run would use the stand-in 'two-floats-made'\n"
    )
    assert not err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.test=nowhere/*.tar", "data.test: no such shards: nowhere/*.tar"),
        (
            "modality.first.options.field=z",
            "data.train: none of the first 256 samples has modality 'first': ",
        ),
    ],
)
def test_check_reads_a_sample_and_looks_for_every_split(override, message, two_spec, capsys):
    """Problems that a run would find after hours, such as a missing test split, are reported at once."""
    assert call("pack", "two-floats-made", "-", "made") == 0
    sets = ("--set", "data.train=made/train-*.tar", "--set", override)
    assert call("check", "two.toml", *sets[:2]) == 0
    assert "two.toml: sound; 2 modalities" in capsys.readouterr().out
    assert call("check", "two.toml", *sets) == 2
    out, err = capsys.readouterr()
    assert "two.toml: not sound; 2 modalities" in out
    assert message in err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "train.autoencoder.kl_warmup_steps=400",
            "train.autoencoder: kl_warmup_steps is 400 and steps 40, so the KL term ends at 10.0% of kl_weight; ",
        ),
        (
            "train.prior.warmup_steps=100",
            "train.prior: warmup_steps is 100 and steps 40, so the learning rate never reaches 0.5; ",
        ),
        (
            "train.prior.schedule=trapezoid",
            "train.prior: the learning rate never reaches 0.5, because steps, 40, is less than warmup_steps, 39, "
            "and the 8 of decay_share together; ",
        ),
        (
            "train.prior.decay_share=0.5",
            'train.prior: decay_share has no effect with schedule = "cosine"; only "trapezoid" and "inverse-sqrt" read',
        ),
    ],
)
def test_check_and_run_say_what_a_long_schedule_does_to_a_short_run(override, said, two_spec, capsys):
    """A warm-up that is longer than a short trial is allowed, but reported before training."""
    sets = ("--set", "train.autoencoder.steps=40", "--set", "train.prior.steps=40")
    sets += ("--set", "train.autoencoder.kl_warmup_steps=40", "--set", "train.prior.learning_rate=0.5")
    sets += ("--set", "train.autoencoder.warmup_steps=4", "--set", "train.prior.warmup_steps=39")
    assert call("check", "two.toml", *sets) == 0
    assert "warmup" not in "".join(capsys.readouterr())
    assert call("check", "two.toml", *sets, "--set", override) == 0
    assert said in capsys.readouterr().out
    assert call("run", "two.toml", *sets, "--set", override) == 0
    assert said in "".join(capsys.readouterr())


def test_check_of_a_spec_whose_shards_are_missing_names_them_at_their_line(two_spec, capsys):
    """Without a stand-in, missing shards are an error for each split, with the patterns and advice."""
    text = two_spec.read_text()
    start, end = text.index("[data.stand_in]"), text.index("[modality.first]")
    two_spec.write_text(f'{text[:start]}validation = "v/*.tar"\n\n{text[end:]}')
    assert call("check", "two.toml", "--set", "data.train=t/{0..4}.tar") == 2
    hint = "(paths are relative to the working directory; `shala pack` makes shards)"
    assert capsys.readouterr().err == (
        "error: 2 problems\n"
        f"  --set: data.train: no such shards: t/0.tar, t/1.tar, t/2.tar and 2 more {hint}\n"
        f"  two.toml:8: data.validation: no such shards: v/*.tar {hint}; "
        "if the set has no validation rows, remove data.validation from the spec\n"
    )


def test_pack_makes_the_shards_that_check_then_finds(two_spec, capsys):
    """Packing prints counts by split and field and writes shards, which the spec then uses instead of the stand-in."""
    options = ("--set", "train=30", "--set", "missing=0.5", "--shard-samples", "12")
    assert call("pack", "two-floats-made", "-", "nowhere", *options) == 0
    out, err = capsys.readouterr()
    (fields,) = re.findall(r"^train: 30 samples \(a 30, b (\d+), cls 30\)$", out, re.MULTILINE)
    assert 0 < int(fields) < 30
    assert "5 shards in nowhere\n" in out
    assert "SYNTHETIC DATA" in err
    names = sorted(path.name for path in Path("nowhere").glob("*.tar"))
    assert names == [f"train-00000{i}.tar" for i in range(3)] + [f"validation-00000{i}.tar" for i in range(2)]
    with tarfile.open("nowhere/train-000000.tar") as tar:
        assert len({name.partition(".")[0] for name in tar.getnames()}) == 12
    shards = (
        "--set",
        "data.train=nowhere/train-*.tar",
        "--set",
        "data.validation=nowhere/validation-{000000..000001}.tar",
    )
    assert call("check", "two.toml", *shards) == 0
    out = capsys.readouterr().out
    assert "train: 3 shards; first sample 'train_0000' has a, " in out
    assert "validation: 2 shards; first sample 'validation_0000' has " in out


def test_check_fits_a_modality_before_it_reads_a_sample(two_spec, capsys, monkeypatch):
    """Some modalities, such as free text, must be fitted before they can read, as in a run."""
    assert call("pack", "two-floats-made", "-", "shards", "--set", "train=150") == 0
    from two_floats import TwoFloats

    seen = []

    def read(modality, sample):
        if modality not in seen:
            raise ValueError("not fitted")
        return torch.zeros(2)

    def fit(modality, samples):
        assert len(list(samples)) == 150
        seen.append(modality)

    monkeypatch.setattr(TwoFloats, "read", read)
    monkeypatch.setattr(TwoFloats, "fit", fit)
    shards = ("--set", "data.train=shards/train-*.tar", "--set", "data.validation=shards/validation-*.tar")
    assert call("check", "two.toml", *shards) == 0
    assert len(seen) == 2


def test_check_finds_what_a_run_would_meet(two_spec, capsys):
    """Check finds damage in later shards, blank fields and misspelt fields, not only problems of the first sample."""
    assert call("pack", "two-floats-made", "-", "made", "--set", "train=90", "--shard-samples", "30") == 0
    Path("raw").mkdir()
    for number in range(3):
        with (
            tarfile.open(f"made/train-00000{number}.tar") as source,
            tarfile.open(f"raw/{number}.tar", "w") as target,
        ):
            for info in source:
                content = source.extractfile(info).read()
                key, _, field = info.name.partition(".")
                if field == "b" and number == 1:
                    info.name = f"{key}.bb"
                if number == 2 and field == "a":
                    content = b"["
                info.size = len(content)
                target.addfile(info, io.BytesIO(content))
    assert call("check", "two.toml", "--set", "data.train=raw/?.tar", "--set", "modality.first.options.field=aa") == 2
    capsys.readouterr()
    assert call("check", "two.toml", "--set", "data.train=raw/[01].tar") == 0
    out = capsys.readouterr().out
    assert re.search(r"train: read 60 samples of 2 shards in .* s \(at most 200 in 10 s\); ", out)
    assert "present: first 100%, second 50%\n" in out
    assert "train: no modality reads the field 'bb' (in 30 of 60 samples)" in out
    assert call("check", "two.toml", "--set", "data.train=raw/?.tar") == 2
    assert "modality 'first': field 'a': expected a JSON array" in capsys.readouterr().err


def test_check_says_as_json_what_is_wrong(two_spec, capsys):
    """JSON output has status 2 and every problem with its line, or status 0 and no problem."""
    assert call("check", "two.toml", "--json") == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    two_spec.write_text(
        two_spec.read_text().replace("num_joint = 3", "num_joint = 'x'").replace("\nsteps = 60", "\nstepz = 60")
    )
    assert call("check", "two.toml", "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert not found["sound"]
    assert {problem["path"] for problem in found["problems"]} == {"generate.num_joint", "train.autoencoder.stepz"}
    assert all(problem["origin"].startswith("two.toml:") for problem in found["problems"])


def test_pack_never_writes_among_other_shards(tmp_path, capsys):
    """Packing twice into one folder is refused and changes nothing."""
    out = tmp_path / "out"
    arguments = ("pack", "two-floats-made", "-", str(out), "--set", "train=3")
    assert call(*arguments) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert call(*arguments) == 2
    out_text, err = capsys.readouterr()
    assert not out_text
    assert (
        f"error: {out} already holds 2 shards, such as train-000000.tar; choose an empty folder, or remove them\n"
        in err
    )
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("two-floats-maid", "-", "out"),
            "no installed plugin offers 'two-floats-maid'; install the package that does ",
        ),
        (
            ("two-floats", "-", "out"),
            "'two-floats' is a modality (of two-floats 1.0), not a data set",
        ),
        (("two-floats-made", "-", "file"), "expected a folder for the shards, got 'file', which is a file"),
        (("two-floats-made", "-", "out", "--set", "trian=3"), "--set: trian: unknown key (did you mean 'train'?)"),
        (("two-floats-made", "-", "out", "--set", "train=3.5"), "--set: train: expected int, got float 3.5"),
        (("two-floats-made", "-", "out", "--set", "train=0"), "--set: train: expected a number of at least 1, got 0"),
        (("two-floats-made", "-", "out", "--set", "train"), "--set: expected KEY=VALUE, got 'train' (such as "),
        (("two-floats-made", "-", "out", "--shard-samples", "0"), "expected --shard-samples of at least 1, got 0"),
    ],
)
def test_a_wrong_pack_is_refused_before_anything_is_written(arguments, expected, tmp_path, monkeypatch, capsys):
    """A wrong pack gives status 2 and one message, and creates no folder."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    assert call("pack", *arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"error: {expected}")
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("source", "status"), [("raw", 0), ("-", 2), ("nowhere", 2), ("raw/a.txt", 2)])
def test_raw_files_are_asked_for_only_where_they_are_needed(source, status, tmp_path, monkeypatch, capsys):
    """A data set of recordings needs an existing folder; `-` is for one that needs none."""
    from two_floats import Made

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Made, "needs_source", True)
    Path("raw").mkdir()
    Path("raw/a.txt").touch()
    assert call("pack", "two-floats-made", source, "out") == status
    err = capsys.readouterr().err
    assert (f"expected a folder of raw files for 'two-floats-made', got {source!r}" in err) == (status == 2)


def test_pack_takes_a_file_and_keys_of_a_table(tmp_path, monkeypatch, capsys):
    """Where the data set says so, the source may be a file; an option that is a table is set whole or key by key."""
    from two_floats import Made

    @attrs.frozen(kw_only=True)
    class Options:
        columns: dict[str, str] = attrs.field(factory=dict)

    seen = []

    def samples(self, source, account):
        seen.append((source, self.options.columns))
        yield Sample(key="a", split="train", fields={"a": b"1"})

    monkeypatch.setattr(Made, "Options", Options)
    monkeypatch.setattr(Made, "samples", samples)
    monkeypatch.setattr(Made, "needs_source", True)
    monkeypatch.setattr(Made, "takes_file", True)
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").touch()
    for number, sets in enumerate((("columns={a='x', b='y'}",), ("columns.a=x", "columns.b=y"))):
        options = [part for text in sets for part in ("--set", text)]
        assert call("pack", "two-floats-made", "rows.csv", f"out{number}", *options) == 0
    assert set(map(str, seen)) == {str((Path("rows.csv"), {"a": "x", "b": "y"}))}
    capsys.readouterr()
    assert call("pack", "two-floats-made", "rows.csv", "out3", "--set", "columns=1", "--set", "columns.b=y") == 2
    assert "--set: columns.b: columns is set to a value that has no keys" in capsys.readouterr().err


def test_pack_names_the_list_of_what_it_left_out(tmp_path, monkeypatch, capsys):
    """The notes show a few examples, and the last line names the file with all of them."""
    from two_floats import Made

    samples = Made.samples

    def with_others(self, source, account):
        for number in range(7):
            account.leave_out("odd", str(number))
        return samples(self, source, account)

    monkeypatch.setattr(Made, "samples", with_others)
    monkeypatch.chdir(tmp_path)
    assert call("pack", "two-floats-made", "-", "out", "--set", "train=3") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: 7 files left out, odd: 0, 1, 2, 3, 4, ...",
        "note: out/left_out.txt lists everything left out (7)",
    ]
    assert Path("out/left_out.txt").read_text() == "".join(f"odd\t{number}\n" for number in range(7))


def test_places_that_cannot_be_written_are_one_message(two_spec, capsys):
    """A folder that cannot be created, or a file in its place, is named in one message with status 2."""
    Path("file").write_text("mine")
    cases = (
        (("pack", "two-floats-made", "-", "/proc/x/y", "--set", "train=3"), "'/proc/x", "No such file or directory"),
        (("pack", "two-floats-made", "-", "file/y", "--set", "train=3"), "'file/y'", "Not a directory"),
        (("run", str(two_spec), "--out", "/proc/x"), "'/proc/x'", "No such file or directory"),
        (("run", str(two_spec), "--out", "file/y"), "'file/y'", "Not a directory"),
    )
    for arguments, file, reason in cases:
        assert call(*arguments) == 2
        err = capsys.readouterr().err
        message = err[err.index("error: ") :]
        assert message.startswith(f"error: cannot read or write {file}")
        assert message.endswith(f": {reason}\n")
        assert "Traceback" not in err
    assert Path("file").read_text() == "mine"


def test_other_errors_keep_their_traceback(monkeypatch, capsys):
    """An OSError without a file name, or with only a file descriptor, and any bug keep their traceback."""
    from shala_framework.cli.plugins import plugins

    for error in (OSError(28, "No space left on device"), OSError(9, "Bad file descriptor", 7), KeyError("bug")):

        def fail(error=error, **_):
            raise error

        monkeypatch.setattr(plugins, "callback", fail)
        with pytest.raises(type(error)) as caught:
            main(["plugins"])
        assert caught.value is error
    assert not capsys.readouterr().err


def steps(reporter: LogProgress | TerminalProgress, count: int = 500) -> None:
    """Report one stage of training, as the loop does."""
    reporter.begin("autoencoder", 1000, done=100)
    for step in range(101, 101 + count):
        terms = {"loss": 1000 / step, "kl": 2.5, "nll first": 0.125, "gradient_norm": 3.0} if step % 10 == 0 else None
        reporter.advance(step, terms)


def test_a_log_gets_plain_lines_now_and_then(capsys):
    """A log has a line at the start and the end, no line per step and no escape codes; stdout stays empty."""
    reporter = LogProgress(interval_seconds=3600)
    steps(reporter)
    reporter.finish()
    reporter.warn("SYNTHETIC")
    out, err = capsys.readouterr()
    assert not out
    assert "\x1b" not in err
    assert "\r" not in err
    assert re.fullmatch(
        r"autoencoder: starts at 100 of 1000 steps\n"
        r"autoencoder: done, 600 steps in 0:00  loss 1\.667  kl 2\.5  nll first 0\.125\n"
        r"(!{20,})\nSYNTHETIC\n\1\n",
        err,
    )


def test_a_line_of_a_log_says_where_it_stands(capsys):
    """After the interval, a line shows stage, step and total, rate, time left and loss terms."""
    reporter = LogProgress(interval_seconds=0)
    steps(reporter, count=200)
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(
        r"autoencoder: 300/1000 steps, [\d.]+ steps/s, \d+:\d\d left  loss 3\.333  kl 2\.5  nll first 0\.125", line
    )


def screen(text: str) -> str:
    """Return the text that a terminal received, without control codes."""
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize("width", [80, 140])
def test_a_terminal_gets_one_live_line(width):
    """The line is redrawn in place with stage, step, rate, time left and loss terms; one line remains at the end."""
    file = io.StringIO()
    reporter = TerminalProgress(Console(force_terminal=True, file=file, width=width, highlight=False))
    steps(reporter)
    assert reporter.display is not None
    reporter.display.refresh()
    live = file.getvalue()
    assert "\n" not in live
    last = screen(re.split(r"\r", live)[-1])
    for part in (r"autoencoder", r"600/1000", r"[\d.]+ steps/s", r"\d+:\d\d left", r"loss 1\.667"):
        assert re.search(part, last), last
    if width >= 120:
        assert "kl 2.5  nll first 0.125" in last
    assert len(last) <= width
    reporter.finish()
    (lasting,) = [line for line in screen(file.getvalue()[len(live) :]).split("\n") if "in 0:00" in line]
    assert "autoencoder: 600 steps in 0:00  loss 1.667  kl 2.5  nll first 0.125" in lasting


def test_an_error_leaves_no_live_line_behind(tmp_path, monkeypatch, capsys):
    """A verb that fails removes its live line and shows the cursor before the message."""
    file = io.StringIO()
    console = Console(force_terminal=True, file=file, width=100)
    monkeypatch.setattr("shala_framework.cli.progress_display.make_reporter", lambda: TerminalProgress(console))
    (tmp_path / "old.tar").touch()
    assert call("pack", "two-floats-made", "-", str(tmp_path)) == 2
    assert "already holds 1 shards" in capsys.readouterr().err
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert file.getvalue().count(hidden) == file.getvalue().count(shown) == 1


def test_the_display_follows_from_where_standard_error_goes(monkeypatch):
    """Progress is a live line on a terminal and plain lines in a file or a pipe."""
    assert isinstance(make_reporter(), LogProgress)
    monkeypatch.setattr(progress_display, "Console", lambda **_: Console(force_terminal=True, file=io.StringIO()))
    assert isinstance(make_reporter(), TerminalProgress)
