"""MNIST's files: what is in them, how they are divided, and that damaged ones are refused."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from shala_datasets.mnist import read_idx, read_mnist

from shala_framework.plugin import DataError
from shala_framework.plugin.testing import damage

IDX_3 = bytes((0, 0, 8, 3)) + np.array([2, 3, 4], ">u4").tobytes() + bytes(range(24))


def test_idx_is_read_plain_and_gzipped(tmp_path: Path) -> None:
    """The bytes after the header are the array, the last dimension fastest."""
    (tmp_path / "plain").write_bytes(IDX_3)
    (tmp_path / "packed.GZ").write_bytes(gzip.compress(IDX_3))
    for name in ("plain", "packed.GZ"):
        assert np.array_equal(read_idx(tmp_path / name, 3), np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (IDX_3[:-1], r"expected 24 bytes of data, as its header says \[2, 3, 4\], got 23"),
        (IDX_3 + b"\0", "got more"),
        (IDX_3[:9], "expected an IDX file"),
        (b"", "expected an IDX file"),
        (b"\0\0\x08\x01" + IDX_3[4:], r"in 3 dimensions.*got b'\\x00\\x00\\x08\\x01'"),
        (b"\0\0\x0d\x03" + IDX_3[4:], "expected an IDX file of bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 40, "got a damaged header"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """A wrong magic, a cut, a surplus or a header that asks for 10 ** 28 bytes is an error, packed or not."""
    for name, data in (("file", content), ("file.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=message) as error:
            read_idx(tmp_path / name, 3)
        assert str(tmp_path / name) in str(error.value)


def test_cut_gzip_and_bad_checksum_are_refused(tmp_path: Path) -> None:
    """A gzipped file that is cut anywhere is refused, even where only its checksum lacks bytes or is wrong."""
    packed, path = gzip.compress(IDX_3), tmp_path / "file.gz"
    for damaged in (*(packed[:end] for end in range(len(packed))), packed[:-8] + bytes(8)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"file\.gz"):
            read_idx(path, 3)


def test_no_damage_raises_anything_else(tmp_path: Path) -> None:
    """100 damaged copies each end in an array or a DataError."""
    generator, path = np.random.default_rng(0), tmp_path / "file.gz"
    for _ in range(100):
        path.write_bytes(damage(gzip.compress(IDX_3), generator))
        try:
            assert read_idx(path, 3).shape == (2, 3, 4)
        except DataError:
            continue


def test_validation_is_taken_from_the_training_file(miniature: Path) -> None:
    """A tenth of the training images, never the test file's, and each image lies on one side."""
    parts = read_mnist(miniature / "mnist")
    assert {split: len(part.labels) for split, part in parts.items()} == {"train": 360, "validation": 40, "test": 40}
    assert sorted([*parts["train"].numbers, *parts["validation"].numbers]) == list(range(400))
    whole = read_mnist(miniature / "mnist", 0.0)
    for split in ("train", "validation"):
        assert np.array_equal(parts[split].images, whole["train"].images[parts[split].numbers])
        assert np.array_equal(parts[split].labels, parts[split].numbers % 10)
    assert not len(whole["validation"].labels)


def _fewer_labels(folder: Path) -> None:
    data = (folder / "t10k-labels-idx1-ubyte").read_bytes()
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x27" + data[8:-1])


def _label_ten(folder: Path) -> None:
    data = (folder / "train-labels-idx1-ubyte").read_bytes()
    (folder / "train-labels-idx1-ubyte").write_bytes(data[:-1] + b"\x0a")


def _no_images(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_fewer_labels, r"one for each of the 39 labels in .*t10k-labels.*got shape \[40, 28, 28\]"),
        (_label_ten, "train-labels-idx1-ubyte: expected labels 0 to 9, got 10"),
        (_no_images, r"expected train-images-idx3-ubyte or train-images-idx3-ubyte\.gz, got neither"),
    ],
)
def test_files_that_do_not_fit_are_refused(miniature: Path, spoil: Callable[[Path], None], message: str) -> None:
    """Images and labels must be of one number, labels digits, and all four files there."""
    spoil(miniature / "mnist")
    with pytest.raises(DataError, match=message):
        read_mnist(miniature / "mnist")


@pytest.mark.real_data
def test_real_files_have_the_published_class_counts(real_data: Path) -> None:
    """60,000 and 10,000 digits, as many of each class as everybody finds."""
    parts = read_mnist(real_data / "mnist", 0.0)
    assert np.bincount(parts["train"].labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert np.bincount(parts["test"].labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
