"""A row made of what a person gives: files and typed texts."""

from collections.abc import Mapping
from pathlib import Path

import torch

from shala_framework.data.rows import Rows
from shala_framework.model.given import read_file, read_text
from shala_framework.plugin.modality import Modality

LONGEST_NAME = 40  # characters of a text that name the row


def given_row(modalities: Mapping[str, Modality], given: Mapping[str, Path | str]) -> Rows:
    """Read a file or a typed text for each given modality.

    Args:
        modalities: Modalities of the model, by name.
        given: A file or a text for each given modality. The end of a file's name determines the field.

    Returns:
        One row. Its key consists of the files' stems and the starts of the texts.

    Raises:
        DataError: A file or a text is of the wrong kind, is damaged, or does not hold the modality.
    """
    x, names = {}, []
    for name, value in given.items():
        if isinstance(value, Path):
            x[name] = read_file(name, modalities[name], value)[None]
            names.append(value.name.partition(".")[0])
        else:
            x[name] = read_text(name, modalities[name], value)[None]
            names.append("_".join(value.split())[:LONGEST_NAME])
    return Rows(
        x={n: x.get(n, torch.zeros((1, *m.shape), dtype=m.dtype)) for n, m in modalities.items()},
        presence=torch.tensor([[n in x for n in modalities]]),
        keys=("_".join(names),),
        labels=(None,),
    )
