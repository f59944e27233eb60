"""Preparations for training: the folder, fitted modalities, networks, number format and numbers of steps."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import torch

from shala_framework.data.presence import what_is_cut_off
from shala_framework.model import STAGES, ShaLa
from shala_framework.plugin.modality import Modality
from shala_framework.run.data import RunData, TrainingData
from shala_framework.run.folder import RunFolder
from shala_framework.spec.schema import Train
from shala_framework.support.checkpoint import DamagedFileError, write_file
from shala_framework.support.distributed import processes
from shala_framework.support.errors import CheckpointError
from shala_framework.support.json_files import dump_json, read_json
from shala_framework.support.locking import FolderLock
from shala_framework.support.progress import Reporter
from shala_framework.training.budget import StageCost, stages_of, steps_within
from shala_framework.training.plan import TrainingPlan
from shala_framework.training.precision import choose_precision, doubt_precision


def claim_folder(
    folder: RunFolder, described: dict[str, Any], stack: ExitStack, reporter: Reporter
) -> FolderLock | None:
    """Make a run's folder, lock it, and check that it belongs to this run; the first process must call this first.

    Args:
        folder: The folder.
        described: What identifies the run, as for `RunFolder.claim`.
        stack: Holds the lock.
        reporter: Receives notes while another process holds the lock.

    Returns:
        The lock, in the first process only.
    """
    lock = None
    if processes.rank() == 0:
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise CheckpointError(f"expected a folder for the run, got the file {folder.path}") from error
        lock = stack.enter_context(FolderLock(folder.path, on_wait=reporter.note))
    folder.claim(described)
    return lock


def prepare_model(model: ShaLa, data: TrainingData, folder: RunFolder | None, reporter: Reporter) -> list[str]:
    """Fit modalities that learn from data, or load what an earlier call fitted; make networks; load trained stages.

    Args:
        model: The model, whose networks are made unless they are there.
        data: The training samples.
        folder: Folder of the run; without one nothing is loaded or written.
        reporter: Receives progress.

    Returns:
        Stages whose checkpoint is damaged, and those that depend on them: they are finished again from their states.

    Raises:
        CheckpointError: A checkpoint is damaged and has no state, or belongs to another run.
    """
    if folder is None:
        if not model.is_built:
            _fit(model.modalities, data, reporter)
            model.build()
        _say_what_is_cut_off(model, data, reporter)
        return []
    path, modalities = folder.modalities, model.modalities
    if not (path.exists() and _load_states(modalities, path, folder.fingerprint, reporter)):
        if not model.is_built:
            _fit(modalities, data, reporter)
        states = {name: modality.state() for name, modality in modalities.items()}
        write_file(path, dump_json({"fingerprint": folder.fingerprint, "states": states}))
    if not model.is_built:
        model.build()
    if not folder.has_begun():
        _say_what_is_cut_off(model, data, reporter)
    for number, stage in enumerate(STAGES):
        if not folder.has(stage):
            continue
        try:
            model.load_stage(folder.path, stage)
        except DamagedFileError as error:
            if not list(folder.state.glob(f"{stage}.*")):
                raise CheckpointError(f"{error}; restore it, or remove it to train this stage again") from error
            reporter.warn(f"{error}; stage {stage} is finished again from its last saved state")
            return list(STAGES[number:])
    return []


def _fit(modalities: Mapping[str, Modality], data: TrainingData, reporter: Reporter) -> None:
    data.fit(modalities)
    for name, modality in modalities.items():
        for sentence in modality.doubts():
            reporter.warn(f"{name}: {sentence}")


def _say_what_is_cut_off(model: ShaLa, data: TrainingData, reporter: Reporter) -> None:
    """Report what modalities leave out of some training samples of shards, such as the end of long texts."""
    if isinstance(data, RunData) and not model.synthetic and processes.rank() == 0:
        limit = data.spec.data.max_field_bytes
        for sentence in what_is_cut_off(data.train_urls, model.modalities, max_field_bytes=limit):
            reporter.warn(f"data.train: {sentence}")


def _load_states(modalities: Mapping[str, Modality], path: Path, fingerprint: str, reporter: Reporter) -> bool:
    """Load the states of an earlier call into the modalities; return False if they are damaged or another run's."""
    try:
        shape = {"fingerprint": str, "states": dict.fromkeys(modalities, dict)}
        found = read_json(path, shape, error=CheckpointError, advice="it is made again from the training samples")
        if found["fingerprint"] != fingerprint:
            raise CheckpointError(f"{path} is another run's; it is made again from the training samples")
        for name, modality in modalities.items():
            modality.load_state(found["states"][name])
    except CheckpointError as error:
        reporter.warn(str(error))
        return False
    return True


def begin_plan(settings: Train, device: torch.device, folder: RunFolder | None, reporter: Reporter) -> TrainingPlan:
    """Read the plan of a run that has begun, or make a new one with its number format.

    Args:
        settings: [train] of the spec.
        device: Device of the model.
        folder: Folder of the run, which keeps the plan.
        reporter: Receives progress.

    Raises:
        CheckpointError: The folder's plan is damaged, or another run's.
    """
    plan = TrainingPlan.read(folder.state, folder.fingerprint, reporter.warn) if folder is not None else None
    if plan is None:
        precision = choose_precision(settings.precision, device)
        plan = TrainingPlan(precision=precision.name, reason=precision.reason)
        keep_plan(plan, folder)
        doubt = doubt_precision(precision)
        if doubt:
            reporter.warn(doubt)
    reporter.note(f"computing in {plan.precision}: {plan.reason}")
    return plan


def budgeted_plan(plan: TrainingPlan, settings: Train, costs: Mapping[str, StageCost], spent: float) -> TrainingPlan:
    """Return a plan with the steps that fit into train.minutes.

    Args:
        plan: The plan so far.
        settings: [train] of the spec, with a time.
        costs: Cost of a step of each stage that is trained.
        spent: Seconds of the time that measuring took and encoding the training set will take.

    Raises:
        SpecError: Not one step of some stage fits.
    """
    assert settings.minutes is not None
    left = 60 * settings.minutes - spent
    stages = {name: stage for name, stage in stages_of(settings).items() if name in costs}
    steps, validations = steps_within(left, stages, costs, minutes=settings.minutes)
    return attrs.evolve(plan, minutes=settings.minutes, steps=steps, validations=validations, costs=dict(costs))


def keep_plan(plan: TrainingPlan, folder: RunFolder | None) -> None:
    """Write a plan into the run's folder."""
    if folder is not None and processes.rank() == 0:
        plan.write(folder.state, folder.fingerprint)
