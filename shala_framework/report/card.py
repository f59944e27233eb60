"""README.md of a run, its model card: what the model is, its data, its figures and limits, and how to load it."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from shala_framework import __version__
from shala_framework.evaluation.suite import Evaluation
from shala_framework.model import ShaLa
from shala_framework.report.samples import SYNTHETIC
from shala_framework.report.tables import TextTable, evaluation_tables
from shala_framework.spec import unstructure
from shala_framework.support.checkpoint import write_file
from shala_framework.support.escaping import printable

CARD_FILE = "README.md"
_MARKUP = re.compile(r"[\\`*_\[\]|~$<>&@]|:(?=//)|(?<=www)\.", re.IGNORECASE)
_THIS_FOLDER, _SAMPLE_OPTIONS = "  # this folder", " --num 16 --out samples"  # ends of lines that `card_on_hub` finds
_PAPER = (
    'Cui, Chen, Zhang, Klenk: "ShaLa: Multimodal Shared Latent Generative Modelling", AAAI 2026, '
    "[arXiv 2508.17376](https://arxiv.org/abs/2508.17376)"
)


def write_card(
    model: ShaLa,
    folder: Path,
    *,
    facts: Sequence[tuple[str, str]],
    data: Mapping[str, Any],
    evaluations: Mapping[str, Evaluation],
) -> Path:
    """Write the model card of a run into its folder, replacing an earlier one, and return its path.

    Args:
        model: Model of the run, with both stages trained.
        folder: Folder of the run.
        facts: Names and values: sizes, steps, seconds, machine.
        data: Data section of the report: `sources` by name, `head` and `lines` of a table of rows, and `left_out`.
        evaluations: Evaluation of each split; empty if the run was not evaluated.
    """
    path = folder / CARD_FILE
    write_file(path, model_card(model, folder, facts=facts, data=data, evaluations=evaluations).encode())
    return path


def model_card(
    model: ShaLa,
    folder: Path,
    *,
    facts: Sequence[tuple[str, str]],
    data: Mapping[str, Any],
    evaluations: Mapping[str, Evaluation],
) -> str:
    """Return the model card as Markdown; arguments as in `write_card`. Text from specs and data is escaped."""
    names = ", ".join(map(plain, model.names))
    parts = [
        "---\nlibrary_name: shala_framework\ntags: [multimodal, generative-model, shared-latent]\n---",
        "<!-- Every run and `shala report` rewrite this file: keep your own text elsewhere. -->",
        f"# {plain(model.spec.name)}",
        *([f"**{SYNTHETIC}.** This model says nothing about real data."] if model.synthetic else []),
        f"A model of {names} with one latent of {model.spec.posterior.latent_dim} dimensions. It generates all of "
        "these modalities together, or any of them from any others. It is a ShaLa model: an autoencoder whose encoders "
        "share the latent (stage 1), and a diffusion prior on the latent given any subset of the modalities (stage 2).",
        "## Data",
        _data(data, synthetic=model.synthetic),
        "## Modalities",
        _modalities(model),
        "## Training",
        _table(TextTable("", ["", ""], [fact for fact in facts if fact[0] != "where"])),
        "## Evaluation",
        _evaluation(evaluations),
        "## Limits",
        _limits(model, evaluations),
        "## Use",
        _use(model, folder),
        "## Licence and citation",
        "The licence of the training data may restrict the use of these weights and of samples; this file cannot know "
        f"it. The software, shala\\_framework {__version__}, is under Apache-2.0. The model implements {_PAPER}.",
    ]
    return "\n\n".join(parts) + "\n"


def card_on_hub(card: str, name: str) -> str:
    """Return a model card that loads the model by its name on the Hub, such as "hf://me/digits", not from a folder."""
    lines = []
    for line in card.split("\n"):
        if line.startswith("model = shala.load(") and line.endswith(_THIS_FOLDER):
            line = f"model = shala.load({json.dumps(name)})"
        elif line.startswith("shala sample ") and line.endswith(_SAMPLE_OPTIONS):
            line = f"shala sample {shlex.quote(name)}{_SAMPLE_OPTIONS}"
        lines.append(line)
    return "\n".join(lines)


def plain(text: str) -> str:
    r"""Text that stands for itself in Markdown, on one line.

    >>> plain("<b>|a_b")
    '\\<b\\>\\|a\\_b'
    """
    return _MARKUP.sub(r"\\\g<0>", printable(text, lines=False))


def fenced(text: str, language: str) -> str:
    """A block of code, whose fence is longer than any in the text."""
    longest = max((len(found) for found in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{printable(text).rstrip()}\n{fence}"


def _table(table: TextTable) -> str:
    lines = [table.head, ["---"] * len(table.head), *([plain(str(cell)) for cell in line] for line in table.lines)]
    lines[0] = [plain(cell) for cell in table.head]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _data(data: Mapping[str, Any], *, synthetic: bool) -> str:
    origin = "A synthetic stand-in made the data." if synthetic else "The model was trained and checked on:"
    sources = [f"- {plain(name)}: {plain(source)}" for name, source in data["sources"].items()]
    left_out = [f"- left out while packing: {count} files ({plain(path)})" for path, count, _ in data["left_out"]]
    rows = [_table(TextTable("", data["head"], data["lines"]))] if data["lines"] else []
    return "\n\n".join(["\n".join([origin, "", *sources, *left_out]), *rows])


def _modalities(model: ShaLa) -> str:
    shapes = [
        [name, table.plugin, f"{str(modality.dtype).removeprefix('torch.')} {list(modality.shape)}"]
        for (name, table), modality in zip(model.spec.modality.items(), model.modalities.values(), strict=True)
    ]
    options = {
        name: {key: value for key, value in table["options"].items() if value is not None}
        for name, table in unstructure(model.spec)["modality"].items()
    }
    return "\n\n".join(
        [
            _table(TextTable("", ["modality", "plugin", "one x"], shapes)),
            "Their options; those without a value are left out:",
            fenced(tomli_w.dumps(options), "toml"),
        ]
    )


def _evaluation(evaluations: Mapping[str, Evaluation]) -> str:
    if not evaluations:
        return "This model was not evaluated. `shala evaluate RUN` does it."
    parts = ["Brackets hold 95 % intervals over rows, or the lowest and highest seed."]
    for split, found in evaluations.items():
        seeds = max((len(joint.coherence.seeds) for joint in found.joint if joint.coherence is not None), default=0)
        of_seeds = f", {seeds} seeds of samples" if seeds else ""
        parts.append(f"### {plain(split)}: {found.rows} held-out rows{of_seeds}")
        for table in evaluation_tables(found):
            if not table.title.startswith("coherence from one"):  # a matrix for each method, in evaluation/<split>.json
                parts += [f"**{plain(table.title)}**", _table(table)]
    return "\n\n".join(parts)


def _limits(model: ShaLa, evaluations: Mapping[str, Evaluation]) -> str:
    limits = [
        "Samples follow the training data, with their errors and their bias. They can resemble training rows closely, "
        "above all if there were few.",
        "Generated values are the mode of each likelihood, which is smoother than data. `draw=True` adds the noise of "
        "the likelihood.",
        "Judges are classifiers trained on the same data. Coherence says what they see, not what a person sees.",
        "Log-likelihoods are lower bounds.",
    ]
    if model.synthetic:
        limits.insert(0, "The training data are synthetic: figures and samples say nothing about real data.")
    noted = [f"{plain(split)}: {plain(note)}" for split, found in evaluations.items() for note in found.notes]
    return "\n".join(f"- {limit}" for limit in [*limits, *noted])


def _use(model: ShaLa, folder: Path) -> str:
    where = folder.name if folder.is_absolute() else str(folder)
    first, *others = model.names
    plugins = sorted({table.plugin for table in model.spec.modality.values()})
    lines = [
        "import shala_framework as shala",
        "",
        f"model = shala.load({json.dumps(where)}){_THIS_FOLDER}",
        "joint = model.generate(16)  # every modality: a tensor [16, ...]",
    ]
    given = f"{{{json.dumps(first)}: joint[{json.dumps(first)}]}}"
    if others:
        lines.append(f"samples = model.generate(4, given={given})[{json.dumps(others[0])}]  # [16, 4, ...]")
    lines.append(f"z = model.embed({given})  # [16, {model.spec.posterior.latent_dim}]")
    return "\n\n".join(
        [
            f"With shala\\_framework and the plugins {', '.join(map(plain, plugins))} installed:",
            fenced("\n".join(lines), "python"),
            fenced(f"shala sample {shlex.quote(where)}{_SAMPLE_OPTIONS}", "bash"),
        ]
    )
