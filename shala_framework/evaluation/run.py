"""The evaluation of a run's folder: its shards in, figures as JSON and plots out."""

import json
import math
from pathlib import Path
from typing import Any

import attrs

from shala_framework.checkpoint import write_file
from shala_framework.data.prepared import check_preparation
from shala_framework.data.rows import Rows, load_rows
from shala_framework.data.splits import Split
from shala_framework.errors import DataError
from shala_framework.evaluation.suite import Evaluation, evaluate
from shala_framework.machine import describe_machine
from shala_framework.model import ShaLa
from shala_framework.report.plots import draw_evaluation
from shala_framework.spec import unstructure
from shala_framework.spec.schema import Evaluate
from shala_framework.training.progress import Reporter, Silent

EVALUATION_FOLDER = "evaluation"


def evaluate_run(
    model: ShaLa,
    folder: Path,
    split: Split,
    settings: Evaluate,
    *,
    train: Rows | None = None,
    held_out: Rows | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Measure a run's model on a split and write `evaluation/<split>.json` and the plots beside it.

    Args:
        model: Of the run.
        folder: The run's.
        split: "validation" or "test".
        settings: How much is measured.
        train: Training rows, if they are at hand; else they are read.
        held_out: Rows of the split, likewise.
        seed: Of judges and samples.
        reporter: Who is told of progress.

    Raises:
        DataError: The run has no shards of the split, or they cannot be read.
        CheckpointError: A stage is not trained.
    """
    reporter = reporter or Silent()
    held_out = (
        _read(model, split, folder, settings.held_out_rows, reporter)
        if held_out is None
        else held_out.spread(settings.held_out_rows)
    )
    train = (
        _read(model, "train", folder, settings.train_rows, reporter)
        if train is None
        else train.spread(settings.train_rows)
    )
    evaluation = evaluate(model, train, held_out, settings, seed=seed, reporter=reporter)
    description = {
        "run": folder.name,
        "split": split,
        "seed": seed,
        "machine": describe_machine(model.device),
        "settings": unstructure(settings),
        "synthetic": model.synthetic,
        **_without_nan(attrs.asdict(evaluation)),
    }
    target = folder / EVALUATION_FOLDER
    target.mkdir(exist_ok=True)
    write_file(target / f"{split}.json", (json.dumps(description, indent=2) + "\n").encode())
    for name, picture in draw_evaluation(evaluation, title=f"{folder.name}, {split} split").items():
        write_file(target / f"{split}_{name}.png", picture)
    return evaluation


def _read(model: ShaLa, split: Split, folder: Path, limit: int, reporter: Reporter) -> Rows:
    urls = model.urls(split, folder)
    if not urls:
        raise DataError(
            f"expected shards of the {split} split, got none: the spec has no data.{split}; "
            f"name them with --set data.{split}=..., or choose another --split"
        )
    check_preparation(urls, model.modalities)
    reporter.begin(f"reading {split}", None, "sample")
    cache = Path(model.spec.data.cache) if model.spec.data.cache is not None else None
    rows = load_rows(
        urls,
        model.modalities,
        limit=limit,
        cache=cache,
        on_sample=reporter.advance,
        max_field_bytes=model.spec.data.max_field_bytes,
    )
    reporter.finish()
    for sentence in rows.tally.sentences() if rows.tally is not None else ():
        reporter.note(f"{split} split: {sentence}")
    return rows


def _without_nan(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
