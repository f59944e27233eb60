"""Prepared fields: the tensors that `Modality.read` returns, stored so that training need not decode.

A prepared field is a .npy array with the name `<modality>.prepared.npy`. It belongs to one table of one spec. An array
with another shape or dtype than the modality's is refused.
"""

import io
import json
import math
from collections.abc import Callable, Container, Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from shala_framework.data.fitting import Watched
from shala_framework.plugin.dataset import Account, Dataset, Sample
from shala_framework.plugin.modality import Modality, needs_fit
from shala_framework.spec import unstructure
from shala_framework.support.checksums import FIELD
from shala_framework.support.errors import DataError
from shala_framework.support.json_files import check_shape, dump_json, parse_json
from shala_framework.support.urls import read_url_if_there

PREPARED_FILE = "prepared.json"
_VERSION = 2  # version 1 had no checksum
_OWN_KEYS = (FIELD, "version", "modalities")  # modalities with these names are stored under the last of them
MOST_UNFIT = 100  # samples that fitting may skip; each costs another pass


def prepared_field(name: str) -> str:
    """Return the name of the field with a modality's prepared tensor."""
    return f"{name}.prepared.npy"


def read_prepared(name: str, modality: Modality, data: bytes) -> Tensor:
    """Read the tensor of a prepared field.

    Raises:
        DataError: The field is damaged, or was prepared with other options.
    """
    field, dtype = prepared_field(name), numpy_dtype(modality)
    head = _npy_head(dtype, tuple(modality.shape))
    if data.startswith(head) and len(head) < len(data) == len(head) + dtype.itemsize * math.prod(modality.shape):
        # What `Preparation` wrote: parsing its header takes ten times as long as all else.
        return torch.from_numpy(np.frombuffer(bytearray(data), dtype, offset=len(head)).reshape(modality.shape))
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:
        raise DataError(f"field {field!r}: expected a .npy array, got {len(data)} other bytes") from error
    if array.shape != tuple(modality.shape) or array.dtype != dtype:
        raise DataError(
            f"field {field!r}: expected {dtype} {list(modality.shape)}, got {array.dtype} {list(array.shape)}; "
            "the shards were prepared for other options: pack them again, or train with those options"
        )
    return torch.from_numpy(array)


def describe_blank(name: str, modality: Modality, fields: Container[str]) -> str | None:
    """Describe a blank reading of a sample's fields. Return None if the modality has none of the fields.

    Args:
        name: Name of the modality.
        modality: Modality that read the fields.
        fields: Names of the sample's fields.
    """
    field = modality.first_field(fields)
    return None if field is None else f"modality {name!r}: field {field!r} is there, but {modality.blank_reason()}"


def numpy_dtype(modality: Modality) -> np.dtype:
    """Return the modality's dtype as a NumPy dtype."""
    return _numpy_dtype(modality.dtype)


@cache
def _numpy_dtype(dtype: torch.dtype) -> np.dtype:
    return torch.zeros((), dtype=dtype).numpy().dtype


