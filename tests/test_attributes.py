"""Labels that name several attributes: how they are read, and what judges of each attribute measure."""

import csv
import json
from pathlib import Path

import attrs
import pytest
import torch
from plain_model import PlainModel
from two_floats import TwoFloats

from shala_framework import load
from shala_framework.cli.main import main
from shala_framework.data.labels import label_field, label_title, read_label
from shala_framework.data.packing import pack
from shala_framework.data.rows import Rows, load_rows
from shala_framework.data.shards import read_shards
from shala_framework.data.splits import split_urls
from shala_framework.evaluation.attributes import find_attributes
from shala_framework.evaluation.conditional import measure_conditional
from shala_framework.evaluation.joint import measure_joint, measure_real
from shala_framework.evaluation.judge_training import train_judge
from shala_framework.evaluation.judges import Panel
from shala_framework.evaluation.measurements import measurements
from shala_framework.evaluation.one_to_many import measure_one_to_many
from shala_framework.evaluation.parts import Parts
from shala_framework.evaluation.reference_rows import split_reference
from shala_framework.evaluation.suite import evaluate
from shala_framework.plugin import DataError, Dataset, Sample
from shala_framework.run.experiment import Experiment
from shala_framework.spec import read_spec
from shala_framework.spec.schema import Evaluate
from shala_framework.support.progress import Silent

pytestmark = pytest.mark.long

NAMES = ("hint", "a", "b")


@pytest.mark.parametrize(
    ("written", "text", "title"),
    [
        ("left", "left", "left"),
        ("[3, 4]", "[3, 4]", "[3, 4]"),  # a class, as ever
        (' {"side": "left", "floor": 2}\n', '{"floor": "2", "side": "left"}', "floor: 2, side: left"),
        ('{"side": " left", "floor": null, "lit": true}', '{"lit": "true", "side": "left"}', "lit: true, side: left"),
        ('{"side": null}', None, ""),
    ],
)
def test_labels_are_classes_or_attributes(written, text, title):
    assert read_label(written.encode()) == text
    assert label_title(text) == title


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('{"side": "left"', 'JSON object of attributes such as .* got \'{"side": "left"\' .*correct it, or write'),
        ("{left}", "expected a JSON object of attributes"),
        ('{"side": 1, "side": 2}', "the name 'side' twice"),
        ("{}", "expected a label for each attribute .* got {}; leave the field out"),
        ('{"side": 0.5}', "value of attribute 'side' as text .* a whole number, true, false or null .* got '0.5'"),
        ('{"side": ["left"]}', r"value of attribute 'side' .* got '\[\"left\"\]'"),
        ('{"side": " "}', "value of attribute 'side'"),
        ('{"side ": "1", "side": "2"}', "every attribute once, got 'side' twice, with other white space; correct"),
        ('{" ": "left"}', "the name of an attribute, 1 to 200 printable characters, got ' '"),
    ],
)
def test_malformed_attributes_are_one_error(written, message, tmp_path):
    """Reading and packing refuse them alike; each says where, what it got and what to do."""
    with pytest.raises(DataError, match=message):
        read_label(written.encode())

    class One(Dataset):
        needs_source = False

        def samples(self, source, account):
            yield Sample(key="k", split="train", fields={"a": b"[1, 2]"}, label=written)

    with pytest.raises(DataError, match=rf"sample 'k': .*{message}"):
        pack(One(None), None, tmp_path / "out")
    with pytest.raises(DataError, match="value of attribute 'side'"):
        label_field({"side": 0.5})


def test_attributes_survive_packing(tmp_path):
    """A mapping becomes the JSON that reading returns; an unknown value is left out, and so is an empty label."""
    labels = [{"side": "left", "floor": 2}, {"side": "right", "floor": None}, {"side": None}, None, "plain"]

    class Few(Dataset):
        needs_source = False

        def samples(self, source, account):
            for n, label in enumerate(labels):
                yield Sample(key=str(n), split="train", fields={"a": b"[1, 2]"}, label=label)

    pack(Few(None), None, tmp_path)
    found = [sample.label for path in sorted(tmp_path.glob("*.tar")) for sample in read_shards([str(path)])]
    assert found == ['{"floor": "2", "side": "left"}', '{"side": "right"}', None, None, "plain"]


