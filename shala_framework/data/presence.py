"""Whether a set has every modality at all: one that no sample has would be trained on nothing, silently."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from shala_framework.data.indexed import read_in_order
from shala_framework.data.prepared import prepared_field
from shala_framework.data.rows import Rows
from shala_framework.data.tar import MAX_FIELD_BYTES
from shala_framework.modality import Modality


def absent_from_rows(
    rows: Rows, modalities: Mapping[str, Modality], urls: Sequence[str], *, max_field_bytes: int = MAX_FIELD_BYTES
) -> list[str]:
    """Modalities that no row of a set has.

    Args:
        rows: The set.
        modalities: By name.
        urls: The shards that rows were read from; they are read again, for the names of fields, if one is absent.
        max_field_bytes: A field of more bytes is an error.

    Returns:
        A sentence for each.
    """
    absent = [name for name, there in zip(rows.x, rows.presence.any(0).tolist(), strict=True) if not there]
    there = (
        {field for raw in read_in_order(urls, max_field_bytes=max_field_bytes) for field in raw.fields}
        if absent
        else set()
    )
    return [f"no sample has {_sought(name, modalities[name], there)}" for name in absent]


def absent_from_first(
    urls: Sequence[str],
    modalities: Mapping[str, Modality],
    cache: Path | None = None,
    limit: int = 1_000,
    *,
    max_field_bytes: int = MAX_FIELD_BYTES,
) -> list[str]:
    """Modalities that the first samples of a set too large to look at lack, going by the names of fields alone.

    Args:
        urls: Shards, of which no more is read than it takes to see every modality once.
        modalities: By name.
        cache: Folder for copies of remote shards.
        limit: Most samples to look at.
        max_field_bytes: A field of more bytes is an error.

    Returns:
        A sentence for each modality of which no sample has a field, raw or prepared.
    """
    absent = dict(modalities)
    there: set[str] = set()
    number = 0
    for raw in islice(read_in_order(urls, cache, max_field_bytes=max_field_bytes), limit):
        number += 1
        there |= raw.fields.keys()
        absent = {name: m for name, m in absent.items() if there.isdisjoint({*m.fields, prepared_field(name)})}
        if not absent:
            break
    return [f"none of the first {number} samples has {_sought(name, m, there)}" for name, m in absent.items()]


def _sought(name: str, modality: Modality, there: Iterable[str]) -> str:
    """A modality that samples lack: the fields that it wants, and those that they have."""
    unread = [field for field in (*modality.fields, prepared_field(name)) if field in there]
    if unread:
        return f"modality {name!r}: reading the fields {unread} gave nothing; check its options"
    return (
        f"modality {name!r}: expected one of the fields {list(modality.fields)}, got {sorted(there)}; "
        f"correct modality.{name}.options, or leave this modality out"
    )
