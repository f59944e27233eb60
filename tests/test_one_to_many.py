"""What is measured where one modality leaves something open, for models whose conditional distribution is known."""

import csv
import json
from pathlib import Path

import attrs
import pytest
import torch
from plain_model import PlainModel
from two_floats import TwoFloats

from shala_framework import ShaLa, load
from shala_framework.cli.main import main
from shala_framework.data.rows import Rows
from shala_framework.evaluation.attributes import plain_class
from shala_framework.evaluation.cost import measure_cost
from shala_framework.evaluation.judge_training import train_judge
from shala_framework.evaluation.judges import Panel
from shala_framework.evaluation.one_to_many import measure_one_to_many
from shala_framework.evaluation.parts import Parts
from shala_framework.run.experiment import Experiment
from shala_framework.spec import read_spec
from shala_framework.spec.schema import Evaluate
from shala_framework.support.progress import Silent

pytestmark = pytest.mark.long

NAMES = ("hint", "a", "b")
CORNERS = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])
SHARES = (0.75, 0.25)  # of the two classes that a hint leaves open


def rows_of(classes, presence=None):
    """Two targets at the corner of their class with noise; the hint is the first coordinate alone, without noise."""
    corner = CORNERS[classes]
    noisy = [corner + 0.1 * torch.randn(corner.shape) for _ in "ab"]
    count = len(classes)
    return Rows(
        x=dict(zip(NAMES, [corner * torch.tensor([1.0, 0.0]), *noisy], strict=True)),
        presence=torch.ones(count, 3, dtype=torch.bool) if presence is None else presence,
        keys=tuple(f"r{n:04d}" for n in range(count)),
        labels=tuple(str(c) for c in classes.tolist()),
    )


def drawn_classes(count):
    return 2 * torch.randint(2, (count,)) + torch.multinomial(torch.tensor(SHARES), count, replacement=True)


@attrs.frozen
class Known(PlainModel):
    """A model that draws a class for each sample from known shares, once for all targets or for each."""

    shares: tuple[float, float]
    alike: bool
    names: tuple[str, ...] = NAMES

    def generate(self, num_samples, *, given, seed, **_):
        ((name, x),) = given.items()
        low = torch.where(x[:, 0] > 0, 0, 2)[:, None].expand(-1, num_samples)

        def second():
            return torch.multinomial(torch.tensor(self.shares), low.numel(), replacement=True).view(low.shape)

        once = second()
        chosen = {n: low + (once if self.alike else second()) for n in self.names}
        return {n: CORNERS[value] for n, value in chosen.items()} | {name: x[:, None].expand(-1, num_samples, -1)}


@pytest.fixture(scope="module")
def scene():
    torch.manual_seed(0)
    train, held_out = rows_of(drawn_classes(600)), rows_of(drawn_classes(200))
    judges = {
        name: train_judge(TwoFloats(field=name), name, train, plain_class("0123"), steps=150, seed=0) for name in NAMES
    }
    return train, Panel(judges, held_out)


def measured(model, scene, **settings):
    train, panel = scene
    torch.manual_seed(1)
    found = measure_one_to_many(
        model, panel, train, Evaluate(guidance_scales=(1.0,), **settings), 100, seed=0, reporter=Silent(), parts=Parts()
    )
    return {(f.given, f.method): f for f in found}


def test_targets_of_one_latent_agree_and_those_of_another_by_chance(scene):
    """The control agrees as often as two independent draws, .75^2 + .25^2, and so does a model without a common z."""
    right = measured(Known(SHARES, alike=True), scene)
    # Given "a", the judge of the hint cannot tell classes, and one target is none that could disagree.
    assert set(right) == {("hint", "diffusion"), ("hint", "posterior")}
    figures = right["hint", "diffusion"]
    assert figures.targets == ["a", "b"]
    by_chance = sum(share**2 for share in SHARES)
    assert figures.coherence.value > 0.99
    assert figures.real.value > 0.99
    assert figures.independent.value == pytest.approx(by_chance, abs=0.08)
    apart = measured(Known(SHARES, alike=False), scene)["hint", "diffusion"]
    assert apart.coherence.value == pytest.approx(by_chance, abs=0.08)
    assert apart.independent.value == pytest.approx(by_chance, abs=0.08)


