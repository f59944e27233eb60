"""Evaluations of several runs, read from their folders, checked to be comparable, and grouped by keys of specs."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import attrs

from shala_framework.data.splits import EvaluatedSplit
from shala_framework.evaluation.measurements import measurements
from shala_framework.plugin.loading import load_modality
from shala_framework.report.comparison import Comparison, make_sections
from shala_framework.report.samples import SYNTHETIC
from shala_framework.report.saved_evaluations import SavedEvaluation, read_saved_evaluation
from shala_framework.run.evaluation import EVALUATION_FOLDER
from shala_framework.run.files import SPEC_FILE, SPEC_SHAPE
from shala_framework.spec.fingerprint import FREE_DATA_KEYS
from shala_framework.spec.later_keys import with_later_keys
from shala_framework.spec.overrides import split_key
from shala_framework.support.errors import CheckpointError, DataError, PluginError
from shala_framework.support.hints import nearest, shortened
from shala_framework.support.json_files import read_json
from shala_framework.support.structuring import KeyPath, format_path

_NEVER_GROUPED_BY = {
    ("seed",),
    ("name",),
    ("train", "device"),
    ("data", "num_workers"),
    *(("data", key) for key in FREE_DATA_KEYS),
}
_NEVER_GROUPED_TABLES = {"track", "evaluate"}
_MOST_LISTED = 4
_SHOWN_BEFORE = 20  # characters in front of the first difference of two long values
_UNSET = "none"


@attrs.frozen(kw_only=True)
class EvaluatedRun:
    """The part of a run's folder that a comparison needs.

    Attributes:
        folder: Folder of the run.
        spec: The run's spec, as JSON values, with the tables of sampling that its evaluation used.
        saved: The run's evaluation.
    """

    folder: Path
    spec: dict[str, Any]
    saved: SavedEvaluation

    def value(self, key: KeyPath) -> Any:
        """Return the value of a key of the spec; None if the spec lacks the key."""
        found: Any = self.spec
        for part in key:
            found = found.get(part) if isinstance(found, dict) else None
        return found


def compare_runs(folders: Sequence[Path], by: Sequence[str] = (), split: EvaluatedSplit = "validation") -> Comparison:
    """Put the evaluations of runs side by side.

    Args:
        folders: Folders of the runs.
        by: Dotted keys of the spec whose values name a row; runs that agree in them are pooled. Without any, the keys
            in which the runs' specs differ, apart from the seed.
        split: Split whose evaluations are compared.

    Raises:
        CheckpointError: A folder is no run, has no evaluation of the split, or a damaged one; or the evaluations
            differ in rows, numbers of samples or judges.
        DataError: A key is unknown, or a folder is given twice.
    """
    for folder, count in Counter(folder.resolve() for folder in folders).items():
        if count > 1:
            raise DataError(f"expected every run once, got {folder} {count} times")
    runs = [read_evaluated_run(folder, split) for folder in folders]
    _check_comparable(runs)
    differing = _differing_keys(runs)
    keys = [_known_key(text, runs) for text in by] or differing
    groups: dict[tuple[str, ...], list[EvaluatedRun]] = {}
    for run in runs:
        groups.setdefault(tuple(_shown(run.value(key)) for key in keys), []).append(run)
    figures = {group: [list(measurements(run.saved.evaluation)) for run in found] for group, found in groups.items()}
    return Comparison(
        by=tuple(map(format_path, keys)),
        split=split,
        runs=tuple(map(str, folders)),
        sections=make_sections(figures),
        notes=list(_notes(runs, groups, [key for key in differing if key not in keys])),
    )


def read_evaluated_run(folder: Path, split: str) -> EvaluatedRun:
    """Read the spec and the evaluation of a run.

    Raises:
        CheckpointError: The folder is no run, has no evaluation of the split or one from before a stage was trained, or
            has a damaged file.
    """
    path = folder / SPEC_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} is not the folder of a run: it has no {SPEC_FILE}; expected such as runs/mine")
    described = read_json(path, SPEC_SHAPE, error=CheckpointError, advice="repeat the run's command, which writes it")
    evaluated = folder / EVALUATION_FOLDER / f"{split}.json"
    if not evaluated.is_file():
        raise CheckpointError(
            f"{folder} has no evaluation of the {split} split: `shala evaluate {folder} --split {split}` makes one"
        )
    saved = read_saved_evaluation(evaluated)
    return EvaluatedRun(folder=folder, spec=with_later_keys(described["spec"] | saved.sampling), saved=saved)


def _check_comparable(runs: Sequence[EvaluatedRun]) -> None:
    """Raise CheckpointError if evaluations differ in rows, numbers of samples or judges."""
    digests = all(run.saved.held_out is not None for run in runs)
    protocols = [_protocol(run, digests=digests) for run in runs]
    lines = []
    for aspect in dict.fromkeys(aspect for protocol in protocols for aspect in protocol):
        places: dict[str, list[str]] = {}
        for run, protocol in zip(runs, protocols, strict=True):
            if protocol.get(aspect) is not None:
                places.setdefault(_shown(protocol[aspect]), []).append(str(run.folder))
        if len(places) > 1:
            lines.append(f"  {aspect}: {_by_value(places)}")
    if lines:
        listed = "\n".join(lines)
        raise CheckpointError(
            f"these evaluations cannot be put into one table, because they differ in how they were made:\n{listed}\n"
            "evaluate the runs again on the same rows with the same numbers, such as `shala evaluate RUN --set "
            "evaluate.num_samples=500 --set evaluate.judge_steps=400` (more steps, or the same --seed, give judges "
            "that can tell the same attributes), or compare fewer runs"
        )


def _protocol(run: EvaluatedRun, *, digests: bool) -> dict[str, Any]:
    """Return by name what figures depend on beside the model; None for what was not measured."""
    saved, evaluation, settings = run.saved, run.saved.evaluation, run.saved.settings
    names = sorted(evaluation.reconstruction)
    joint = next((list(found.frechet.values()) for found in evaluation.joint[1:] if found.frechet), [])
    given, scored = evaluation.conditional, [found.elbo for found in evaluation.log_likelihood.values()]
    protocol: dict[str, Any] = {
        "split": saved.split,
        "data": "a synthetic stand-in" if saved.synthetic else "the recorded set",
        "modalities": ", ".join(names) or None,
        "held-out rows (n)": evaluation.rows,
        "digest of the held-out rows": saved.held_out if digests else run.value(("data", saved.split)),
        "digest of the modalities that held-out rows have": saved.held_out_presence,
        "judges": ", ".join(sorted(evaluation.judges)) or None,
        "joint samples a seed (n)": joint[0].count if joint else None,
        "seeds of joint samples": settings.get("num_seeds") if joint else None,
        "version of the figures": saved.format,
        "given rows (n)": given[0].coherence.count if given else None,
        "rows of a set of given samples (n)": next((f.frechet.count for f in given if f.frechet is not None), None),
        "samples a given row": settings.get("num_row_samples") if given else None,
        "rows of log-likelihoods (n)": scored[0].count if scored else None,
        "estimate of log-likelihoods": evaluation.likelihood if scored else None,
        "rows that are resampled together": settings.get("group") or "each row alone",
        "importance samples": settings.get("importance_samples") if scored else None,
        "annealing steps": settings.get("annealing_steps") if scored and evaluation.likelihood == "annealed" else None,
        "largest number of training rows of judges": settings.get("train_rows") if evaluation.judges else None,
    }
    for name, judge in evaluation.judges.items():
        protocol[f"training steps of the judge of {name}"] = judge.steps
        protocol[f"training steps of the second judge of {name}"] = judge.second_steps
        counted = sorted(attribute for attribute, found in judge.attributes.items() if found.counts)
        protocol[f"attributes that the judge of {name} can tell"] = counted if judge.attributes else None
    for many in evaluation.one_to_many:
        of = f" in {many.attribute}" if many.attribute else ""
        protocol[f"modalities that have to agree{of}, {many.given} given"] = sorted(many.targets)
    for name in names:
        without = _options_of_stage_3(run.value(("modality", name, "plugin")))
        for key in ("plugin", "options"):
            for path, value in _leaves(run.value(("modality", name, key)), ("modality", name, key)):
                if path[3:4] not in without:
                    protocol[format_path(path)] = value
    return protocol


def _options_of_stage_3(plugin: Any) -> set[KeyPath]:
    """Return the options of stage 3's network, on which no judge depends; none of a plugin that is not installed."""
    try:
        return {(name,) for name in load_modality(str(plugin)).refiner_options}
    except PluginError:
        return set()


