"""Safetensors files that carry their own description; written whole or not at all, and never unpickled."""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from shala_framework.support.checksums import FIELD, ZEROS, add_checksum, verify_file
from shala_framework.support.errors import CheckpointError

PARTIAL = "partial"  # ends the name of a file that is being written
_KEY = "shala"  # one metadata key: safetensors keeps several in no fixed order, and equal runs give equal bytes


def write_file(path: Path, content: bytes, *, owner: str = "") -> None:
    """Write a file under a temporary name, sync it and rename it, so that path is never half written.

    The file's folder is made if need be, but not the one above it: a run's folder that was removed stays so.

    Args:
        path: Path of the file.
        content: All of its bytes.
        owner: Name of the writer, where several processes may write the file at once.
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
        with suppress(OSError):  # the error under way says what is wrong
            temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _not_through_links(path: str, flags: int) -> int:
    """Open a file, but not what a link in somebody else's folder points at, which may be any file."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Put a file's name into errors of writing that have none, such as that of a full disk.

    Raises:
        OSError: What was raised inside, with a name.
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
        path: Of the file; it is replaced in one step.
        tensors: By name, on any device.
        description: JSON values; the order of keys is kept, as that of the modalities is part of a model.
    """
    plain: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, value in tensors.items():
        own = value.detach().cpu().contiguous()
        address = own.untyped_storage().data_ptr()
        plain[name] = own.clone() if address in memory else own  # tied weights are written for each of their names
        memory.add(address)
    write_file(path, add_checksum(save(plain, {_KEY: json.dumps({FIELD: ZEROS, **description})})))


def read_checkpoint(path: Path, fingerprint: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_checkpoint` wrote, once its checksum has been verified.

    Args:
        path: Path of the file.
        fingerprint: What the description must have as "fingerprint"; None takes any file.

    Returns:
        Tensors on the CPU, and the description.

    Raises:
        ForeignFileError: The file is sound and belongs to another run.
        DamagedFileError: The file is damaged, or something else wrote it.
        CheckpointError: There is no such file.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}: expected the folder of a run whose stage is done; check the path, or repeat the "
            "run's command, which goes on"
        )
    try:
        verify_file(path)
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
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
    """A file that is not what its checksum says, or has none."""


class ForeignFileError(CheckpointError):
    """A sound file that belongs to another run."""


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A short name for these very tensors: it depends on their names, types, shapes and values."""
    total = 0
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total = zlib.crc32(f"{name} {value.dtype} {list(value.shape)} ".encode(), total)
        total = zlib.crc32(value.flatten().view(torch.uint8).numpy().data, total)
    return f"{total:08x}"


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Give a module its tensors.

    Raises:
        CheckpointError: Names or shapes are not the module's.
    """
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
            "it was made by other versions of the framework or its plugins: install those, or train anew"
        )
    module.load_state_dict(dict(tensors))


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix.`, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(prefix + ".")}


def prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The inverse of `part`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}
