"""Adversarial stage 3: who learns from which loss, what it learns that decoders cannot express, and its one step."""

import json
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
import torch
from small_runs import StopAt, metric_lines, run, without_rates
from torch import Tensor, nn
from two_floats import ConvolvedFloats, RefinedFloats, TwoFloats, TwoFloatsOptions

from shala_framework import load
from shala_framework.autoencoder.model import Autoencoder
from shala_framework.cli.evaluate import with_overrides
from shala_framework.cli.main import dispatch
from shala_framework.data.rows import Rows, shuffled_batches
from shala_framework.evaluation.refinement import measure_refinement
from shala_framework.plugin import LogScale, Modality, Normal, RefinerUNet
from shala_framework.refiner import Refined, Refinement, Refiner
from shala_framework.spec import read_spec
from shala_framework.spec.doubts import doubts
from shala_framework.spec.schema import Posterior, Refine, RefinerStage
from shala_framework.support.errors import SpecError
from shala_framework.training.adversarial import AdversarialTraining
from shala_framework.training.critic import hinge_loss
from shala_framework.training.loop import train
from shala_framework.training.schedules import learning_rate_factor

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
LATENT_DIM = 2
ADVERSARIAL = ("refine.method=adversarial", "train.refiner.optimizer=adamw", "train.refiner.learning_rate=1e-3")


class Mapped(ConvolvedFloats, RefinedFloats):
    """Refined floats whose encoder has maps."""


def rows(count: int, names: tuple[str, ...] = ("a", "b", "plain")) -> Rows:
    """Elements near -1 or 1, which a decoder that does not know which of them can only leave at 0."""
    return Rows(
        x={name: torch.randn(count, 2).sign() + 0.1 * torch.randn(count, 2) for name in names},
        presence=torch.ones(count, len(names), dtype=torch.bool),
        keys=tuple(map(str, range(count))),
        labels=(None,) * count,
    )


def training(modalities: Mapping[str, Modality] | None = None, **table) -> AdversarialTraining:
    torch.manual_seed(0)
    if modalities is None:
        options = TwoFloatsOptions()
        modalities = {"a": Mapped(options), "b": Mapped(options), "plain": TwoFloats(options)}
    autoencoder = Autoencoder(modalities, Posterior(latent_dim=LATENT_DIM, feature_dim=8, hidden_dim=16)).eval()
    settings = RefinerStage(
        steps=200, batch_size=64, ema_halflife_steps=20.0, warmup_steps=20, optimizer="adamw", learning_rate=1e-3
    )
    refiner = Refiner(modalities, latent_dim=LATENT_DIM)
    return AdversarialTraining(refiner, autoencoder, Refine(method="adversarial", **table), settings, CPU)


def gradients(stage: AdversarialTraining, data: Rows) -> dict[str, Tensor]:
    """Return the gradients of a step's loss, after the critics' part of the step."""
    torch.manual_seed(1)
    stage.loss(data, 30)[0].backward()
    return {name: p.grad.clone() for name, p in stage.module.named_parameters() if p.grad is not None}


def test_critics_learn_first_and_samples_from_what_they_have_learned():
    """A step is AdamW's on the critics' loss, then the gradient of their new verdict; stage 1 gets none."""
    data, (stage, other) = rows(16), (training(recognition_weight=0.0) for _ in range(2))
    found = gradients(stage, data)
    torch.manual_seed(1)
    _, told_BD, shown = other._shown(data)
    critic, _ = other._critic_loss(shown, told_BD)
    optimizer = torch.optim.AdamW(
        other.critics.parameters(), learning_rate_factor(other.settings, 30) * 1e-3, (0.0, 0.99), weight_decay=0
    )
    critic.backward()
    assert all(p.grad is None for p in other.module.parameters())
    torch.nn.utils.clip_grad_norm_(other.critics.parameters(), 1.0)
    optimizer.step()
    for mine, theirs in zip(stage.critics.parameters(), other.critics.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-3)  # without the weight decay
    other.critics.load_state_dict(stage.critics.state_dict())
    other._verdict_loss(shown, told_BD)[0].backward()
    assert any(name.startswith("networks.a") for name in found)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, dict(other.module.named_parameters())[name].grad, atol=1e-4, rtol=1e-2)
    for module in (stage.autoencoder, stage.critics):
        assert all(p.grad is None and p.requires_grad for p in module.parameters())