def _differing_keys(runs: Sequence[EvaluatedRun]) -> list[KeyPath]:
    """Return the keys in which the specs differ and that may change figures, in the order of the specs."""
    keys = dict.fromkeys(path for run in runs for path, _ in _leaves(run.spec))
    return [
        key
        for key in keys
        if key not in _NEVER_GROUPED_BY
        and key[0] not in _NEVER_GROUPED_TABLES
        and len({_shown(run.value(key)) for run in runs}) > 1
    ]


def _leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Return every value that is not a table, by its path."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    else:
        yield path, value


def _known_key(text: str, runs: Sequence[EvaluatedRun]) -> KeyPath:
    known = {format_path(path): path for run in runs for path, _ in _leaves(run.spec)}
    try:
        key = format_path(split_key(text))
    except ValueError:
        key = text
    if key not in known:
        tables = sorted(name for name in known if name.startswith(f"{key}."))
        hint = f"it is a table; such as {tables[0]}" if tables else _nearest_key(key, known)
        raise DataError(f"--by {shortened(text)}: expected a key of the runs' specs; {hint}")
    return known[key]


def _nearest_key(key: str, known: Iterable[str]) -> str:
    """Return the nearest key, or where to find all keys, which are too many for a message."""
    hint = nearest(key, known, "keys")
    return hint if hint.startswith("did") else "`shala keys` lists them"


