"""Read the evaluations that runs keep as JSON files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import cattrs

from shala_framework.evaluation.suite import Evaluation
from shala_framework.model import STAGES, checkpoint_checksums, checkpoint_file
from shala_framework.support.errors import CheckpointError
from shala_framework.support.json_files import read_json

EARLIER_FORMAT = 4  # of evaluations that do not name theirs


@attrs.frozen(kw_only=True)
class SavedEvaluation:
    """An evaluation as its file holds it.

    Attributes:
        evaluation: Every figure.
        split: Split that was measured.
        seed: Seed of judges and samples.
        settings: The spec's [evaluate] table, as JSON values.
        synthetic: Whether the data came from a stand-in.
        held_out: Digest of keys and labels of the held-out rows; None in files of earlier versions.
        held_out_presence: Digest of which modalities the held-out rows have; None likewise.
        held_out_values: Digest of their values; None likewise.
        held_out_shards: Shards of the held-out rows, as data.<split> named them after --set; None for a stand-in, and
            likewise.
        sampling: The tables [generate] and [refine] that samples were made with, which `shala evaluate --set` may have
            changed, as JSON values; empty in files of earlier versions.
        format: Version of what figures mean; those of other versions are not comparable.
    """

    evaluation: Evaluation
    split: str
    seed: int
    settings: dict[str, Any]
    synthetic: bool
    held_out: str | None = None
    held_out_presence: str | None = None
    held_out_values: str | None = None
    held_out_shards: str | list[str] | None = None
    sampling: dict[str, Any] = attrs.field(factory=dict)
    format: int = EARLIER_FORMAT


def read_saved_evaluation(path: Path) -> SavedEvaluation:
    """Read `evaluation/<split>.json` of a run, with what it says of how the figures came about.

    Raises:
        CheckpointError: The file cannot be read or is damaged, or a stage was trained or removed after it was written.
    """
    converter = cattrs.Converter()
    converter.register_structure_hook(float, lambda value, _: math.nan if value is None else float(value))
    advice = f"`shala evaluate {path.parent.parent} --split {path.stem}` rewrites it"
    shape = {"rows": int, "split": str, "seed": int, "settings": dict, "synthetic": bool}
    saved: dict[str, Any] = read_json(path, shape, error=CheckpointError, advice=advice)
    folder, measured = path.parent.parent, saved.get("stages")
    later = [
        stage for stage in STAGES if measured and stage not in measured and checkpoint_file(folder, stage).exists()
    ]
    if later:
        raise CheckpointError(f"{path} is of the model before its stage {later[0]} was trained; {advice}")
    _check_weights(path, saved.get("weights") or {}, advice)
    try:
        return SavedEvaluation(
            evaluation=converter.structure(saved, Evaluation),
            held_out=saved.get("held_out"),
            held_out_presence=saved.get("held_out_presence"),
            held_out_values=saved.get("held_out_values"),
            held_out_shards=saved.get("held_out_shards"),
            sampling=dict(saved.get("sampling") or {}),
            format=int(saved.get("format", EARLIER_FORMAT)),
            **{key: saved[key] for key in shape if key != "rows"},
        )
    except Exception as error:  # cattrs raises exception groups of any kind
        raise CheckpointError(f"{path} is not an evaluation of this version: {error}; {advice}") from error


def _check_weights(path: Path, measured: Mapping[str, str], advice: str) -> None:
    """Raise CheckpointError if a run's folder holds other weights than those that were measured.

    Files of earlier versions name no weights, and a folder to which only evaluations were copied holds none.
    """
    present = checkpoint_checksums(path.parent.parent)
    for stage in (stage for stage in STAGES if present and stage in measured):
        if stage not in present:
            raise CheckpointError(f"{path} is of the model with stage {stage}, which the run no longer has; {advice}")
        if present[stage] != measured[stage]:
            raise CheckpointError(f"{path} is of the model before its stage {stage} was trained again; {advice}")


def read_evaluation(path: Path) -> Evaluation:
    """Read `evaluation/<split>.json` of a run.

    Raises:
        CheckpointError: As for `read_saved_evaluation`.
    """
    return read_saved_evaluation(path).evaluation


def is_current(path: Path) -> bool:
    """Return whether the file of an evaluation can be read and is of the weights that its run has."""
    try:
        read_saved_evaluation(path)
    except CheckpointError:
        return False
    return True