def test_the_hinge_loss_ends_at_its_margins():
    """2 for verdicts of 0, and 0 for verdicts beyond 1 on the right side."""
    places = [torch.zeros(3, 4), torch.zeros(3, 2)]
    assert hinge_loss(places, places).tolist() == [2, 2, 2]
    right, wrong = [p + 1.5 for p in places], [p - 1.5 for p in places]
    assert hinge_loss(right, wrong).tolist() == [0, 0, 0]
    assert hinge_loss(wrong, right).tolist() == [5, 5, 5]


def stripes(count: int) -> Rows:
    """Rows of stripes, 8 x 8, in one of two phases, which no latent tells."""
    phase = torch.randint(0, 2, (count, 1, 1, 1))
    x = ((torch.arange(8) + phase) % 2 * 2.0 - 1).expand(count, 1, 8, 8)
    return Rows(
        x={"a": x + 0.1 * torch.randn(x.shape)},
        presence=torch.ones(count, 1, dtype=torch.bool),
        keys=tuple(map(str, range(count))),
        labels=(None,) * count,
    )


class GreyDecoder(nn.Module):
    """Decodes any latent to pictures of one grey."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = LogScale()

    def forward(self, z: Tensor) -> Normal:
        return Normal(torch.zeros(len(z), 1, 8, 8), self.log_scale())


class Stripes(TwoFloats):
    """A small picture."""

    shape = (1, 8, 8)

    def encoder(self, feature_dim: int) -> nn.Module:
        maps = nn.Conv2d(1, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU()
        return nn.Sequential(*maps, nn.Flatten(), nn.Linear(128, feature_dim))

    def decoder(self, latent_dim: int) -> nn.Module:
        return GreyDecoder()

    def refiner(self, latent_dim: int) -> nn.Module:
        return RefinerUNet(1, latent_dim, sides=(8, 8), width=16, num_blocks=(1, 1))


def test_it_learns_in_one_step_what_the_decoder_cannot_say():
    """Where the mode is grey, draws have stripes of full contrast in either phase. Their density is the decoder's."""
    stage, data = training({"a": Stripes(TwoFloatsOptions())}, recognition_weight=0.0), stripes(512)
    for measure in stage.measurements:
        measure([data])
    before = {name: value.clone() for name, value in stage.autoencoder.state_dict().items()}
    train(
        stage,
        stage.settings,
        lambda start: (data.take(i) for i in shuffled_batches(512, 64, 0, start)),
        seed=0,
        matrix_dtype=torch.float32,
    )
    assert stage.finish() == ""
    assert all(torch.equal(value, before[name]) for name, value in stage.autoencoder.state_dict().items())
    z = torch.randn(400, LATENT_DIM)
    likelihood = stage.autoencoder.decode(z)["a"]
    refined = Refined(likelihood, stage.refiner, "a", z, Refinement(one_step=True))
    drawn = refined.sample(torch.Generator().manual_seed(0))
    assert torch.equal(drawn, refined.sample(torch.Generator().manual_seed(0)))
    phase = (drawn * (torch.arange(8) % 2 * 2 - 1)).mean((1, 2, 3))
    assert (phase.abs() > 0.7).float().mean() > 0.8
    assert 0.05 < (phase > 0).float().mean() < 0.95
    assert not refined.mode().any()
    assert torch.equal(refined.log_prob(data.x["a"][:400]), likelihood.log_prob(data.x["a"][:400]))
    assert not refined.is_bound


