"""Take stages from another run that was trained with the same settings, and train only the rest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from shala_framework.data.identity import Shards, compare_shards, read_record
from shala_framework.model import STAGES, checkpoint_file
from shala_framework.model.origin import StageOrigin, read_origin, write_origin
from shala_framework.plugin.modality import Modality
from shala_framework.run.files import SPEC_FILE, SPEC_SHAPE
from shala_framework.run.folder import RunFolder, differences, reordered
from shala_framework.spec.fingerprint import FREE_STAGES, fixed_part, run_fingerprint
from shala_framework.support.checkpoint import read_checkpoint, write_checkpoint, write_file
from shala_framework.support.errors import CheckpointError
from shala_framework.support.hints import shortened
from shala_framework.support.json_files import dump_json, read_json
from shala_framework.support.progress import Reporter

_WITHOUT_EFFECT = {  # keys of a table that do not change the weights of any stage
    "data": ("validation", "validation_samples"),
    "train": ("device", "compile", "sharding"),
}
_WITHOUT_EFFECT_IN_STAGE = ("log_every_steps", "save_every_steps", "save_every_minutes")
_MOST_SHOWN = 80  # characters of a value in a message


@attrs.frozen(kw_only=True)
class TakenStages:
    """The stages that a run takes from another one.

    Attributes:
        source: Folder of the other run.
        stages: Stages that are taken, in order.
        reason: Reason why the next stage is not taken; empty if every stage is.
    """

    source: Path
    stages: tuple[str, ...]
    reason: str


def plan_taking(
    source: Path | None,
    folder: RunFolder,
    described: Mapping[str, Any],
    modalities: Mapping[str, Modality],
    reporter: Reporter,
) -> TakenStages | None:
    """Decide what a run takes from another one; return None if there is nothing to take.

    A run that has begun keeps its stages and no longer needs the other run.

    Args:
        source: Folder of the other run; None if the user names none.
        folder: Folder of the run, which may not exist yet.
        described: The content of the run's spec.json.
        modalities: The run's modalities, by name.
        reporter: Receives a note if the run trains stages of its own.

    Raises:
        CheckpointError: As for `stages_to_take`; or the other run is this one.
    """
    origin = read_origin(folder.path)
    cut_short = origin is not None and not all(folder.has(stage) for stage in origin.stages)
    if origin is not None and cut_short and source is None:
        source = Path(origin.source)
    if source is None:
        return None
    if source.resolve() == folder.path.resolve():
        raise CheckpointError(f"--from {source}: expected another run than the one in --out, got the same folder")
    if folder.has_begun() and not cut_short:
        if origin is None:
            reporter.note(f"{folder.path} has begun to train stages of its own; nothing is taken from {source}")
        return None
    return stages_to_take(source, described, modalities)


def stages_to_take(source: Path, described: Mapping[str, Any], modalities: Mapping[str, Modality]) -> TakenStages:
    """Find the stages of another run whose settings agree with those of a spec; later stages need all earlier ones.

    Args:
        source: Folder of the other run.
        described: The content of spec.json of the run that is to take them.
        modalities: Its modalities, by name.

    Raises:
        CheckpointError: The folder is no run, is damaged, or not one stage can be taken; it says what differs.
    """
    path = source / SPEC_FILE
    if not path.is_file():
        raise CheckpointError(f"--from {source}: expected the folder of a run, but it has no {SPEC_FILE}")
    theirs = read_json(path, SPEC_SHAPE, error=CheckpointError, advice="repeat that run's command, which writes it")
    taken: list[str] = []
    reason = ""
    planned = [stage for stage in STAGES if described["spec"]["train"].get(stage, {}).get("steps") != 0]
    for stage in planned:
        if not checkpoint_file(source, stage).is_file():
            reason = f"{source} has no trained stage {stage}"
            break
        found = _what_differs(stage, theirs, described, modalities)
        if found:
            listed = "\n".join(f"  {key}: {old} in {source}, {new} here" for key, old, new in found)
            reason = f"stage {stage} of {source} was trained with other settings:\n{listed}"
            break
        taken.append(stage)
    if not taken:
        raise CheckpointError(
            f"--from {source}: no stage can be taken: {reason}\nset these keys as they were there, or leave --from out "
            "to train every stage"
        )
    return TakenStages(source=source, stages=tuple(taken), reason=reason)


def check_same_shards(taken: TakenStages, train: Shards, reporter: Reporter) -> None:
    """Compare the training shards with those that the other run was trained on.

    Args:
        taken: What is taken.
        train: Description of this run's training shards.
        reporter: Receives a warning where the other run has no record.

    Raises:
        CheckpointError: They differ.
    """
    record = taken.source / "state" / "shards.json"
    then = read_record(record, reporter.warn)
    if then is None:
        reporter.warn(
            f"{record} is missing or damaged: it is unknown whether {taken.source} was trained on these shards"
        )
        return
    changes = compare_shards(then["train"], train)
    if changes:
        listed = "\n".join(f"  {line}" for line in changes)
        raise CheckpointError(
            f"--from {taken.source}: its stages were trained on other shards than data.train has now:\n{listed}\n"
            "put the shards back, or leave --from out to train every stage"
        )


def take_stages(taken: TakenStages, folder: RunFolder, described: Mapping[str, Any], reporter: Reporter) -> None:
    """Copy stages into a run's folder, with what modalities learned, and record where they are from.

    Args:
        taken: What is taken.
        folder: Folder of the run, which has no stage yet.
        described: The content of its spec.json.
        reporter: Receives a note of what is taken, and of why the rest is not.

    Raises:
        CheckpointError: A checkpoint is damaged, or does not belong to the other run or to its stage 1.
    """
    theirs = read_json(taken.source / SPEC_FILE, SPEC_SHAPE, error=CheckpointError, advice="repeat that run's command")
    found = {}
    for stage in taken.stages:
        path = checkpoint_file(taken.source, stage)
        tensors, description = read_checkpoint(path, run_fingerprint(theirs))
        if not isinstance(description.get("modality_states"), dict):
            raise CheckpointError(f"{path} is no checkpoint of a model")
        found[stage] = (tensors, description)
    digests = {description.get("autoencoder_digest") for _, description in found.values()}
    if len(digests) > 1:
        raise CheckpointError(f"--from {taken.source}: its stages were not trained on one another; repeat its command")
    states = found[taken.stages[0]][1]["modality_states"]
    write_file(folder.modalities, dump_json({"fingerprint": folder.fingerprint, "states": states}))
    origin = StageOrigin(
        source=str(taken.source),
        stages=taken.stages,
        source_fingerprint=run_fingerprint(theirs),
        autoencoder_digest=str(next(iter(digests))),
    )
    write_origin(folder.path, origin)  # first: a run that is killed between two checkpoints takes the rest again
    for stage, (tensors, description) in found.items():
        own = {"fingerprint": folder.fingerprint, "spec": described["spec"]}
        write_checkpoint(folder.checkpoint(stage), tensors, description | own)
    reporter.note(f"took {_and(taken.stages)} from {taken.source}")
    if taken.reason:
        reporter.note(f"the rest is not taken: {taken.reason}")


def _what_differs(
    stage: str, theirs: Mapping[str, Any], mine: Mapping[str, Any], modalities: Mapping[str, Modality]
) -> list[tuple[str, str, str]]:
    """Return the keys that the weights of a stage depend on and that differ, with both values."""
    found = differences(_part(theirs, stage, modalities), _part(mine, stage, modalities)) or list(
        reordered(theirs, mine)
    )
    return [(key, _brief(old), _brief(new)) for key, old, new in found]


def _part(described: Mapping[str, Any], stage: str, modalities: Mapping[str, Modality]) -> dict[str, Any]:
    """Return everything that the weights of a stage depend on, without later stages and keys without effect."""
    part = fixed_part(described)
    spec = {key: value for key, value in part["spec"].items() if key not in ("name", "schema")}
    # The spec's own keys already have the values that a stand-in sets; an unused stand-in has no effect.
    stand_in = spec["data"].get("stand_in") if described["stand_in_used"] else None
    spec["data"] = spec["data"] | {"stand_in": _without(stand_in or {}, ("set",))}
    later = STAGES[STAGES.index(stage) + 1 :]
    added = {name: described["spec"]["train"].get(name) for name in FREE_STAGES if name not in later}
    spec["train"] = spec["train"] | added
    for name in later:
        spec.pop(name, None)
    if "refiner" in later:
        spec["modality"] = {
            name: {**table, "options": _without(table["options"], tuple(modalities[name].refiner_options))}
            if name in modalities
            else table
            for name, table in spec["modality"].items()
        }
    for name, keys in _WITHOUT_EFFECT.items():
        spec[name] = _without(spec.get(name, {}), (*keys, *(later if name == "train" else ())))
    for name in STAGES:
        if isinstance(spec["train"].get(name), dict):
            spec["train"][name] = _without(spec["train"][name], _WITHOUT_EFFECT_IN_STAGE)
    return {**part, "spec": spec}


def _without(values: Any, keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in dict(values).items() if key not in keys}


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else shortened(text, _MOST_SHOWN)


def _and(names: Sequence[str]) -> str:
    return f"stage {names[0]}" if len(names) == 1 else f"stages {', '.join(names[:-1])} and {names[-1]}"
