"""The files from which a stage resumes: the last saved state, and the one before in case the last is damaged."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from shala_framework.support.checkpoint import read_checkpoint, write_checkpoint
from shala_framework.support.errors import CheckpointError


class StateFiles:
    """The two latest states of a stage.

    Args:
        path: Path of the latest state; the one before has ".previous" in its name.
        fingerprint: Fingerprint of the run.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint
        self.damaged = False  # if so, the next state replaces it and the one before is kept
        self.previous = path.with_name(f"{path.stem}.previous{path.suffix}")

    def exist(self) -> bool:
        """Return whether there is a state to resume from."""
        return self.path.exists() or self.previous.exists()

    def write(self, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
        """Save a state, and keep the last one as the one before. There is a state on disk at every moment."""
        if self.path.exists() and not self.damaged:
            os.replace(self.path, self.previous)
        self.damaged = False
        write_checkpoint(self.path, tensors, {**description, "fingerprint": self.fingerprint})

    def read(self, warn: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read the last state, or the one before if the last is missing, damaged or another run's.

        Raises:
            CheckpointError: Neither can be read, or they belong to another run.
        """
        if not self.path.exists():
            return self._read(self.previous)
        try:
            return self._read(self.path)
        except CheckpointError as error:
            if not self.previous.exists():
                raise
            try:
                found = self._read(self.previous)
            except CheckpointError as other:
                raise CheckpointError(f"{error}\n{other}") from error
            self.damaged = True
            warn(f"{error}; resuming from the state before it")
            return found

    def _read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        try:
            return read_checkpoint(path, self.fingerprint)
        except CheckpointError as error:
            advice = f"restore the file, or remove {self.path} and {self.previous.name} to train this stage again"
            raise type(error)(f"{error}; {advice}") from error
