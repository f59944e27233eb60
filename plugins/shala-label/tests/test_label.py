"""Labels: names and formats, exact likelihoods against scipy, weights of rare classes, and errors."""

import itertools
import json
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from shala_label import UNKNOWN, Label
from shala_label.networks import OneLabel, SeveralLabels, balanced_weights
from torch import Tensor

from shala_framework.plugin import DataError
from shala_framework.plugin.testing import ModalitySuite

WORDS = ("circle", "square", "triangle")
FINDINGS = ("effusion", "nodule", "oedema", "pneumonia", "rib fracture")


class TestOneLabel(ModalitySuite):
    """The contract, for one class of three."""

    modality = Label
    options: ClassVar = {"width": 16}
    independent_values = False  # int64; the sum is checked below

    def sample_fields(self, index: int) -> dict[str, bytes]:
        return {"cls": WORDS[index % 3].encode()}


class TestSeveralLabels(ModalitySuite):
    """The contract, for several labels of which some are unknown."""

    modality = Label
    options: ClassVar = {"several": True, "width": 16, "classes": FINDINGS}
    independent_values = False

    def sample_fields(self, index: int) -> dict[str, bytes]:
        states = {name: bool((index + 1) >> bit & 1) for bit, name in enumerate(FINDINGS)}
        if index % 3 == 2:
            states[FINDINGS[4]] = None
        present = [name for name, state in states.items() if state]
        return {"label.json": json.dumps(states if index % 3 == 2 else present).encode()}


def fitted(*values: str | bytes, field: str = "cls", **options: Any) -> Label:
    label = Label(**options)
    label.fit({field: value.encode() if isinstance(value, str) else value} for value in values)
    return label


def read(label: Label, value: str, field: str = "cls") -> list[int]:
    x = label.read({field: value.encode()})
    assert x is not None
    return x.tolist()


# Likelihoods.


def test_log_prob_is_that_of_scipy() -> None:
    """Categorical and Bernoulli log-probabilities equal scipy's, and those of all x sum to 1."""
    logits = 3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    probability = torch.softmax(logits.double(), 1).numpy()
    one = OneLabel(logits)
    for k in range(6):
        expected = [stats.multinomial(1, p / p.sum()).logpmf(np.eye(6)[k]) for p in probability]
        np.testing.assert_allclose(one.log_prob(torch.full((4, 1), k)), expected, rtol=1e-5)
    assert one.mode()[:, 0].tolist() == probability.argmax(1).tolist()
    several = SeveralLabels(logits)
    total = torch.zeros(4)
    for states in itertools.product((0, 1), repeat=6):
        got = several.log_prob(torch.tensor([states] * 4))
        expected = stats.bernoulli(torch.sigmoid(logits.double())).logpmf(states).sum(1)
        np.testing.assert_allclose(got, expected, rtol=1e-4)
        total += got.exp()
    torch.testing.assert_close(total, torch.ones(4))


def test_draws_have_their_probabilities() -> None:
    """Frequencies of draws follow log_prob (chi-squared test); unknown labels are never drawn."""
    logits, num_draws = torch.tensor([0.3, -1.0, 1.2, 0.0]), 20_000
    drawn = OneLabel(logits.expand(num_draws, -1)).sample(torch.Generator().manual_seed(0))
    expected = num_draws * logits.double().softmax(0)
    assert stats.chisquare(torch.bincount(drawn[:, 0], minlength=4), expected).pvalue > 1e-3
    drawn = SeveralLabels(logits.expand(num_draws, -1)).sample(torch.Generator().manual_seed(0))
    for column, probability in zip(drawn.T, logits.sigmoid().tolist(), strict=True):
        assert stats.binomtest(int(column.sum()), num_draws, probability).pvalue > 1e-3


def test_unknown_labels_are_left_out() -> None:
    """log_prob of a row with unknown labels is that of the known ones alone, and the encoder tells the three apart."""
    logits = torch.randn(1, 5)
    x = torch.tensor([[1, UNKNOWN, 0, UNKNOWN, 1]])
    known = SeveralLabels(logits[:, [0, 2, 4]]).log_prob(x[:, [0, 2, 4]])
    torch.testing.assert_close(SeveralLabels(logits).log_prob(x), known)
    encoder = Label(several=True, classes=("a", "b")).encoder(3).eval()
    assert Label(several=True, classes=("a", "b")).count_values(torch.tensor([[1, -1], [0, 1]])).tolist() == [1, 2]
    with torch.no_grad():
        assert torch.pdist(encoder(torch.tensor([[1, 0], [1, UNKNOWN], [1, 1]]))).min() > 1e-3


