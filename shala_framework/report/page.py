"""Write report.html of a run: one self-contained file that opens without a network.

Shapes: N rows, S samples, D latent_dim.
"""

import platform
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import jinja2
import plotly.offline
import tomli_w
import torch
from torch import Tensor

from shala_framework import __version__
from shala_framework.data.labels import label_title
from shala_framework.data.latent_files import LatentFiles, read_latent_counts
from shala_framework.data.latent_store import latents_of
from shala_framework.data.rows import Rows
from shala_framework.data.splits import split_urls
from shala_framework.evaluation.suite import Evaluation
from shala_framework.model import STAGES, ShaLa
from shala_framework.model.origin import StageOrigin, read_origin
from shala_framework.model.parts import parts_of
from shala_framework.plugin.posterior import GaussianPosterior
from shala_framework.report.card import write_card
from shala_framework.report.data_uris import media_of, picture_uri
from shala_framework.report.latent_map import SHEET_COLUMNS, THUMBNAIL, plane, thumbnails
from shala_framework.report.samples import REPORT_FILE, SYNTHETIC
from shala_framework.report.saved_evaluations import read_evaluation
from shala_framework.report.signal_groups import Cell, SignalGroup
from shala_framework.report.tables import evaluation_tables
from shala_framework.report.walks import interpolation, traversal
from shala_framework.spec import unstructure
from shala_framework.support.checkpoint import write_file
from shala_framework.support.errors import CheckpointError, DataError
from shala_framework.support.machine import describe_machine
from shala_framework.support.progress import Reporter, Silent
from shala_framework.training.metrics import read_metrics

MOST_JOINT = 12
MOST_ROWS = 6
NUM_SAMPLES = 3  # samples for each given row
MOST_POINTS = 512


