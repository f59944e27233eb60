"""The weights that stages 1 and 3 keep where they memorise a small set; tests/test_prior_stage.py has stage 2."""

import math
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import pytest
import torch
from small_runs import metric_lines, run
from two_floats import TwoFloats, TwoFloatsOptions

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.data.rows import Rows, shuffled_batches
from shala_framework.spec import structure, unstructure
from shala_framework.spec.later_keys import with_later_keys, without_later_keys
from shala_framework.spec.schema import AutoencoderStage, Posterior
from shala_framework.support.checkpoint import read_checkpoint
from shala_framework.support.progress import Silent
from shala_framework.training.best_weights import BestWeights
from shala_framework.training.loop import train
from shala_framework.training.stages import AutoencoderTraining
from shala_framework.training.stopping import Interrupted

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
SIZES = Posterior(latent_dim=4, feature_dim=16, hidden_dim=32)
INSISTENT = attrs.evolve(SIZES, contrast_tolerance=1000.0)  # contrast is never faded out
SETTINGS = structure(
    {"steps": 200, "batch_size": 64, "save_every_steps": 10, "kl_warmup_steps": 50, "learning_rate": 1e-2},
    AutoencoderStage,
)

AVERAGED = attrs.evolve(SETTINGS, ema_halflife_steps=3.0)


def circle(count: int, seed: int) -> Rows:
    """Points on a circle, and the same points turned by a quarter."""
    angle = 2 * math.pi * torch.rand(count, generator=torch.Generator().manual_seed(seed))
    x = {"a": torch.stack([angle.cos(), angle.sin()], 1), "b": torch.stack([-angle.sin(), angle.cos()], 1)}
    return Rows(x=x, presence=torch.ones(count, 2, dtype=torch.bool), keys=("",) * count, labels=(None,) * count)


def unrelated(count: int, seed: int) -> Rows:
    """Points on a circle, and others of which they say nothing."""
    rows = circle(count, seed)
    return attrs.evolve(rows, x={**rows.x, "b": circle(count, seed + 10).x["b"]})


def trained(
    settings: AutoencoderStage = SETTINGS,
    rows: int = 8,
    state: Path | None = None,
    stop_after: int | None = None,
    make: Callable[[int, int], Rows] = circle,
    sizes: Posterior = SIZES,
) -> tuple[AutoencoderTraining, list[float]]:
    """Train stage 1, and return it with its held-out losses in order."""
    torch.manual_seed(0)
    modalities = {name: TwoFloats(TwoFloatsOptions(field=name)) for name in "ab"}
    training_rows = make(rows, 1)
    stage = AutoencoderTraining(Autoencoder(modalities, sizes), settings, CPU, make(64, 2))
    losses, validate, after_step = [], stage.validate, stage.after_step

    def recorded():
        found = validate()
        losses.append(found["loss"])
        return found

    def stopping(step):
        after_step(step)
        if step + 1 == stop_after:
            signal.raise_signal(signal.SIGTERM)

    stage.validate, stage.after_step = recorded, stopping

    def batches(start):
        return map(training_rows.take, shuffled_batches(rows, settings.batch_size, 0, start, None))

    train_it = partial(train, stage, settings, batches, seed=0, matrix_dtype=torch.float32, settled=stage.kept.settled)
    if stop_after is None:
        train_it(state_file=state)
    else:
        with pytest.raises(Interrupted):
            train_it(state_file=state)
    return stage, losses


def test_a_memorised_set_keeps_the_weights_of_the_lowest_held_out_loss():
    """Held-out figures are those of the best step, to the last bit, and far better than those of the last step."""
    stage, losses = trained()
    lowest, last = min(losses), losses[-1]
    step = 10 * (losses.index(lowest) + 1)
    assert 10 < step < 150
    assert last > lowest + 1
    worse = stage.validate()
    said = stage.finish()
    better = stage.validate()
    assert better["loss"] == lowest
    assert better["elbo"] > worse["elbo"] + 10
    assert f"lowest, {lowest:.4g}, after step {step} of 200, and {last:.4g} after step 200" in said
    assert f"the weights of step {step} are kept" in said
    final, _ = trained(attrs.evolve(SETTINGS, keep="last"))
    weights = {name: value.clone() for name, value in final.module.state_dict().items()}
    assert "the last weights are kept" in final.finish()
    assert all(torch.equal(value, weights[name]) for name, value in final.module.state_dict().items())
    _, losses = trained(attrs.evolve(SETTINGS, patience=3))
    assert losses.index(min(losses)) == len(losses) - 4


