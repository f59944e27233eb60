"""Prepared fields: what `Modality.read` gives, stored beside the raw fields so that training need not decode.

A prepared field is a .npy array under `<modality>.prepared.npy`. It belongs to one table of one spec; another shape or
dtype than the modality's is refused.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from shala_framework.dataset import Dataset, Sample
from shala_framework.errors import DataError
from shala_framework.modality import Modality
from shala_framework.spec import unstructure
from shala_framework.urls import is_remote

PREPARED_FILE = "prepared.json"


def prepared_field(name: str) -> str:
    """Field of a modality's prepared tensor."""
    return f"{name}.prepared.npy"


def read_prepared(name: str, modality: Modality, data: bytes) -> Tensor:
    """The tensor of a prepared field.

    Raises:
        DataError: It is damaged, or was prepared with other options.
    """
    field, dtype = prepared_field(name), numpy_dtype(modality)
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:
        raise DataError(f"field {field!r}: expected a .npy array, got {len(data)} bytes that are none") from error
    if array.shape != tuple(modality.shape) or array.dtype != dtype:
        raise DataError(
            f"field {field!r}: expected {dtype} {list(modality.shape)}, got {array.dtype} {list(array.shape)}; "
            "the shards were prepared for other options: pack them again, or train with those"
        )
    return torch.from_numpy(array)


def numpy_dtype(modality: Modality) -> np.dtype:
    """The modality's dtype as NumPy names it."""
    return torch.zeros((), dtype=modality.dtype).numpy().dtype


@attrs.frozen
class Preparation:
    """Replaces the fields of a data set's samples by what a spec's modalities read of them.

    Attributes:
        modalities: By name.
        notes: What could not be read; such a field is missing in the prepared sample.
    """

    modalities: Mapping[str, Modality]
    notes: list[str] = attrs.field(factory=list)

    def fit(self, dataset: Dataset, source: Path | None) -> None:
        """Let each modality learn what it must from the training samples, in one pass each.

        Raises:
            DataError: A sample cannot be read; says which.
        """
        for name, modality in self.modalities.items():
            if type(modality).fit is Modality.fit:
                continue
            keys = ["none"]

            def fields(keys: list[str] = keys) -> Iterator[Mapping[str, bytes]]:
                for sample in dataset.samples(source):
                    if sample.split == "train":
                        keys[0] = sample.key
                        yield sample.fields

            try:
                modality.fit(fields())
            except DataError as error:
                raise DataError(f"sample {keys[0]!r}, modality {name!r}: {error}; mend or remove the file") from error

    def prepare(self, sample: Sample) -> Sample | None:
        """The prepared sample; fields that no modality of the spec reads are dropped, and None is left of none."""
        fields: dict[str, bytes] = {}
        for name, modality in self.modalities.items():
            try:
                x = modality.read({field: sample.fields[field] for field in modality.fields if field in sample.fields})
            except DataError as error:
                self.notes.append(f"sample {sample.key!r}, modality {name!r} left out: {error}")
                continue
            if x is not None:
                buffer = io.BytesIO()
                np.save(buffer, x.numpy(), allow_pickle=False)
                fields[prepared_field(name)] = buffer.getvalue()
        if not fields:
            self.notes.append(f"sample {sample.key!r} left out: it has none of the spec's modalities")
            return None
        return attrs.evolve(sample, fields=fields)

    def description(self) -> dict[str, Any]:
        """What `prepared.json` says beside the shards: each modality's options and what it learned."""
        return {
            name: {"options": unstructure(modality.options), "state": modality.state()}
            for name, modality in self.modalities.items()
        }


def load_preparation(urls: Sequence[str], modalities: Mapping[str, Modality]) -> bool:
    """Give modalities the state that local prepared shards were read with.

    Args:
        urls: The training shards.
        modalities: Of the spec, by name.

    Returns:
        Whether the shards are prepared ones.

    Raises:
        DataError: They were prepared for other modalities or options.
    """
    if not urls or is_remote(urls[0]):
        return False
    path = Path(urls[0].removeprefix("file:")).parent / PREPARED_FILE
    if not path.exists():
        return False
    described = json.loads(path.read_bytes())
    for name, modality in modalities.items():
        if name not in described:
            raise DataError(f"{path}: expected shards prepared for {name!r} too, got only {sorted(described)}")
        options = json.loads(json.dumps(unstructure(modality.options)))
        if described[name]["options"] != options:
            changed = {
                key: (described[name]["options"].get(key), value)
                for key, value in options.items()
                if described[name]["options"].get(key) != value
            }
            raise DataError(
                f"{path}: the shards were prepared for other options of {name!r} (prepared, this spec): {changed}; "
                "pack them again, or train with those"
            )
        modality.load_state(described[name]["state"])
    return True
