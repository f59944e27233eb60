"""PolyMNIST: every pixel follows from digit and background, and the splits share no digit."""

import io
import json
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shala_datasets import PolyMNIST
from shala_datasets.mnist import read_idx, read_mnist

from shala_framework.plugin import Account, DataError, Sample


def make(source: Path, **options: int) -> list[Sample]:
    """All samples."""
    return list(PolyMNIST(PolyMNIST.Options(**options)).samples(source, Account()))  # type: ignore[arg-type]


def picture(data: bytes) -> np.ndarray:
    """A picture's pixels."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def check_pixels(samples: list[Sample], source: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Fail unless each picture is its crop, inverted where its digit has ink, and each digit of the sample's class."""
    backgrounds = [picture((source / f"polymnist_backgrounds/{n}.jpg").read_bytes()).astype(int) for n in range(1, 6)]
    for sample in samples:
        facts = json.loads(sample.fields["json"])
        assert [str(labels[number]) for number in facts["digits"]] == [sample.label] * 5
        assert len(set(facts["digits"])) == 5 or sample.split != "train"  # the miniature has few for the others
        for number, (digit, (top, left)) in enumerate(zip(facts["digits"], facts["corners"], strict=True)):
            pixels = picture(sample.fields[f"m{number}.png"])
            assert pixels.shape == (28, 28, 3)
            crop = backgrounds[number][top : top + 28, left : left + 28]
            assert np.array_equal(pixels, np.where(images[digit][..., None] > 127, 255 - crop, crop))


def test_pixels_follow_from_digit_and_background(miniature: Path) -> None:
    """Checked against the files of the miniature; a background may be no larger than a crop."""
    samples = make(miniature, train=60, validation=10, test=20)
    folder = miniature / "mnist"
    for part, chosen in (("train", samples[:70]), ("t10k", samples[70:])):
        images, labels = (read_idx(next(folder.glob(f"{part}-{kind}*")), dims) for kind, dims in (("im", 3), ("la", 1)))
        check_pixels(chosen, miniature, images, labels)


def test_splits_share_no_digit(miniature: Path) -> None:
    """Validation digits never train, test digits are of the test file, and without validation all digits may train."""
    samples = make(miniature, train=100, validation=60, test=40)
    assert Counter(sample.split for sample in samples) == {"train": 100, "validation": 60, "test": 40}
    assert len({sample.key for sample in samples}) == 200
    digits = {
        split: {d for s in samples if s.split == split for d in json.loads(s.fields["json"])["digits"]}
        for split in ("train", "validation", "test")
    }
    held = set(read_mnist(miniature / "mnist")["validation"].numbers.tolist())
    assert len(held) == 40
    assert digits["validation"] <= held
    assert digits["train"].isdisjoint(held)
    assert max(digits["test"]) < 40
    alone = make(miniature, train=100, validation=0, test=0)
    assert {d for sample in alone for d in json.loads(sample.fields["json"])["digits"]} & held


def test_classes_come_as_often_as_in_the_file(miniature: Path) -> None:
    """One pass through the labels gives each class its share exactly."""
    labels = Counter(sample.label for sample in make(miniature, train=0, validation=0, test=40))
    assert labels == {str(digit): 4 for digit in range(10)}


def test_same_options_give_the_same_bytes(miniature: Path) -> None:
    """Two passes agree, fewer samples are the first of more, and another seed gives others."""
    dataset = PolyMNIST(PolyMNIST.Options(train=15, validation=3, test=3))
    first = list(dataset.samples(miniature, Account()))
    assert first == list(dataset.samples(miniature, Account()))
    assert make(miniature, train=8, validation=3, test=0) == first[:8] + first[15:18]
    other = make(miniature, train=15, validation=3, test=3, seed=1)
    assert all(mine.fields != others.fields for mine, others in zip(first, other, strict=True))


def test_fewer_modalities_need_fewer_backgrounds(miniature: Path) -> None:
    """Two modalities give two pictures, and the third background is not needed."""
    for number in (3, 4, 5):
        (miniature / f"polymnist_backgrounds/{number}.jpg").unlink()
    (sample,) = make(miniature, train=1, validation=0, test=0, num_modalities=2)
    assert sorted(sample.fields) == ["json", "m0.png", "m1.png"]
    with pytest.raises(DataError, match=r"3\.jpg: cannot read the file: No such file"):
        make(miniature, train=1, validation=0, test=0)


def _bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels by its header."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def test_bad_backgrounds_are_refused(miniature: Path) -> None:
    """A truncated file, one that declares 3.6 gigapixels, a small one and a file that is not a picture are errors."""
    path = miniature / "polymnist_backgrounds/2.jpg"
    small = io.BytesIO()
    Image.new("RGB", (27, 40)).save(small, "PNG")
    for content, message in (
        (path.read_bytes()[:-300], "not a readable picture"),
        (_bomb(), "not a readable picture"),
        (small.getvalue(), "expected a picture of at least 28 x 28 .* got 27 x 40"),
        (b"<html>", "not a readable picture"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as error:
            make(miniature, train=1)
        assert str(path) in str(error.value)


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    """An absent or empty folder says what should be there and where to get it; options are checked."""
    with pytest.raises(DataError, match=r"expected a folder with mnist/ with train-images.*polymnist_backgrounds/"):
        make(tmp_path / "absent")
    with pytest.raises(DataError, match=r"polymnist_backgrounds/1\.jpg: cannot read"):
        make(tmp_path)
    with pytest.raises(ValueError, match="expected a number from 1 to 5, got 6"):
        PolyMNIST.Options(num_modalities=6)


@pytest.mark.real_data
def test_real_samples_follow_from_the_real_files(real_data: Path) -> None:
    """The same claim about 200 samples of the real digits and backgrounds."""
    samples = make(real_data, train=100, validation=30, test=70)
    for part, chosen in (("train", samples[:130]), ("t10k", samples[130:])):
        paths = (real_data / f"mnist/{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
        images, labels = (read_idx(path, dims) for path, dims in zip(paths, (3, 1), strict=True))
        check_pixels(chosen, real_data, images, labels)