def test_contrast_is_faded_out_where_it_memorises_pairs():
    """Pairs that have nothing in common can only be known by heart, and others are then matched worse than by a guess.

    Where modalities tell of each other in held-out rows too, the weight stays whole.
    """
    memorised, _ = trained(make=unrelated)
    assert memorised.gate.weight == 0
    known, held_out = memorised.gate.widest
    assert held_out < 0.5 * known
    assert f"told {known:.2g} nats about another in training rows, and {held_out:.2g} in held-out" in memorised.finish()
    with torch.no_grad():
        bound = memorised.autoencoder.train().bound(unrelated(16, 1).x, torch.ones(16, 2, dtype=torch.bool))
    assert float(bound.losses["contrast"]) == 0 < float(bound.added["contrast"])
    with_many, _ = trained(rows=512)
    assert with_many.gate.weight == 1
    assert with_many.gate.held_out > 1
    assert "faded out" not in with_many.finish()
    insisted, _ = trained(make=unrelated, sizes=INSISTENT)
    assert insisted.gate.weight == 1
    assert insisted.validate()["contrast"] > memorised.validate()["contrast"]


def test_the_contrast_of_held_out_rows_is_measured_without_a_trace():
    """Figures are those of the closed form: nats of a guess less the contrast; training goes on as it was."""
    stage, _ = trained(attrs.evolve(SETTINGS, steps=10, save_every_steps=20))
    rows = circle(64, 2)
    with torch.no_grad():
        h = stage.autoencoder.eval().encode(rows.x)
        contrast = stage.autoencoder.added_terms["contrast"].between(list(h.values()), rows.presence)
    assert stage.gate.held_out == pytest.approx(math.log(64) - float(contrast), rel=1e-5)
    assert not stage.autoencoder.added_terms["contrast"].seen.any()


def test_the_loss_that_decides_has_the_final_weights_of_training():
    """Held-out losses have the final KL weight from the start, the weights of training, and the same draws."""
    settings = attrs.evolve(SETTINGS, kl_weight=3.0)
    stage, _ = trained(attrs.evolve(settings, steps=10, save_every_steps=20))
    found = stage.validate()
    assert stage.validate() == found
    terms = {
        "contrast": SIZES.contrast_weight,
        "recognition": SIZES.recognition_weight,
        "subset_kl": SIZES.subset_weight / 4,
    }
    added = sum(weight * found[name] for name, weight in terms.items() if name in found)
    objective = found["log_prob/a"] + found["log_prob/b"] - 3 * found["kl"]
    assert found["loss"] == pytest.approx(-objective / stage.loss_unit + added, rel=1e-5)


@pytest.mark.parametrize("stopped_after", [35, 100, 200])
def test_a_stopped_stage_keeps_what_an_undisturbed_one_keeps(tmp_path, stopped_after):
    """A stage stopped before its best step, after it or at the end resumes to the same weights, bit for bit."""
    whole, losses = trained()
    state = tmp_path / "state.safetensors"
    trained(state=state, stop_after=stopped_after)
    second, rest = trained(state=state)
    assert rest == losses[len(losses) - len(rest) :]
    assert second.finish() == whole.finish() != ""
    for name, value in second.module.state_dict().items():
        assert torch.equal(value, whole.module.state_dict()[name])
    assert any(name.startswith("extra.best.") for name in read_checkpoint(state)[0])


def test_a_large_set_is_unchanged():
    """Without a turn, the last weights are kept and nothing is said."""
    (best, _), (last, _) = trained(rows=2_000), trained(attrs.evolve(SETTINGS, keep="last"), rows=2_000)
    assert best.finish() == last.finish() == ""
    assert all(torch.equal(v, last.module.state_dict()[n]) for n, v in best.module.state_dict().items())


@pytest.mark.parametrize(
    ("losses", "kept"),
    [
        ([3.0, 1.0, 1.019], 3),
        ([3.0, 1.0, 1.021], 2),
        ([1.0, 1.001, 1.002], 1),
        ([math.nan, 2.0, math.nan], 2),
        ([math.nan, math.inf, math.nan], 3),
        ([-2.0, -3.0, -2.5], 2),
    ],
)
def test_which_weights_are_kept(losses, kept):
    """The lowest loss decides unless the last is as low but for a hundredth of the decline; others than finite lose."""
    weights = {"w": torch.zeros(1)}
    keeper = BestWeights("autoencoder", attrs.evolve(SETTINGS, steps=3), weights, validated=True)
    for step, loss in enumerate(losses):
        weights["w"].fill_(step + 1)
        keeper.after_step(step)
        keeper.add(loss, weights)
    assert keeper.chosen(weights)["w"].item() == kept
    assert bool(keeper.sentence()) == (kept < 3)


