"""PolyMNIST-Quadrant: every pixel follows from digit, quadrant and background, and words and labels name them."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shala_datasets import PolyMNISTQuadrant
from shala_datasets.mnist import read_idx
from shala_datasets.polymnist_quadrant import QUADRANTS, WORDS

from shala_framework.plugin import Account, DataError, Sample

SIDES = {64: (28, 2), 32: (14, 1)}  # a view's side: the digit's and the margin of a quadrant


@pytest.fixture
def source(miniature: Path) -> Path:
    """The miniature with backgrounds large enough for a view."""
    rng = np.random.default_rng(1)
    for number, size in enumerate(((64, 64), (70, 90), (66, 64)), 1):
        picture = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        picture.save(miniature / f"polymnist_backgrounds/{number}.jpg", "JPEG")
    return miniature


def make(source: Path, **options: object) -> list[Sample]:
    """All samples."""
    return list(PolyMNISTQuadrant(PolyMNISTQuadrant.Options(**options)).samples(source, Account()))  # type: ignore[arg-type]


def picture(data: bytes) -> np.ndarray:
    """A picture's pixels."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("side", [64, 32])
def test_pixels_follow_from_digit_quadrant_and_background(source: Path, side: int) -> None:
    """Every view inverts its crop where its digit has ink, in the quadrant that the words name, and nowhere else."""
    samples = make(source, train=60, validation=0, test=0, side=side)
    digit_side, margin = SIDES[side]
    images = read_idx(next((source / "mnist").glob("train-im*")), 3)
    labels = read_idx(next((source / "mnist").glob("train-la*")), 1)
    backgrounds = [picture((source / f"polymnist_backgrounds/{n}.jpg").read_bytes()).astype(int) for n in (1, 2, 3)]
    for sample in samples:
        facts = json.loads(sample.fields["json"])
        (digit,) = {int(labels[number]) for number in facts["digits"]}
        assert sample.fields["digit.txt"].decode() == WORDS[digit]
        vertical, horizontal = sample.fields["quadrant.txt"].decode().split()
        assert sample.label == {"digit": str(digit), "quadrant": f"{vertical} {horizontal}"}
        top = margin + (vertical == "bottom") * side // 2
        left = margin + (horizontal == "right") * side // 2
        assert len(set(facts["digits"])) == 3
        for number, (row, (y, x)) in enumerate(zip(facts["digits"], facts["corners"], strict=True)):
            ink = np.zeros((side, side), bool)
            image = images[row].astype(int)
            of_four = image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]
            inked = of_four > 4 * 63 if side == 32 else image > 127
            ink[top : top + digit_side, left : left + digit_side] = inked
            crop = backgrounds[number][y : y + side, x : x + side]
            assert np.array_equal(picture(sample.fields[f"m{number}.png"]), np.where(ink[..., None], 255 - crop, crop))


def test_digit_and_quadrant_are_independent_and_the_label_says_which(source: Path) -> None:
    """Quadrants come about equally often with each digit; the views do not depend on what the label names."""
    samples = make(source, train=400, validation=0, test=0, num_modalities=1)
    pairs = Counter((s.fields["digit.txt"], s.fields["quadrant.txt"]) for s in samples)
    assert set(Counter(s.fields["digit.txt"] for s in samples).values()) == {40}
    assert len(pairs) == 40
    quadrants = Counter(s.fields["quadrant.txt"] for s in samples)
    assert all(70 < count < 130 for count in quadrants.values())  # three standard deviations
    both = {f"{digit} {quadrant}" for digit in "0123456789" for quadrant in QUADRANTS}
    for label, classes in (("digit", set("0123456789")), ("quadrant", set(QUADRANTS)), ("both", both)):
        others = make(source, train=400, validation=0, test=0, num_modalities=1, label=label)
        assert {other.label for other in others} == classes
        assert [other.fields for other in others] == [sample.fields for sample in samples]


def test_wrong_use_is_refused(source: Path) -> None:
    """A background smaller than a view says so, and every split has its samples."""
    assert Counter(s.split for s in make(source, train=5, validation=3, test=2)) == {
        "train": 5, "validation": 3, "test": 2,
    }  # fmt: skip
    Image.new("RGB", (63, 200)).save(source / "polymnist_backgrounds/2.jpg", "JPEG")
    with pytest.raises(DataError, match=r"expected a picture of at least 64 x 64 .* got 63 x 200"):
        make(source, train=1)
    assert len(make(source, train=1, validation=0, test=0, side=32)) == 1
