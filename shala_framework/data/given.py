"""Read a user's own files as the given modalities of one row."""

from collections.abc import Mapping
from pathlib import Path

import torch

from shala_framework.data.rows import Rows
from shala_framework.plugin.modality import Modality
from shala_framework.support.errors import DataError


def given_row(modalities: Mapping[str, Modality], files: Mapping[str, Path]) -> Rows:
    """Read a file for each given modality.

    Args:
        modalities: Modalities of the model, by name.
        files: One file for each given modality. The end of its name determines the field.

    Returns:
        One row. Its key consists of the files' stems.

    Raises:
        DataError: A file is of the wrong kind, is damaged or does not hold the modality, or nothing is left to
            generate.
    """
    x, stems = {}, []
    for name, path in files.items():
        modality = modalities[name]
        field = next((f for f in modality.fields if path.name.lower().endswith("." + f)), None)
        if field is None:
            ending = f"one ending in .{path.name.rpartition('.')[2]}" if "." in path.name else "one without an ending"
            raise DataError(f"{name}={path}: expected a file ending in one of {list(modality.fields)}, got {ending}")
        try:
            value = modality.read({field: path.read_bytes()})
        except OSError as error:
            raise DataError(f"{name}={path}: cannot be read: {error.strerror}") from error
        except DataError as error:
            raise DataError(f"{name}={path}: {error}") from error
        if value is None:
            raise DataError(
                f"{name}={path}: the file holds no {name}: it is empty, or the modality's options discard all of it; "
                "give another file"
            )
        x[name] = value[None]
        stems.append(path.name.partition(".")[0])
    if len(x) == len(modalities):
        raise DataError("every modality is given; leave out the ones to generate")
    return Rows(
        x={n: x.get(n, torch.zeros((1, *m.shape), dtype=m.dtype)) for n, m in modalities.items()},
        presence=torch.tensor([[n in x for n in modalities]]),
        keys=("_".join(stems),),
        labels=(None,),
    )
