"""The evaluation of a run's folder: its shards in, figures as JSON and plots out."""

import hashlib
import json
import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

import attrs
import torch

from shala_framework.data.prepared import check_preparation
from shala_framework.data.rows import Rows
from shala_framework.data.shard_cache import cache_of
from shala_framework.data.splits import Split, split_urls
from shala_framework.data.streams import load_rows_in_workers
from shala_framework.evaluation.cost import measure_cost
from shala_framework.evaluation.parts import FORMAT, Parts
from shala_framework.evaluation.suite import Evaluation, evaluate
from shala_framework.model import STAGES, ShaLa, checkpoint_checksums, checkpoint_file
from shala_framework.model.origin import read_origin
from shala_framework.run.folder import RunFolder
from shala_framework.run.passing import read_by_first
from shala_framework.spec import unstructure
from shala_framework.spec.schema import Evaluate
from shala_framework.support.checkpoint import write_file
from shala_framework.support.distributed import processes
from shala_framework.support.errors import DataError
from shala_framework.support.json_files import dump_json
from shala_framework.support.machine import describe_machine
from shala_framework.support.progress import Reporter, Silent
from shala_framework.support.sources import source_digest
from shala_framework.training.metrics import training_seconds
from shala_framework.training.precision import choose_precision

EVALUATION_FOLDER, PARTS_FOLDER = "evaluation", "parts"


