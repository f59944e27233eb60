"""Training from Python: `shala_framework.train`."""

import re
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils.data import Dataset

from shala_framework.data.rows import load_rows
from shala_framework.data.splits import split_urls, train_weights
from shala_framework.model import STAGES, ShaLa
from shala_framework.plugin.modality import Modality, needs_fit
from shala_framework.run.data import RunData, TrainingData
from shala_framework.run.folder import RunFolder
from shala_framework.run.preparing import begin_plan, claim_folder, prepare_model
from shala_framework.run.python_data import (
    HeldInMemory,
    Item,
    ReadFromDataset,
    as_dataset,
    describe_items,
    describe_rows,
    rows_of_dataset,
    rows_of_tensors,
)
from shala_framework.run.training import RunTraining
from shala_framework.spec import Spec, unstructure
from shala_framework.spec.making import IN_MEMORY, checked
from shala_framework.spec.names import LONGEST_RUN
from shala_framework.spec.schema import Data, Train
from shala_framework.support.cores import sharing_cores
from shala_framework.support.distributed import processes
from shala_framework.support.errors import CheckpointError, ShalaError
from shala_framework.support.hints import nearest
from shala_framework.support.machine import resolve_device
from shala_framework.support.memory import keeping_memory
from shala_framework.support.progress import Logged, Reporter
from shala_framework.training.budget import resized, stages_of
from shala_framework.training.metrics import MetricsFile

Shards = str | Path | Sequence[str | Path | Mapping[str, Any]]
AnyData = Shards | Mapping[str, Tensor] | Dataset[Item] | Sequence[Item]
DATA_KEYS = (
    "balance",
    "in_memory",
    "num_workers",
    "shuffle_buffer",
    "cache",
    "cache_bytes",
    "validation_samples",
    "max_field_bytes",
)


def train(
    model: ShaLa,
    data: AnyData | None = None,
    *,
    validation: AnyData | None = None,
    out: str | Path | None = None,
    stages: Sequence[str] = STAGES,
    steps: int | None = None,
    batch_size: int | None = None,
    reporter: Reporter | None = None,
    **settings: Any,
) -> ShaLa:
    """Train the stages of a model.

        train(model, {"photo": x, "caption": tokens}, steps=2_000)
        train(model, "shards/train-*.tar", validation="shards/validation-*.tar", out="runs/mine", minutes=60)

    Under torchrun all processes train together; `out` is then needed. After an error or an interruption, a model that
    was trained before has its stages and weights of before.

    Args:
        model: The model, whose stages are trained from its present weights.
        data: Shards by names with globs and braces, or URLs, in a list also {"path": name, "weight": 2.0}; or every
            modality's tensor [N, ...]; or a torch Dataset, or a list, whose items are dictionaries of tensors, in which
            an absent modality is None or has no key. None takes the shards of the spec that the model was made from.
        validation: Held-out rows, in any of these forms.
        out: Folder for checkpoints, metrics and a model card, in which the same call resumes; None writes no file.
        stages: Stages to train. Earlier ones have to be trained, and keep their weights; later ones are to be trained
            again.
        steps: Steps of each stage. Warm-ups and intervals keep their proportion to it.
        batch_size: Rows a step of each stage.
        reporter: Receives progress; None writes to the logger "shala_framework".
        **settings: Keys of a spec's [train] table, such as minutes=15, device="cpu" or autoencoder={"steps": 3_000},
            and of its [data] table that say how data are read: balance, in_memory, num_workers, shuffle_buffer, cache,
            cache_bytes, validation_samples, max_field_bytes.

    Returns:
        The model, trained.

    Raises:
        ShalaError: Data cannot be read, settings are wrong, or the folder belongs to another run.
        ValueError: Tensors or items do not fit the model's modalities.
        TypeError: There is no setting of a name, or the model is none.
        Interrupted: The process was asked to stop; with `out`, the same call resumes.
    """
    if not isinstance(model, ShaLa):
        swapped = "; the model comes first: train(model, data)" if isinstance(data, ShaLa) else ""
        raise TypeError(f"expected a ShaLa as the model, got {type(model).__name__}{swapped}")
    reporter = reporter or Logged()
    data, validation = as_dataset(data), as_dataset(validation)
    spec = _described(model, settings, steps, batch_size)
    with (
        processes.naming_lost_process(),
        sharing_cores(),
        keeping_memory(),
        model.kept_on_error(),
        ExitStack() as stack,
    ):
        device = processes.join(resolve_device(spec.train.device))
        if out is None and processes.world_size() > 1:
            raise ShalaError("expected out=..., as several processes share the files of a run, got none")
        spec = _with_names(model, spec, data, validation, reporter.warn)
        if out is not None:
            spec = attrs.evolve(spec, name=_run_name(Path(out)))
        model.describe(spec)
        folder = _claimed(model, Path(out), stack, reporter) if out is not None else None
        _forget(model, folder, stages)
        rows = _training_data(model, data, validation, device, reporter)
        with processes.first_before_others():
            if folder is not None and isinstance(rows, RunData) and processes.rank() == 0:
                folder.check_shards(rows.describe_shards())
            prepare_model(model, rows, folder, reporter)
            model.to(device)
            plan = begin_plan(spec.train, device, folder, reporter)
        if folder is not None and set(stages) & set(model.planned_stages) <= model.stages:
            reporter.note(
                f"{folder.path} holds a finished run of the same model, data and settings: its weights are loaded, and "
                "nothing is trained; choose another out to train again"
            )
        path = folder.metrics if folder is not None and processes.rank() == 0 else None
        with closing(MetricsFile(path, [], reporter.warn, model.fingerprint)) as metrics:
            training = RunTraining(
                model=model,
                data=rows,
                folder=folder,
                device=device,
                precision=plan.number_format(),
                metrics=metrics,
                reporter=reporter,
                stages=stages,
            )
            training.shard_decoders()
            training.fix_steps(plan)
            training.train_autoencoder()
            training.train_prior()
            training.train_refiner()
        if folder is not None and processes.rank() == 0:
            from shala_framework.report.page import write_card_of_run  # seconds of imports, after training

            write_card_of_run(model, folder.path, rows.held_out(), reporter.warn)
    return model