def _shown(value: Any) -> str:
    """Return a value as text; unequal values have unequal texts."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if _reads_as_other(value) else value
    return _UNSET if value is None else json.dumps(value, ensure_ascii=False)


def _reads_as_other(text: str) -> bool:
    """Return whether a text looks like a key without a value, a number, an array or a quoted text."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text == _UNSET
    return True


def _by_value(places: Mapping[str, Sequence[str]]) -> str:
    """Return each value, shortened so that the start of what they differ in is seen, with the runs that have it."""
    texts = list(places)
    if len({shortened(text) for text in texts}) < len(texts):
        first = next(i for i, found in enumerate(zip_longest(*texts)) if len(set(found)) > 1)
        start = max(0, first - _SHOWN_BEFORE)
        texts = [f"...{text[start:]}" for text in texts]
    pairs = zip(texts, places.values(), strict=True)
    return "; ".join(f"{shortened(text)} in {_listed(found)}" for text, found in pairs)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _notes(
    runs: Sequence[EvaluatedRun], groups: Mapping[tuple[str, ...], Sequence[EvaluatedRun]], others: Sequence[KeyPath]
) -> Iterator[str]:
    """Return notes on the rows of the table."""
    if any(run.saved.synthetic for run in runs):
        yield f"{SYNTHETIC}: these figures say nothing about real data"
    places: dict[str, list[str]] = {}
    for run in runs:
        if run.saved.held_out_values is not None:
            source = (
                f"of {_shown(run.saved.held_out_shards)}" if run.saved.held_out_shards else "from Python or a stand-in"
            )
            places.setdefault(f"{run.saved.held_out_values} {source}", []).append(str(run.folder))
    if len({text.split()[0] for text in places}) > 1:
        yield f"held-out rows have equal keys and labels, but other values (digests): {_by_value(places)}"
    for found in groups.values():
        names = _listed([str(run.folder) for run in found])
        mixed = [format_path(key) for key in others if len({_shown(run.value(key)) for run in found}) > 1]
        if mixed:
            yield f"one row pools runs that differ in {_listed(mixed)} ({names}); add --by {mixed[0]} to part them"
        twice = sorted(seed for seed, count in Counter(_shown(r.value(("seed",))) for r in found).items() if count > 1)
        if twice and not mixed:
            yield f"one row pools several runs of seed {_listed(twice)} ({names}), so its deviation is too small"
    if len({_shown(run.value(("data", "train"))) for run in runs}) > 1 and any(r.saved.evaluation.judges for r in runs):
        yield "judges were trained on each run's own training set, and data.train differs"
