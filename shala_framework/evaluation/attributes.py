"""The attributes that labels name, such as the digit and the place of a picture; a plain class is one without a name.

Shapes: N rows, A attributes.
"""

from collections.abc import Collection, Iterable, Sequence

import attrs
import torch
from torch import Tensor

from shala_framework.data.labels import CLASS, label_attributes, label_title, labels_of
from shala_framework.data.rows import Rows
from shala_framework.support.errors import DataError


@attrs.frozen
class Attribute:
    """One attribute of the samples.

    Attributes:
        name: Its name in labels; empty for the class of labels that name nothing else.
        classes: Its values in training rows, sorted.
    """

    name: str
    classes: tuple[str, ...]

    def indices(self, labels: Sequence[str | None], known: Collection[str] | None = None) -> Tensor:
        """Return the index of each label's value among the classes, -1 if it is none of them: int64 [N].

        Args:
            labels: Labels of rows.
            known: Values to find; by default all of the classes.
        """
        index = {value: i for i, value in enumerate(self.classes) if known is None or value in known}
        values = labels_of(labels, self.name)
        return torch.tensor([-1 if value is None else index.get(value, -1) for value in values], dtype=torch.int64)


def plain_class(classes: Iterable[str]) -> tuple[Attribute, ...]:
    """Return the attribute of labels that only name one of these classes."""
    return (Attribute(CLASS, tuple(classes)),)


def find_attributes(rows: Rows) -> tuple[Attribute, ...]:
    """Return the attributes of training rows, sorted by name; empty without labels.

    Raises:
        DataError: Some labels name a class and others attributes.
    """
    values: dict[str, set[str]] = {}
    for label in rows.labels:
        for name, value in label_attributes(label).items():
            values.setdefault(name, set()).add(value)
    if CLASS in values and len(values) > 1:
        kinds = [
            next((key, label) for key, label in zip(rows.keys, rows.labels, strict=True) if label and is_plain(label))
            for is_plain in (_is_plain, lambda label: not _is_plain(label))
        ]
        (one, plain), (other, several) = kinds
        raise DataError(
            f"expected labels that all name a class, or that all are JSON objects of attributes, got {plain!r} for "
            f"sample {one!r} and {label_title(several)!r} for sample {other!r}; pack the set with labels of one kind"
        )
    return tuple(Attribute(name, tuple(sorted(found))) for name, found in sorted(values.items()))


def known_values(rows: Rows, attribute: Attribute) -> frozenset[str]:
    """Return the values of an attribute that rows have."""
    return frozenset(value for value in labels_of(rows.labels, attribute.name) if value is not None)


def is_plain(attributes: Sequence[Attribute]) -> bool:
    """Return whether labels only name a class, or whether there are none."""
    return all(attribute.name == CLASS for attribute in attributes)


def as_one_class(values_NA: Tensor) -> Tensor:
    """Number the combinations of values that occur, in their order: int64 [N]; rows without attributes are alike."""
    if not values_NA.shape[1]:
        return torch.zeros(len(values_NA), dtype=torch.int64)
    numbers: Tensor = values_NA.unique(dim=0, return_inverse=True)[1]
    return numbers


def _is_plain(label: str) -> bool:
    return CLASS in label_attributes(label)
