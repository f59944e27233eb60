"""Stage 3 in runs: it is trained, resumed, saved, sampled and measured like the other stages, or left out."""

import json
from pathlib import Path

import pytest
import torch
from small_runs import StopAt, metric_lines, run, without_rates
from two_floats import RefinedFloats, TwoFloats, TwoFloatsOptions

import shala_framework as shala
from shala_framework import load
from shala_framework.cli.main import dispatch
from shala_framework.data.rows import Rows
from shala_framework.evaluation.refinement import measure_refinement
from shala_framework.model import decoding
from shala_framework.plugin import Modality
from shala_framework.prior.sampling import row_noise
from shala_framework.run.preparing import budgeted_plan
from shala_framework.spec.stages import RefinerStage, Train
from shala_framework.support.errors import CheckpointError
from shala_framework.support.seeds import mix_seed
from shala_framework.training.budget import StageCost
from shala_framework.training.plan import TrainingPlan

pytestmark = pytest.mark.long

SIZES = {"latent_dim": 4, "feature_dim": 8, "hidden_dim": 16}
SETTINGS = {"device": "cpu", "precision": "float32", "batch_size": 16, "steps": 6, "refiner": {"steps": 6}}


class Refined(RefinedFloats):
    """Refined floats that need no fitting to raw samples."""

    fit = Modality.fit


class Plain(TwoFloats):
    """The same without a third stage."""

    fit = Modality.fit


@pytest.fixture
def refined_spec(two_spec):
    """The small spec with one refined modality and one without a network for stage 3."""
    text = two_spec.read_text().replace('plugin = "two-floats"', 'plugin = "refined-floats"', 1)
    two_spec.write_text(text.replace("[generate]", "[train.refiner]\nsteps = 30\nsave_every_steps = 10\n\n[generate]"))
    return two_spec


def model(**changes):
    modalities = {"a": Refined(TwoFloatsOptions()), "b": Plain(TwoFloatsOptions())}
    return shala.ShaLa(modalities, **{**SIZES, **changes})


@pytest.fixture(scope="module")
def trained():
    x = {name: torch.randn(60, 2).sign() for name in "ab"}
    return shala.train(model(), x, **SETTINGS), shala.train(model(), x, **{**SETTINGS, "refiner": {"steps": 0}}), x


def test_the_third_stage_changes_samples_alone(trained):
    """Stages 1 and 2 and the modality that is not refined are the same bit for bit with and without stage 3."""
    refined, bare, _ = trained
    assert refined.stages == {"autoencoder", "prior", "refiner"}
    assert bare.stages == {"autoencoder", "prior"}
    for name, value in bare.prior.state_dict().items():
        assert torch.equal(value, refined.prior.state_dict()[name])
    before, off, on = bare.generate(5), refined.generate(5, refine=False), refined.generate(5)
    assert all(torch.equal(off[name], before[name]) for name in "ab")
    assert torch.equal(on["b"], off["b"])
    assert not torch.equal(on["a"], off["a"])
    assert all(torch.equal(bare.generate(5, refine=True)[name], before[name]) for name in "ab")


def test_a_refined_sample_is_its_rows_own(trained):
    """A refined sample does not depend on the batch or the number of samples, only on the seed."""
    refined, _, x = trained
    first = refined.generate(7, seed=3)["a"]
    torch.testing.assert_close(refined.generate(4, seed=3, batch_size=3)["a"], first[:4])
    assert not torch.equal(refined.generate(7, seed=4)["a"], first)
    given = refined.generate(2, given={"b": x["b"][:3]})["a"]
    assert given.shape == (3, 2, 2)
    assert not torch.equal(given[:, 0], given[:, 1])


