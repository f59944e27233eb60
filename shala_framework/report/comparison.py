"""A comparison of runs: means over seeds for each method, as CSV, LaTeX and JSON values."""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import attrs

from shala_framework.evaluation.intervals import Figure
from shala_framework.evaluation.measurements import SECTIONS, Measurement, Metric, is_reference

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_ARROWS = {"higher": "↑", "lower": "↓", "": ""}


@attrs.frozen(kw_only=True)
class PooledFigure:
    """A metric over the runs of a row.

    Attributes:
        mean: Mean over runs.
        deviation: Standard deviation over runs; None for one run.
        low: Lower end of the figure's own interval, if there is one run and it has one.
        high: Upper end.
        count: Number of rows or samples in each run.
        runs: Number of runs that have the figure.
        best: Whether no row has a better one; real rows do not compete.
    """

    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    count: int
    runs: int
    best: bool = False


@attrs.frozen(kw_only=True)
class ComparisonRow:
    """The runs of one group, by one method.

    Attributes:
        group: Values of the keys that runs are grouped by.
        method: How z was sampled, or "real rows".
        runs: Number of runs of the group.
        cells: Figures; a metric that no run has is absent.
    """

    group: tuple[str, ...]
    method: str
    runs: int
    cells: dict[Metric, PooledFigure]


@attrs.frozen(kw_only=True)
class ComparisonSection:
    """The rows and columns of figures that belong together.

    Attributes:
        title: One of `evaluation.measurements.SECTIONS`.
        metrics: Columns.
        rows: Rows, those of a group in succession.
    """

    title: str
    metrics: Sequence[Metric]
    rows: Sequence[ComparisonRow]


@attrs.frozen(kw_only=True)
class Comparison:
    """Runs side by side.

    Attributes:
        by: Keys of the spec that runs are grouped by.
        split: Split that was measured.
        runs: Folders of the runs.
        sections: Figures.
        notes: What a reader has to know of the figures.
    """

    by: tuple[str, ...]
    split: str
    runs: tuple[str, ...]
    sections: Sequence[ComparisonSection]
    notes: Sequence[str]


def make_sections(groups: Mapping[tuple[str, ...], Sequence[Sequence[Measurement]]]) -> list[ComparisonSection]:
    """Pool the figures of each group's runs.

    Args:
        groups: Values of the keys that runs are grouped by, to the measurements of each run.
    """
    found: dict[str, dict[tuple[tuple[str, ...], str], dict[Metric, list[Figure]]]] = {name: {} for name in SECTIONS}
    metrics: dict[str, dict[Metric, None]] = {name: {} for name in SECTIONS}
    for group, runs in groups.items():
        for measurement in (measurement for run in runs for measurement in run):
            if math.isfinite(measurement.figure.value):
                metric = measurement.metric
                row = found[metric.section].setdefault((group, measurement.method), {})
                row.setdefault(metric, []).append(measurement.figure)
                metrics[metric.section][metric] = None
    sections = []
    for title in (title for title in SECTIONS if found[title]):
        rows = [
            ComparisonRow(
                group=group,
                method=method,
                runs=len(groups[group]),
                cells={metric: _pooled(figures) for metric, figures in cells.items()},
            )
            for (group, method), cells in found[title].items()
        ]
        columns = list(metrics[title])
        sections.append(ComparisonSection(title=title, metrics=columns, rows=_marked(rows, columns)))
    return sections


def _pooled(figures: Sequence[Figure]) -> PooledFigure:
    values, alone = [figure.value for figure in figures], len(figures) == 1
    return PooledFigure(
        mean=fmean(values),
        deviation=None if alone else stdev(values),
        low=figures[0].low if alone else None,
        high=figures[0].high if alone else None,
        count=figures[0].count,
        runs=len(figures),
    )


def _marked(rows: Sequence[ComparisonRow], metrics: Sequence[Metric]) -> list[ComparisonRow]:
    """The rows with the best figures marked, which are equal to the best one as it is printed."""
    best: dict[Metric, float] = {}
    for metric in (metric for metric in metrics if metric.better):
        means = [
            round(row.cells[metric].mean, metric.digits)
            for row in rows
            if metric in row.cells and not is_reference(row.method)
        ]
        if len(means) > 1:
            best[metric] = max(means) if metric.better == "higher" else min(means)

    def marked(row: ComparisonRow) -> ComparisonRow:
        cells = {
            metric: attrs.evolve(
                cell, best=not is_reference(row.method) and round(cell.mean, metric.digits) == best.get(metric)
            )
            for metric, cell in row.cells.items()
        }
        return attrs.evolve(row, cells=cells)

    return [marked(row) for row in rows]


