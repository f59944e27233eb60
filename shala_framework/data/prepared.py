"""Prepared fields: what `Modality.read` gives, stored beside the raw fields so that training need not decode.

A prepared field is a .npy array under `<modality>.prepared.npy`. It belongs to one table of one spec; another shape or
dtype than the modality's is refused.
"""

import io
import json
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
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
_OWN_KEYS = (FIELD, "version", "modalities")  # modalities of these names stand under the last of them
MOST_UNFIT = 100  # samples that fitting passes over, each of which costs it another pass


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


def describe_blank(name: str, modality: Modality, fields: Container[str]) -> str | None:
    """What is said where reading a sample's fields gave nothing; None where the modality has none of them.

    Args:
        name: Of the modality.
        modality: That read them.
        fields: Names of the sample's.
    """
    field = modality.first_field(fields)
    return None if field is None else f"modality {name!r}: field {field!r} is there, but {modality.blank_reason()}"


def numpy_dtype(modality: Modality) -> np.dtype:
    """The modality's dtype as NumPy names it."""
    return torch.zeros((), dtype=modality.dtype).numpy().dtype


@attrs.frozen
class LeftOut:
    """What preparation left out of a sample.

    Attributes:
        key: Of the sample.
        reason: Why.
        note: What a user is told; empty where samples with the same reason are counted instead.
    """

    key: str
    reason: str
    note: str


@attrs.frozen
class Preparation:
    """Replaces the fields of a data set's samples by what a spec's modalities read of them.

    Attributes:
        modalities: By name.
        unfit: Key and modality of each sample that `fit` could not read, and `prepare` therefore leaves out, and what
            is to be said of it.
    """

    modalities: Mapping[str, Modality]
    unfit: dict[tuple[str, str], LeftOut] = attrs.field(factory=dict)

    def fit(
        self, dataset: Dataset, source: Path | None, on_sample: Callable[[str, int], None] = lambda _, __: None
    ) -> None:
        """Let each modality learn what it must from the training samples, in one pass each.

        A sample that cannot be read is noted, and the modality is fitted again without it.

        Args:
            dataset: Where samples come from.
            source: Its folder of raw files, or None.
            on_sample: Called with a modality's name and the number of samples that it has looked at in this pass.

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
        """Fit to the samples that can be read as far as is known; False where one more turned out not to be."""
        every = dataset.samples(source, Account())
        samples = (s for s in every if s.split == "train" and (s.key, name) not in self.unfit)
        watched = Watched(samples, partial(on_sample, name))
        on_sample(name, 0)
        try:
            self.modalities[name].fit(iter(watched))
        except DataError as error:
            unfit = sorted(key for key, modality in self.unfit if modality == name)
            if watched.current is None:  # no sample is to blame
                if not unfit or not watched.ended:
                    raise
                last = next(reversed(self.unfit.values()))
                raise DataError(f"{error}; {len(unfit)} cannot be read, the last one: {last.note}") from error
            key = watched.current.key
            if len(unfit) >= MOST_UNFIT:
                raise DataError(
                    f"modality {name!r}: expected at most {MOST_UNFIT} training samples that cannot be read, got more, "
                    f"such as {unfit[0]!r} and {key!r}: {error}; mend or remove the files, or check the options"
                ) from error
            self.unfit[key, name] = _unreadable(key, name, error)
            return False
        return True

    def prepare(self, sample: Sample) -> tuple[Sample | None, list[LeftOut]]:
        """The prepared sample, of which nothing may be left, and what was left out of it.

        Fields that no modality of the spec reads are dropped without a word.
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
        """Each modality's options."""
        return {name: unstructure(modality.options) for name, modality in self.modalities.items()}

    def description(self) -> bytes:
        """Content of `prepared.json` beside the shards: each modality's options and what it learned."""
        tables = {
            name: {"options": unstructure(modality.options), "state": modality.state()}
            for name, modality in self.modalities.items()
        }
        apart = {name: tables.pop(name) for name in _OWN_KEYS if name in tables}
        return dump_json({"version": _VERSION, **tables, **({"modalities": apart} if apart else {})}, indent=2)


def _unreadable(key: str, name: str, error: DataError) -> LeftOut:
    return LeftOut(key, f"modality {name!r}: {error}", f"sample {key!r}, modality {name!r} left out: {error}")


def load_preparation(urls: Sequence[str], modalities: Mapping[str, Modality]) -> bool:
    """Give modalities the state that prepared shards were read with.

    Args:
        urls: The training shards.
        modalities: Of the spec, by name.

    Returns:
        Whether the shards are prepared ones.

    Raises:
        DataError: They were prepared for other modalities or options, with different states in two folders, or lie
            beside raw ones that need a state; or their description is damaged.
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
            f"{first} is of prepared shards, and there is no {raw[0]}: {', '.join(fitted)} would be fitted to the one "
            "part alone; pack all shards with --for, or none"
        )
    return True


def check_preparation(urls: Sequence[str], modalities: Mapping[str, Modality]) -> None:
    """Raise DataError where shards were prepared with other options or states than fitted modalities have."""
    for path, content in _descriptions(urls).items():
        if content is None:
            continue
        described = _described(content, path)
        for name, modality in modalities.items():
            _check_options(path, described, name, modality)
            if described[name]["state"] != json.loads(json.dumps(modality.state())):
                raise DataError(
                    f"{path}: the shards were prepared with another state of {name!r} than the training shards', which "
                    "it learned from other samples; pack all splits in one call"
                )


def _descriptions(urls: Sequence[str]) -> dict[str, bytes | None]:
    """What is said beside the shards of each folder, by its path; None where there is nothing."""
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
            "pack them again, or train with those"
        )


def _described(content: bytes, path: str) -> dict[str, dict[str, dict[str, Any]]]:
    """What `Preparation.description` gave; earlier versions wrote the tables alone, without a checksum."""
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
