"""Labels as a modality: the class of a sample, or several labels at once. Shapes: K classes."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, final

import attrs
import torch
from torch import Tensor, nn

from shala_framework.plugin import (
    DataError,
    Modality,
    Preview,
    at_least,
    between,
    each,
    hookimpl,
    multiple_of,
    not_empty,
)
from shala_label.networks import LabelDecoder, LabelEncoder, balanced_weights
from shala_label.reading import FORMATS, LONGEST_NAME, Stated, format_of, in_order, read_labels

ABSENT, PRESENT, UNKNOWN = 0, 1, -1
PLACEHOLDERS = 10  # classes that a dry run counts parameters with before `fit` has found them


def named_after_its_format(_: Any, __: Any, value: str) -> None:
    """Validator: accept field names whose last part is a format that `read_labels` knows."""
    if format_of(value) not in FORMATS:
        choices = ", ".join(repr(name) for name in FORMATS)
        raise ValueError(f"expected a field name that is or ends in one of {choices}, got {value!r}")


def distinct_names(_: Any, __: Any, values: tuple[str, ...]) -> None:
    """Validator: accept distinct names of classes that a file can hold."""
    for index, name in enumerate(values):
        if not name.strip() or name != name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            raise ValueError(f"[{index}]: expected the name of a class on one line without outer spaces, got {name!r}")
        if name in values[:index]:
            raise ValueError(f"[{index}]: expected distinct names, got {name!r} twice")


@final
class Label(Modality):
    """Labels x, int64: the index of the class [1], or with `several` the state of each label [K].

    A label of several is 1 if it is present, 0 if it is absent and -1 if it is unknown.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of a label modality.

        Attributes:
            classes: Names of the classes, in the order of their indices. By default they are those of the training
                set, in alphabetical or numerical order. If they are given and none is a number, a file may also hold
                the index of a class, counted from 0.
            several: Whether a sample may have several labels or none, as independent Bernoulli variables.
            balance: How much training makes up for rare classes: 0 weights all rows alike, 1 gives every class the same
                total weight, and 0.5 lies between. It weights the likelihood in training only. Where it is above 0,
                samples have rare classes more often than the training set.
            fields: Sample fields to look for, in this order. The last part of the name is the format: "cls" and "txt"
                hold text, "json" a text, a whole number, a list, or an object from label to true, false or null
                (unknown). The field "cls" is where shards keep the label of a sample.
            separator: Text between the labels of a text field if there may be several.
            max_classes: Largest number of classes that are learned from the training set; more are an error.
            width: Width of the networks, a multiple of 8.
        """

        classes: tuple[str, ...] = attrs.field(default=(), validator=distinct_names)
        several: bool = False
        balance: float = attrs.field(default=0.0, validator=between(0, 1))
        fields: tuple[str, ...] = attrs.field(
            default=("cls", "label.txt", "label.json"), validator=[not_empty, each(named_after_its_format)]
        )
        separator: str = attrs.field(default=",", validator=not_empty)
        max_classes: int = attrs.field(default=1_000, validator=at_least(1, at_most=1_000_000))
        width: int = attrs.field(default=128, validator=[at_least(8, at_most=16_384), multiple_of(8)])

        def __attrs_post_init__(self) -> None:
            if len(self.classes) == 1 and not self.several:
                raise ValueError(f"expected two classes or more, or none to learn them, got {list(self.classes)}")

    options: Options
    dtype = torch.int64
    network_options = frozenset({"width", "balance"})

    def __init__(self, options: Options | None = None, /, **values: Any) -> None:
        super().__init__(options, **values)
        self._set_classes(list(self.options.classes))
        self._counts: list[list[int]]  # training rows without and with each label
        self._counts = [[0] * len(self._classes), [0] * len(self._classes)]

    def _set_classes(self, classes: list[str]) -> None:
        self._classes = classes
        self._index = {name: number for number, name in enumerate(classes)}

    @property
    def shape(self) -> tuple[int]:
        return (self._num_classes if self.options.several else 1,)

    @property
    def limits(self) -> tuple[int, int]:
        """The first and the last class, or the states of a label."""
        return (UNKNOWN, PRESENT) if self.options.several else (0, self._num_classes - 1)

    @property
    def fields(self) -> tuple[str, ...]:
        return self.options.fields

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by index.

        Raises:
            ValueError: They are not known yet: neither the options nor `fit` nor `load_state` has given them.
        """
        if not self._classes:
            raise ValueError("expected a fitted label modality, got one without classes; set classes, or call fit")
        return tuple(self._classes)

    def fit(self, samples: Iterable[Mapping[str, bytes]]) -> None:
        """Learn the classes from the training samples, unless the options name them, and count the rows of each.

        Raises:
            DataError: A field holds no label or an unknown one, or there are too few or too many classes.
        """
        options = self.options
        counts: tuple[Counter[str], Counter[str]] = Counter(), Counter()  # rows without and with each label
        named: Counter[str] = Counter()  # of the complete rows, those that have each label
        names, num_complete = set(options.classes), 0
        for sample in samples:
            stated = self._stated(sample, options.classes)
            if stated is None:
                continue
            names |= stated.present | stated.absent if options.several else stated.present
            if len(names) > max(options.max_classes, len(options.classes)):
                raise DataError(
                    f"expected at most {options.max_classes} classes in the fields {list(self.fields)}, got more; "
                    "raise the option `max_classes`, or read text with plugin 'text'"
                )
            counts[PRESENT].update(stated.present)
            if stated.complete:
                named.update(stated.present)
                num_complete += 1
            else:
                counts[ABSENT].update(stated.absent)
        self._check_names(names, any_row=num_complete > 0 or any(counts))
        if not options.classes:
            self._set_classes(in_order(names))
        absent = [counts[ABSENT][name] + num_complete - named[name] for name in self._classes]
        self._counts = [absent, [counts[PRESENT][name] for name in self._classes]]

    def _check_names(self, names: Collection[str], *, any_row: bool) -> None:
        if not any_row or not names:
            raise DataError(
                f"expected training samples with a label in one of the fields {list(self.fields)}, got none; "
                "check the option `fields` against what the shards hold"
            )
        if len(names) == 1 and not self.options.several:
            raise DataError(
                f"expected training samples of two classes or more in the fields {list(self.fields)}, got only "
                f"{next(iter(names))!r}; leave this modality out, or name every class in the option `classes`"
            )

    def state(self) -> dict[str, Any]:
        """Return the names of the classes and the numbers of training rows without and with each."""
        return {"classes": list(self.classes), "absent": list(self._counts[0]), "present": list(self._counts[1])}

    def load_state(self, state: Mapping[str, Any]) -> None:
        keys = ("classes", "absent", "present")
        if set(state) != set(keys) or not all(isinstance(state[key], list) for key in keys):
            raise ValueError(f"expected a state with the lists 'classes', 'absent' and 'present', got {sorted(state)}")
        classes, absent, present = (state[key] for key in keys)
        whole = all(type(count) is int and count >= 0 for count in (*absent, *present))
        named = bool(classes) and all(isinstance(name, str) for name in classes) and len(set(classes)) == len(classes)
        if not (named and whole and len(classes) == len(absent) == len(present)):
            raise ValueError("expected distinct names of classes and a count for each, got other values")
        if self.options.classes and tuple(classes) != self.options.classes:
            raise ValueError(f"expected the classes of the options, {list(self.options.classes)}, got {classes}")
        self._set_classes(list(classes))
        self._counts = [list(absent), list(present)]

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        """Read the first of `fields` that the sample has: int64 [1], or [K] with `several`.

        Raises:
            DataError: The field holds no label, a class that is not known, or several where there is to be one.
        """
        stated = self._stated(sample, self.classes)
        if stated is None:
            return None
        if not self.options.several:
            (name,) = stated.present
            return torch.tensor([self._index[name]])
        x_K = torch.full(self.shape, ABSENT if stated.complete else UNKNOWN)
        for names, state in ((stated.absent, ABSENT), (stated.present, PRESENT)):
            x_K[[self._index[name] for name in names]] = state
        return None if bool((x_K == UNKNOWN).all()) else x_K

    def blank_reason(self) -> str:
        """Say that the field is blank, or that all its labels are unknown."""
        return "it is blank or all its labels are unknown" if self.options.several else "it is blank"

    def _stated(self, sample: Mapping[str, bytes], classes: Sequence[str]) -> Stated | None:
        """Return the labels that a sample's field states, by the names of these classes if they are known."""
        field = self.first_field(sample)
        if field is None:
            return None
        several = self.options.several
        stated = read_labels(sample[field], field, self.options.separator if several else "")
        if stated is None:
            return None
        if classes:
            stated = stated.among(classes, field, numbered=bool(self.options.classes))
        if not several and len(stated.present) != 1:
            few = ", ".join(sorted(stated.present)[:5])
            raise DataError(
                f"field {field!r}: expected one class, got {len(stated.present)}{f' ({few})' if few else ''}; "
                "set the option `several` if samples may have several labels or none"
            )
        return stated

    def count_values(self, x: Tensor) -> Tensor:
        """Count the known labels of each row: int64 [B]."""
        return (x >= 0).sum(1)

    def typed(self, text: str) -> dict[str, bytes] | None:
        """Return the field for a typed class or, with `several`, for labels apart by the separator or in JSON."""
        form = "json" if self.options.several and text.lstrip().startswith(("[", "{")) else "txt"
        content = text.encode(errors="surrogatepass")
        found = [field for field in self.fields if (format_of(field) == "json") == (form == "json")]
        return {found[0]: content} if found else None

    def write(self, x: Tensor) -> dict[str, bytes]:
        """Encode the name of the class as a line of text, or several labels as JSON."""
        if not self.options.several:
            return {self._file("txt"): f"{self.classes[int(x[0])]}\n".encode()}
        states = dict(zip(self.classes, x.tolist(), strict=True))
        if UNKNOWN in states.values():
            known = {name: state == PRESENT for name, state in states.items() if state != UNKNOWN}
            return {self._file("json"): f"{json.dumps(known, ensure_ascii=False)}\n".encode()}
        present = [name for name, state in states.items() if state == PRESENT]
        return {self._file("json"): f"{json.dumps(present, ensure_ascii=False)}\n".encode()}

    def _file(self, form: str) -> str:
        """The ending of written files: a field that can be read again, if there is one of this format."""
        return next((field for field in self.fields if format_of(field) == form), form)

    def preview(self, x: Tensor) -> Preview:
        """Show the name of the class, or the labels that are present."""
        if not self.options.several:
            return Preview(text=self.classes[int(x[0])])
        present = [name for name, state in zip(self.classes, x.tolist(), strict=True) if state == PRESENT]
        return Preview(text=", ".join(present) or "none of the labels")

    def encoder(self, feature_dim: int) -> nn.Module:
        """Encode x, int64 [B, 1] or [B, K], as h [B, feature_dim]."""
        return LabelEncoder(self._num_classes, self.options.width, feature_dim, several=self.options.several)

    def decoder(self, latent_dim: int) -> nn.Module:
        """Decode z [B, latent_dim] as a categorical distribution, or as a Bernoulli distribution for each label."""
        return LabelDecoder(self._weights(), self.options.width, latent_dim, several=self.options.several)

    def _weights(self) -> Tensor:
        """Weights of the likelihood in training: [K], or [2, K] with `several`."""
        several = self.options.several
        if not self._classes or not self.options.balance:
            return torch.ones((2, self._num_classes) if several else (self._num_classes,))
        counts = torch.tensor(self._counts if several else self._counts[PRESENT])
        return balanced_weights(counts, self.options.balance)

    @property
    def _num_classes(self) -> int:
        """Number of classes. Before `fit` it is a placeholder, so a dry run can count parameters."""
        return len(self._classes) or PLACEHOLDERS


@hookimpl
def shala_register_modalities(register: Any) -> None:
    register("label", Label)
