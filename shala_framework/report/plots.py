"""Plots of an evaluation, as PNG, and of a comparison of several."""

import io
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from shala_framework.evaluation.calibration import CalibrationFigures
from shala_framework.evaluation.conditional import ConditionalFigures
from shala_framework.evaluation.joint import JointFigures
from shala_framework.evaluation.measurements import COHERENCE, DISTANCE, JOINT
from shala_framework.evaluation.suite import Evaluation
from shala_framework.report.comparison import Comparison

COLOURS = ("#0b6e99", "#e07b39", "#5a8f29", "#8b5fbf", "#9a9a9a", "#c23b4e")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
PictureFormat = Literal["png", "pdf", "svg"]


def draw_evaluation(evaluation: Evaluation, title: str) -> dict[str, bytes]:
    """Draw pictures by name, "joint", "conditional" and "calibration", without those that have no measurements.

    Args:
        evaluation: Evaluation to draw.
        title: Title of each picture.
    """
    pictures = {}
    if evaluation.joint:
        pictures["joint"] = _draw_joint(evaluation.joint, title)
    if evaluation.conditional:
        pictures["conditional"] = _draw_conditional(evaluation.conditional, title)
    if evaluation.calibration:
        pictures["calibration"] = _draw_calibration(evaluation.calibration, title)
    return pictures


def _draw_joint(joint: Sequence[JointFigures], title: str) -> bytes:
    """Plot coherence against mean Frechet distance, and precision against recall. Up and left are better."""
    canvas = Canvas(figsize=(10, 4.2), layout="constrained")
    coherence, manifold = canvas.subplots(1, 2)
    for colour, figures in zip(COLOURS * len(joint), joint, strict=False):
        if figures.coherence is not None and figures.frechet:
            mean = sum(f.value for f in figures.frechet.values()) / len(figures.frechet)
            low, high = figures.coherence.low, figures.coherence.high
            spread = (
                None
                if low is None or high is None
                else [[figures.coherence.value - low], [high - figures.coherence.value]]
            )
            coherence.errorbar(
                [mean], [figures.coherence.value], yerr=spread, fmt="o", color=colour, label=figures.method
            )
        if figures.precision and figures.recall:
            recall = sum(f.value for f in figures.recall.values()) / len(figures.recall)
            precision = sum(f.value for f in figures.precision.values()) / len(figures.precision)
            manifold.plot([recall], [precision], "o", color=colour, label=figures.method)
    finish_axes(coherence, "Frechet distance, mean over modalities", "joint coherence")
    finish_axes(manifold, "recall, mean over modalities", "precision, mean over modalities")
    manifold.set_xlim(0, 1.02)
    return _png(canvas, title)


def _draw_conditional(conditional: Sequence[ConditionalFigures], title: str) -> bytes:
    """Plot coherence and diversity by the number of given modalities, one line per method."""
    canvas = Canvas(figsize=(10, 4.2), layout="constrained")
    left, right = canvas.subplots(1, 2)
    methods = list(dict.fromkeys(figures.method for figures in conditional))
    for colour, method in zip(COLOURS * len(methods), methods, strict=False):
        of_method = [figures for figures in conditional if figures.method == method]
        sizes = [figures.num_given for figures in of_method]
        left.plot(sizes, [figures.coherence.value for figures in of_method], "o-", color=colour, label=method)
        bounds = [(f.coherence.low, f.coherence.high) for f in of_method]
        if all(low is not None and high is not None for low, high in bounds):
            lows, highs = zip(*bounds, strict=True)
            left.fill_between(sizes, lows, highs, color=colour, alpha=0.15, linewidth=0)
        varied = [(f.num_given, f.diversity.value) for f in of_method if f.diversity is not None]
        if varied:
            right.plot(*zip(*varied, strict=True), "o-", color=colour, label=method)
    for axes in (left, right):
        axes.set_xticks(sorted({figures.num_given for figures in conditional}))
    finish_axes(left, "given modalities", "conditional coherence")
    finish_axes(right, "given modalities", "diversity, 1: as real rows of one class", top=None)
    return _png(canvas, title)


