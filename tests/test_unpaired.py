"""Samples from given rows are compared with other rows, and fairly, for samplers whose quality is known."""

import json
from statistics import fmean, stdev

import attrs
import pytest
import torch
from nearest_judge import Nearest
from plain_model import PlainModel
from torch import nn

from shala_framework.data.rows import Rows
from shala_framework.evaluation.attributes import Attribute
from shala_framework.evaluation.conditional import given_index, measure_conditional
from shala_framework.evaluation.judges import Panel
from shala_framework.evaluation.manifold import NUM_NEIGHBOURS
from shala_framework.evaluation.parts import Parts
from shala_framework.evaluation.reference_rows import split_reference
from shala_framework.evaluation.unpaired import UnpairedDistances
from shala_framework.spec.schema import Evaluate
from shala_framework.support.progress import Silent

pytestmark = pytest.mark.long

CENTRES = 5 * torch.eye(4, 8)
NAMES = ("a", "b")
SETTINGS = Evaluate(guidance_scales=(1.0,), num_row_samples=4)


@attrs.frozen
class Known(PlainModel):
    """A model that draws the given row's class with a width of its own relative to the true one."""

    widths: torch.Tensor  # of the classes
    relative: float = 1.0
    names: tuple[str, ...] = NAMES

    def generate(self, num_samples, *, given, **_):
        classes = torch.cdist(next(iter(given.values())), CENTRES).argmin(1)[:, None].expand(-1, num_samples)
        return {name: self.drawn(classes, self.relative) for name in self.names}

    def drawn(self, classes, relative=1.0):
        noise = torch.randn(*classes.shape, 8)
        return CENTRES[classes] + relative * self.widths[classes][..., None] * noise

    def rows(self, classes, share_present=1.0):
        presence = torch.rand(len(classes), 2) < share_present
        return Rows(
            x={name: self.drawn(classes) for name in self.names},
            presence=presence | ~presence.any(1, keepdim=True),
            keys=tuple(map(str, range(len(classes)))),
            labels=tuple(map(str, classes.tolist())),
        )

    def panel(self, num_held_out, share_present=1.0):
        judges = dict.fromkeys(self.names, Nearest(CENTRES))
        held_out, train = (self.rows(torch.randint(4, (n,)), share_present) for n in (num_held_out, 1600))
        return Panel(judges, held_out, split_reference(train, None)[1])

    def measured(self, panel, num_rows):
        return measure_conditional(self, panel, panel, SETTINGS, num_rows, seed=0, reporter=Silent(), parts=Parts())[0]


@pytest.mark.parametrize(("held_out", "given", "share_present"), [(120, 120, 1.0), (300, 80, 1.0), (300, 120, 0.6)])
def test_a_perfect_sampler_is_as_far_as_real_rows_and_a_narrow_one_farther(held_out, given, share_present):
    """Compared with the rows that it was given, it would be nearer, and a narrow one would pass for perfect."""
    fair, narrow = Known(torch.ones(4)), Known(torch.ones(4), relative=0.6)
    found = []
    for trial in range(16):
        torch.manual_seed(trial)
        panel = fair.panel(held_out, share_present)
        measured = [model.measured(panel, given) for model in (fair, narrow)]
        real = measured[0].real_frechet, measured[0].real_kernel
        assert (measured[1].real_frechet, measured[1].real_kernel) == real
        sizes = {real[0].count, *(figures.frechet.count for figures in measured)}
        assert len(sizes) == 1
        assert (20 if share_present < 1 else 60) <= min(sizes) <= given
        found.append([[each.frechet.value, each.kernel.value] for each in measured])
        found[-1].append([figure.value for figure in real])
    of_fair, of_narrow, of_real = ([[trial[who][what] for trial in found] for what in (0, 1)] for who in range(3))
    assert fmean(of_fair[0]) == pytest.approx(fmean(of_real[0]), rel=0.25)
    error = stdev(a - b for a, b in zip(of_fair[1], of_real[1], strict=True)) / 16**0.5
    assert abs(fmean(of_fair[1]) - fmean(of_real[1])) < 3 * error
    assert fmean(of_narrow[0]) > 1.15 * fmean(of_real[0])