def _described(model: ShaLa, settings: Mapping[str, Any], steps: int | None, batch_size: int | None) -> Spec:
    """Return the model's spec with the settings of this call."""
    known = {field.name for field in attrs.fields(Train)} | set(DATA_KEYS)
    for name in settings:
        if name not in known:
            raise TypeError(f"train() has no setting {name!r} ({_choice(name, known, model.spec.train)})")
    tables = unstructure(model.spec)
    for name, value in settings.items():
        table = tables["data" if name in DATA_KEYS else "train"]
        table[name] = {**table[name], **value} if isinstance(value, Mapping) else value
    if batch_size is not None:
        for stage in stages_of(model.spec.train):
            tables["train"][stage]["batch_size"] = batch_size
    spec: Spec = checked(tables, Spec)
    if steps is None:
        return spec
    if spec.train.minutes is not None:
        raise ValueError("expected steps or minutes, got both")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"expected steps of at least 1, got {steps}")
    stages: dict[str, Any] = {name: resized(stage, steps) for name, stage in stages_of(spec.train).items()}
    return attrs.evolve(spec, train=attrs.evolve(spec.train, **stages))


def _choice(name: str, known: Set[str], settings: Train) -> str:
    """Say where an unknown setting belongs: to a stage that has it, or the nearest known name."""
    stages = [stage for stage, table in stages_of(settings).items() if hasattr(table, name)]
    if stages:
        return f"it is a setting of {' and '.join(stages)}: put it into {stages[0]}={{{name!r}: ...}}"
    return nearest(name, known | {"steps", "batch_size", "validation", "out"}, "settings")


def _claimed(model: ShaLa, path: Path, stack: ExitStack, reporter: Reporter) -> RunFolder:
    """Return the folder of the run, locked for this call."""
    folder = RunFolder(path, model.fingerprint, reporter)
    with processes.first_before_others():
        claim_folder(folder, {"spec": unstructure(model.spec), "stand_in_used": model.synthetic}, stack, reporter)
    return folder


def _forget(model: ShaLa, folder: RunFolder | None, stages: Sequence[str]) -> None:
    """Mark stages as not trained; they are trained from the model's present weights, unless the folder holds them.

    Raises:
        ValueError: A stage is unknown, or one that is left out is not trained.
        CheckpointError: The folder is new and the model is already trained, so that a resumed run could not start
            from the same weights.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages:
        raise ValueError(f"expected stages among {list(STAGES)}, got {list(stages)}")
    first = min(map(STAGES.index, stages))
    untrained = [stage for stage in STAGES[:first] if stage not in model.stages]
    if untrained:
        raise ValueError(f"expected a trained {untrained[0]} before {STAGES[first]}, got a model without")
    begun = folder is not None and (folder.has(STAGES[0]) or folder.state_file(STAGES[0]).exists())
    if model.stages and folder is not None and not begun:
        raise CheckpointError(
            f"expected a model that is not trained yet for the new run {folder.path}, because a resumed run starts "
            "from the first weights again; make the model again, or train it further without out="
        )
    model.stages -= set(STAGES[first:])  # later stages were trained on the old weights


def _run_name(path: Path) -> str:
    """Return a run's name for its folder; other characters than those of names become '_'."""
    return re.sub(r"[^\w-]", "_", path.name or path.resolve().name)[:LONGEST_RUN] or "run"


