"""Safetensors files that contain their own description, are written completely or not at all, and never unpickled."""

import difflib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from shala_framework.support.checksums import FIELD, ZEROS, add_checksum, verify_file
from shala_framework.support.errors import CheckpointError

PARTIAL = "partial"  # ends the name of a file while it is being written
_KEY = "shala"  # the only metadata key: several have no fixed order, but equal runs must give equal bytes


def write_file(path: Path, content: bytes, *, owner: str = "") -> None:
    """Write a file under a temporary name, sync it and rename it, so the file at path is always complete.

    The file's folder is created if necessary, but not its parent: the folder of a run stays removed if it was removed.

    Args:
        path: Path of the file.
        content: All of its bytes.
        owner: Name of the writer, if several processes may write the file at once.
    """
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f"{path.name}.{owner}{PARTIAL}")
    try:
        with naming_file(temporary), open(temporary, "wb", opener=_not_through_links) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # the current error says what is wrong
            temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _not_through_links(path: str, flags: int) -> int:
    """Open a file, but refuse links: in someone else's folder they may point to any file."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Add the file's name to write errors that lack one, such as those of a full disk.

    Raises:
        OSError: The error raised inside the context, with a file name.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write tensors and a JSON description, with a checksum of both.

    Args:
        path: Path of the file, which is replaced in one step.
        tensors: Tensors by name, on any device.
        description: JSON values. The order of keys is kept, because a model depends on the order of its modalities.
    """
    plain: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, value in tensors.items():
        own = value.detach().cpu().contiguous()
        address = own.untyped_storage().data_ptr()
        plain[name] = own.clone() if address in memory else own  # tied weights are written once per name
        memory.add(address)
    write_file(path, add_checksum(save(plain, {_KEY: json.dumps({FIELD: ZEROS, **description})})))


def read_checkpoint(path: Path, fingerprint: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of `write_checkpoint` after verifying its checksum.

    Args:
        path: Path of the file.
        fingerprint: Required value of "fingerprint" in the description; None accepts any file.

    Returns:
        Tensors on the CPU, and the description.

    Raises:
        ForeignFileError: The file is valid but belongs to another run.
        DamagedFileError: The file is damaged, or another program wrote it.
        CheckpointError: The file does not exist.
    """
    folder = path.parent
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file; expected the folder of a run: give the folder that it lies in")
    if not folder.exists():
        known = [other.name for other in folder.parent.iterdir() if other.is_dir()] if folder.parent.is_dir() else []
        near = difflib.get_close_matches(folder.name, known, n=1)
        hint = f"did you mean {folder.parent / near[0]}?" if near else "check the path"
        raise CheckpointError(f"{folder} does not exist; expected the folder of a run: {hint}")
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}: expected the folder of a run whose stage is complete; check the path, or repeat "
            "the run's command to resume it"
        )
    try:
        verify_file(path)
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        del description[FIELD]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} is damaged, or this version of shala_framework did not write it: {error}"
        ) from error
    found = description.get("fingerprint")
    if fingerprint is not None and found != fingerprint:
        raise ForeignFileError(f"{path} belongs to another run: it has the fingerprint {found}, not {fingerprint}")
    return tensors, description


class DamagedFileError(CheckpointError):
    """The file does not match its checksum, or has none."""


class ForeignFileError(CheckpointError):
    """The file is valid but belongs to another run."""


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a short hash of tensors that depends on their names, types, shapes and values."""
    total = 0
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total = zlib.crc32(f"{name} {value.dtype} {list(value.shape)} ".encode(), total)
        total = zlib.crc32(value.flatten().view(torch.uint8).numpy().data, total)
    return f"{total:08x}"


@runtime_checkable
class KnowsEarlierForms(Protocol):
    """A module that can load checkpoints of earlier versions, in which it had other parts."""

    def before_loading(self, tensors: Mapping[str, Tensor]) -> None:
        """Take on the parts that a checkpoint has tensors for."""
        ...


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load tensors into a module.

    Modules with a method `before_loading` see their tensors first, and may take on the form that they had in an
    earlier version.

    Raises:
        CheckpointError: Names or shapes differ from those of the module.
    """
    for name, inner in list(module.named_modules()):
        if isinstance(inner, KnowsEarlierForms):
            inner.before_loading(part(tensors, name) if name else tensors)
    wanted = module.state_dict()
    wrong = [f"{name} is missing" for name in wanted if name not in tensors]
    wrong += [f"{name} is not expected" for name in tensors if name not in wanted]
    wrong += [
        f"{name} has shape {list(tensors[name].shape)}, expected {list(value.shape)}"
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{source} does not fit its own spec: {'; '.join(wrong[:3])}{more}; "
            "it was made by other versions of the framework or its plugins: install those, or train again"
        )
    module.load_state_dict(dict(tensors))


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors under `prefix.`, without the prefix."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(prefix + ".")}


def prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Invert `part`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}
