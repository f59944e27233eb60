"""Training in two processes under torchrun takes the same steps as in one, and no process is left waiting."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from forked import LEAST_VALUES, ForkedGroup, train_and_tell_of_timed_steps, train_with_small_layers_sharded
from small_runs import StopAt, decided_steps, run

from shala_framework import load
from shala_framework.plugin import Normal
from shala_framework.support.checkpoint import read_checkpoint
from shala_framework.support.distributed import sharded_layers
from shala_framework.training.plan import TrainingPlan

pytestmark = pytest.mark.long

RUNNER = """\
import sys
from forked import train_with_small_layers_sharded
if __name__ == "__main__":  # worker processes import this file
    train_with_small_layers_sharded(sys.argv[1:])
"""


def arguments_of(out, overrides):
    return ["two.toml", "--out", out, *(text for override in overrides for text in ("--set", override))]


@pytest.fixture
def launch(two_spec, command_environment, tmp_path):
    """Start `shala-run two.toml` in several processes by torchrun; kill those that still run at the end."""
    (tmp_path / "run.py").write_text(RUNNER)
    started = []

    def launch(processes, out, *overrides):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        line = [sys.executable, *launcher, "run.py", *arguments_of(out, overrides)]
        started.append(
            subprocess.Popen(
                line, env=command_environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,
            )
        )  # fmt: skip
        return started[-1]

    yield launch
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def start(two_spec):
    """Start the same without the launcher and its imports."""
    started = []

    def start(processes, out, *overrides):
        started.append(ForkedGroup(processes, train_with_small_layers_sharded, arguments_of(out, overrides)))
        return started[-1]

    yield start
    for group in started:
        group.kill()


@pytest.fixture
def run_alone(two_spec, monkeypatch):
    """Run the spec as `start` does with one process, but in this one."""
    monkeypatch.setattr(sharded_layers, "LEAST_VALUES", LEAST_VALUES)
    return partial(run, two_spec)


def metrics_of(folder, stage):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == stage]


def losses(folder, stage):
    return [line["loss"] for line in metrics_of(folder, stage) if "loss" in line]


def held_out_figures(folder, stage):
    return [
        value for line in metrics_of(folder, stage) for name, value in line.items() if name.startswith("validation_")
    ]


EVERY_STEP = ("train.autoencoder.log_every_steps=1", "train.prior.log_every_steps=1", "train.prior.batch_size=64")


@pytest.mark.parametrize(("count", "plugin"), [(4, "convolved-floats"), (2, "varied-floats")])
def test_several_processes_take_the_steps_of_one(start, run_alone, two_spec, count, plugin):
    """Losses of both stages, with contrast and texture over all rows, and final weights agree to 1e-5."""
    two_spec.write_text(two_spec.read_text().replace('"two-floats"', f'"{plugin}"'))
    run_alone("alone", *EVERY_STEP)
    output = start(count, "both", *EVERY_STEP).wait(timeout=120)
    expect_the_same_run(output, count)


ADVERSARIAL = ("refine.method=adversarial", "train.refiner.optimizer=adamw", "train.refiner.learning_rate=1e-3")


@pytest.mark.parametrize(
    ("plugin", "changes"), [("refined-floats", ()), ("correlated-floats", ()), ("correlated-floats", ADVERSARIAL)]
)
def test_several_processes_refine_as_one(start, run_alone, two_spec, plugin, changes):
    """Units, directions of residuals that some rows lack, losses with texture, and weights of stage 3 agree."""
    two_spec.write_text(two_spec.read_text().replace('"two-floats"', f'"{plugin}"'))
    overrides = (*EVERY_STEP, "train.refiner.steps=10", "train.refiner.log_every_steps=1", "refine.texture_weight=1")
    overrides += changes
    run_alone("alone", *overrides)
    start(2, "both", *overrides).wait(timeout=120)
    assert losses("both", "refiner") == pytest.approx(losses("alone", "refiner"), abs=1e-5, rel=1e-4)
    assert held_out_figures("both", "refiner") == pytest.approx(held_out_figures("alone", "refiner"), rel=1e-3)
    lines = metrics_of("both", "refiner")
    textures = [value for line in lines for name, value in line.items() if name.split("/")[0] == "texture"]
    assert (max(textures, default=0) > 0) == (plugin == "correlated-floats")  # those with a convolution
    alone, both = (load(out).refiner for out in ("alone", "both"))
    assert alone.linear_filters.keys() == both.linear_filters.keys()
    torch.testing.assert_close(both.spread, alone.spread)
    residual = alone.residual("first", Normal(torch.randn(40, 2), torch.zeros(())))
    u, sigma, z = torch.randn(40, 2), torch.rand(40), torch.randn(40, alone.latent_dim)
    torch.testing.assert_close(
        both.denoise("first", residual, u, sigma, z), alone.denoise("first", residual, u, sigma, z), atol=1e-3, rtol=0
    )


def test_torchrun_starts_processes_that_take_the_steps_of_one(launch, run_alone):
    """The same of a stream, under the real launcher."""
    overrides = ("data.in_memory=false", *EVERY_STEP)
    run_alone("alone", *overrides)
    process = launch(2, "both", *overrides)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    expect_the_same_run(output, 2)


def expect_the_same_run(output, num_processes):
    """Compare the run in the folder both, of several processes, with that in the folder alone."""
    assert output.count("look at") == 1  # only one process writes messages
    for stage, num_steps in (("autoencoder", 60), ("prior", 40)):
        alone, both = losses("alone", stage), losses("both", stage)
        assert len(alone) == len(both) == num_steps
        assert both == pytest.approx(alone, abs=1e-5, rel=1e-5)
        assert held_out_figures("both", stage) == pytest.approx(held_out_figures("alone", stage), rel=1e-3)
    alone, both = (read_checkpoint(Path(out) / "prior.safetensors")[0] for out in ("alone", "both"))
    assert all(both[name].allclose(value, atol=1e-3, rtol=1e-3) for name, value in alone.items())
    stored = [path.name for path in Path("both").rglob("*-of-*")]
    assert stored == [f"0-of-{num_processes}"]  # the latents, of which the first process keeps those of all


@pytest.mark.parametrize("share", [False, True])
def test_sharded_decoders_train_like_replicated_ones(start, run_alone, two_spec, share):
    """Two processes that hold half of each layer take the same steps as one, which can resume from their state."""
    # Latents wide enough for Muon to take the decoders' first layers.
    overrides = (*EVERY_STEP, "train.sharding='decoders'", "posterior.latent_dim=16")
    if share:
        text = two_spec.read_text()
        head, tail = text[: text.index("[modality.")], text[text.index("[posterior]") :]
        group = '[modality."{a,b}"]\nplugin = "two-floats"\noptions = { field = "{a,b}" }\nshare = true\n\n'
        two_spec.write_text(head + group + tail)
    run_alone("alone", *overrides)
    output = start(2, "both", *overrides).wait(timeout=120)
    assert f"{2 if share else 4} layers of decoders are sharded over 2 processes" in output
    for stage in ("autoencoder", "prior"):
        assert losses("both", stage) == pytest.approx(losses("alone", stage), abs=1e-5, rel=1e-5)
    alone, both = (read_checkpoint(Path(out) / "autoencoder.safetensors")[0] for out in ("alone", "both"))
    assert alone.keys() == both.keys()
    assert all(both[name].allclose(value, atol=1e-3, rtol=1e-3) for name, value in alone.items())
    group = start(2, "r", *overrides, *LONG)
    wait_for_step("r", 45)
    group.terminate()
    output = group.wait(timeout=30, failing=True)
    assert "stopped after step" in output
    step = int(output.split("stopped after step ")[1].split()[0]) // 5 * 5 + 5
    with pytest.raises(KeyboardInterrupt):
        run_alone("r", *overrides, *LONG, reporter=StopAt("autoencoder", step + 1))
    assert f'"step": {step},' in Path("r/metrics.jsonl").read_text()


@pytest.mark.parametrize("sharding", ["none", "decoders"])
def test_processes_keep_the_weights_that_one_keeps(start, run_alone, two_spec, sharding):
    """Where stage 1 memorises its rows, all processes keep the same best weights, sharded or not, also when resumed."""
    overrides = (
        *(f"train.sharding='{sharding}'", "data.stand_in.options={train=8, validation=64}"),
        *("train.autoencoder.steps=150", "train.autoencoder.save_every_steps=10", "train.prior.steps=2"),
    )
    run_alone("alone", *overrides)
    output = start(2, "both", *overrides).wait(timeout=120)
    alone, both = (read_checkpoint(Path(out) / "autoencoder.safetensors")[0] for out in ("alone", "both"))
    step = int(output.split("stage autoencoder: the loss of held-out rows was lowest")[1].split(" step ")[1].split()[0])
    assert f"the weights of step {step} are kept" in output
    assert 10 < step < 140
    assert all(both[name].allclose(value, atol=1e-3, rtol=1e-3) for name, value in alone.items())
    Path("both/autoencoder.safetensors").unlink()
    Path("both/prior.safetensors").unlink()
    output = start(2, "both", *overrides).wait(timeout=120)  # from the state of stage 1, which is complete
    assert f"the weights of step {step} are kept" in output
    resumed, _ = read_checkpoint(Path("both/autoencoder.safetensors"))
    assert all(torch.equal(value, both[name]) for name, value in resumed.items())


def test_a_time_budget_counts_the_exchange_of_gradients(start, two_spec):
    """Timed steps of two processes exchange gradients and leave nothing behind: training equals that of these steps."""
    size = ("train.autoencoder.batch_size=16", "train.prior.batch_size=64", "prior.max_clusters=3")
    group = ForkedGroup(2, train_and_tell_of_timed_steps, arguments_of("timed", ("train.minutes=0.1", *size)))
    try:
        output = group.wait(timeout=120)
    finally:
        group.kill()
    for stage in ("autoencoder", "prior"):
        told = re.findall(rf"timed {stage}: (\d+) exchanges, (\d+) left", output)
        assert len(told) == 2
        assert told[0] == told[1]
        assert int(told[0][0]) >= 3
        assert told[0][1] == "0"
    plan = TrainingPlan.read(Path("timed/state"))
    assert plan.steps["prior"] > 1
    start(2, "told", *decided_steps(Path("timed")), *size).wait(timeout=120)
    for name in ("autoencoder.safetensors", "prior.safetensors"):
        timed, told = (read_checkpoint(Path(out) / name)[0] for out in ("timed", "told"))
        assert all(torch.equal(value, told[key]) for key, value in timed.items())


def wait_for_step(folder, step):
    """Wait until a run has logged a step."""
    path = Path(folder) / "metrics.jsonl"
    deadline = time.monotonic() + 180
    while not (path.exists() and f'"step": {step},' in path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


LONG = ("train.autoencoder.steps=700", "train.autoencoder.log_every_steps=5", "generate.num_rows=0")


def test_a_killed_process_ends_the_other_and_one_resumes_alone(launch, run_alone):
    """The launcher stops within 30 s of the kill; a single process resumes from the last saved state."""
    both = launch(2, "r", *LONG)
    wait_for_step("r", 45)
    children = subprocess.run(["pgrep", "-P", str(both.pid)], capture_output=True, text=True, check=True).stdout.split()
    killed = time.monotonic()
    os.kill(int(children[-1]), signal.SIGKILL)
    both.communicate(timeout=30)
    assert both.returncode != 0
    assert time.monotonic() - killed < 30
    run_alone("r", *LONG)
    steps = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    logged = [line["step"] for line in steps if line["stage"] == "autoencoder" and "loss" in line]
    assert logged == list(range(5, 701, 5))


def test_asked_to_stop_both_leave_with_their_state_saved(launch):
    """After SIGTERM to the launcher, a line says how to resume, and the next call continues at the same step."""
    # The workers get the signal too, because torchrun passes it on to whole process groups.
    both = launch(2, "r", *LONG, "data.in_memory=false", "data.num_workers=1")
    wait_for_step("r", 45)
    both.terminate()
    output, _ = both.communicate(timeout=30)
    assert "stopped after step" in output
    step = int(output.split("stopped after step ")[1].split()[0])
    _, description = read_checkpoint(Path("r/state/autoencoder.safetensors"))
    assert description["step"] == step


def test_rows_that_cannot_be_shared_are_an_error(launch):
    """A batch of 63 rows for two processes is refused before training."""
    process = launch(2, "r", "train.autoencoder.batch_size=63")
    output, _ = process.communicate(timeout=60)
    assert "train.autoencoder.batch_size: expected a multiple of 2, got 63 (2 processes share it)" in output