def _with_names(
    model: ShaLa, spec: Spec, data: AnyData | None, validation: AnyData | None, warn: Callable[[str], None]
) -> Spec:
    """Return the spec with the names of the data: shards, or a name that identifies tensors."""
    if data is None:
        if validation is not None:
            raise ValueError("expected data beside validation, got None")
        return spec
    model.synthetic = False
    names = {
        "train": _name(data, model.modalities, warn),
        "validation": () if validation is None else _name(validation, model.modalities, warn),
        "stand_in": None,
    }
    return attrs.evolve(spec, data=checked({**unstructure(spec.data), **names}, Data))


def _training_data(
    model: ShaLa, data: AnyData | None, validation: AnyData | None, device: torch.device, reporter: Reporter
) -> TrainingData:
    """Return the data of a run whose spec the model has."""
    spec = model.spec
    if isinstance(data, Mapping | Dataset):
        if spec.data.balance:
            raise ValueError("expected shards with classes for balance, got rows from Python; repeat rare rows instead")
        _check_fitted(model.modalities, reporter)
        if not model.is_built:
            model.build()
    held_out = None
    if isinstance(validation, Mapping):
        held_out = rows_of_tensors(validation, model.modalities)
    elif isinstance(validation, Dataset):
        held_out = rows_of_dataset(validation, model.modalities)
    elif isinstance(data, Mapping | Dataset) and validation is not None:
        urls = split_urls(spec.data, "validation")
        held_out = load_rows(urls, model.modalities, limit=spec.data.validation_samples)
    size = spec.train.autoencoder.batch_size
    if isinstance(data, Mapping):
        rows = rows_of_tensors(data, model.modalities)
        return HeldInMemory(rows=rows, validation=held_out, batch_size=size, seed=spec.seed)
    if isinstance(data, Dataset):
        return ReadFromDataset(
            items=data,
            num_rows=len(data),  # type: ignore[arg-type]
            modalities=model.modalities,
            validation=held_out,
            batch_size=size,
            seed=spec.seed,
            num_workers=spec.data.num_workers,
            reporter=reporter,
        )
    return RunData(
        spec=spec,
        modalities=model.modalities,
        train_urls=split_urls(spec.data, "train"),
        validation_urls=split_urls(spec.data, "validation") if held_out is None else [],
        device=device,
        reporter=reporter,
        given_held_out=held_out,
        train_weights=train_weights(spec.data),
    )


def _check_fitted(modalities: Mapping[str, Modality], reporter: Reporter) -> None:
    """Check that modalities which learn from raw samples are fitted, because tensors cannot fit them.

    Raises:
        ValueError: A modality cannot be used without being fitted.
    """
    for name, modality in modalities.items():
        if not needs_fit(modality):
            continue
        try:
            state = modality.state()
        except ValueError as error:
            raise ValueError(f"modality {name!r}: {error}; or train on shards, which fits it") from None
        with suppress(ValueError):
            if state == type(modality)(modality.options).state():
                reporter.warn(
                    f"modality {name!r} learns scales or the like from raw samples and has not; call its fit first, or "
                    "train on shards"
                )


def _item(item: str | Path | Mapping[str, Any]) -> str | dict[str, Any]:
    """Return the item of data.train for one of a list: names are strings, those with weights are tables."""
    if isinstance(item, Mapping):
        return {key: str(value) if isinstance(value, Path) else value for key, value in item.items()}
    return str(item)


def _name(
    data: AnyData, modalities: Mapping[str, Modality], warn: Callable[[str], None]
) -> str | tuple[str | dict[str, Any], ...]:
    """Return the value of data.train: names of shards, or a name that tells other rows apart."""
    if isinstance(data, Mapping):
        return f"{IN_MEMORY} {describe_rows(rows_of_tensors(data, modalities))}"
    if isinstance(data, Dataset):
        return f"{IN_MEMORY} {describe_items(data, modalities, warn)}"
    if isinstance(data, str | Path):
        return str(data)
    if isinstance(data, Sequence) and all(isinstance(item, str | Path | Mapping) for item in data):
        return tuple(_item(item) for item in data)
    kind = type(data).__name__
    raise ValueError(
        f"expected names of shards, a dictionary of tensors, or a Dataset or list of dictionaries, got {kind}"
    )
