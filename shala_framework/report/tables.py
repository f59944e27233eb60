"""An evaluation as tables of text, for a terminal and for the report."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import cattrs

from shala_framework.evaluation.intervals import Figure
from shala_framework.evaluation.suite import Evaluation
from shala_framework.support.errors import CheckpointError
from shala_framework.support.json_files import read_json


@attrs.frozen
class TextTable:
    """A table of an evaluation.

    Attributes:
        title: What it says of what.
        head: Titles of the columns.
        lines: Cells, the first of each line its name where the first column has no title.
    """

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]


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
    """

    evaluation: Evaluation
    split: str
    seed: int
    settings: dict[str, Any]
    synthetic: bool
    held_out: str | None = None


def read_saved_evaluation(path: Path) -> SavedEvaluation:
    """Read `evaluation/<split>.json` of a run, with what it says of how the figures came about.

    Raises:
        CheckpointError: The file cannot be read, or is damaged.
    """
    converter = cattrs.Converter()
    converter.register_structure_hook(float, lambda value, _: math.nan if value is None else float(value))
    advice = f"`shala evaluate {path.parent.parent} --split {path.stem}` writes it again"
    shape = {"rows": int, "split": str, "seed": int, "settings": dict, "synthetic": bool}
    saved: dict[str, Any] = read_json(path, shape, error=CheckpointError, advice=advice)
    try:
        return SavedEvaluation(
            evaluation=converter.structure(saved, Evaluation),
            held_out=None if saved.get("held_out") is None else str(saved["held_out"]),
            **{key: saved[key] for key in shape if key != "rows"},
        )
    except Exception as error:  # cattrs' own are groups of any kind
        raise CheckpointError(f"{path} is no evaluation of this version: {error}; {advice}") from error


def read_evaluation(path: Path) -> Evaluation:
    """What `evaluation/<split>.json` of a run holds.

    Raises:
        CheckpointError: The file cannot be read, or is damaged.
    """
    return read_saved_evaluation(path).evaluation


def evaluation_tables(evaluation: Evaluation) -> list[TextTable]:
    """Every table of what was measured."""
    return [TextTable(*table) for table in _tables(evaluation)]


def _tables(evaluation: Evaluation) -> Iterable[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, head and lines of each table."""
    names = list(evaluation.reconstruction)
    if evaluation.judges:
        yield (
            f"judges: share right, of {evaluation.rows} held-out rows [95 % interval]",
            ["", "real rows", "reconstructions"],
            [[name, show(j.real), show(j.reconstructed)] for name, j in evaluation.judges.items()],
        )
    if evaluation.joint:
        distances = evaluation.joint[1].frechet
        count = next(iter(distances.values())).count if distances else 0
        yield (
            f"joint samples; Frechet distance, precision and recall are means over modalities and seeds, n = {count}",
            ["", "coherence", "Frechet", "precision", "recall", "evaluations", "ms"],
            [
                [
                    joint.method,
                    show(joint.coherence),
                    *(_over_modalities(group) for group in (joint.frechet, joint.precision, joint.recall)),
                    str(joint.evaluations) if joint.milliseconds is not None else "",
                    f"{joint.milliseconds:.2f}" if joint.milliseconds is not None else "",
                ]
                for joint in evaluation.joint
            ],
        )
    if evaluation.conditional:
        title = f"samples from given modalities; Frechet distance with n = {evaluation.conditional[0].frechet.count}"
        if evaluation.conditional_real is not None:
            title += f", of real rows {show(evaluation.conditional_real)}"
        yield (
            title,
            ["", "given", "coherence", "of the vote", "Frechet", "diversity"],
            [
                [
                    f.method,
                    str(f.num_given),
                    show(f.coherence),
                    show(f.vote_coherence),
                    show(f.frechet),
                    show(f.diversity),
                ]
                for f in evaluation.conditional
            ],
        )
        generated = list(evaluation.judges)
        for f in evaluation.conditional:
            if f.num_given == 1 and f.pairs and len(generated) > 2:
                yield (
                    f"coherence from one given modality (row) to another (column), {f.method}",
                    ["", *generated],
                    [
                        [given, *(show(found.get(name), bounds=False) for name in generated)]
                        for given, found in f.pairs.items()
                    ],
                )
    if evaluation.log_likelihood:
        yield (
            "log-likelihood, nats a row (a lower bound)",
            ["", "nats"],
            [[title, show(figure, digits=1)] for title, figure in evaluation.log_likelihood.items()],
        )
    yield (
        "reconstruction, nats a value",
        names,
        [[show(evaluation.reconstruction[name]) for name in names]],
    )
    latent = evaluation.latent
    yield (
        "shared latent",
        ["dimensions", "active", "effective", "KL, nats", "linear probe"],
        [
            [
                str(latent.dimensions),
                str(latent.active),
                f"{latent.effective:.1f}",
                show(latent.kl, digits=1),
                show(latent.probe),
            ]
        ],
    )


def show(figure: Figure | None, *, bounds: bool = True, digits: int = 3) -> str:
    """A figure as text, such as "0.934 [0.921, 0.946]"; nothing for one that was not measured."""
    if figure is None:
        return ""
    text = f"{figure.value:.{digits}f}"
    if bounds and figure.low is not None and figure.high is not None:
        text += f" [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"
    return text


def _over_modalities(figures: dict[str, Figure]) -> str:
    """The mean over modalities; JSON has each one's."""
    if not figures:
        return ""
    return f"{sum(figure.value for figure in figures.values()) / len(figures):.3f}"
