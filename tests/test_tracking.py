"""Trackers receive the content of metrics.jsonl, and none of their failures ends a run."""

import json
from pathlib import Path

import pytest

from shala_framework import load
from shala_framework.cli.main import main_run

pytestmark = pytest.mark.long

CODE = """
import json
from pathlib import Path
import attrs
from shala_framework.plugin import Tracker, hookimpl

@attrs.frozen(kw_only=True)
class Options:
    fail_at: int = -1

class Told(Tracker):
    Options = Options

    def write(self, *entry):
        with (Path(self.run.folder) / "told.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\\n")

    def resume(self, stage, step):
        self.write("resume", stage, step)

    def log(self, stage, step, figures):
        if step == self.options.fail_at:
            raise ConnectionError("no network at night")
        self.write(stage, step, dict(figures))

    def results(self, files):
        self.write("results", *[str(file.relative_to(self.run.folder)) for file in files if file.is_file()])

    def close(self):
        self.write("close")

@hookimpl
def shala_register_trackers(register):
    register("told", Told)
"""
EVERY = ("--set", "train.autoencoder.log_every_steps=20", "--set", "train.prior.log_every_steps=20")


@pytest.fixture
def told(install_distribution):
    """Install a distribution with a tracker that records what it receives."""
    install_distribution("acme-told", CODE, ["told"])


def status(*arguments):
    with pytest.raises(SystemExit) as leaving:
        main_run(list(arguments))
    return leaving.value.code


def entries():
    return [json.loads(line) for line in Path("runs/two/told.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("told")
def test_trackers_receive_the_content_of_metrics(two_spec):
    assert status(str(two_spec), *EVERY, "--set", "track.told.options={}") == 0
    found = entries()
    assert [entry for entry in found if entry[0] in ("resume", "close")] == [
        ["resume", "autoencoder", 0],
        ["resume", "prior", 0],
        ["close"],
    ]
    kind, *files = found[-2]
    assert kind == "results"
    assert files[:2] == ["report.html", "README.md"]
    assert any(file.startswith("samples/") and file.endswith(".png") for file in files)
    metrics = [json.loads(line) for line in Path("runs/two/metrics.jsonl").read_text().splitlines()]
    for line in metrics:
        del line["crc32"]  # added by the file
    expected = [[m.pop("stage"), m.pop("step"), m] for m in metrics if m["stage"] != "summary"]
    assert [entry for entry in found if entry[0] in ("autoencoder", "prior")] == expected
    assert len(expected) > 5


@pytest.mark.usefixtures("told")
def test_a_tracker_that_fails_is_left_out_and_training_ends(two_spec, capsys):
    assert status(str(two_spec), *EVERY, "--set", "track.told.options.fail_at=40") == 0
    err = capsys.readouterr().err
    assert err.count("the tracker Told failed and is left out: ConnectionError: no network at night") == 1
    assert [entry[:2] for entry in entries()] == [["resume", "autoencoder"], *[["autoencoder", 20]] * 2]
    assert Path("runs/two/prior.safetensors").exists()


@pytest.mark.usefixtures("told")
def test_a_run_loads_where_its_tracker_is_not_installed(two_spec, monkeypatch):
    assert status(str(two_spec), "--set", "track.told.options={}") == 0
    monkeypatch.undo()
    monkeypatch.chdir(two_spec.parent)
    assert load(Path("runs/two")).generate(1)


def test_an_unknown_tracker_is_an_error_at_its_line(two_spec, capsys):
    two_spec.write_text(two_spec.read_text() + "\n[track.tolt]\n")
    assert status(str(two_spec)) == 2
    assert "track.tolt: no installed plugin offers 'tolt'" in capsys.readouterr().err
