"""Learning-rate schedules against closed forms, and runs that began before the keys existed."""

import json
import math
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import safetensors.torch
from small_runs import CHECKPOINTS, StopAt, run, without_rates

from shala_framework import CheckpointError
from shala_framework.run.experiment import Experiment
from shala_framework.spec import read_spec, unstructure
from shala_framework.spec.fingerprint import run_fingerprint
from shala_framework.spec.later_keys import without_later_keys
from shala_framework.spec.stages import DECAY_SHARES, AutoencoderStage, PriorStage, RefinerStage, Stage
from shala_framework.support.json_files import dump_json
from shala_framework.training.budget import resized
from shala_framework.training.schedules import SCHEDULES, learning_rate_factor

NEW_KEYS = ("schedule", "decay_share")


def factors(stage=Stage, **settings):
    """The factor of every step of a stage with 1,000 steps, of which 100 are warm-up."""
    made = stage(steps=1_000, warmup_steps=100, **settings)
    return [learning_rate_factor(made, step) for step in range(made.steps)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_warms_up_linearly_and_reaches_its_peak(name):
    """The first steps are those of a straight line; the peak is the learning rate itself."""
    found = factors(schedule=name)
    assert found[:99] == pytest.approx([(step + 1) / 101 for step in range(99)])
    assert found[100] == max(found) == 1.0
    assert found == sorted(found[:100]) + sorted(found[100:], reverse=True)
    assert min(found) > 0


def test_the_cosine_is_the_default_and_has_the_same_bits_as_before():
    """All stages without the key have exactly the learning rates of a warm-up times half a period of a cosine."""
    before = [
        min(1.0, (step + 1) / 101) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, (step - 100) / 900))))
        for step in range(1_000)
    ]
    for stage in (AutoencoderStage, PriorStage, RefinerStage):
        assert factors(stage) == before
    assert before[550] == pytest.approx(0.5)


def test_other_schedules_have_their_closed_forms():
    """At steps inside each part, with the default and with a chosen share of decay."""
    assert [factors(schedule="linear")[step] for step in (325, 550, 999)] == pytest.approx([0.75, 0.5, 1 / 900])
    assert set(factors(schedule="constant")[100:]) == {1.0}
    trapezoid = factors(schedule="trapezoid")
    assert [trapezoid[step] for step in (800, 850, 900, 999)] == pytest.approx([1.0, 0.75, 0.5, 1 / 200])
    assert factors(schedule="trapezoid", decay_share=0.5)[750] == pytest.approx(0.5)
    root = factors(schedule="inverse-sqrt", decay_share=0.75)
    assert [root[step] for step in (250, 500, 999)] == pytest.approx([1.0, 0.5**0.5, (250 / 999) ** 0.5])
    # With a share of 1, it falls from the end of the warm-up on, as that of the Transformer does.
    assert factors(schedule="inverse-sqrt", decay_share=1.0)[400] == pytest.approx(0.5)


def test_names_in_the_spec_are_those_of_the_functions():
    """A name that the schema accepts has a schedule, and the other way round."""
    assert get_args(get_type_hints(Stage)["schedule"]) == tuple(SCHEDULES)
    assert set(DECAY_SHARES) <= set(SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_time_limit_keeps_the_form(name):
    """A stage whose number of steps follows from train.minutes has the same factor at the same share of its steps."""
    long = Stage(steps=1_000, warmup_steps=100, schedule=name)
    short = resized(long, 100)
    for step in range(10, 100):
        assert learning_rate_factor(short, step) == pytest.approx(learning_rate_factor(long, 10 * step))


@pytest.mark.long
def test_a_stopped_run_resumes_on_its_schedule(two_spec):
    """A run with another schedule in each stage ends with the same bytes if it is stopped in its decay."""
    chosen = ["train.autoencoder.schedule=trapezoid", "train.prior.schedule=inverse-sqrt"]
    whole = run(two_spec, "whole", *chosen)
    with pytest.raises(KeyboardInterrupt):
        Experiment(read_spec(two_spec, chosen), Path("cut"), StopAt("autoencoder", 55)).run()
    cut = run(two_spec, "cut", *chosen)
    for name in CHECKPOINTS:
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    assert without_rates(whole) == without_rates(cut)
    plain = run(two_spec, "plain")
    assert (plain / CHECKPOINTS[0]).read_bytes() != (whole / CHECKPOINTS[0]).read_bytes()


def without_new_keys(folder):
    """Rewrite a run's folder as a version without the keys would have left it."""
    path = folder / "spec.json"
    saved = json.loads(path.read_text())
    before = run_fingerprint(saved)
    for stage in ("autoencoder", "prior", "refiner"):
        for key in NEW_KEYS:
            del saved["spec"]["train"][stage][key]
    assert run_fingerprint(saved) == before  # the hash of a version that did not know the keys
    del saved["checksum"]
    path.write_bytes(dump_json(saved, indent=2))


@pytest.mark.long
def test_a_run_that_began_before_the_key_existed_resumes_as_cosine(two_spec):
    """Its folder belongs to the spec, and its states fit; with another schedule it is refused, with both values."""
    whole = run(two_spec, "whole")
    with pytest.raises(KeyboardInterrupt):
        Experiment(read_spec(two_spec), Path("old"), StopAt("autoencoder", 33)).run()
    without_new_keys(Path("old"))
    with pytest.raises(CheckpointError, match=r"train\.prior\.schedule: 'cosine' in the folder, 'linear' now"):
        run(two_spec, "old", "train.prior.schedule=linear")
    resumed = run(two_spec, "old")
    for name in CHECKPOINTS:
        assert safetensors.torch.load_file(whole / name).keys() == safetensors.torch.load_file(resumed / name).keys()
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()


@pytest.mark.long
def test_a_key_that_the_folder_does_not_know_is_said_to_be_unset(two_spec, finished_run):
    """A folder of a version without a key whose default is not what that version did says so."""
    folder = finished_run("r")
    path = folder / "spec.json"
    saved = json.loads(path.read_text())
    del saved["checksum"], saved["spec"]["prior"]["max_clusters"]
    path.write_bytes(dump_json(saved, indent=2))
    with pytest.raises(CheckpointError, match=r"prior\.max_clusters: not set in the folder, 50 now") as refusal:
        run(two_spec, "r")
    assert "the version that wrote the folder did not know keys that are not set there" in str(refusal.value)


def test_a_key_is_new_only_in_stages_that_did_not_have_it():
    """Stage 2 kept its best weights before the other stages did, so its keys stay in the name of every run."""
    prior = without_later_keys(unstructure(PriorStage()), PriorStage)
    assert (prior["keep"], prior["patience"]) == ("best", 0)
    first = without_later_keys(unstructure(AutoencoderStage(keep="last")), AutoencoderStage)
    assert not {"keep", "patience", *NEW_KEYS} & first.keys()
    assert "keep" in without_later_keys(unstructure(AutoencoderStage()), AutoencoderStage)