@lru_cache(256)
def _npy_head(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Return the header that NumPy writes before an array of this kind."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@attrs.frozen
class LeftOut:
    """Something that preparation left out of a sample.

    Attributes:
        key: Key of the sample.
        reason: Reason for leaving it out.
        note: Note for the user; empty if samples with the same reason are counted instead.
    """

    key: str
    reason: str
    note: str


@attrs.frozen
class Preparation:
    """Replaces the fields of a data set's samples by the tensors that a spec's modalities read from them.

    Attributes:
        modalities: Modalities by name.
        unfit: For each sample and modality that `fit` could not read, the note for the user. `prepare` leaves these
            out.
    """

    modalities: Mapping[str, Modality]
    unfit: dict[tuple[str, str], LeftOut] = attrs.field(factory=dict)

    def fit(
        self, dataset: Dataset, source: Path | None, on_sample: Callable[[str, int], None] = lambda _, __: None
    ) -> None:
        """Fit each modality to the training samples, in one pass each.

        If a sample cannot be read, it is noted, and the modality is fitted again without it.

        Args:
            dataset: Data set of the samples.
            source: Folder of raw files, or None.
            on_sample: Called with a modality's name and the number of samples it has read in this pass.

        Raises:
            DataError: The raw data cannot be used, a modality finds too little to learn from, or too many samples
                cannot be read.
        """
        for name, modality in self.modalities.items():
            if needs_fit(modality):
                while not self._fit_once(name, dataset, source, on_sample):
                    pass

    def _fit_once(
        self, name: str, dataset: Dataset, source: Path | None, on_sample: Callable[[str, int], None]
    ) -> bool:
        """Fit to all samples that are not known to be unreadable. Return False if another one turned out to be."""
        every = dataset.samples(source, Account())
        samples = (s for s in every if s.split == "train" and (s.key, name) not in self.unfit)
        watched = Watched(samples, partial(on_sample, name))
        on_sample(name, 0)
        try:
            self.modalities[name].fit(iter(watched))
        except DataError as error:
            unfit = sorted(key for key, modality in self.unfit if modality == name)
            if watched.current is None:  # no sample caused the error
                if not unfit or not watched.ended:
                    raise
                last = next(reversed(self.unfit.values()))
                raise DataError(f"{error}; {len(unfit)} cannot be read, the last one: {last.note}") from error
            key = watched.current.key
            if len(unfit) >= MOST_UNFIT:
                raise DataError(
                    f"modality {name!r}: expected at most {MOST_UNFIT} training samples that cannot be read, got more, "
                    f"such as {unfit[0]!r} and {key!r}: {error}; replace or remove the files, or check the options"
                ) from error
            self.unfit[key, name] = _unreadable(key, name, error)
            return False
        return True

    def prepare(self, sample: Sample) -> tuple[Sample | None, list[LeftOut]]:
        """Return the prepared sample, or None if nothing is left of it, and what was left out.

        Fields that no modality of the spec reads are dropped silently.
        """
        fields: dict[str, bytes] = {}
        left_out: list[LeftOut] = []
        for name, modality in self.modalities.items():
            if (sample.key, name) in self.unfit:
                left_out.append(self.unfit[sample.key, name])
                continue
            try:
                x = modality.read({field: sample.fields[field] for field in modality.fields if field in sample.fields})
            except DataError as error:
                left_out.append(_unreadable(sample.key, name, error))
                continue
            if x is not None:
                buffer = io.BytesIO()
                np.save(buffer, x.numpy(), allow_pickle=False)
                fields[prepared_field(name)] = buffer.getvalue()
                continue
            reason = describe_blank(name, modality, sample.fields)
            if reason is not None:
                left_out.append(LeftOut(sample.key, reason, ""))
        if fields:
            return attrs.evolve(sample, fields=fields), left_out
        if not left_out:
            reason = "it has none of the spec's modalities"
            left_out.append(LeftOut(sample.key, reason, f"sample {sample.key!r} left out: {reason}"))
        return None, left_out

    def options(self) -> dict[str, Any]:
        """Return the options of each modality."""
        return {name: unstructure(modality.options) for name, modality in self.modalities.items()}

    def description(self) -> bytes:
        """Return the content of `prepared.json`: each modality's options and what it learned."""
        tables = {
            name: {"options": unstructure(modality.options), "state": modality.state()}
            for name, modality in self.modalities.items()
        }
        apart = {name: tables.pop(name) for name in _OWN_KEYS if name in tables}
        return dump_json({"version": _VERSION, **tables, **({"modalities": apart} if apart else {})}, indent=2)


def _unreadable(key: str, name: str, error: DataError) -> LeftOut:
    return LeftOut(key, f"modality {name!r}: {error}", f"sample {key!r}, modality {name!r} left out: {error}")


def load_preparation(urls: Sequence[str], modalities: Mapping[str, Modality]) -> bool:
    """Give modalities the state with which prepared shards were read.

    Args:
        urls: The training shards.
        modalities: Modalities of the spec, by name.

    Returns:
        Whether the shards are prepared.

    Raises:
        DataError: The shards were prepared for other modalities or options, have different states in two folders, or
            are mixed with raw shards that need a state; or their description is damaged.
    """
    found = _descriptions(urls)
    prepared = {path: content for path, content in found.items() if content is not None}
    if not prepared:
        return False
    first, content = next(iter(prepared.items()))
    described = _described(content, first)
    for name, modality in modalities.items():
        _check_options(first, described, name, modality)
        try:
            modality.load_state(described[name]["state"])
        except (ValueError, TypeError, LookupError) as error:
            raise DataError(_damaged(first, f"got a state of {name!r} that it cannot load: {error}")) from error
    check_preparation(urls, modalities)
    raw = [path for path, content in found.items() if content is None]
    fitted = [name for name, modality in modalities.items() if needs_fit(modality)]
    if raw and fitted:
        raise DataError(
            f"{first} belongs to prepared shards, but {raw[0]} is missing: {', '.join(fitted)} would be fitted to one "
            "part only; pack all shards with --for, or none"
        )
    return True


def check_preparation(urls: Sequence[str], modalities: Mapping[str, Modality]) -> None:
    """Raise DataError if shards were prepared with other options or states than those of the fitted modalities."""
    for path, content in _descriptions(urls).items():
        if content is None:
            continue
        described = _described(content, path)
        for name, modality in modalities.items():
            _check_options(path, described, name, modality)
            if described[name]["state"] != json.loads(json.dumps(modality.state())):
                raise DataError(
                    f"{path}: the shards were prepared with another state of {name!r} than the training shards, learned"
                    " from other samples; pack all splits in one call"
                )


def _descriptions(urls: Sequence[str]) -> dict[str, bytes | None]:
    """Return the content of `prepared.json` for each folder of shards, by its path; None if there is none."""
    folders = dict.fromkeys(url.rpartition("/")[0] for url in urls)
    paths = [f"{folder}/{PREPARED_FILE}" if folder else PREPARED_FILE for folder in folders]
    return {path: read_url_if_there(path) for path in paths}


def _check_options(path: str, described: Mapping[str, Mapping[str, Any]], name: str, modality: Modality) -> None:
    if name not in described:
        raise DataError(f"{path}: expected shards prepared for {name!r} too, got only {sorted(described)}")
    before, now = described[name]["options"], json.loads(json.dumps(unstructure(modality.options)))
    changed = {
        key: (before.get(key), now.get(key))
        for key in before | now
        if key not in modality.network_options and before.get(key) != now.get(key)
    }
    if changed:
        raise DataError(
            f"{path}: the shards were prepared for other options of {name!r} (prepared, this spec): {changed}; "
            "pack them again, or train with those options"
        )


def _described(content: bytes, path: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Parse the result of `Preparation.description`. Earlier versions wrote only the tables, without a checksum."""
    tables = {str: {"options": dict, "state": dict}}
    try:
        found: dict[str, Any] = parse_json(content, {}, earlier=tables)
        if isinstance(found.get("version"), int):
            check_shape(found.get("modalities", {}), tables)
            found = {name: table for name, table in found.items() if name not in _OWN_KEYS} | found.get(
                "modalities", {}
            )
        check_shape(found, tables)
    except ValueError as error:
        raise DataError(_damaged(path, str(error))) from error
    return found


def _damaged(path: str, got: str) -> str:
    return (
        f"{path} is damaged: expected JSON with the options and the state of each modality: {got}; "
        "pack the shards again"
    )
