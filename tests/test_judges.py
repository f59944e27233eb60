"""Figures of a panel for samplers that are known to be calibrated, narrow, or short of a class."""

from statistics import fmean

import attrs
import pytest
import torch
from nearest_judge import Nearest

from shala_framework.data.rows import Rows
from shala_framework.evaluation.conditional import given_index
from shala_framework.evaluation.joint import measure_real
from shala_framework.evaluation.judges import Panel
from shala_framework.evaluation.measurements import over_modalities
from shala_framework.evaluation.reference_rows import split_reference
from shala_framework.evaluation.unpaired import UnpairedDistances

CENTRES = 12 * torch.eye(4, 8)


def drawn(classes, width=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return CENTRES[classes] + width * torch.randn(len(classes), 8, generator=generator)


def rows_of(classes, seed):
    return Rows(
        x={"a": drawn(classes, seed=seed)},
        presence=torch.ones(len(classes), 1, dtype=torch.bool),
        keys=tuple(map(str, range(len(classes)))),
        labels=tuple(map(str, classes.tolist())),
    )


@pytest.fixture
def panel():
    reference = split_reference(rows_of(torch.arange(800) % 4, 1), None)[1]
    return Panel({"a": Nearest(CENTRES)}, rows_of(torch.arange(400) % 4, 2), reference)


def test_fair_samples_score_as_real_rows_do(panel):
    """Figures of 1,000 samples equal those of 200 unseen real rows up to chance, because sets have one size."""
    generator = torch.Generator().manual_seed(0)
    fair = panel.compare("a", drawn(torch.randint(4, (1000,), generator=generator), seed=3))
    real = panel.compare("a", panel.reference["a"])
    assert panel.set_size("a", 1000) == len(panel.reference["a"]) == 200
    assert 0.4 * real["frechet"] < fair["frechet"] < 2 * real["frechet"]
    fewer = panel.compare("a", drawn(torch.arange(999) % 3, seed=3))
    assert fewer["frechet"] > 5 * max(real["frechet"], fair["frechet"])
    assert abs(fair["kernel"]) < 0.05 * fewer["kernel"]
    assert fair["recall"] == pytest.approx(real["recall"], abs=0.05)
    assert fair["spread"] == pytest.approx(1, abs=0.03)
    assert fair["classes"] < 2 * fair["classes_noise"]


@pytest.mark.parametrize("count", [10, 40])
def test_real_rows_stand_in_sets_as_large_as_those_of_samples(panel, count):
    """Frechet distance of few fair samples is as large as that of as few real rows, and their recall as low."""
    generator = torch.Generator().manual_seed(0)
    fair = [panel.compare("a", drawn(torch.randint(4, (count,), generator=generator), seed=s)) for s in range(3, 43)]
    real, whole = measure_real(panel, panel, count), measure_real(panel, panel, 1000)
    assert (real.frechet["a"].count, whole.frechet["a"].count) == (count, 200)
    assert real.frechet["a"].value == pytest.approx(fmean(found["frechet"] for found in fair), rel=0.25)
    assert real.recall["a"].value == pytest.approx(fmean(found["recall"] for found in fair), abs=0.05)
    assert whole.frechet["a"].value < 0.5 * real.frechet["a"].value


def test_a_training_set_that_is_sorted_by_class_has_the_same_distances():
    """Parts of the reference rows are as near to held-out rows, whether training rows come class by class or mixed."""
    held_out, mixed = rows_of(torch.arange(400) % 4, 2), torch.arange(800) % 4
    found = []
    for classes in (mixed, mixed.sort().values):
        panel = Panel({"a": Nearest(CENTRES)}, held_out, split_reference(rows_of(classes, 1), None)[1])
        found.append(
            [
                UnpairedDistances(panel, given_index(panel, 40), ["a"], None).of_real("a").frechet,
                measure_real(panel, panel, 40).frechet["a"].value,
            ]
        )
    assert found[1] == pytest.approx(found[0], rel=0.3)


def test_a_sampler_without_a_class_has_low_recall_and_shows_in_the_distribution(panel):
    """With three of four classes, a quarter of the real rows is not covered, and total variation is a quarter."""
    found = panel.compare("a", drawn(torch.arange(999) % 3, seed=3))
    fair = panel.compare("a", drawn(torch.arange(999) % 4, seed=3))
    assert found["recall"] < fair["recall"] - 0.2
    assert found["precision"] == pytest.approx(fair["precision"], abs=0.05)
    assert found["classes"] == pytest.approx(0.25, abs=0.01)
    assert found["classes_noise"] < 0.06
    assert found["spread"] == pytest.approx(1, abs=0.05)


def test_a_narrowed_sampler_is_precise_and_has_little_spread(panel):
    """With half the deviation, precision rises, recall and spread fall, and the classes do not change."""
    fair, narrow = (panel.compare("a", drawn(torch.arange(1000) % 4, width, seed=3)) for width in (1.0, 0.5))
    assert narrow["precision"] > fair["precision"]
    assert narrow["recall"] < fair["recall"] - 0.3
    assert narrow["spread"] == pytest.approx(0.5, abs=0.03)
    assert narrow["classes"] == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_real_rows_have_no_mean_where_few_have_a_modality(count):
    """Two rows have a distance, but of a set of two; a mean over the other modalities is not that of samples."""
    panels = [two_modalities(num) for num in (count, 50)]
    rare, frequent = (measure_real(panel, panel, 60) for panel in panels)
    assert set(rare.frechet) == set(rare.spread) == {"a"}
    assert set(frequent.frechet) == {"a", "b"}
    samples = attrs.evolve(frequent, method="diffusion")
    for what in ("frechet", "kernel", "recall", "spread", "classes_noise"):
        alone, both = over_modalities([rare, samples], what), over_modalities([frequent, samples], what)
        assert alone[0] is None
        mean = pytest.approx(fmean(figure.value for figure in getattr(samples, what).values()))
        assert [figure.value for figure in (*both, alone[1])] == [mean] * 3
    only_a = attrs.evolve(samples, frechet={"a": samples.frechet["a"]})
    assert over_modalities([frequent, only_a], "frechet")[0].value == samples.frechet["a"].value
    assert over_modalities([only_a, samples], "frechet")[0] is None


def two_modalities(count):
    """A panel of two equal modalities, of which only some reference rows have the second."""

    def both(rows, num):
        presence = torch.stack([torch.ones(len(rows)), torch.arange(len(rows)) < num], 1).bool()
        return attrs.evolve(rows, x={"a": rows.x["a"], "b": rows.x["a"]}, presence=presence)

    held_out = rows_of(torch.arange(200) % 4, 2)
    reference = both(rows_of(torch.arange(200) % 4, 1), count)
    return Panel(dict.fromkeys("ab", Nearest(CENTRES)), both(held_out, len(held_out)), reference)


class Constant(Nearest):
    """A judge that always names the first of four classes."""

    def verdicts(self, features):
        return torch.zeros(len(features), 1, dtype=torch.int64)


@pytest.mark.parametrize("num_classes", [2, 3, 4])
def test_a_judge_that_names_one_class_can_tell_nothing(num_classes):
    """Chance is that of the classes of the held-out rows, over which accuracy is averaged, not of all four."""
    held_out = rows_of(torch.arange(120) % num_classes, 2)
    assert Panel({"a": Constant(CENTRES)}, held_out).able == [frozenset()]
    assert Panel({"a": Nearest(CENTRES)}, held_out).able == [frozenset("a")]