def rows_of(side, height, *, prefix="r", plain=False):
    """Targets at one of four corners with noise; the hint is the side alone."""
    corner = torch.stack([2.0 * side - 1, 2.0 * height - 1], 1) * 2
    noisy = [corner + 0.1 * torch.randn(corner.shape) for _ in "ab"]
    words = [{"side": ("left", "right")[s], "height": ("below", "above")[h]} for s, h in zip(side, height, strict=True)]
    labels = tuple(" ".join(w.values()) if plain else json.dumps(dict(sorted(w.items()))) for w in words)
    return Rows(
        x=dict(zip(NAMES, [corner * torch.tensor([1.0, 0.0]), *noisy], strict=True)),
        presence=torch.ones(len(side), 3, dtype=torch.bool),
        keys=tuple(f"{prefix}{n:04d}" for n in range(len(side))),
        labels=labels,
    )


@attrs.frozen
class Known(PlainModel):
    """A model whose targets share the side; their heights agree if `alike`, and are above with known probability."""

    alike: bool
    above: float = 0.5
    names: tuple[str, ...] = NAMES

    def generate(self, num_samples, *, given=None, seed=0, **_):
        if given:
            x = next(iter(given.values()))
            side = (x[:, 0] > 0).float()[:, None].expand(-1, num_samples)
        else:
            side = torch.rand(num_samples).round()
        heights = {n: (torch.rand(side.shape) < self.above).float() for n in self.names}
        if self.alike:
            heights = dict.fromkeys(self.names, heights["a"])
        x = {n: torch.stack([2 * side - 1, 2 * heights[n] - 1], -1) * 2 for n in self.names}
        x["hint"] = x["hint"] * torch.tensor([1.0, 0.0])
        return x | {n: v[:, None].expand(-1, num_samples, -1) for n, v in (given or {}).items()}


@pytest.fixture(scope="module")
def scene():
    torch.manual_seed(0)
    train, held_out = (rows_of(*torch.randint(2, (2, count))) for count in (600, 200))
    attributes = find_attributes(train)
    judges = {name: train_judge(TwoFloats(field=name), name, train, attributes, steps=150) for name in NAMES}
    return train, Panel(judges, held_out)


def test_each_attribute_is_judged_by_those_who_can_tell_it(scene):
    """The hint does not show the height: its judge's verdicts on it, and on a class of both, count nowhere."""
    _, panel = scene
    assert [attribute.name for attribute in panel.attributes] == ["height", "side"]
    assert panel.able == [{"a", "b"}, {"hint", "a", "b"}]
    assert panel.told == {"hint": [1], "a": [0, 1], "b": [0, 1]}
    real = measure_real(panel, panel, 400)
    assert min(real.coherence.value, *(figure.value for figure in real.attributes.values())) > 0.99


def test_a_judge_that_only_knows_what_is_frequent_cannot_tell(scene):
    """Nine of ten are above: the judge of the hint is right that often by naming one height, and does not count."""
    _, panel = scene
    rare = panel.held_out.take(
        torch.tensor([n for n, label in enumerate(panel.held_out.labels) if "above" in label or n % 9 == 0])
    )
    panel = Panel(panel.judges, rare)
    targets_N = panel.judges["hint"].targets(rare.labels)[:, 0]
    assert float((panel.judges["hint"].attributes[0].indices(rare.labels) == 0).float().mean()) > 0.8
    assert (targets_N >= 0).all()
    assert "hint" not in panel.able[0]


def test_joint_coherence_is_of_each_attribute_and_of_all(scene):
    """Independent heights agree half of the time, the side always; all attributes agree as often as the worse one."""
    _, panel = scene
    settings = Evaluate(autoguidance_scales=(1.0,), num_seeds=2)
    for alike, expected in ((True, 1.0), (False, 0.5)):
        torch.manual_seed(3)
        found = measure_joint(Known(alike), panel, panel, settings, 400, seed=0, reporter=Silent(), parts=Parts())[0]
        assert found.attributes["side"].value > 0.99
        assert found.attributes["height"].value == pytest.approx(expected, abs=0.05)
        assert found.coherence.value == pytest.approx(found.attributes["height"].value, abs=0.01)
        assert found.attributes["height"].count == 800


def test_what_given_modalities_leave_open_is_no_miss(scene):
    """Given the hint, the height is nobody's to know; given a target it is, and this model misses it half the time."""
    _, panel = scene
    settings = Evaluate(guidance_scales=(1.0,), num_row_samples=4)
    torch.manual_seed(3)
    found = measure_conditional(
        Known(alike=True), panel, panel, settings, 100, seed=0, reporter=Silent(), parts=Parts()
    )[0]
    assert found.pairs["hint"]["a"].value > 0.99  # of the side alone
    assert found.pairs["a"]["b"].value == pytest.approx(0.5, abs=0.08)
    assert found.pairs["a"]["hint"].value > 0.99
    assert found.attributes["side"].value > 0.99
    assert found.attributes["height"].value == pytest.approx(0.5, abs=0.08)