class Notes(Silent):
    """Keeps what a run says."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def test_a_run_says_which_weights_stages_keep_and_saves_them(two_spec):
    """Stages 1 and 3 of a run report when held-out rows turned, and their checkpoints hold the weights of that step."""
    text = two_spec.read_text().replace('plugin = "two-floats"', 'plugin = "refined-floats"')
    two_spec.write_text(text)
    small = "data.stand_in.options={train=4, validation=64}"
    stages = ("train.autoencoder.steps=200", "train.autoencoder.save_every_steps=10", "train.prior.steps=5")
    third = ("train.refiner.steps=200", "train.refiner.save_every_steps=20", "refine.latent_noise=0")
    notes = Notes()
    folder = run(two_spec, "best", small, *stages, *third, reporter=notes)
    run(two_spec, "last", small, *stages, *third, "train.autoencoder.keep='last'", "train.refiner.keep='last'")
    for stage, figure in (("autoencoder", "loss"), ("refiner", "denoising")):
        (said,) = (text for text in notes.said if f"stage {stage}: the loss of held-out rows" in text)
        found = {
            line["step"]: line[f"validation_{figure}"]
            for line in metric_lines(folder)
            if line["stage"] == stage and f"validation_{figure}" in line
        }
        step = min(found, key=found.get)
        assert f"after step {step} of" in said
        saved, _ = read_checkpoint(folder / f"{stage}.safetensors")
        last, _ = read_checkpoint(Path("last") / f"{stage}.safetensors")
        assert saved.keys() == last.keys()
        assert not all(torch.equal(value, last[name]) for name, value in saved.items())


def test_the_average_is_that_of_a_hand_computation():
    """Weights 1, 2, 3, ... by step; the half-life grows by 0.05 a step from 1 to its setting."""
    modalities = {name: TwoFloats(TwoFloatsOptions(field=name)) for name in "ab"}
    stage = AutoencoderTraining(Autoencoder(modalities, SIZES), AVERAGED, CPU)
    weight = next(stage.module.parameters())
    frozen = list(stage.module.parameters())[-1].requires_grad_(False)
    stage = AutoencoderTraining(stage.autoencoder, AVERAGED, CPU)
    expected = weight.detach().double().clone()
    untouched = frozen.clone()
    for step in range(80):
        with torch.no_grad():
            weight.fill_(step + 1)
        stage.after_step(step)
        decay = 0.5 ** (1 / min(3.0, max(1.0, 0.05 * step)))
        expected = decay * expected + (1 - decay) * (step + 1)
    assert weight[0].flatten()[0] == 80
    stage.finish()
    torch.testing.assert_close(weight.double(), expected, rtol=1e-5, atol=0)
    assert torch.equal(frozen, untouched)
    assert not any(name.startswith("average.") and frozen is value for name, value in stage.extra_state().items())


def test_the_lowest_held_out_loss_keeps_an_average(tmp_path):
    """Validations measure the average, the best one is kept to the last bit, and a stopped stage ends alike."""
    plain, _ = trained()
    whole, losses = trained(AVERAGED)
    assert whole.finish() != ""
    whole.average = None  # the module has the weights that were kept
    assert whole.validate()["loss"] == min(losses)
    assert not torch.equal(next(whole.module.parameters()), next(plain.module.parameters()))
    state = tmp_path / "state.safetensors"
    trained(AVERAGED, state=state, stop_after=45)
    assert any(name.startswith("extra.average.") for name in read_checkpoint(state)[0])
    second, _ = trained(AVERAGED, state=state)
    second.finish()
    for name, value in second.module.state_dict().items():
        assert torch.equal(value, whole.module.state_dict()[name])


def test_a_run_without_it_has_the_state_of_earlier_versions(two_spec):
    """The keys are absent from the hash of a run that does not use them, and their absence means off."""
    keys = {"ema_halflife_steps", "activation_checkpointing"}
    saved = unstructure(AutoencoderStage())
    assert not keys & without_later_keys(saved, AutoencoderStage).keys()
    folder = run(two_spec, "r", "train.autoencoder.ema_halflife_steps=20", "train.autoencoder.steps=30")
    other = run(two_spec, "o", "train.autoencoder.steps=30")
    first, _ = read_checkpoint(folder / "autoencoder.safetensors")
    second, _ = read_checkpoint(other / "autoencoder.safetensors")
    assert first.keys() == second.keys()
    assert any(not torch.equal(value, second[name]) for name, value in first.items())
    earlier = {"train": {"autoencoder": {key: value for key, value in saved.items() if key not in keys}}}
    found = with_later_keys(earlier)["train"]["autoencoder"]
    assert (found["ema_halflife_steps"], found["activation_checkpointing"]) == (0.0, False)