def test_recognition_asks_for_no_more_than_the_data_show():
    """Its loss is the excess of -log q(z | x), per dimension, of samples over the data: 0 for the data themselves."""
    stage = training()
    z, _, shown = stage._shown(rows(8))
    of = next(of for of in shown if of.name == "b")
    assert not stage._recognition(attrs.evolve(of, made=of.real), z).any()
    far = stage._encoded("b", of.real.x + 3)
    alone = torch.tensor([[False, True, False]]).expand(8, -1)
    surprise = [-stage.autoencoder.fuse_subset({"b": seen.h_BF}, alone).log_prob(z) for seen in (far, of.real)]
    excess = stage._recognition(attrs.evolve(of, made=far), z)
    torch.testing.assert_close(excess, (surprise[0] - surprise[1]).relu() / 2)


def test_rows_that_lack_a_modality_do_not_matter():
    """Losses and gradients do not depend on the content of absent modalities."""
    found = []
    for filler in (0.0, 1e3):
        torch.manual_seed(2)
        data = rows(16)
        data.presence[:8, 0] = False
        data.x["a"][:8] = filler
        found.append(gradients(training(), data))
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name])


@pytest.fixture
def refined_spec(two_spec):
    """The small spec with one refined modality."""
    text = two_spec.read_text().replace('plugin = "two-floats"', 'plugin = "refined-floats"', 1)
    two_spec.write_text(text.replace("[generate]", "[train.refiner]\nsteps = 30\nsave_every_steps = 10\n\n[generate]"))
    return two_spec


def test_a_run_resumes_and_samples_in_one_step(refined_spec):
    """A stopped run ends with the bytes of a whole one; the checkpoint has no critic, and no density is measured."""
    whole = run(refined_spec, "whole", *ADVERSARIAL)
    with pytest.raises(KeyboardInterrupt):
        run(refined_spec, "cut", *ADVERSARIAL, reporter=StopAt("refiner", 17))
    cut = run(refined_spec, "cut", *ADVERSARIAL)
    assert (whole / "refiner.safetensors").read_bytes() == (cut / "refiner.safetensors").read_bytes()
    assert without_rates(whole) == without_rates(cut)
    lines = [line for line in metric_lines(whole) if line["stage"] == "refiner"]
    assert {"critic/first", "verdict/first", "recognition/first"} <= lines[-2].keys() | lines[-1].keys()
    assert any("validation_recognition/first" in line for line in lines)
    model = load(whole)
    assert not any("critic" in name for name in model.refiner.state_dict())
    assert not torch.equal(model.generate(4)["first"], model.generate(4, refine=False)["first"])
    held_out = rows(8, model.names)
    assert measure_refinement(model, held_out, torch.zeros(8, model.spec.posterior.latent_dim)) == {}
    with pytest.raises(ValueError, match="an adversarial refiner has no sampler to set, got 'num_steps'"):
        model.generate(1, refine={"num_steps": 4})
    with pytest.raises(SpecError, match="it makes a sample in one step and has no sampler to set"):
        with_overrides(model.spec, ("refine.num_steps=4",), refined=True)
    assert dispatch(["sample", str(whole), "--num", "2", "--out", "drawn"], "shala") == 0
    assert json.loads(Path("drawn/manifest.json").read_text())["refine"] == {"method": "adversarial"}


def test_what_does_not_settle_is_refused(refined_spec):
    """Muon's steps are large however small a gradient is, and a critic takes no step of several micro-batches."""
    with pytest.raises(SpecError, match=r'expected train\.refiner\.optimizer = "adamw".*got .muon'):
        read_spec(refined_spec, ["refine.method=adversarial"])
    told = doubts(read_spec(refined_spec, [*ADVERSARIAL, "refine.num_steps=12", "refine.texture_weight=1"]).spec)
    assert [text for text in told if text.startswith("refine: ")] == [
        'refine: num_steps has no effect with method = "adversarial", which makes samples in one step'
    ]
    with pytest.raises(SpecError, match=r"expected train\.refiner\.micro_batches = 1 .*got 2"):
        read_spec(refined_spec, [*ADVERSARIAL, "train.refiner.micro_batches=2"])