def show_pooled(cell: PooledFigure | None, metric: Metric, num_runs: int) -> str:
    """A figure as text: "0.934 ± 0.004" over runs, "0.934 [0.921, 0.946]" of one run; nothing for None.

    Args:
        cell: The figure.
        metric: What it is of.
        num_runs: Number of runs of the row; fewer runs with the figure are stated.
    """
    if cell is None:
        return ""
    text = f"{cell.mean:.{metric.digits}f}"
    if cell.deviation is not None:
        text += f" ± {cell.deviation:.{metric.digits}f}"
    elif cell.low is not None and cell.high is not None:
        text += f" [{cell.low:.{metric.digits}f}, {cell.high:.{metric.digits}f}]"
    return text if cell.runs == num_runs else f"{text} ({cell.runs} runs)"


def section_title(comparison: Comparison, section: ComparisonSection) -> str:
    """Title of a section, with the split and the numbers of runs and of rows or samples."""
    numbers = sorted({row.runs for row in section.rows})
    runs = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    spread = "mean ± standard deviation over" if numbers[-1] > 1 else "figures of"
    unit = "run" if numbers == [1] else "runs"
    cells = [cell.count for row in section.rows for cell in row.cells.values() if not is_reference(row.method)]
    count = f", n up to {max(cells)}" if cells else ""
    return f"{section.title}; {comparison.split} split{count}; {spread} {runs} {unit} of a row"


def column_title(metric: Metric) -> str:
    """Title of a column, with an arrow towards better values."""
    return f"{metric.name} {_ARROWS[metric.better]}".strip()


def as_csv(comparison: Comparison) -> bytes:
    """A comparison as CSV with one line for each figure, the form that plotting and statistics packages take."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    head = ("section", *comparison.by, "method", "metric", "mean", "deviation", "low", "high", "n", "runs")
    writer.writerow((*head, "split", "better", "best"))
    for section, row, metric, cell in _cells(comparison):
        numbers = (cell.mean, cell.deviation, cell.low, cell.high)
        shown = ["" if number is None else repr(float(number)) for number in numbers]
        line = [section.title, *row.group, row.method, metric.name, *shown, cell.count, cell.runs]
        writer.writerow([*line, comparison.split, metric.better, cell.best])
    return buffer.getvalue().encode()


def as_values(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON values."""
    return {
        "by": list(comparison.by),
        "split": comparison.split,
        "runs": list(comparison.runs),
        "notes": list(comparison.notes),
        "figures": [
            {
                "section": section.title,
                "group": dict(zip(comparison.by, row.group, strict=True)),
                "method": row.method,
                "metric": metric.name,
                "better": metric.better,
                **attrs.asdict(cell),
            }
            for section, row, metric, cell in _cells(comparison)
        ],
    }


def _cells(comparison: Comparison) -> Iterator[tuple[ComparisonSection, ComparisonRow, Metric, PooledFigure]]:
    for section in comparison.sections:
        for row in section.rows:
            for metric in (metric for metric in section.metrics if metric in row.cells):
                yield section, row, metric, row.cells[metric]


def as_latex(comparison: Comparison) -> bytes:
    """A comparison as LaTeX floats with the rules of booktabs, one for each section."""
    lines = [r"% needs \usepackage{booktabs}"]
    for section in comparison.sections:
        head = [*map(_latex, comparison.by), "method", *(_latex(column_title(metric)) for metric in section.metrics)]
        caption = f"{section_title(comparison, section)}; best in bold"
        lines += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(caption[:1].upper() + caption[1:])}.}}",
            rf"\begin{{tabular}}{{{'l' * (len(comparison.by) + 1)}{'r' * len(section.metrics)}}}",
            r"\toprule",
            _latex_line(head),
            r"\midrule",
        ]
        before = section.rows[0].group
        for row in section.rows:
            if row.group != before:
                lines.append(r"\addlinespace")
            cells = [*map(_latex, row.group), _latex(row.method)]
            for metric in section.metrics:
                cell = row.cells.get(metric)
                text = _latex(show_pooled(cell, metric, row.runs))
                cells.append(rf"\textbf{{{text}}}" if cell is not None and cell.best else text)
            lines.append(_latex_line(cells))
            before = row.group
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(lines).encode()


def _latex_line(cells: Sequence[str]) -> str:
    """Return a line of a table. A bracket or a star at its start would be an argument of the line before."""
    line = f"{' & '.join(cells)} \\\\"
    return f"{{}}{line}" if line.startswith(("[", "*")) else line


def _latex(text: str) -> str:
    """Text with the characters that mean something to LaTeX escaped; control characters become spaces."""
    text = re.sub(r"[\x00-\x1f\x7f]", " ", text)
    text = "".join(_LATEX.get(character, character) for character in text)
    return text.replace("±", r"$\pm$").replace("↑", r"$\uparrow$").replace("↓", r"$\downarrow$")