def test_one_to_many_is_of_each_attribute(scene):
    """The hint leaves the height open: agreement and total variation are of it, and the side stays closed."""
    train, panel = scene
    settings = Evaluate(guidance_scales=(1.0,))

    def measured(model):
        torch.manual_seed(1)
        found = measure_one_to_many(model, panel, train, settings, 100, seed=0, reporter=Silent(), parts=Parts())
        return {(f.given, f.attribute): f for f in found if f.method == "diffusion"}

    right = measured(Known(alike=True))
    assert set(right) == {("hint", "height"), ("hint", "side"), ("a", "side"), ("b", "side")}
    figures = right["hint", "height"]
    assert (figures.targets, figures.num_values) == (["a", "b"], 2)
    assert figures.coherence.value > 0.99
    assert figures.independent.value == pytest.approx(0.5, abs=0.08)
    assert figures.variation.value < figures.variation_by_chance.value + 0.05
    assert right["hint", "side"].num_values == 0
    assert right["hint", "side"].independent.value > 0.99
    wrong = measured(Known(alike=True, above=1.0))["hint", "height"]
    assert wrong.variation.value == pytest.approx(0.5, abs=0.06)


def test_an_attribute_alone_is_measured_as_a_class_is(two_spec):
    """One attribute gives the figures of the same labels as classes, to the last digit, and its own beside them."""
    Experiment(read_spec(two_spec), Path("r")).run()
    model = load("r")
    train, rows = (
        load_rows(split_urls(model.spec.data, s, Path("r")), model.modalities) for s in ("train", "validation")
    )
    settings = attrs.evolve(model.spec.evaluate, suite="multimodal-vae", likelihood_rows=0)

    def measured(change):
        parts = [attrs.evolve(r, labels=tuple(map(change, r.labels))) for r in (train, rows)]
        found = list(measurements(evaluate(model, *parts, settings)))
        return {(m.metric.section, m.method, m.metric.name): m.figure for m in found if m.metric.name != "ms"}

    plain = measured(lambda label: label)
    named = measured(lambda label: json.dumps({"side": label}))
    assert all(named[key] == figure for key, figure in plain.items() if "cluster" not in key[2])
    assert {key: named[key[0], key[1], f"{key[2]} of side"] for key in plain if "cluster" in key[2]} == {
        key: figure for key, figure in plain.items() if "cluster" in key[2]
    }
    assert named["joint samples", "diffusion", "coherence of side"] == plain["joint samples", "diffusion", "coherence"]


def test_attributes_stand_in_tables_report_and_comparison(two_spec, capsys):
    """Labels of two attributes in the shards give figures of each by `shala evaluate` and `shala compare`."""
    Experiment(read_spec(two_spec, ("data.stand_in.options.attributes=true",)), Path("r")).run()

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        assert caught.value.code == 0
        return capsys.readouterr().out

    out = call("evaluate", "r", "--suite", "multimodal-vae", "--set", "evaluate.judge_steps=300")
    for title in ("judges by attribute", "coherence of joint samples by attribute", "by attribute, where both sides"):
        assert title in out
    call("compare", "r", "--csv", "table.csv")
    metrics = {row["metric"] for row in csv.DictReader(Path("table.csv").read_text().splitlines())}
    assert {
        "coherence of side",
        "coherence of height, 1 given",
        "linear probe of side",
        "judge of first, height",
    } <= metrics
    call("report", "r")
    page = Path("r/report.html").read_text()
    assert "judges by attribute" in page
    assert "side: left" in page
    call("embed", "r", "--out", "z.csv")
    assert "side: left" in {
        row["class"].split(", ")[1] for row in csv.DictReader(Path("z.csv").read_text().splitlines())
    }


def test_labels_of_two_kinds_are_refused():
    """The message names a sample of each kind."""
    rows = rows_of(*torch.randint(2, (2, 4)))
    mixed = attrs.evolve(rows, labels=("left", *rows.labels[1:]))
    with pytest.raises(
        DataError, match=r"all name a class, or that all are JSON .* got 'left' for sample 'r0000' and 'h"
    ):
        find_attributes(mixed)


def test_the_reference_keeps_half_of_each_value():
    """Each row's combination of values is its own, and a quarter of the rows is still kept from the judges."""
    labels = [json.dumps({"digit": str(n % 10), "place": f"p{n % 7}", "person": f"q{n % 40}"}) for n in range(280)]
    rows = attrs.evolve(rows_of(*torch.randint(2, (2, 280))), labels=tuple(labels))
    judges, reference = split_reference(rows, None)
    assert len(reference) == 70
    for attribute in find_attributes(rows):
        counts = [torch.bincount(attribute.indices(r.labels), minlength=40) for r in (judges, rows)]
        assert (2 * counts[0] >= counts[1]).all()