# Weights of rare classes.


def test_balance_weights_classes_in_training_only() -> None:
    """At balance 1 the classes have equal total weight, 1 a row on average; in eval mode log_prob is exact."""
    names = ["a"] * 8 + ["b"] * 2
    label = fitted(*names, balance=1.0, width=16)
    decoder, z = label.decoder(4), torch.zeros(2, 4)
    x = torch.tensor([[0], [1]])
    with torch.no_grad():
        weighted, exact = decoder.train()(z).log_prob(x), decoder.eval()(z).log_prob(x)
    torch.testing.assert_close(weighted / exact, torch.tensor([10 / 16, 10 / 4]))
    torch.testing.assert_close(balanced_weights(torch.tensor([8, 2]), 0.0), torch.ones(2))
    root = balanced_weights(torch.tensor([8, 2]), 0.5)
    torch.testing.assert_close(root[1] / root[0], torch.tensor(2.0))
    torch.testing.assert_close((root * torch.tensor([0.8, 0.2])).sum(), torch.tensor(1.0))
    assert balanced_weights(torch.tensor([5, 0]), 1.0).isfinite().all()


def test_several_labels_are_counted_for_their_weights() -> None:
    """A list says that other labels are absent, an object says nothing of them, and both give the counts."""
    several = fitted('["a"]', '["a", "b"]', '{"a": false}', "[]", field="label.json", several=True)
    assert several.state() == {"classes": ["a", "b"], "absent": [2, 2], "present": [2, 1]}


# Names and formats.


@pytest.mark.parametrize(
    ("options", "field", "value", "expected"),
    [
        ({}, "cls", " square\n", [1]), ({}, "label.txt", "\ufeffcircle", [0]), ({}, "label.json", '"triangle"', [2]),
        ({"classes": WORDS}, "cls", "2", [2]), ({"classes": WORDS}, "label.json", "1", [1]),
        ({"classes": WORDS}, "label.json", '["square"]', [1]),
        ({"several": True}, "cls", "triangle, circle", [1, 0, 1]), ({"several": True}, "label.json", "[]", [0, 0, 0]),
        ({"several": True}, "label.json", '{"circle": 1, "square": 0, "triangle": null}', [1, 0, UNKNOWN]),
        ({"several": True}, "label.json", '{"square": true}', [UNKNOWN, 1, UNKNOWN]),
        ({"several": True, "separator": ";"}, "cls", "circle;square", [1, 1, 0]),
    ],
)  # fmt: skip
def test_formats(options: dict[str, Any], field: str, value: str, expected: list[int]) -> None:
    """Text and JSON state labels by name or, with classes given, by index."""
    assert read(fitted(*WORDS, **options), value, field) == expected


def test_classes_are_in_order_and_kept() -> None:
    """Numbers are ordered by value and are names of their own; a checkpoint restores names and counts."""
    label = fitted("10", "9", "2", "10")
    assert label.classes == ("2", "9", "10")
    assert read(label, "9") == [1]
    restored = Label()
    restored.load_state(json.loads(json.dumps(label.state())))
    assert read(restored, "10") == [2]
    assert restored.state() == label.state()
    refitted = fitted("2", "9", "10")
    refitted.fit({"cls": name} for name in (b"x", b"y"))
    assert refitted.classes == ("x", "y")


def test_written_labels_are_read_again() -> None:
    """One class is a line of text; several are JSON, also where none is present or some are unknown."""
    one = fitted(*WORDS)
    assert one.write(torch.tensor([1])) == {"label.txt": b"square\n"}
    several = fitted(*WORDS, several=True)
    for states in ([0, 0, 0], [1, 0, 1], [UNKNOWN, 0, 1]):
        (field, data), = several.write(torch.tensor(states)).items()  # fmt: skip
        assert read(several, data.decode(), field) == states
    assert several.preview(torch.tensor([0, 1, 1])).text == "square, triangle"
    assert Label(fields=("cls",), classes=WORDS).write(torch.tensor([0])) == {"txt": b"circle\n"}


def test_labels_are_typed() -> None:
    """A class is typed as it is, several labels with commas or in JSON, which tells unknown ones from absent ones."""
    one = Label(classes=WORDS)
    assert one.read(one.typed("square") or {}).tolist() == [1]
    several = Label(several=True, classes=WORDS)
    assert several.read(several.typed("circle, triangle") or {}).tolist() == [1, 0, 1]
    known = several.read(several.typed('{"circle": false}') or {})
    assert known.tolist() == [0, UNKNOWN, UNKNOWN]
    assert Label(fields=("label.json",), classes=WORDS).typed("square") is None


