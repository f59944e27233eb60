"""Curves of a comparison: coherence against distance along guidance or a key of the spec, with the Pareto front."""

import re
from collections.abc import Mapping, Sequence

import attrs
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from shala_framework.evaluation.measurements import COHERENCE, DISTANCE, GIVEN, JOINT, is_reference
from shala_framework.report.comparison import Comparison, ComparisonRow, PooledFigure
from shala_framework.report.plots import COLOURS, MARKERS, PictureFormat, finish_axes, save_canvas
from shala_framework.support.errors import DataError

GUIDANCE = "guidance"
_SCALE = re.compile(r", (auto)?guidance ([0-9.e+-]+)")
_MOST_PANELS = 3


@attrs.frozen(kw_only=True)
class Point:
    """A point of a curve.

    Attributes:
        line: Name of its curve.
        place: Position along the curve.
        mark: Short text that stands beside it.
        coherence: Coherence.
        distance: Frechet distance.
    """

    line: str
    place: tuple[float, ...]
    mark: str
    coherence: PooledFigure
    distance: PooledFigure


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which points no other one surpasses.

    Args:
        points: Coherence, of which more is better, and distance, of which less is.

    Example:
        >>> pareto_front([(0.9, 5.0), (0.8, 4.0), (0.7, 4.5)])
        [True, True, False]
    """
    return [
        not any(c >= coherence and d <= distance and (c, d) != (coherence, distance) for c, d in points)
        for coherence, distance in points
    ]


def draw_curves(comparison: Comparison, along: str, kind: PictureFormat) -> bytes | None:
    """Draw coherence against Frechet distance; filled markers are on the Pareto front of their panel.

    Along guidance, panels are joint samples and samples from given modalities, and a curve is one group of runs. Along
    a key of the spec, a curve is the rest of the group's name and a method, and a second panel has coherence over the
    key.

    Args:
        comparison: Runs side by side.
        along: "guidance", or a key that groups are named by, whose values are numbers.
        kind: Format of the picture.

    Returns:
        The picture; None if no row has both figures.

    Raises:
        DataError: Groups are not named by this key, or it has other values than numbers.
    """
    key = None if along == GUIDANCE else _key_place(comparison, along)
    panels = _panels(comparison, key)
    if not panels:
        return None
    shown = list(panels) if len(panels) <= _MOST_PANELS else [*list(panels)[: _MOST_PANELS - 1], list(panels)[-1]]
    if key is not None:
        shown = shown[:1]
    count = len(shown) + (key is not None)
    canvas = Canvas(figsize=(1.5 + 4.5 * count, 4.6), layout="constrained")
    axes = canvas.subplots(1, count, squeeze=False)[0]
    for place, title in zip(axes, shown, strict=False):
        _draw_panel(place, panels[title])
        finish_axes(place, "Frechet distance, mean over modalities", f"coherence, {title}")
    if key is not None:
        _draw_over(axes[-1], panels[shown[0]])
        finish_axes(axes[-1], along, f"coherence, {shown[0]}")
    return save_canvas(canvas, f"{comparison.split} split, along {along}; filled: on the Pareto front", kind)


def _key_place(comparison: Comparison, key: str) -> int:
    if key not in comparison.by:
        known = ", ".join(map(repr, (GUIDANCE, *comparison.by)))
        raise DataError(f"--curve {key}: expected one of {known}, by which rows of the table differ; add --by {key}")
    place = comparison.by.index(key)
    for row in (row for section in comparison.sections for row in section.rows):
        try:
            float(row.group[place])
        except ValueError as error:
            raise DataError(
                f"--curve {key}: expected a key whose values are numbers, got {row.group[place]!r}; use it in --by only"
            ) from error
    return place


def _panels(comparison: Comparison, key: int | None) -> dict[str, list[Point]]:
    """Return the points of each panel, by its title, that have both figures."""
    panels: dict[str, list[Point]] = {}
    for section in comparison.sections:
        if section.title not in (JOINT, GIVEN):
            continue
        metrics = {metric.name: metric for metric in section.metrics}
        for name, coherence in metrics.items():
            head, _, given = name.partition(", ")
            distance = metrics.get(name.replace(COHERENCE, DISTANCE, 1))
            if head != COHERENCE or distance is None:
                continue
            points = [
                _point(row, row.cells[coherence], row.cells[distance], key)
                for row in section.rows
                if coherence in row.cells and distance in row.cells and not is_reference(row.method)
            ]
            if points:
                panels[given or JOINT] = points
    return panels


def _point(row: ComparisonRow, coherence: PooledFigure, distance: PooledFigure, key: int | None) -> Point:
    group = [value for place, value in enumerate(row.group) if place != key]
    scales = {f"{auto or ''}guidance": float(scale) for auto, scale in _SCALE.findall(row.method)}
    if key is not None:
        place: tuple[float, ...] = (float(row.group[key]),)
        method, mark = row.method, row.group[key]
    else:
        place = (scales.get("guidance", 1.0), scales.get("autoguidance", 1.0))
        method = _SCALE.sub("", row.method)
        mark = " ".join(f"{'a' if name.startswith('a') else 'g'}{scale:g}" for name, scale in scales.items())
    return Point(line=", ".join([*group, method]), place=place, mark=mark, coherence=coherence, distance=distance)


def _lines(points: Sequence[Point]) -> Mapping[str, list[Point]]:
    lines: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: point.place):
        lines.setdefault(point.line, []).append(point)
    return {line: lines[line] for line in dict.fromkeys(point.line for point in points)}


def _draw_panel(axes: Axes, points: Sequence[Point]) -> None:
    pairs = [(point.coherence.mean, point.distance.mean) for point in points]
    on_front = dict(zip(pairs, pareto_front(pairs), strict=True))
    for number, (line, found) in enumerate(_lines(points).items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
        x, y = [point.distance.mean for point in found], [point.coherence.mean for point in found]
        axes.plot(x, y, "-", color=colour, linewidth=1, alpha=0.6)
        for point in found:
            at = (point.coherence.mean, point.distance.mean)
            axes.errorbar(
                [at[1]],
                [at[0]],
                xerr=point.distance.deviation or 0.0,
                yerr=point.coherence.deviation or 0.0,
                fmt=marker,
                color=colour,
                markerfacecolor=colour if on_front[at] else "white",
                label=line if point is found[0] else None,
            )
            axes.annotate(point.mark, (at[1], at[0]), xytext=(4, 3), textcoords="offset points", fontsize="x-small")


def _draw_over(axes: Axes, points: Sequence[Point]) -> None:
    for number, (line, found) in enumerate(_lines(points).items()):
        axes.errorbar(
            [point.place[0] for point in found],
            [point.coherence.mean for point in found],
            yerr=[point.coherence.deviation or 0.0 for point in found],
            fmt=f"{MARKERS[number // len(COLOURS) % len(MARKERS)]}-",
            color=COLOURS[number % len(COLOURS)],
            label=line,
        )
