"""Points of a comparison's curves: their order along guidance or a key, and the Pareto front."""

import pytest

from shala_framework.evaluation.intervals import Figure
from shala_framework.evaluation.measurements import GIVEN, JOINT, Measurement, Metric
from shala_framework.report.comparison import Comparison, make_sections
from shala_framework.report.curves import _lines, _panels, draw_curves, pareto_front
from shala_framework.support.errors import DataError


def compared(by, figures, section=JOINT, ending=""):
    """A comparison of (group, method, coherence, distance)."""
    coherence = Metric(section=section, name=f"coherence{ending}", better="higher")
    distance = Metric(section=section, name=f"Frechet{ending}", better="lower")
    groups = {}
    for group, method, *values in figures:
        pairs = zip((coherence, distance), values, strict=True)
        groups.setdefault(group, [[]])[0].extend(
            Measurement(metric=metric, method=method, figure=Figure(value=value, count=9)) for metric, value in pairs
        )
    return Comparison(by=by, split="test", runs=("r",), sections=make_sections(groups), notes=())


def test_the_front_is_what_nothing_surpasses_in_both():
    """Equal points stay, and so do extremes; a point that is worse in both, or in one and equal in the other, goes."""
    points = [(0.9, 5.0), (0.8, 4.0), (0.7, 4.5), (0.8, 4.2), (0.9, 5.0), (0.2, 1.0)]
    assert pareto_front(points) == [True, True, False, False, True, True]


def test_guidance_joins_the_scales_of_a_group_in_order():
    """The unguided samples come first; controls are points of their own, and real rows none."""
    methods = [
        "diffusion, guidance 3",
        "diffusion",
        "diffusion, guidance 1.5, autoguidance 2",
        "posterior",
        "real rows",
    ]
    figures = [(("a",), method, 0.5 + n / 10, 3.0 + n) for n, method in enumerate(methods)]
    found = _panels(compared(("x",), figures, GIVEN, ", 1 given"), None)
    lines = _lines(found["1 given"])
    assert {line: [point.mark for point in points] for line, points in lines.items()} == {
        "a, diffusion": ["", "g1.5 a2", "g3"],
        "a, posterior": [""],
    }


def test_a_key_joins_groups_in_the_order_of_numbers():
    """ "10" comes after "2.5"; other keys and methods name curves."""
    figures = [
        ((weight, method), "normal", 0.5, 3.0) for weight in ("10", "2.5", "1e-3") for method in ("mvae", "mopoe")
    ]
    comparison = compared(("train.autoencoder.kl_weight", "posterior.method"), figures)
    lines = _lines(_panels(comparison, 0)[JOINT])
    assert list(lines) == ["mvae, normal", "mopoe, normal"]
    assert all([point.mark for point in points] == ["1e-3", "2.5", "10"] for points in lines.values())
    assert draw_curves(comparison, "train.autoencoder.kl_weight", "png").startswith(b"\x89PNG")
    with pytest.raises(DataError, match="a key whose values are numbers, got 'mvae'"):
        draw_curves(comparison, "posterior.method", "png")
