"""Exchanges between processes: what ends a wait for another one, which waits may be long, and work that they share."""

import json
from pathlib import Path

import pytest
from forked import ForkedGroup, run_script
from small_runs import run

pytestmark = pytest.mark.long

LOST = """\
import datetime, os, signal, sys, time
from pathlib import Path
import torch
from shala_framework.data.rows import Rows
from shala_framework.run.passing import read_by_first
from shala_framework.support.distributed import processes

signal_name, seconds = sys.argv[1], float(sys.argv[2])
processes.TIMEOUT = datetime.timedelta(seconds=seconds)
Path("ready" + os.environ["RANK"]).touch()
while not (Path("ready0").exists() and Path("ready1").exists()):  # imports take long on a busy machine
    time.sleep(0.02)
processes.join(torch.device("cpu"))
first = processes.rank() == 0
try:
    with processes.naming_lost_process():
        with processes.first_before_others():
            time.sleep(1.2 * seconds if first and signal_name == "SIGSTOP" else 0)
        assert processes.any_process([first, False]) == [True, False]
        assert processes.largest(float(processes.rank())) == 1.0
        assert processes.mean_of({"a": torch.tensor(float(processes.rank()))})["a"] == 0.5
        made = Rows(x={"a": torch.ones(2, 3)}, presence=torch.eye(2, 1).bool(), keys=("k", "l"), labels=("b", None))
        rows = read_by_first(lambda: made if first else 1 / 0)
        assert torch.equal(rows.x["a"], made.x["a"]) and torch.equal(rows.presence, made.presence)
        assert (rows.keys, rows.labels) == (made.keys, made.labels)
        sent = {"a": torch.arange(6).view(2, 3) > 2, "b": torch.ones(()), "c": torch.ones(0, 2)}
        found = processes.tensors_from(None if first else sent, 1)
        assert all(torch.equal(found.pop(name), value) for name, value in sent.items()) and not found
        print("exchanged", flush=True)
        if not first:
            os.kill(os.getpid(), getattr(signal, signal_name))
        processes.largest(0.0)
except processes.ProcessError as error:
    print(error)
finally:
    processes.leave()
"""
SHARED = """\
import sys
from shala_framework.cli.main import dispatch
from shala_framework.evaluation.parts import Parts

own_value, names = Parts.own_value, []


def recorded(self, part):
    names.append(part.name)
    return own_value(self, part)


Parts.own_value = recorded
status = dispatch(sys.argv[1:], "shala-run")
print("\\nparts", *names, sep="|")
sys.exit(status)
"""


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Start a script in two processes that form a group; kill those that still run at the end."""
    monkeypatch.chdir(tmp_path)
    started = []

    def start(script, *arguments):
        path = tmp_path / "pair.py"
        path.write_text(script)
        started.append(ForkedGroup(2, run_script, path, arguments))
        return started[-1]

    yield start
    for group in started:
        group.kill()


@pytest.mark.parametrize(
    ("signal_name", "seconds", "says"),
    [("SIGKILL", 600, "lost another one"), ("SIGSTOP", 4, "hangs or cannot be reached")],
)
def test_a_process_that_ends_or_hangs_ends_the_others(pair, signal_name, seconds, says):
    """One that ends is noticed at once, one that hangs after the timeout, although barriers wait for longer."""
    group = pair(LOST, signal_name, str(seconds))
    group.processes[0].join(300)
    output = group.outputs[0].read_text()
    assert output.startswith("exchanged\nprocess 0 of 2 "), output
    assert says in output


TIMED = ("milliseconds", "run", "checksum")


def without_times(value):
    """Figures without those that measure time, the name of the run, and the checksum of all."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMED}
    return list(map(without_times, value)) if isinstance(value, list) else value


def test_two_processes_write_the_samples_and_figures_of_one(pair, finished_run, two_spec):
    """Each file of samples is the same to the last bit, and so are all figures, of which each process computes half."""
    overrides = ("evaluate.at_end=true", "evaluate.suite=multimodal-vae")
    finished_run("alone"), finished_run("both")
    run(two_spec, "alone", *overrides)
    for file in Path("both/samples").rglob("*.*"):
        file.unlink()
    sets = [text for override in overrides for text in ("--set", override)]
    group = pair(SHARED, str(two_spec), "--out", "both", *sets)
    group.wait(300)
    first, second = (path.read_text().splitlines()[-1].split("|")[1:] for path in group.outputs)
    assert not set(first) & set(second)
    assert len(first) > 10 <= len(second)
    files = [
        {path.relative_to(out): path.read_bytes() for path in Path(out, "samples").rglob("*.*")}
        for out in ("alone", "both")
    ]
    assert len(files[0]) == 20
    assert files[0] == files[1]
    alone, both = (json.loads(Path(out, "evaluation/validation.json").read_text()) for out in ("alone", "both"))
    assert without_times(both) == without_times(alone)