@pytest.mark.parametrize(("several", "value"), [(False, b" \n"), (True, b"\n"), (True, b" , ")])
def test_a_blank_label_is_missing(several: bool, value: bytes) -> None:
    """White space is no label; neither is an object that knows nothing."""
    label = fitted(*WORDS, several=several)
    assert label.read({"cls": value}) is None
    if several:
        assert label.read({"label.json": b'{"circle": null}'}) is None
        assert label.read({"label.json": b"{}"}) is None


# Errors.


@pytest.mark.parametrize(
    ("options", "field", "value", "message"),
    [
        ({}, "cls", b"sqare", "expected one of the 3 classes 'circle', 'square', 'triangle', got 'sqare'"),
        ({}, "cls", b"1", "got '1'"),  # without given classes a number is a name
        ({"classes": WORDS}, "cls", b"3", "got '3'"),
        ({"classes": WORDS}, "cls", b"-1", "got '-1'"),
        ({}, "cls", b"\xff\xfe", "UTF-8, got the byte 0xff at offset 0"),
        ({}, "cls", b"one\ntwo", "on one line"),
        ({}, "cls", b"x" * 300, "1 to 200 printable characters"),
        ({}, "cls", b" " * (1 << 21), "2,097,152 bytes"),
        ({}, "label.json", b"[1", "expected JSON"),
        ({}, "label.json", b"[" * 100_000, "expected JSON"),
        ({}, "label.json", b"9" * 5_000, "expected JSON"),
        ({}, "label.json", b"1.5", "text or a whole number"),
        ({}, "label.json", b"[]", "expected one class, got 0"),
        ({}, "label.json", b'["circle", "square"]', "expected one class, got 2 (circle, square); set the option"),
        ({"several": True}, "label.json", b'{"circle": "yes"}', "true, false or null (unknown) for label 'circle'"),
        ({"several": True}, "label.json", b'[["circle"]]', "expected a label as text"),
        ({"several": True}, "label.json", b'["hexagon"]', "got 'hexagon'"),
    ],
)  # fmt: skip
def test_bad_labels_are_refused(options: dict[str, Any], field: str, value: bytes, message: str) -> None:
    """Each message names the field, what was found and what was expected."""
    label = fitted(*WORDS, **options)
    with pytest.raises(DataError) as caught:
        label.read({field: value})
    assert f"field {field!r}" in str(caught.value)
    assert message in str(caught.value)


def test_bad_training_sets_are_refused() -> None:
    """No label at all, a single class, too many classes, and a class that the options do not name."""
    with pytest.raises(DataError, match=r"got none; check the option `fields`"):
        fitted()
    with pytest.raises(DataError, match=r"two classes or more .* got only 'a'"):
        fitted("a", "a")
    with pytest.raises(DataError, match=r"at most 3 classes .* `max_classes`"):
        fitted(*"abcd", max_classes=3)
    with pytest.raises(DataError, match=r"2 classes 'a', 'b', got 'c'"):
        fitted("a", "c", classes=("a", "b"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"classes": ("a",)}, "two classes or more"), ({"classes": ("a", "a")}, "'a' twice"),
     ({"classes": ("a", " ")}, r"\[1\]: expected the name"), ({"balance": 2.0}, "0.* to 1"),
     ({"fields": ("label",)}, "'cls', 'txt', 'json'"), ({"separator": ""}, "at least one"), ({"width": 9}, "8")],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    """Options out of range say what was expected."""
    with pytest.raises(ValueError, match=message):
        Label.Options(**options)


def test_foreign_states_are_refused() -> None:
    """A state whose lists differ in length, repeat a name, or contradict the options, is no state of this modality."""
    good = fitted(*WORDS).state()
    for change in ({"classes": ["a", "a", "b"]}, {"present": [1]}, {"absent": [0, -1, 0]}, {"classes": [1, 2, 3]}):
        with pytest.raises(ValueError, match="expected"):
            Label().load_state(good | change)
    with pytest.raises(ValueError, match="classes of the options"):
        Label(classes=("a", "b", "c")).load_state(good)
    with pytest.raises(ValueError, match="fitted label"):
        Label().state()


def test_a_dry_run_needs_no_data() -> None:
    """Networks can be made before the classes are known, and given classes need no fit."""
    assert Label().encoder(4)(torch.zeros(2, 1, dtype=torch.int64)).shape == (2, 4)
    x: Tensor | None = Label(classes=WORDS).read({"cls": b"square"})
    assert x is not None
    assert x.tolist() == [1]
