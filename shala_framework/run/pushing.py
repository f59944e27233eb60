"""Pushing a run's model to the Hugging Face Hub."""

from pathlib import Path
from typing import Any

from shala_framework.model import STAGES, checkpoint_file
from shala_framework.report.card import CARD_FILE, card_on_hub
from shala_framework.run.files import SPEC_FILE
from shala_framework.run.hub import HubName, explained, hub_endpoint, hub_library
from shala_framework.support.checkpoint import read_checkpoint


def push(
    folder: Path, name: HubName, *, private: bool = True, message: str = "Upload a model of shala_framework"
) -> str:
    """Push the checkpoints, spec.json and model card of a run in one commit; return the address of the repository.

    Args:
        folder: Folder of the run.
        name: Repository, which is created if it does not exist. With a revision, an existing branch of it.
        private: Whether a repository that is created can be read by its owner alone.
        message: Message of the commit.

    Raises:
        DataError: huggingface_hub is not installed.
        CheckpointError: The folder has no trained stage 1, a checkpoint is damaged, or the Hub refuses or cannot be
            reached.
    """
    hub = hub_library(name)
    stages = [file for stage in STAGES if (file := checkpoint_file(folder, stage)).exists()]
    for file in stages or [checkpoint_file(folder, STAGES[0])]:
        read_checkpoint(file)  # raises where it is absent or damaged
    files: dict[str, Any] = {file.name: str(file) for file in stages}
    if (folder / SPEC_FILE).exists():
        files[SPEC_FILE] = str(folder / SPEC_FILE)
    if (folder / CARD_FILE).exists():
        files[CARD_FILE] = card_on_hub((folder / CARD_FILE).read_text(encoding="utf-8"), str(name)).encode()
    absent = {SPEC_FILE, *(checkpoint_file(folder, stage).name for stage in STAGES)} - files.keys()
    api = hub.HfApi(endpoint=hub_endpoint(), library_name="shala_framework")
    with explained(name):
        address = api.create_repo(name.repository, private=private, exist_ok=True)
        changes = [
            hub.CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in files.items()
        ]
        changes += [  # what an earlier model left does not belong to this one
            hub.CommitOperationDelete(path_in_repo=path)
            for path in sorted(absent)
            if api.file_exists(name.repository, path, revision=name.revision)
        ]
        api.create_commit(name.repository, changes, commit_message=message, revision=name.revision)
    return str(address)