def test_total_variation_is_from_the_training_rows_of_the_same_value(scene):
    """About chance for the right shares, the difference of the shares for wrong ones, none where nothing is open."""
    right = measured(Known(SHARES, alike=True), scene)
    figures = right["hint", "diffusion"]
    assert figures.num_values == 2
    assert figures.variation.value < figures.variation_by_chance.value + 0.05
    assert 0 < figures.variation_by_chance.value < 0.06
    one = measured(Known((1.0, 0.0), alike=True), scene)["hint", "diffusion"]
    assert one.variation.value == pytest.approx(SHARES[1], abs=0.05)
    assert one.coherence.value > 0.99  # which total variation alone finds out
    train, panel = scene
    apart = attrs.evolve(train, x=train.x | {"hint": train.x["hint"] + 0.1 * torch.randn(len(train), 2)})
    closed = measured(Known(SHARES, alike=True), (apart, panel))["hint", "diffusion"]
    assert (closed.num_values, closed.variation, closed.variation_by_chance) == (0, None, None)


def test_the_control_has_a_latent_for_each_target_whatever_the_samples(scene):
    """Two targets need two samples of a row, though one is asked for; fewer than two judges give nothing."""
    figures = measured(Known(SHARES, alike=True), scene, num_row_samples=1)["hint", "diffusion"]
    assert figures.coherence.count == 2 * 100
    assert figures.independent.value < 0.8
    train, panel = scene
    two = Panel({name: panel.judges[name] for name in "ab"}, panel.held_out)
    assert set(measured(Known(SHARES, alike=True), (train, two))) == set(measured(Known(SHARES, alike=True), scene))
    one = Panel({"a": panel.judges["a"]}, panel.held_out)
    assert not measured(Known(SHARES, alike=True), (train, one))


def test_a_judge_without_labelled_rows_takes_no_part(scene):
    """Its accuracy is unknown, and the other judges are still compared with the best of them."""
    train, panel = scene
    held_out = panel.held_out
    more = {name: torch.cat([value, value[:2]]) for name, value in held_out.x.items()}
    absent = torch.ones(len(held_out) + 2, 4, dtype=torch.bool)
    absent[:, 0] = False
    absent[-2:, 0] = True  # the first judge sees two rows, which have no label
    rows = Rows(
        x={"mute": more["a"], **more},
        presence=absent,
        keys=(*held_out.keys, "x0", "x1"),
        labels=(*held_out.labels, None, None),
    )
    judges = {"mute": panel.judges["a"], **panel.judges}
    assert set(measured(Known(SHARES, alike=True), (train, Panel(judges, rows)))) == set(
        measured(Known(SHARES, alike=True), scene)
    )


def test_the_network_of_clusters_counts_where_there_are_several():
    """Before a first cluster is found, or of a single one, it is not trained, whether or not its weights say so."""
    model = ShaLa({"a": TwoFloats(), "b": TwoFloats()}, latent_dim=2, feature_dim=8, hidden_dim=8).build()
    model.stages = ("autoencoder", "prior")
    alone = measure_cost(model, 0).parameters
    model.prior.cluster_network.requires_grad_(False)
    assert measure_cost(model, 0).parameters == alone
    model.prior.cluster_network.requires_grad_(True)
    model.prior.mixture.fit(torch.cat([side + 0.1 * torch.randn(500, 2) for side in (-1, 1)]))
    several = measure_cost(model, 0).parameters
    network = sum(weight.numel() for weight in model.prior.cluster_network.parameters())
    assert several == {**alone, "prior": alone["prior"] + network}


def test_the_suite_stands_in_the_evaluation_and_in_the_comparison(two_spec, capsys):
    """`--suite` adds the cost, its parameters counted and its hours of the metrics; other evaluations have neither."""
    Experiment(read_spec(two_spec), Path("r")).run()

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        assert caught.value.code == 0
        return capsys.readouterr().out

    saved = Path("r/evaluation/validation.json")
    assert "cost" not in call("evaluate", "r")
    assert json.loads(saved.read_text())["cost"] is None
    out = call("evaluate", "r", "--suite", "multimodal-vae")
    assert "cost: parameters of each stage" in out
    cost = json.loads(saved.read_text())["cost"]
    assert set(cost["parameters"]) == {"autoencoder", "prior"}
    assert 0 < cost["hours"] < 0.1
    assert measure_cost(load(Path("r")), 0).parameters == cost["parameters"]
    call("compare", "r", "--csv", "table.csv")
    rows = list(csv.DictReader(Path("table.csv").read_text().splitlines()))
    (found,) = (float(row["mean"]) for row in rows if row["metric"] == "parameters, million")
    assert found == sum(cost["parameters"].values()) / 1e6
