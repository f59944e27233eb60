"""Kills, damage and full disks cost a run or a pack nothing, or give a message."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from small_runs import StopAt, run
from two_floats import Made, MadeOptions

from shala_framework import CheckpointError, load
from shala_framework.data import writing
from shala_framework.data.identity import compare_shards, describe_shards
from shala_framework.data.packing import pack
from shala_framework.data.shard_index import write_index
from shala_framework.support.checkpoint import read_checkpoint, write_checkpoint
from shala_framework.support.progress import Silent
from shala_framework.training.metrics import MetricsFile

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
CHECKPOINTS = ("autoencoder.safetensors", "prior.safetensors")


class Told(Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def flip(path, place=-5):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def same(one, other):
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in CHECKPOINTS)


OFTEN = "train.prior.save_every_steps=10"


@pytest.fixture(scope="module")
def copied_run(tmp_path_factory, two_spec_text):
    """Return a function that copies a run, finished or stopped after a step of a stage, which is made only once."""
    home = tmp_path_factory.mktemp("runs")
    spec = home / "two.toml"
    spec.write_text(two_spec_text)

    def copied(stage: str, step: int, to: str) -> Path:
        made = home / f"{stage}-{step}"
        if not made.exists():
            with pytest.raises(KeyboardInterrupt) if stage else nullcontext():
                run(spec, str(made), OFTEN, reporter=StopAt(stage, step))
        return Path(shutil.copytree(made, to))

    return copied


@pytest.mark.parametrize("campaign", ["kills", "damage", "disk", "specs", "media", "server"])
def test_small_campaigns_find_nothing(campaign):
    """A few kills, damaged files, full disks, mutated specs and media, and odd servers give a result or a message."""
    trials = {"kills": 3, "damage": 24, "disk": 2, "specs": 900, "media": 500, "server": 40}[campaign]
    line = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), campaign, "--trials", str(trials), "--seed", "11"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| all | {trials} |" in done.stdout


@pytest.mark.parametrize("left", ["spec.json.partial", ".lock"])
def test_what_a_kill_at_the_very_beginning_leaves_blocks_nothing(two_spec, left):
    """A partial spec.json or a lock file without a run does not prevent a new run."""
    folder = Path("r")
    folder.mkdir()
    (folder / left).write_bytes(b'{"ch')
    run(two_spec, "r")
    assert (folder / CHECKPOINTS[1]).exists()
    assert not list(folder.rglob("*partial"))


def test_every_file_of_tensors_knows_its_content_and_its_run(two_spec, finished_run):
    """Flipped bits anywhere, and another run's files of the same shapes, are named errors wherever they are read."""
    folder, other = finished_run("r"), run(two_spec, "other", "seed=1")
    files = [*folder.glob("*.safetensors"), *folder.glob("state/**/*.safetensors")]
    assert len(files) == 7
    for path in files:
        content = path.read_bytes()
        tensors, description = read_checkpoint(path)
        assert description["fingerprint"].startswith(load(folder).fingerprint)
        for place in (0, 9, 30, 60, 80, 200, len(content) // 2, len(content) - 1):
            flip(path, place)
            with pytest.raises(CheckpointError, match="is damaged"):
                read_checkpoint(path)
            path.write_bytes(content)
        write_checkpoint(path, tensors, description)
        assert path.read_bytes() == content  # equal content, equal bytes
    for name in CHECKPOINTS:
        content = (folder / name).read_bytes()
        shutil.copy(other / name, folder / name)
        with pytest.raises(CheckpointError, match="belongs to another run"):
            load(folder)
        with pytest.raises(CheckpointError, match="belongs to another run"):
            run(two_spec, "r")
        (folder / name).write_bytes(content)
    load(folder)


def test_a_prior_of_another_stage_1_of_the_same_spec_is_refused(two_spec, tmp_path):
    """If shards were packed again, the spec's fingerprint is the same, but the weights differ and are refused."""
    for name, options in (("one", MadeOptions(train=60)), ("two", MadeOptions(train=61))):
        pack(Made(options), None, tmp_path / "shards")
        run(two_spec, name, f'data.train="{tmp_path}/shards/train-*.tar"')
        shutil.rmtree(tmp_path / "shards")
    shutil.copy("two/prior.safetensors", "one/prior.safetensors")
    with pytest.raises(CheckpointError, match=r"was trained on another stage 1 than autoencoder\.safetensors beside"):
        load("one")


@pytest.mark.parametrize(
    ("stage", "step", "damaged"),
    [
        ("autoencoder", 45, "state/autoencoder.safetensors"),
        ("autoencoder", 45, "state/modalities.json"),
        ("autoencoder", 45, "spec.json"),
        ("prior", 25, "state/prior.safetensors"),
        ("prior", 5, "state/latents/0-of-1/000000.safetensors"),
        ("prior", 5, "state/latents/latents.json"),
        ("prior", 25, "autoencoder.safetensors"),
        ("prior", 25, "metrics.jsonl"),
        ("", 0, "prior.safetensors"),
        ("", 0, "autoencoder.safetensors"),
        ("", 0, "evaluation/validation.json"),
        ("", 0, "state/latents/latents.json"),
        ("", 0, "state/shards.json"),
    ],
)
@pytest.mark.parametrize("how", ["flipped", "empty"])
def test_a_damaged_file_is_replaced_and_the_run_ends_as_if_undamaged(two_spec, copied_run, stage, step, damaged, how):
    """A damaged file is replaced by the previous generation or recreated, with a warning and with equal results."""
    whole, cut = copied_run("", 0, "whole"), copied_run(stage, step, "cut")
    if not stage:
        (cut / "evaluation").mkdir()
        (cut / "evaluation" / "validation.json").write_text("{}")
    path = cut / damaged
    if how == "empty":
        path.write_bytes(b"")
    else:
        flip(path, len(path.read_bytes()) // 2)
    told = Told()
    run(two_spec, "cut", OFTEN, reporter=told)
    assert same(whole, cut)
    assert any("damaged" in text and path.name in text for text in told.warnings), told.warnings


def test_both_generations_damaged_is_an_error_that_says_what_to_do(two_spec):
    """Training starts from the beginning only if the user requests it."""
    with pytest.raises(KeyboardInterrupt):
        run(two_spec, "r", reporter=StopAt("autoencoder", 45))
    for path in Path("r/state").glob("autoencoder*"):
        flip(path)
    with pytest.raises(CheckpointError, match=r"(?s)is damaged.*is damaged.*restore the file, or remove"):
        run(two_spec, "r")


def test_a_damaged_spec_of_another_run_is_not_overwritten(two_spec, finished_run):
    """A damaged spec is rewritten only if every state in the folder belongs to the given spec."""
    folder = finished_run("r")
    (folder / "spec.json").write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"spec\.json is damaged.*choose another --out"):
        run(two_spec, "r", "posterior.latent_dim=5")
    assert (folder / "spec.json").read_bytes() == b"{"


def test_metrics_survive_a_power_loss(tmp_path):
    """A truncated last line stays separate from appended ones, and missing lines that a state knows are reported."""
    told = []
    metrics = MetricsFile(tmp_path / "m.jsonl", warn=told.append)
    for step in (1, 2, 3):
        metrics.write("a", step, {"loss": 1.0})
    content = metrics.path.read_bytes()
    metrics.path.write_bytes(content[:-20])
    again = MetricsFile(tmp_path / "m.jsonl", warn=told.append)
    again.write("summary", 0, {})
    again.rewind("a", 3, 3)
    assert [json.loads(line)["stage"] for line in metrics.path.read_text().splitlines()] == ["a", "a", "summary"]
    assert "1 of 4 lines are damaged" in told[0]
    assert "1 of the first 3 lines of stage a are gone" in told[1]


def test_shards_that_were_packed_again_are_recognised(two_spec, tmp_path):
    """Changed shards are refused in training and give a warning after it, also without an index and at equal sizes."""
    shards = tmp_path / "shards"
    train = f'data.train="{shards}/train-*.tar"'

    def packed(missing):
        shutil.rmtree(shards, ignore_errors=True)
        pack(Made(MadeOptions(train=60, missing=missing)), None, shards)

    packed(0.0)
    with pytest.raises(KeyboardInterrupt):
        run(two_spec, "r", train, reporter=StopAt("prior", 5))
    packed(0.3)
    with pytest.raises(
        CheckpointError, match=r"train-000000\.tar: 60 samples in \d+ bytes before, 60 samples in \d+ b"
    ):
        run(two_spec, "r", train)
    packed(0.0)
    told = Told()
    run(two_spec, "r", train, reporter=told)
    assert not [text for text in told.warnings if "shards" in text]
    told = Told()
    packed(0.3)
    run(two_spec, "r", train, reporter=told)
    assert any("these are not the shards that r began with" in text for text in told.warnings)
    packed(0.0)
    urls = [str(shards / "train-000000.tar")]
    before = describe_shards(urls)
    content = bytearray(Path(urls[0]).read_bytes())
    place = content.index(b"[", 512) + 1
    content[place : place + 1] = b"4"
    Path(urls[0]).write_bytes(content)
    write_index(shards)
    changed = describe_shards(urls)
    assert compare_shards(before, changed) == ["train-000000.tar: same size, different content"]
    for path in shards.glob("*.json"):
        path.unlink()
    bare = describe_shards(urls)
    assert compare_shards(changed, bare) == []  # the same shards without their index
    content[place : place + 1] = b"5"
    Path(urls[0]).write_bytes(content)
    assert compare_shards(bare, describe_shards(urls)) == ["train-000000.tar: same size, different content"]
    assert "a.tar before, train-000000.tar now" in compare_shards([{"name": "a.tar"}], bare)[0]


def test_a_killed_reader_ends_a_run_with_its_state_saved(two_spec, command_environment):
    """A killed reader ends the run within seconds with status 2 and one message; the next call gives the same bytes."""
    sets = ("data.in_memory=false", "data.num_workers=2", "train.autoencoder.steps=300")
    whole = run(two_spec, "whole", *sets)
    code = "from shala_framework.cli.main import main_run\nif __name__ == '__main__': main_run()"
    Path("go.py").write_text(code)
    line = [sys.executable, "go.py", "two.toml", "--out", "cut", *(x for s in sets for x in ("--set", s))]
    process = subprocess.Popen(line, env=command_environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not Path("cut/metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    readers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(readers[1]), signal.SIGKILL)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 2, said
    assert "Traceback" not in said
    assert "that reads the data was killed by SIGKILL (exit code -9)" in said
    assert read_checkpoint(Path("cut/state/autoencoder.safetensors"))[1]["step"] > 0
    assert same(whole, run(two_spec, "cut", *sets))


def test_a_stopped_pack_takes_no_shard_for_another(tmp_path, monkeypatch):
    """An index that belongs to another shard of equal size is rejected, and the shard is written again."""

    def packed(name):
        return pack(Made(MadeOptions(train=60)), None, tmp_path / name, shard_samples=20)

    packed("whole")
    with monkeypatch.context() as patch:

        def stopped(*_):
            raise KeyboardInterrupt

        patch.setattr(writing, "write_summary", stopped)
        with pytest.raises(KeyboardInterrupt):
            packed("cut")
    one, other = (tmp_path / "cut" / f"train-00000{number}.index.json" for number in (0, 1))
    sizes = {json.loads(path.read_text())["num_bytes"] for path in (one, other)}
    assert len(sizes) == 1
    shutil.copy(one, other)
    packed("cut")
    contents = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("whole", "cut")]
    assert contents[0] == contents[1]


def test_a_state_of_other_networks_is_an_error(two_spec, monkeypatch):
    """A state from another version of a plugin is refused with the difference, and nothing is loaded."""
    with pytest.raises(KeyboardInterrupt):
        run(two_spec, "r", reporter=StopAt("autoencoder", 45))
    path = Path("r/state/autoencoder.safetensors")
    tensors, description = read_checkpoint(path)
    name = next(name for name in tensors if name.startswith("module."))
    write_checkpoint(path, {**tensors, name: torch.zeros(7)}, description)
    with pytest.raises(CheckpointError, match="another version of the framework or its plugins wrote the saved state"):
        run(two_spec, "r")
