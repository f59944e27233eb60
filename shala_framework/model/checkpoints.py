"""The files of a model: one safetensors file for each stage, with the spec and the modalities' states inside."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from shala_framework.support.checkpoint import (
    ForeignFileError,
    load_module,
    part,
    prefixed,
    read_checkpoint,
    write_checkpoint,
)
from shala_framework.support.checksums import declared_checksum

STAGES: Final = ("autoencoder", "prior", "refiner")
"""Stages in the order in which they are trained."""


def checkpoint_file(folder: Path, stage: str) -> Path:
    """Return the file of a trained stage."""
    return folder / f"{stage}.safetensors"


def checkpoint_checksums(folder: Path) -> dict[str, str]:
    """Return the checksum inside the file of each stage that a folder has; damaged files are left out.

    Only the start of each file is read, so that large models take no longer.
    """
    paths = {stage: checkpoint_file(folder, stage) for stage in STAGES}
    found = {stage: declared_checksum(path) for stage, path in paths.items() if path.is_file()}
    return {stage: checksum for stage, checksum in found.items() if checksum is not None}


def write_stages(folder: Path, stages: Mapping[str, Mapping[str, nn.Module]], description: dict[str, Any]) -> None:
    """Write the checkpoints of some stages.

    Args:
        folder: Folder of the files.
        stages: Networks of each stage, by the first part of their tensors' names; "" adds none.
        description: Metadata of every file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stage in (stage for stage in STAGES if stage in stages):
        tensors: dict[str, Tensor] = {}
        for name, network in stages[stage].items():
            tensors |= prefixed(network.state_dict(), name) if name else network.state_dict()
        write_checkpoint(checkpoint_file(folder, stage), tensors, description)


def read_stage(
    folder: Path, stage: str, networks: Mapping[str, nn.Module], fingerprint: str, autoencoder_digest: str | None
) -> None:
    """Load the weights of a stage into its networks.

    Args:
        folder: Folder of the file.
        stage: Name of the stage.
        networks: Networks by the first part of their tensors' names, as for `write_stages`.
        fingerprint: Fingerprint of the run that the file must belong to.
        autoencoder_digest: Digest of the stage-1 weights that the stage was trained on; None for stage 1.

    Raises:
        CheckpointError: The file is damaged, belongs to another run, or to another stage 1.
    """
    path = checkpoint_file(folder, stage)
    tensors, description = read_checkpoint(path, fingerprint)
    if autoencoder_digest is not None and description.get("autoencoder_digest") != autoencoder_digest:
        raise ForeignFileError(
            f"{path} was trained on another stage 1 than {checkpoint_file(folder, 'autoencoder').name} beside it; put "
            "the file back that belongs to it, or remove this one and repeat the run's command, which trains this "
            "stage again"
        )
    for name, network in networks.items():
        load_module(network, part(tensors, name) if name else tensors, path)
