"""`shala compare`: one table over the evaluations of several runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from shala_framework.cli.commands import FILE, argument, json_flag, option, verb
from shala_framework.cli.completion import complete_run_keys, complete_runs
from shala_framework.cli.output import remark, say
from shala_framework.support.errors import DataError
from shala_framework.support.escaping import printable

if TYPE_CHECKING:
    from shala_framework.data.splits import EvaluatedSplit
    from shala_framework.report.comparison import Comparison
    from shala_framework.report.plots import PictureFormat

PICTURES = ("png", "pdf", "svg")


@verb(
    "  shala compare runs/a runs/b runs/c\n"
    "  shala compare runs/sweep/* --by posterior.latent_dim --csv figures.csv --latex figures.tex\n"
    "  shala compare runs/sweep/* --split test --plot figures.pdf\n"
    "  shala compare runs/sweep/* --plot pareto.pdf --curve guidance\n"
    "  shala compare runs/sweep/* --plot missing.pdf --curve data.hidden_share\n"
)
@argument("runs", "Folders of runs.", type=FILE, nargs=-1, required=True, shell_complete=complete_runs)
@option(
    "--by",
    multiple=True,
    metavar="KEY",
    help="Key of the spec whose values name a row. Repeatable. [default: the keys in which the runs differ, "
    "apart from the seed]",
    shell_complete=complete_run_keys,
)
@option("--split", type=click.Choice(["validation", "test"]), default="validation", help="Split to compare.")
@option("--csv", type=FILE, metavar="FILE", help="Write the figures as CSV, one line for each.")
@option("--latex", type=FILE, metavar="FILE", help="Write the figures as LaTeX with booktabs.")
@option("--plot", type=FILE, metavar="FILE", help="Plot coherence against distance as .png, .pdf or .svg.")
@option(
    "--curve",
    metavar="KEY",
    help='Draw --plot along "guidance", or along a key of the spec that the runs differ in, with the Pareto front.',
    shell_complete=complete_run_keys,
)
@json_flag("the figures")
def compare(
    runs: tuple[Path, ...],
    by: tuple[str, ...],
    split: "EvaluatedSplit",
    csv: Path | None,
    latex: Path | None,
    plot: Path | None,
    curve: str | None,
    as_json: bool,
) -> None:
    """Compare runs in one table: means and deviations over seeds, controls and real rows, the best in bold."""
    kind = plot.suffix.lower().removeprefix(".") if plot is not None else "png"
    if kind not in PICTURES:
        raise DataError(f"expected --plot of a file that ends in .png, .pdf or .svg, got {plot}")
    if curve is not None and plot is None:
        raise DataError("--curve: expected --plot FILE too, which it draws, got none")
    from shala_framework.report.comparison import as_csv, as_latex, as_values
    from shala_framework.run.comparing import compare_runs
    from shala_framework.support.checkpoint import write_file

    comparison = compare_runs(runs, by, split)
    picture = _drawn(comparison, curve, cast("PictureFormat", kind)) if plot is not None else None
    if as_json:
        print(json.dumps(as_values(comparison), indent=2))
        for note in comparison.notes:
            remark(f"note: {note}")
    else:
        print_comparison(comparison)
    written = {csv: as_csv, latex: as_latex}
    for path, content in written.items():
        if path is not None:
            write_file(path, content(comparison))
            _told(path, as_json)
    if plot is not None and picture is not None:
        write_file(plot, picture)
        _told(plot, as_json)


def _drawn(comparison: "Comparison", curve: str | None, kind: "PictureFormat") -> bytes:
    from shala_framework.report.curves import draw_curves  # imports matplotlib
    from shala_framework.report.plots import draw_comparison

    picture = draw_comparison(comparison, kind) if curve is None else draw_curves(comparison, curve, kind)
    if picture is None:
        raise DataError("--plot: no run has both coherence and a distance, so there is nothing to plot")
    return picture


def _told(path: Path, as_json: bool) -> None:
    (remark if as_json else say)(f"wrote {path}")


def print_comparison(comparison: "Comparison") -> None:
    """Print a comparison as tables on standard output, and its notes on standard error."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from shala_framework.report.comparison import column_title, section_title, show_pooled

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 240
    for section in comparison.sections:
        console.print(Text(printable(f"{section_title(comparison, section)}; * best"), style="bold"))
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in (*comparison.by, "runs", "method"):
            table.add_column(Text(printable(title)))
        for metric in section.metrics:
            table.add_column(Text(printable(column_title(metric))), justify="right")
        before = None
        for row in section.rows:
            again = row.group == before
            names = ["" for _ in row.group] if again else [printable(value) for value in row.group]
            cells = [Text(name) for name in (*names, "" if again else str(row.runs), printable(row.method))]
            for metric in section.metrics:
                cell = row.cells.get(metric)
                best = cell is not None and cell.best
                text = show_pooled(cell, metric, row.runs)
                cells.append(Text(f"{text} *", style="bold") if best else Text(text))
            table.add_row(*cells)
            before = row.group
        console.print(table)
        console.print()
    for note in comparison.notes:
        remark(f"note: {note}")
