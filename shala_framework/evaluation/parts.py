"""The finished parts of an evaluation, each kept in a file, from which a stopped evaluation resumes.

Under torchrun all processes evaluate together: they compute parts in turn, and each gets the values of all. A part does
not depend on the process that computes it, so that figures are those of a single process.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs
import cattrs
from torch import nn

from shala_framework.support.checkpoint import load_module, read_checkpoint, write_checkpoint, write_file
from shala_framework.support.distributed import processes
from shala_framework.support.errors import CheckpointError
from shala_framework.support.json_files import dump_json, parse_json

FORMAT = 5  # version of the files and of what figures mean: parts of other versions are computed again
Value = TypeVar("Value")
Module = TypeVar("Module", bound=nn.Module)


@attrs.frozen
class Part(Generic[Value]):
    """A value of an evaluation.

    Attributes:
        name: Name of the value.
        settings: Dependencies beside the context, as JSON values.
        kind: Its type: an attrs class, or any type that JSON can hold.
        compute: Computes the value if it is not stored.
    """

    name: str
    settings: Any
    kind: Any
    compute: Callable[[], Value]


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
        """Return a value, which the first process computes. All processes must call this.

        Arguments are the attributes of `Part`.
        """
        (found,) = self.values([Part(name, settings, kind, compute)])
        return found

    def values(self, parts: Sequence[Part[Value]], on_part: Callable[[int], None] = lambda _: None) -> list[Value]:
        """Return values, which processes compute in turn. All processes must call this, with the same parts.

        Args:
            parts: The values.
            on_part: Called with the number of parts done so far, by about as many as there are processes at a time.
        """
        size = processes.world_size()
        own: dict[int, Value] = {}
        for number in range(processes.rank(), len(parts), size):
            own[number] = self.own_value(parts[number])
            on_part(min(len(parts), number - processes.rank() + size))
        if size == 1:
            return list(own.values())
        found = []
        for number, part in enumerate(parts):
            mine = dump_json({"value": self.converter.unstructure(own[number])}) if number in own else b""
            passed = parse_json(processes.bytes_from(mine, number % size), {"value": object})
            found.append(self.converter.structure(passed["value"], part.kind))
        return found

    def own_value(self, part: Part[Value]) -> Value:
        """Return a value of this process."""
        name, settings, kind, compute = part.name, part.settings, part.kind, part.compute
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

    @staticmethod
    def passed(module: Module | None, source: int, build: Callable[[], Module]) -> Module:
        """Return a trained module of one process. All processes must call this.

        Args:
            module: The module, in that process.
            source: Number of the process.
            build: Makes the module with arbitrary weights, in the others.
        """
        weights = processes.tensors_from(None if module is None else module.state_dict(), source)
        if module is None:
            module = build()
            module.load_state_dict(weights)
        return module.eval()

    def own_module(self, name: str, settings: Any, build: Callable[[], Module], train: Callable[[], Module]) -> Module:
        """Return a trained module of this process.

        Args:
            name: Name of the module.
            settings: As for `Part`.
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