def rare(rows, count, name="b"):
    """Let only the first rows have a modality."""
    presence = rows.presence.clone()
    presence[:, NAMES.index(name)] = torch.arange(len(rows)) < count
    return attrs.evolve(rows, presence=presence)


@pytest.mark.parametrize("count", [1, 2, NUM_NEIGHBOURS, 12])
def test_a_modality_that_few_reference_rows_have_does_not_shrink_the_sets_of_all(count):
    """Samples are compared as if it were frequent, and have no real rows beside them: a mean needs all modalities."""
    torch.manual_seed(0)
    fair = Known(torch.ones(4))
    judges = dict.fromkeys(NAMES, Nearest(CENTRES))
    held_out, reference = fair.rows(torch.randint(4, (300,))), fair.rows(torch.randint(4, (400,)))
    panels = [Panel(judges, held_out, rows) for rows in (reference, rare(reference, count))]
    frequent, few = (fair.measured(panel, 80) for panel in panels)
    assert frequent.frechet.count == few.frechet.count == frequent.real_frechet.count == 80
    assert (few.real_frechet, few.real_kernel) == (None, None)
    unpaired = UnpairedDistances(panels[1], given_index(panels[1], 80), NAMES, None)
    assert unpaired.of_real("b") is None
    assert unpaired.of_real("a") is not None


def test_real_rows_are_of_the_modalities_of_the_samples_beside_them():
    """Where few rows have a, nothing is generated from it, and samples as well as real rows are of a alone."""
    torch.manual_seed(0)
    fair = Known(torch.ones(4))
    held_out = rare(fair.rows(torch.randint(4, (300,))), 12, "a")
    panel = Panel(dict.fromkeys(NAMES, Nearest(CENTRES)), held_out, fair.rows(torch.randint(4, (400,))))
    found = fair.measured(panel, 80)
    unpaired = UnpairedDistances(panel, given_index(panel, 80), NAMES, None)
    assert (found.real_frechet.value, found.real_kernel.value) == attrs.astuple(unpaired.of_real("a"))
    assert unpaired.of_real("b").frechet != found.real_frechet.value


def test_a_perfect_sampler_is_as_varied_as_real_rows_also_of_unequal_classes():
    """One class is frequent and narrow: each row's spread is that of its own class."""
    torch.manual_seed(0)
    model = Known(torch.tensor([0.5, 1.5, 1.0, 1.0]))
    rows = model.rows((torch.rand(400) < 0.2).long())
    panel = Panel(dict.fromkeys(NAMES, Nearest(CENTRES)), rows, rows)
    assert model.measured(panel, 400).diversity.value == pytest.approx(1, abs=0.03)


class OfTwo(nn.Module):
    """A judge of two attributes, which it tells from x or knows nothing about."""

    attributes = (Attribute("high", ("0", "1")), Attribute("left", ("0", "1")))
    known, sizes, steps = (frozenset("01"), frozenset("01")), (2, 2), 0

    def __init__(self, start):
        super().__init__()
        self.start = start

    def features(self, x):
        return x

    def classify(self, x):
        return self.verdicts(x)

    def verdicts(self, features):
        return (features[..., self.start : self.start + 2] > 0).long()

    def targets(self, labels):
        return torch.stack([a.indices(labels) for a in self.attributes], 1)


def test_a_judge_that_tells_no_attribute_still_measures_distances():
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    labels = [json.dumps({"high": str(int(h > 0)), "left": str(int(w > 0))}) for h, w in x[:, :2].tolist()]
    rows = Rows(
        x={"a": x, "b": x},
        presence=torch.ones(200, 2, dtype=torch.bool),
        keys=tuple(map(str, range(200))),
        labels=tuple(labels),
    )
    panel = Panel({"a": OfTwo(0), "b": OfTwo(2)}, rows, rows)
    assert panel.told == {"a": [0, 1], "b": []}
    found = panel.compare("b", torch.randn(60, 4))
    assert {"frechet", "kernel", "recall"} <= found.keys()
    assert "classes" not in found
    assert panel.class_spreads("b", rows.labels).isnan().all()