def draw_comparison(comparison: Comparison, kind: PictureFormat) -> bytes | None:
    """Coherence against Frechet distance of joint samples: a colour a group, a marker a method, bars of one deviation.

    Args:
        comparison: Runs side by side.
        kind: Format of the picture.

    Returns:
        The picture; None if no row has both figures.
    """
    rows = [
        (row, row.cells[coherence], row.cells[distance])
        for section in comparison.sections
        if section.title == JOINT
        for coherence in (metric for metric in section.metrics if metric.name == COHERENCE)
        for distance in (metric for metric in section.metrics if metric.name == DISTANCE)
        for row in section.rows
        if coherence in row.cells and distance in row.cells
    ]
    if not rows:
        return None
    groups = list(dict.fromkeys(row.group for row, _, _ in rows))
    methods = list(dict.fromkeys(row.method for row, _, _ in rows))
    canvas = Canvas(figsize=(7, 4.6), layout="constrained")
    axes = canvas.subplots()
    for row, coherence, distance in rows:
        axes.errorbar(
            [distance.mean],
            [coherence.mean],
            xerr=distance.deviation or 0.0,
            yerr=coherence.deviation or 0.0,
            fmt=MARKERS[methods.index(row.method) % len(MARKERS)],
            color=COLOURS[groups.index(row.group) % len(COLOURS)],
            label=", ".join([*row.group, row.method]),
        )
    finish_axes(axes, "Frechet distance, mean over modalities", "joint coherence")
    title = f"{', '.join(comparison.by) or 'all runs'}; {comparison.split} split"
    return save_canvas(canvas, title, kind)


def _draw_calibration(calibration: Sequence[CalibrationFigures], title: str) -> bytes:
    """Coverage against its nominal share, by intervals and by regions: samples below the diagonal are too sure."""
    canvas = Canvas(figsize=(10, 4.2), layout="constrained")
    methods = list(dict.fromkeys(figures.method for figures in calibration))
    sizes = sorted({figures.num_given for figures in calibration})
    for axes, label in zip(canvas.subplots(1, 2), ("random projections", "balls around samples"), strict=True):
        axes.plot([0, 100], [0, 100], color="#bbbbbb", linewidth=1)
        for figures in calibration:
            covered = figures.intervals if label == "random projections" else figures.regions
            axes.plot(
                [float(share) for share in covered],
                [100 * figure.value for figure in covered.values()],
                color=COLOURS[methods.index(figures.method) % len(COLOURS)],
                marker="osv^Dx"[sizes.index(figures.num_given) % 6],
                linewidth=1,
                label=f"{figures.method}, given {figures.num_given}",
            )
        finish_axes(axes, f"nominal share, %, {label}", "held-out latents within, %", top=102)
        axes.set_xlim(40, 100)
    return _png(canvas, title)


def finish_axes(axes: Axes, x_label: str, y_label: str, top: float | None = 1.02) -> None:
    """Label axes from 0 to a top, or to just above the data, with a grid, and a legend if something is labelled."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    above = 1.05 * float(axes.dataLim.y1)
    axes.set_ylim(0, top if top is not None else above if 0 < above < float("inf") else 1.02)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize="small")


def _png(canvas: Canvas, title: str) -> bytes:
    return save_canvas(canvas, title, "png")


def save_canvas(canvas: Canvas, title: str, kind: PictureFormat) -> bytes:
    """Return a picture without its date, so that equal figures give equal bytes."""
    dated = {"png": "Software", "pdf": "CreationDate", "svg": "Date"}[kind]
    canvas.suptitle(title)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format=kind, dpi=110, metadata={dated: None})
    return buffer.getvalue()
