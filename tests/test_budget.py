"""A time limit instead of numbers of steps: decided once, recorded, and equivalent to a spec with those numbers."""

from pathlib import Path

import attrs
import pytest
import torch
from small_runs import CHECKPOINTS, StopAt, decided_steps, run, without_rates

from shala_framework import SpecError
from shala_framework.prior.mixture import GaussianMixture
from shala_framework.run import training as run_training
from shala_framework.spec.schema import AutoencoderStage, PriorStage
from shala_framework.support.checkpoint import read_checkpoint
from shala_framework.support.progress import Silent
from shala_framework.training.budget import StageCost, measure_stage, resized, steps_within
from shala_framework.training.plan import TrainingPlan

pytestmark = pytest.mark.long

MINUTES = "train.minutes=0.5"


class Told(Silent):
    """Records the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text):
        self.warnings.append(text)


@pytest.fixture
def slow_steps(monkeypatch):
    """Measure steps as usual, then pretend that they take 0.4 s, so that few fit on any machine."""

    def measured(*arguments, **settings) -> StageCost:
        measure_stage(*arguments, **settings)
        return StageCost(step_seconds=0.4)

    monkeypatch.setattr(run_training, "measure_stage", measured)


def test_a_stopped_run_under_a_budget_ends_as_one_with_these_steps(two_spec, slow_steps):
    """A run stopped and resumed in both stages has the tensors of an undisturbed run with the same numbers of steps."""
    for stage in ("autoencoder", "prior"):
        with pytest.raises(KeyboardInterrupt):
            run(two_spec, "cut", MINUTES, reporter=StopAt(stage, 7))
    plan = TrainingPlan.read(Path("cut/state"))
    told = Told()
    cut = run(two_spec, "cut", MINUTES, reporter=told)
    assert [text for text in told.warnings if "too few to learn anything" in text] == [plan.doubt()]
    assert TrainingPlan.read(cut / "state") == plan
    steps = {line["stage"]: line["step"] for line in without_rates(cut)}
    assert {name: steps[name] for name in plan.steps} == plan.steps
    whole = run(two_spec, "whole", *decided_steps(cut))
    for name in CHECKPOINTS:
        (one, described), (other, others) = (read_checkpoint(folder / name) for folder in (cut, whole))
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())
        assert described["spec"] == others["spec"]
    assert without_rates(cut) == without_rates(whole)


def test_a_budget_is_shared_by_what_was_measured(two_spec):
    """At the measured speed, the steps of both stages take no more than their shares of the time."""
    with pytest.raises(KeyboardInterrupt):
        run(two_spec, "r", "train.minutes=0.2", reporter=StopAt("autoencoder", 1))
    plan = TrainingPlan.read(Path("r/state"))
    assert plan.minutes == 0.2
    for name, share in (("autoencoder", 0.7), ("prior", 0.3)):
        assert 0 < plan.steps[name] * plan.costs[name].step_seconds <= share * 60 * 0.2


def test_stage_2_is_measured_as_it_will_be_with_clusters_and_validations(two_spec, monkeypatch):
    """A step costs more among several clusters than with one, and validations take time."""
    seen = {}

    def measured(stage, *arguments, **settings) -> StageCost:
        if stage.name == "prior":
            seen["clusters"], seen["validation"] = stage.prior.clusters.num_components, stage.validate()
        return measure_stage(stage, *arguments, **settings)

    monkeypatch.setattr(run_training, "measure_stage", measured)
    with pytest.raises(KeyboardInterrupt):
        run(two_spec, "r", "train.minutes=0.2", "prior.max_clusters=30", reporter=StopAt("autoencoder", 1))
    assert seen["clusters"] == run_training.SUPPOSED_CLUSTERS
    assert seen["validation"].keys() >= {"denoising", "clusters"}
    mixture = GaussianMixture(30, 2)
    initial = {name: value.clone() for name, value in mixture.state_dict().items()}
    with mixture.supposed(50):
        assert mixture.num_components == 30
    assert mixture.num_components == 1
    assert all(torch.equal(value, initial[name]) for name, value in mixture.state_dict().items())


def test_a_budget_too_short_for_a_step_is_an_error(two_spec):
    """The message says how long a step of each stage takes, and which time would be enough."""
    with pytest.raises(SpecError, match=r"one step of each stage, got 1e-07 minutes \(on this machine a step of autoe"):
        run(two_spec, "r", "train.minutes=1e-7")


def test_steps_follow_costs_and_shares():
    """60 s are divided 3 to 1. Validations of 1 s get at most a tenth, four of ten; steps take 2 s and 0.1 s."""
    stages = {
        "autoencoder": AutoencoderStage(steps=1_000, save_every_steps=100, time_share=3.0),
        "prior": PriorStage(steps=1_000, save_every_steps=1_000, time_share=1.0),
    }
    costs = {
        "autoencoder": StageCost(step_seconds=2.0, validation_seconds=1.0),
        "prior": StageCost(step_seconds=0.1),
    }
    steps, validations = steps_within(60.0, stages, costs, minutes=1)
    assert (steps, validations) == ({"autoencoder": 20, "prior": 150}, {"autoencoder": 4, "prior": 1})
    settings = resized(stages["autoencoder"], 20, 4)
    assert (settings.steps, settings.save_every_steps) == (20, 5)
    with pytest.raises(SpecError, match=r"set it to more than 0\.067"):
        steps_within(3.0, stages, costs, minutes=3 / 60)


def test_a_budget_of_too_few_steps_is_doubted():
    """With 5 steps in half a minute, 100 need ten minutes. With as many as that in all stages, nothing is said."""
    cost = StageCost(step_seconds=2.0)
    plan = TrainingPlan(
        precision="float32", minutes=0.5, steps={"autoencoder": 5, "prior": 100}, costs={"autoencoder": cost}
    )
    assert "0.5 minutes hold 5 steps of stage autoencoder, 2 s each: too few to learn anything" in plan.doubt()
    assert "more than 10, and start again in another folder" in plan.doubt()
    assert attrs.evolve(plan, steps={"autoencoder": 100, "prior": 100}).doubt() == ""
    assert TrainingPlan(precision="float32").doubt() == ""


def test_schedules_keep_their_proportion():
    """Warm-ups, intervals and half-life scale with the steps, but stay at least one. Other settings are unchanged."""
    settings = AutoencoderStage(steps=1_000, warmup_steps=100, kl_warmup_steps=300, log_every_steps=2)
    small = resized(settings, 100)
    assert (small.steps, small.warmup_steps, small.kl_warmup_steps, small.log_every_steps) == (100, 10, 30, 1)
    assert (
        attrs.evolve(small, steps=1_000, warmup_steps=100, kl_warmup_steps=300, log_every_steps=2, save_every_steps=500)
        == settings
    )
    assert resized(PriorStage(steps=1_000, ema_halflife_steps=50.0), 10).ema_halflife_steps == 1.0
    assert resized(AutoencoderStage(warmup_steps=0), 5).warmup_steps == 0
