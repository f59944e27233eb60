"""Loading a run's model from its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from shala_framework.model import STAGES, ShaLa, checkpoint_file
from shala_framework.plugin.loading import name_of_class
from shala_framework.plugin.modality import Modality
from shala_framework.plugin.posterior import PosteriorMethod
from shala_framework.run.files import SPEC_FILE, SPEC_SHAPE
from shala_framework.run.hub import local_folder
from shala_framework.spec import resolve_spec
from shala_framework.spec.fingerprint import FREE_DATA_KEYS, FREE_TO_CHANGE, run_fingerprint
from shala_framework.support.checkpoint import read_checkpoint
from shala_framework.support.errors import CheckpointError
from shala_framework.support.json_files import read_json


def load(
    folder: str | Path,
    device: torch.device | str = "cpu",
    *,
    classes: Sequence[type[Modality] | type[PosteriorMethod]] = (),
) -> ShaLa:
    """Load a run, such as `load("runs/ntu_rgb_skeleton")`, in evaluation mode.

    It samples by the [generate] table that the run was last given, which `spec.json` beside the checkpoints holds.

    Args:
        folder: Folder of a run, or one that `ShaLa.save` wrote; or a repository on the Hugging Face Hub,
            "hf://OWNER/NAME" or "hf://OWNER/NAME@REVISION", as text.
        device: Device of the networks.
        classes: Classes of the model's modalities and of its method that no installed plugin offers.

    Raises:
        CheckpointError: The folder has no checkpoint of stage 1, or a damaged one; or there is no such repository.
        DataError: huggingface_hub, which a repository needs, is not installed.
        SpecError: A plugin that the model needs is not installed or has changed its options.
    """
    folder = local_folder(folder)
    path = checkpoint_file(folder, "autoencoder")
    _, description = read_checkpoint(path)
    if not isinstance(description.get("spec"), dict) or not isinstance(description.get("modality_states"), dict):
        raise CheckpointError(f"{path} is no checkpoint of a model, but of {description!r}")
    described = description["spec"] | _given_anew(folder / SPEC_FILE, description)
    model = ShaLa.from_spec(resolve_spec(described, str(path), {name_of_class(kind): kind for kind in classes}))
    model.synthetic, model.fingerprint = bool(description["synthetic"]), str(description["fingerprint"])
    for name, modality in model.modalities.items():
        try:
            modality.load_state(description["modality_states"].get(name, {}))
        except (ValueError, TypeError, LookupError) as error:
            raise CheckpointError(f"{path}: state of modality {name!r}: {error}") from error
    model.build()
    for stage in (stage for stage in STAGES if checkpoint_file(folder, stage).exists()):
        model.load_stage(folder, stage)
    return model.to(device)


def _given_anew(path: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a spec that a finished run may change, from its spec.json; empty if there is none."""
    if not path.exists():
        return {}
    advice = "run the same spec into this folder again, which writes it"
    found = read_json(path, SPEC_SHAPE, error=CheckpointError, advice=advice)
    if run_fingerprint(found) != description["fingerprint"]:
        raise CheckpointError(f"{path} belongs to another run than the checkpoints beside it; {advice}")
    spec = found["spec"]
    free = {table: spec[table] for table in FREE_TO_CHANGE if table in spec}
    data = {key: spec["data"][key] for key in FREE_DATA_KEYS if key in spec["data"]}  # earlier versions had fewer keys
    return free | {"data": description["spec"]["data"] | data}