def evaluate_run(
    model: ShaLa,
    folder: Path,
    split: Split,
    settings: Evaluate,
    *,
    train: Rows | None = None,
    held_out: Rows | None = None,
    seconds: float | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Measure a run's model on a split and write `evaluation/<split>.json` and the plots beside it.

    Finished parts are kept in `evaluation/parts/`; the same call takes them from there, and so resumes where it was
    stopped. Under torchrun all processes call this together; they share the work, and the first one writes.

    Args:
        model: Model of the run.
        folder: Folder of the run.
        split: "validation" or "test".
        settings: How much is measured.
        train: Training rows, if they are at hand; else they are read.
        held_out: Rows of the split, likewise.
        seconds: That counts which the settings leave open are fitted to; None is without a limit.
        seed: Seed of judges and samples.
        reporter: Receives progress.

    Raises:
        DataError: The run has no shards of the split, or they cannot be read.
        CheckpointError: A stage is not trained.
    """
    reporter = reporter or Silent()
    held_out = (
        read_by_first(partial(_read, model, split, folder, settings.held_out_rows, reporter))
        if held_out is None
        else held_out.spread(settings.held_out_rows)
    )
    train = (
        read_by_first(partial(_read, model, "train", folder, settings.train_rows, reporter))
        if train is None
        else train.spread(settings.train_rows)
    )
    target = folder / EVALUATION_FOLDER
    target.mkdir(exist_ok=True)
    # A run that was trained in float32 is judged in it; any other by what this device does best.
    asked: Literal["float32", "auto"] = "float32" if model.spec.train.precision == "float32" else "auto"
    precision = choose_precision(asked, model.device)
    context = _context(model, folder, split, train, held_out, seed) | {"precision": precision.name}
    identity = context["rows"][1]
    parts = Parts(target / PARTS_FOLDER, context)
    checksums = checkpoint_checksums(folder)  # before it is measured, in case that a stage is trained meanwhile
    try:
        evaluation = evaluate(
            model,
            train,
            held_out,
            settings,
            seconds=seconds,
            seed=seed,
            reporter=reporter,
            parts=parts,
            precision=precision,
        )
    except KeyboardInterrupt:
        reporter.warn("stopped while evaluating; finished parts are kept, and the same command resumes there")
        raise
    if settings.suite == "multimodal-vae":
        # What training the stages of another run took is not recorded here, and the rest alone would be too little.
        of_others = read_origin(folder) is not None
        metrics = RunFolder(folder, model.fingerprint, reporter).metrics
        seconds_trained = 0 if of_others else training_seconds(metrics, model.fingerprint)
        evaluation = attrs.evolve(evaluation, cost=measure_cost(model, seconds_trained))
    if processes.rank() != 0:
        return evaluation
    description = {
        "format": FORMAT,
        "run": folder.name,
        "split": split,
        "seed": seed,
        "machine": describe_machine(model.device),
        "settings": unstructure(settings),
        "stages": sorted(model.stages),
        "weights": {stage: checksums[stage] for stage in sorted(model.stages) if stage in checksums},
        "sampling": {"generate": unstructure(model.spec.generate), "refine": unstructure(model.spec.refine)},
        "synthetic": model.synthetic,
        "held_out": identity["keys"],
        "held_out_presence": identity["presence"],
        "held_out_values": identity["values"],
        "held_out_shards": None if model.synthetic else unstructure(getattr(model.spec.data, split)),
        **_without_nan(attrs.asdict(evaluation)),
    }
    write_file(target / f"{split}.json", dump_json(description, indent=2))
    from shala_framework.report.plots import draw_evaluation  # matplotlib takes most of a second

    for name, picture in draw_evaluation(evaluation, title=f"{folder.name}, {split} split").items():
        write_file(target / f"{split}_{name}.png", picture)
    return evaluation


def identify_rows(rows: Rows) -> dict[str, str]:
    """Return short hashes of rows: of "keys" and labels, of the "presence" of modalities, and of their "values".

    They do not depend on the order of modalities, nor on values where a modality is missing.
    """
    values = hashlib.sha256()
    for name in sorted(rows.x):
        present = rows.x[name][rows.index_having([name])].contiguous()
        values.update(f"{name} {present.dtype} {list(present.shape)}".encode())
        values.update(present.cpu().view(torch.uint8).numpy().tobytes())
    return {
        "keys": _digest([rows.keys, rows.labels]),
        "presence": _digest({name: rows.index_having([name]).tolist() for name in sorted(rows.x)}),
        "values": values.hexdigest()[:16],
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _read(model: ShaLa, split: Split, folder: Path, limit: int, reporter: Reporter) -> Rows:
    urls = split_urls(model.spec.data, split, folder if model.synthetic else None)
    if not urls:
        raise DataError(
            f"expected shards of the {split} split, got none: the spec has no data.{split}; "
            f"name them with --set data.{split}=..., or choose another --split"
        )
    check_preparation(urls, model.modalities)
    reporter.begin(f"reading {split}", None, "sample")
    rows = load_rows_in_workers(
        urls,
        model.modalities,
        limit=limit,
        cache=cache_of(model.spec.data),
        num_workers=model.spec.data.num_workers,
        on_sample=reporter.advance,
        max_field_bytes=model.spec.data.max_field_bytes,
    )
    reporter.finish()
    for sentence in rows.tally.sentences() if rows.tally is not None else ():
        reporter.note(f"{split} split: {sentence}")
    return rows


def _context(model: ShaLa, folder: Path, split: Split, train: Rows, held_out: Rows, seed: int) -> dict[str, Any]:
    """What every part depends on, as JSON values: the run's weights, the rows, the seed, and the code that measures."""
    weights = []
    for path in (checkpoint_file(folder, stage) for stage in STAGES):
        if path.exists():
            with path.open("rb") as file:
                weights.append(hashlib.file_digest(file, "sha256").hexdigest())
    return {
        "split": split,
        "seed": seed,
        "weights": weights,
        "rows": [identify_rows(rows) for rows in (train, held_out)],
        "device": model.device.type,
        "code": source_digest("shala_framework", *_packages(model)),
    }


def _packages(model: ShaLa) -> set[str]:
    """Return the top-level packages of the modalities and of the method."""
    kinds = [type(value) for value in (*model.modalities.values(), model.autoencoder.method)]
    return {kind.__module__.partition(".")[0] for kind in kinds}


def _without_nan(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