def test_noise_of_decoding_is_not_that_of_latents(trained, monkeypatch):
    """No row's latent, cluster or component has the seed of a refinement or of draws from likelihoods."""
    refined, _, _ = trained
    seeds = []
    monkeypatch.setattr(decoding, "row_noise", lambda seed, *rest: (seeds.append(seed), row_noise(seed, *rest))[1])
    z = refined.sample_latents(7, seed=3)
    drawn, mode = (refined.decode(z, refine=True, draw=draw, seed=3)["b"] for draw in (True, False))
    of_rows = {mix_seed(3, row) for row in range(1_000)}
    assert seeds
    assert not of_rows & {*seeds}
    noise = (drawn - mode) / refined.autoencoder.decoders["b"](z).log_scale.exp().detach()
    for row in range(100):
        assert not torch.allclose(noise.flatten(), row_noise(3, [row], 14)[0], atol=1e-3)


def test_a_call_may_change_the_sampler(trained):
    """As the spec would; and what it would not follow is an error."""
    refined, bare, _ = trained
    far = shala.ShaLa({**refined.modalities}, **SIZES, refine={"sigma_max": 10.0, "num_steps": 12})
    far.autoencoder, far.prior, far.refiner = refined.autoencoder, refined.prior, refined.refiner
    far.stages |= refined.stages
    changed = refined.generate(5, refine={"sigma_max": 10.0, "num_steps": 12})["a"]
    assert torch.equal(changed, far.generate(5)["a"])
    assert not torch.equal(changed, refined.generate(5)["a"])
    assert torch.equal(refined.generate(5, refine={})["a"], refined.generate(5)["a"])
    for model, changes, message in (
        (refined, {"share": False}, r"refine: expected keys of \['sampler', .*\], got 'share'"),
        (refined, {"num_steps": 2.5}, "refine: num_steps: expected int, got float 2.5"),
        (refined, {"sigma_max": 0.01}, "expected sigma_min < sigma_max"),
        (bare, {"num_steps": 3}, "refine: expected a model whose stage 3 is trained, to change its num_steps"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(2, refine=changes)


def test_a_saved_model_refines_as_before(trained, tmp_path):
    """A loaded model refines; if the third stage's file is missing, it returns modes."""
    refined, bare, _ = trained
    refined.save(tmp_path)
    loaded = load(tmp_path, classes=[Refined, Plain])
    assert torch.equal(loaded.generate(5)["a"], refined.generate(5)["a"])
    (tmp_path / "refiner.safetensors").unlink()
    assert torch.equal(load(tmp_path, classes=[Refined, Plain]).generate(5)["a"], bare.generate(5)["a"])


def test_a_run_resumes_in_its_third_stage(refined_spec):
    """A stopped and resumed run ends with the same bytes as an undisturbed one; metrics name the stage's terms."""
    whole = run(refined_spec, "whole")
    with pytest.raises(KeyboardInterrupt):
        run(refined_spec, "cut", reporter=StopAt("refiner", 17))
    cut = run(refined_spec, "cut")
    assert (whole / "refiner.safetensors").read_bytes() == (cut / "refiner.safetensors").read_bytes()
    assert without_rates(whole) == without_rates(cut)
    lines = [line for line in metric_lines(whole) if line["stage"] == "refiner"]
    assert [line["step"] for line in lines if "validation_denoising" in line] == [10, 20, 30]
    assert "denoising/first" in lines[-1] or "validation_denoising/first" in lines[-1]


def test_a_finished_run_gets_a_third_stage_later(refined_spec):
    """[refine] and [train.refiner] do not identify a run: its other stages stay, and samples need no stage 3."""
    folder = run(refined_spec, "r", "train.refiner.steps=0")
    assert not (folder / "refiner.safetensors").exists()
    before = load(folder).prior.state_dict()
    run(refined_spec, "r", "refine.num_steps=4")
    assert all(torch.equal(value, before[name]) for name, value in load(folder).prior.state_dict().items())
    assert load(folder).stages == {"autoencoder", "prior", "refiner"}
    for name, option in (("on", "--refine"), ("off", "--no-refine")):
        assert dispatch(["sample", str(folder), "--num", "2", "--out", name, option], "shala") == 0
    on, off = (json.loads(Path(name, "manifest.json").read_text()) for name in ("on", "off"))
    assert (on["refined"], off["refined"]) == (["first"], [])
    drawn = [sorted(p.read_bytes() for p in Path(name).rglob("*.first.json")) for name in ("on", "off")]
    assert drawn[0] != drawn[1]


def test_the_sampler_of_stage_3_may_change_at_any_time(refined_spec):
    """Its keys may differ from a spec's while the stage is trained, and at each sampling; they change samples alone."""
    whole = run(refined_spec, "whole", "refine.num_levels=4")
    with pytest.raises(KeyboardInterrupt):
        run(refined_spec, "cut", reporter=StopAt("refiner", 17))
    cut = run(refined_spec, "cut", "refine.num_levels=4", reporter=StopAt("refiner", 5))  # it goes on at step 10
    assert (whole / "refiner.safetensors").read_bytes() == (cut / "refiner.safetensors").read_bytes()
    drawn = {}
    for name, sets in (("spec", ()), ("far", ("--set", "refine.sigma_max=10", "--set", "refine.num_steps=12"))):
        assert dispatch(["sample", str(whole), "--num", "2", "--out", name, *sets], "shala") == 0
        drawn[name] = [sorted(p.read_bytes() for p in Path(name).rglob(f"*.{m}.json")) for m in ("first", "second")]
    assert drawn["spec"][0] != drawn["far"][0]
    assert drawn["spec"][1] == drawn["far"][1]
    assert json.loads(Path("far", "manifest.json").read_text())["refine"]["sigma_max"] == 10


@pytest.mark.parametrize(
    ("run_keys", "arguments", "message"),
    [
        ((), ("--set", "refine.share=false"), "refine.share: expected a key of stage 3's sampler (sampler, num_steps"),
        ((), ("--set", "refine.sigma_max=0.01"), "expected sigma_min < sigma_max, got 0.1 and 0.01"),
        ((), ("--set", "refine.sigma=3"), "refine.sigma: unknown key (did you mean 'sigma_min'?)"),
        ((), ("--no-refine", "--set", "refine.num_steps=3"), "--set refine.num_steps and --no-refine contradict"),
        ((), ("--set", "generate.num_joint=3"), "would change nothing here (use --num)"),
        ((), ("--set", "evaluate.num_rows=3"), "evaluate.num_rows: expected a key of [generate] or [refine]"),
        (("train.refiner.steps=0",), ("--set", "refine.num_steps=3"), "this run has no stage 3"),
    ],
)
def test_an_override_that_samples_would_not_follow_is_refused(refined_spec, capsys, run_keys, arguments, message):
    folder = run(refined_spec, "r", *run_keys, "train.autoencoder.steps=2", "train.prior.steps=2")
    assert dispatch(["sample", str(folder), "--num", "2", *arguments], "shala") == 2
    assert message in capsys.readouterr().err


def test_a_trained_third_stage_is_not_labelled_with_other_settings(refined_spec):
    """Its own keys are refused once it is trained; those of its sampler may change, and it can be trained anew."""
    few = ("train.autoencoder.steps=2", "train.prior.steps=2")
    folder = run(refined_spec, "r", *few, "train.refiner.steps=2")
    trained = (folder / "refiner.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"train.refiner.steps: 2 in the folder, 3 now") as caught:
        run(refined_spec, "r", *few, "train.refiner.steps=3")
    assert "remove refiner.safetensors and state/refiner* to train stage 3 again" in str(caught.value)
    with pytest.raises(CheckpointError, match=r"refine.latent_dropout: 0.1 in the folder, 0.2 now"):
        run(refined_spec, "r", *few, "train.refiner.steps=2", "refine.latent_dropout=0.2")
    run(refined_spec, "r", *few, "train.refiner.steps=2", "refine.sigma_max=3")
    assert (folder / "refiner.safetensors").read_bytes() == trained
    for path in (folder / "refiner.safetensors", *(folder / "state").glob("refiner*")):
        path.unlink()
    run(refined_spec, "r", *few, "train.refiner.steps=3")
    assert (folder / "refiner.safetensors").read_bytes() != trained
    assert json.loads((folder / "spec.json").read_text())["spec"]["train"]["refiner"]["steps"] == 3


@pytest.mark.parametrize(
    ("command", "hint"), [(["evaluate"], "(use --set evaluate.num_rows or"), (["export", "--out", "programs"], "")]
)
def test_a_number_of_samples_that_nothing_reads_is_refused(finished_run, tmp_path, capsys, command, hint):
    folder = finished_run(str(tmp_path / "r"))
    assert dispatch([command[0], str(folder), *command[1:], "--set", "generate.num_rows=3"], "shala") == 2
    said = capsys.readouterr().err
    assert "generate.num_rows: it counts the samples that a run writes at its end" in said
    assert hint in said


@pytest.mark.parametrize("trained", [("autoencoder", "prior", "refiner"), ("autoencoder", "prior")])
def test_a_time_budget_is_shared_by_the_stages_that_are_trained(trained):
    """train.minutes fixes the steps of all stages; a plan in which the third had no time leaves it out."""
    costs = {stage: StageCost(step_seconds=0.01) for stage in trained}
    settings = Train(minutes=10, refiner=RefinerStage(steps=10_000))
    plan = budgeted_plan(TrainingPlan(precision="float32"), settings, costs, spent=100.0)
    assert tuple(plan.steps) == trained
    assert sum(plan.steps.values()) == pytest.approx(50_000, abs=3)
    assert plan.applied(settings).refiner.steps == plan.steps.get("refiner", 0)
    halflife = plan.applied(settings).refiner.ema_halflife_steps / settings.refiner.ema_halflife_steps
    assert halflife == pytest.approx(plan.steps.get("refiner", 10_000) / settings.refiner.steps)


def test_densities_are_of_rows_from_the_whole_set_and_of_groups(trained):
    """Half of 128 rows are scored, of both classes of a sorted set; rows of one group are resampled together."""
    model, _, _ = trained
    far_N = (torch.arange(128) >= 64).float()
    rows = Rows(
        x={name: far_N[:, None] * torch.full((128, 2), 3.0) for name in "ab"},
        presence=torch.ones(128, 2, dtype=torch.bool),
        keys=tuple(map(str, range(128))),
        labels=tuple("no" if far == 0 else "yes" for far in far_N),
    )
    z_ND = torch.randn(128, 4, generator=torch.Generator().manual_seed(0))
    all_rows = torch.arange(128)
    whole = float(model.autoencoder.decoded_log_prob(rows.x, "a", z_ND, all_rows).mean() / 2)
    single, grouped = (measure_refinement(model, rows, z_ND, groups)["a"].decoder for groups in (None, all_rows // 32))
    assert single.count == 64
    assert single.value == grouped.value == pytest.approx(whole, rel=0.05)
    assert grouped.high - grouped.low > 2 * (single.high - single.low)


def test_refined_samples_are_measured_beside_modes(refined_spec):
    """The evaluation has both methods with their cost, and the bound next to the decoder's density."""
    few = ["evaluate.num_samples=10", "evaluate.num_rows=6", "evaluate.judge_steps=5", "evaluate.num_seeds=1"]
    folder = run(refined_spec, "r", "evaluate.at_end=true", "evaluate.likelihood_rows=0", *few)
    found = json.loads((folder / "evaluation" / "validation.json").read_text())
    evaluations = {line["method"]: line["evaluations"] for line in found["joint"]}
    assert evaluations["diffusion, refined"] == evaluations["diffusion"] + 5
    assert {"diffusion", "diffusion, refined"} <= {line["method"] for line in found["conditional"]}
    assert set(found["refinement"]) == {"first"}
    page = (folder / "report.html").read_text()
    assert "first, not refined" in page
    assert "second, not refined" not in page