class Report:
    """The report page of a run. Samples and maps are computed once; measured values are read again for every write.

    Args:
        model: Model of the run, with both stages trained.
        folder: Folder of the run.
        held_out: Rows for the cross-modal panels, the latent map and the interpolation; None omits these parts.
        command: Command that started the run, for reproducing it.
        reporter: Receives progress updates.
    """

    def __init__(
        self, model: ShaLa, folder: Path, held_out: Rows | None, *, command: str = "", reporter: Reporter | None = None
    ) -> None:
        self.model, self.folder, self.reporter = model, folder, reporter or Silent()
        mapped = held_out.spread(MOST_POINTS) if held_out is not None and len(held_out) > 1 else None
        q = latents_of(model.autoencoder, mapped, model.device).posterior if mapped is not None else None
        self.fixed = {
            "name": model.spec.name,
            "synthetic": SYNTHETIC if model.synthetic else "",
            "names": model.names,
            "data": _data(model, folder, held_out, self.reporter.warn),
            "joint": _joint(model),
            "cross": _cross_modal(model, held_out) if held_out is not None else {},
            "interpolation": interpolation(model, held_out) if held_out is not None else None,
            "traversal": traversal(model, q.mean_BD) if q is not None else None,
            "map": _latent_map(model, mapped, q) if mapped is not None and q is not None else None,
            "spec": spec_as_toml(unstructure(model.spec)),
            "command": command,
            "plotly": plotly.offline.get_plotlyjs(),
        }

    def write(self, *, evaluating: bool = False) -> Path:
        """Write `report.html` and the model card with all available curves and measurements; return the page's path.

        Args:
            evaluating: Whether the evaluation is still running, which the page then states.
        """
        metrics = read_metrics(self.folder / "metrics.jsonl", self.model.fingerprint, self.reporter.warn)
        taken = self._origin()
        elsewhere = set(taken.stages) if taken is not None else set()
        for stage in sorted(self.model.stages - elsewhere - {entry["stage"] for entry in metrics}):
            self.reporter.warn(
                f"{self.folder / 'metrics.jsonl'} has no lines of stage {stage}: the report lacks its curves"
            )
        facts, evaluations = _facts(self.model, self.folder, metrics), _evaluations(self.folder, self.reporter.warn)
        if taken is not None:
            facts.append(("taken", taken.describe()))
        context = self.fixed | {
            "facts": facts,
            "curves": _curves(metrics),
            "evaluations": {
                split: {"tables": evaluation_tables(found), "notes": found.notes}
                for split, found in evaluations.items()
            },
            "evaluating": evaluating,
        }
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("shala_framework", "report/templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        path = self.folder / REPORT_FILE
        write_file(path, environment.get_template("report.html.jinja").render(context).encode())
        write_card(self.model, self.folder, facts=facts, data=self.fixed["data"], evaluations=evaluations)
        self.reporter.note(f"wrote {path}{', not yet with the evaluation' if evaluating else ''}")
        return path

    def _origin(self) -> StageOrigin | None:
        """Name the sources of stages that the run did not train itself."""
        try:
            return read_origin(self.folder)
        except CheckpointError as error:
            self.reporter.warn(f"{error}; the report does not say it")
            return None


def spec_as_toml(spec: Mapping[str, Any]) -> str:
    """Format a resolved spec as a TOML file for `shala-run`, without keys that have no value."""

    def without_none(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_none(inner) for key, inner in value.items() if inner is not None}
        return [without_none(inner) for inner in value] if isinstance(value, list | tuple) else value

    written = without_none(spec)
    shared = {table.pop("group") for table in written["modality"].values()} - {""}
    for table in written["modality"].values():
        table.pop("share")
    notes = [f"# Tables of {group!r} share their networks: write them as one, with share = true.\n" for group in shared]
    return "".join(sorted(notes)) + tomli_w.dumps(written)


def _facts(model: ShaLa, folder: Path, metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts_of(model).items()}
    steps = {m["stage"]: m["step"] for m in metrics if m["stage"] in STAGES}
    summaries = [m for m in metrics if m["stage"] == "summary"]
    seconds: dict[str, float] = {}
    for summary in summaries:
        seconds |= summary.get("seconds", {})
    facts = [
        ("where", str(folder)),
        ("modalities", ", ".join(f"{name} ({table.plugin})" for name, table in model.spec.modality.items())),
        ("latent", f"{model.spec.posterior.latent_dim} dimensions"),
        ("parameters", f"{sum(counts.values()):,} ({', '.join(f'{name} {n:,}' for name, n in counts.items())})"),
        ("steps", ", ".join(f"{stage} {step:,}" for stage, step in steps.items())),
        ("seed", str(model.spec.seed)),
        ("made with", f"shala_framework {__version__}, Python {platform.python_version()}"),
        ("report made on", describe_machine(model.device)),
    ]
    if seconds:
        facts.append(("wall time", ", ".join(f"{phase} {value:,.0f} s" for phase, value in seconds.items())))
    if summaries:
        facts.append(("peak memory", f"{max(m['peak_memory_gib'] for m in summaries):.2f} GiB"))
    return facts


def _data(model: ShaLa, folder: Path, held_out: Rows | None, warn: Callable[[str], None]) -> dict[str, Any]:
    """Collect rows by split and modality, and what packing left out."""
    lines = []
    latents = folder / "state" / "latents"
    if LatentFiles.exist(latents):
        try:
            count, counts = read_latent_counts(latents)
            lines.append(["train", count, *counts])
        except CheckpointError as error:  # derived data; the page omits the line
            warn(str(error))
    if held_out is not None:
        lines.append(["held out, in memory", len(held_out), *held_out.presence.sum(0).tolist()])
    left_out = []
    for split in ("train", "validation"):
        try:
            urls = split_urls(model.spec.data, split, folder if model.synthetic else None)
        except DataError:
            continue  # a report can be written even if shards have been moved since
        for parent in dict.fromkeys(Path(url).parent for url in urls):
            listed = parent / "left_out.txt"
            if listed.exists():
                reasons = listed.read_text().split("\n")[:-1]
                left_out.append((str(listed), len(reasons), reasons[:20]))
    data = model.spec.data
    train = [
        name if weight == 1 else f"{name} (weight {weight:g})"
        for name, weight in zip(data.train_names, data.train_weights, strict=True)
    ]
    sources = {"train": train, "validation": data.validation, "test": data.test}
    if model.synthetic and data.stand_in is not None:
        sources = {"stand-in": f"the synthetic data set {data.stand_in.dataset!r}"}
    return {
        "head": ["", "rows", *model.names],
        "lines": lines,
        "left_out": list(dict.fromkeys((path, count, tuple(reasons)) for path, count, reasons in left_out)),
        "sources": {
            key: value if isinstance(value, str) else ", ".join(value) for key, value in sources.items() if value
        },
    }


def _curves(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Collect charts for each stage's loss, its terms of each kind and its speed, with titles and series."""
    series: dict[tuple[str, str], dict[str, tuple[list[int], list[float]]]] = defaultdict(dict)
    for entry in metrics:
        stage = entry["stage"]
        for name, value in entry.items():
            if name in ("stage", "step", "gradient_norm") or stage == "summary" or not isinstance(value, int | float):
                continue
            plain = name.removeprefix("validation_")
            chart = "rate" if plain == "steps_per_second" else plain.replace("log_prob/", "log-likelihood of ")
            if chart in ("elbo", "denoising", "guide_denoising"):
                chart = "loss" if stage == "prior" else chart
            label = plain.rpartition("/")[2] + (", validation" if name != plain else "")
            steps, values = series[stage, chart].setdefault(label, ([], []))
            steps.append(entry["step"])
            values.append(value)
    units = {"rate": "steps per second", "kl": "KL, nats", "elbo": "ELBO, nats", "objective": "nats"}
    return [
        {
            "title": f"{stage}: {chart.replace('_', ' ')}",
            "unit": units.get(chart, "nats" if chart.startswith("log-likelihood") else ""),
            "series": [{"name": name, "x": x, "y": y} for name, (x, y) in found.items()],
        }
        for (stage, chart), found in series.items()
    ]


def _cells(model: ShaLa, x: Mapping[str, Tensor], names: Sequence[str], role: str, suffix: str = "") -> list[Cell]:
    """Return a cell for each modality's x, which has no batch dimension."""
    return [Cell(f"{role} {name}{suffix}", media_of(model.modalities[name].preview(x[name])), role) for name in names]


def _joint(model: ShaLa) -> list[SignalGroup]:
    count = min(MOST_JOINT, model.spec.generate.num_joint or MOST_JOINT)
    x, modes = model.generate(count, seed=model.spec.seed), _modes(model, count)
    panels = []
    for n in range(count):
        cells = _cells(model, {name: value[n] for name, value in x.items()}, model.names, "generated")
        means = {name: value[n] for name, value in modes.items()}
        panels.append(
            SignalGroup(f"sample {n}", cells + _cells(model, means, list(means), "generated", ", not refined"))
        )
    return panels


def _modes(model: ShaLa, num_samples: int, given: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Collect the samples of refined modalities as decoded without stage 3."""
    names = [name for name in model.refined_names if name not in (given or {})]
    if not names:
        return {}
    x = model.generate(num_samples, given=given, seed=model.spec.seed, refine=False)
    return {name: x[name] for name in names}


def _cross_modal(model: ShaLa, held_out: Rows) -> dict[str, list[SignalGroup]]:
    """Collect, by given modality, what was given, several samples of all other modalities, and the real data."""
    found: dict[str, list[SignalGroup]] = {}
    for column, given in enumerate(model.names) if len(model.names) > 1 else ():
        rows = _varied_rows(held_out, column, MOST_ROWS)
        if not len(rows):
            continue
        others = [name for name in model.names if name != given]
        x = model.generate(NUM_SAMPLES, given={given: rows.x[given]}, seed=model.spec.seed)
        modes = _modes(model, 1, {given: rows.x[given]})
        panels = []
        for n, key in enumerate(rows.keys):
            cells = _cells(model, {given: rows.x[given][n]}, [given], "given")
            for name in others:
                for s in range(NUM_SAMPLES):
                    cells += _cells(model, {name: x[name][n, s]}, [name], "generated", f" {s + 1}")
                if name in modes:
                    cells += _cells(model, {name: modes[name][n, 0]}, [name], "generated", ", not refined")
                there = bool(rows.presence[n, model.names.index(name)])
                true = _cells(model, {name: rows.x[name][n]}, [name], "true")[0]
                cells.append(true if there else attrs.evolve(true, media=[]))
            label = label_title(rows.labels[n])
            panels.append(SignalGroup(f"{key}{f': {label}' if label else ''}", cells))
        found[given] = panels
    return found


def _varied_rows(rows: Rows, column: int, count: int) -> Rows:
    """Select rows that have the modality of a presence column, from as many classes as possible."""
    seen: Counter[str | None] = Counter()
    turns = []
    for row in torch.nonzero(rows.presence[:, column])[:, 0].tolist():
        turns.append((seen[rows.labels[row]], row))
        seen[rows.labels[row]] += 1
    order = torch.tensor([row for _, row in sorted(turns)], dtype=torch.long)  # one of each class, then the next
    if len(seen) > count:
        order = order[torch.linspace(0, len(seen) - 1, count).round().long()]
    return rows.take(order[:count])


@torch.no_grad()
def _latent_map(model: ShaLa, rows: Rows, q: GaussianPosterior) -> dict[str, Any]:
    """Collect points, labels, keys and thumbnails of held-out rows, and the KL of each dimension."""
    points_N2, method = plane(q.mean_BD)
    sheet = thumbnails(model, rows)
    return {
        "method": method,
        "x": points_N2[:, 0].round(3).tolist(),
        "y": points_N2[:, 1].round(3).tolist(),
        "labels": [label_title(label) for label in rows.labels],
        "keys": list(rows.keys),
        "sheet": picture_uri(sheet[0]) if sheet else "",
        "shown": sheet[1] if sheet else "",
        "columns": SHEET_COLUMNS,
        "side": THUMBNAIL,
        "kl": sorted(q.kl_BD().mean(0).tolist(), reverse=True),
    }


def _evaluations(folder: Path, warn: Callable[[str], None]) -> dict[str, Evaluation]:
    """Read the evaluation of each split, without damaged ones."""
    measured = {}
    for path in sorted((folder / "evaluation").glob("*.json")):
        try:
            measured[path.stem] = read_evaluation(path)
        except CheckpointError as error:
            warn(f"{error}; it is left out of the report")
    return measured


def write_card_of_run(model: ShaLa, folder: Path, held_out: Rows | None, warn: Callable[[str], None]) -> Path:
    """Write the model card of a run that has no report, as after training from Python; returns its path."""
    facts = _facts(model, folder, read_metrics(folder / "metrics.jsonl", model.fingerprint, warn))
    data = _data(model, folder, held_out, warn)
    return write_card(model, folder, facts=facts, data=data, evaluations=_evaluations(folder, warn))
