"""The finished parts of an evaluation, each kept in a file, from which a stopped evaluation resumes."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cattrs
from torch import nn

from shala_framework.support.checkpoint import load_module, read_checkpoint, write_checkpoint, write_file
from shala_framework.support.errors import CheckpointError
from shala_framework.support.json_files import dump_json, parse_json

FORMAT = 4  # version of the files, included in every part's name: parts of other versions are computed again
Value = TypeVar("Value")
Module = TypeVar("Module", bound=nn.Module)


class Parts:
    """Values and trained judges, stored by everything that they depend on.

    A part is reused only if its name, settings and context are the same as before; a damaged file is computed
    again.

    Args:
        folder: Folder of the files; None keeps nothing.
        context: Dependencies of all parts, as JSON values: the model, the rows and the seed.
    """

    def __init__(self, folder: Path | None = None, context: Any = None) -> None:
        self.folder, self.context = folder, context
        self.converter = cattrs.Converter()

    def value(self, name: str, settings: Any, kind: Any, compute: Callable[[], Value]) -> Value:
        """Return a value of an attrs class, or of any type that JSON can hold.

        Args:
            name: Name of the value.
            settings: Dependencies beside the context, as JSON values.
            kind: Type of the value.
            compute: Computes the value if it is not stored.
        """
        path = self._path(name, settings, ".json")
        if path is not None and path.exists():
            try:
                found = parse_json(path.read_bytes(), {"file": str, "value": object})
                if found["file"] != path.name:
                    raise ValueError("it is another part's")
                kept: Value = self.converter.structure(found["value"], kind)
            except Exception:  # whatever is wrong with the file, compute the value again
                path.unlink(missing_ok=True)
            else:
                return kept
        computed = compute()
        if path is not None:
            described = {"name": name, "file": path.name, "value": self.converter.unstructure(computed)}
            write_file(path, dump_json(described))
        return computed

    def module(self, name: str, settings: Any, build: Callable[[], Module], train: Callable[[], Module]) -> Module:
        """Return a trained module.

        Args:
            name: Name of the module.
            settings: As for `value`.
            build: Makes the module with arbitrary weights.
            train: Makes the trained module if it is not stored.
        """
        path = self._path(name, settings, ".safetensors")
        if path is not None and path.exists():
            try:
                kept = build()
                load_module(kept, read_checkpoint(path, path.name)[0], path)
            except CheckpointError:
                path.unlink(missing_ok=True)
            else:
                return kept.eval()
        trained = train()
        if path is not None:
            write_checkpoint(path, trained.state_dict(), {"name": name, "fingerprint": path.name})
        return trained

    def _path(self, name: str, settings: Any, suffix: str) -> Path | None:
        if self.folder is None:
            return None
        key = hashlib.sha256(json.dumps([FORMAT, name, settings, self.context], sort_keys=True).encode()).hexdigest()[
            :16
        ]
        return self.folder / f"{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')[:60]}-{key}{suffix}"
