"""Values that a person gives for a modality: tensors, typed texts, and files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from shala_framework.plugin.media import FILM_FIELDS
from shala_framework.plugin.modality import Modality
from shala_framework.support.errors import DataError
from shala_framework.support.hints import kind_of, shortened

MediaKind = Literal["picture", "sound", "clip"]
_MEDIA: dict[MediaKind, tuple[str, ...]] = {
    "picture": ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff"),
    "sound": ("wav", "flac", "mp3", "ogg", "opus", "m4a", "aac", "aiff"),
    "clip": FILM_FIELDS,
}
GivenValue = Tensor | str | Path | Sequence[str | Path]
"""Rows of one modality: a tensor [N, ...], one text or file, or N of them. A str is text, a Path names a file."""


def read_given(modalities: Mapping[str, Modality], given: Mapping[str, GivenValue]) -> dict[str, Tensor]:
    """Read texts and files as tensors [N, ...]. Tensors stay as they are.

    Args:
        modalities: Modalities of the model, by name.
        given: Values by name. Names that are no modality's are passed on for the caller to refuse.

    Raises:
        DataError: A text or a file does not hold the modality.
        ValueError: A text is given for a modality that cannot be typed, or a value is of another type.
    """
    return {name: _rows(name, modalities[name], value) for name, value in given.items() if name in modalities} | {
        name: torch.empty(0) for name in given if name not in modalities
    }


def _rows(name: str, modality: Modality, value: GivenValue) -> Tensor:
    if isinstance(value, Tensor):
        return value
    items = [value] if isinstance(value, str | Path) else value
    if not isinstance(items, Sequence) or not items or not all(isinstance(item, str | Path) for item in items):
        raise ValueError(
            f"expected a tensor of {name!r}, a text, the Path of a file, or a list of texts or paths, "
            f"got {kind_of(value)}; leave out what is not given"
        )
    return torch.stack([_read_one(name, modality, item) for item in items])


def _read_one(name: str, modality: Modality, item: str | Path) -> Tensor:
    if isinstance(item, Path):
        return read_file(name, modality, item)
    if modality.typed(item) is None:
        raise ValueError(
            f"expected a tensor or the Path of a file for {name!r}, because this modality cannot be typed, got the "
            f"text {shortened(item)}; Path({shortened(item)}) is the file of that name"
        )
    return read_text(name, modality, item)


def read_file(name: str, modality: Modality, path: Path) -> Tensor:
    """Read a file as x of a modality, without a batch dimension.

    Args:
        name: Name of the modality, for messages.
        modality: The modality.
        path: The file. The end of its name determines the field.

    Raises:
        DataError: The file is of the wrong kind, is damaged, or does not hold the modality.
    """
    field = field_of(modality, path)
    if field is None:
        ending = f"one ending in .{path.name.rpartition('.')[2]}" if "." in path.name else "one without an ending"
        raise DataError(f"{name}={path}: expected a file ending in one of {list(modality.fields)}, got {ending}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{name}={path}: cannot be read: {error.strerror}") from error
    return _read_fields(name, modality, {field: content}, str(path), "file")


def read_text(name: str, modality: Modality, text: str) -> Tensor:
    """Read a typed text as x of a modality, without a batch dimension.

    Args:
        name: Name of the modality, for messages.
        modality: The modality.
        text: The text.

    Raises:
        DataError: The modality cannot be typed, or the text does not hold it.
    """
    fields = modality.typed(text)
    if fields is None:
        raise DataError(f"{name}={shortened(text)}: expected a file, because this modality cannot be typed")
    return _read_fields(name, modality, fields, shortened(text), "typed text")


def field_of(modality: Modality, path: Path) -> str | None:
    """Return the field that the end of a file's name determines, or None.

    A person's own file needs no new name: a picture, a sound or a clip of any format counts as the modality's first
    field of that kind, and any file as the only field with its last extension. `read` refuses formats that it lacks.
    """
    name = path.name.lower()
    whole = next((field for field in modality.fields if name.endswith("." + field.lower())), None)
    last = [field for field in modality.fields if name.endswith("." + field.lower().rpartition(".")[2])]
    if whole or len(last) == 1:
        return whole or last[0]
    kind = media_kind(name.rpartition(".")[2]) if "." in name else None
    return next((field for field in modality.fields if kind is not None and media_kind(field) == kind), None)


def media_kind(field: str) -> MediaKind | None:
    """Return what a field such as "left.png" holds by its last part, or None for anything but known media.

    Example:
        >>> media_kind("left.png"), media_kind("wav"), media_kind("mp4"), media_kind("npy")
        ('picture', 'sound', 'clip', None)
    """
    last = field.lower().rpartition(".")[2]
    return next((kind for kind, endings in _MEDIA.items() if last in endings), None)


def _read_fields(name: str, modality: Modality, fields: Mapping[str, bytes], source: str, noun: str) -> Tensor:
    try:
        value = modality.read(fields)
    except DataError as error:
        raise DataError(f"{name}={source}: {error}") from error
    if value is None:
        raise DataError(
            f"{name}={source}: the {noun} holds no {name}: {modality.blank_reason()}, or the modality's options "
            f"discard all of it; give another {noun}"
        )
    return value
