"""MNIST's handwritten digits from its four IDX files, plain or gzipped.

Reference: LeCun et al. 1998, "Gradient-based learning applied to document recognition".
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from shala_datasets.files import printable, size
from shala_datasets.splits import held_out
from shala_framework.plugin import DataError

LAYOUT = (
    "mnist/ with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, "
    "plain or .gz (storage.googleapis.com/cvdf-datasets/mnist)"
)
VALIDATION_SHARE = 0.1
_SIDE = 28
_LARGEST_FILE = 1 << 30  # bytes: MNIST's largest holds 47 million; a damaged header may ask for anything


@attrs.frozen(kw_only=True, eq=False)
class MNISTDigits:
    """The digits of one split.

    Attributes:
        images: uint8 array [N, 28, 28], bright ink on black.
        labels: uint8 array [N] of 0 to 9.
        numbers: Place of each in its file, from 0, an array [N].
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    numbers: NDArray[np.intp]

    def take(self, rows: NDArray[np.intp]) -> "MNISTDigits":
        """Some of them."""
        return MNISTDigits(images=self.images[rows], labels=self.labels[rows], numbers=self.numbers[rows])

    def of_class(self, label: int) -> NDArray[np.intp]:
        """Rows of one digit."""
        return np.flatnonzero(self.labels == label)


def read_mnist(folder: Path, validation_share: float = VALIDATION_SHARE) -> dict[str, MNISTDigits]:
    """The digits by split; validation takes a fixed share of the training file's images, which train then lacks.

    Args:
        folder: Holds the four files.
        validation_share: In [0, 1).

    Raises:
        DataError: A file is absent, cut short, or not what its name says.
    """
    training, test = _read_pair(folder, "train"), _read_pair(folder, "t10k")
    held = held_out(range(len(training.labels)), validation_share, "mnist image")
    is_held = np.isin(training.numbers, list(held))
    return {
        "train": training.take(np.flatnonzero(~is_held)),
        "validation": training.take(np.flatnonzero(is_held)),
        "test": test,
    }


def _read_pair(folder: Path, part: str) -> MNISTDigits:
    """Images and labels of "train" or "t10k"."""
    images_path, labels_path = _find(folder, f"{part}-images-idx3-ubyte"), _find(folder, f"{part}-labels-idx1-ubyte")
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape != (len(labels), _SIDE, _SIDE) or len(labels) < 2:
        raise DataError(
            f"{printable(images_path)}: expected images of {_SIDE} x {_SIDE} pixels, at least two and one for each of "
            f"the {len(labels)} labels in {printable(labels_path)}, got shape {list(images.shape)}"
        )
    if labels.max() > 9:
        raise DataError(f"{printable(labels_path)}: expected labels 0 to 9, got {labels.max()}")
    return MNISTDigits(images=images, labels=labels, numbers=np.arange(len(labels)))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise DataError(f"{printable(folder)}: expected {name} or {name}.gz, got neither; expected are {LAYOUT}")


def read_idx(path: Path, num_dims: int) -> NDArray[np.uint8]:
    """An array of unsigned bytes in IDX format: two zeros, the type, the number of dimensions, their sizes, the data.

    Args:
        path: The file, gzipped where its name ends in .gz.
        num_dims: Dimensions that it must have.

    Raises:
        DataError: It cannot be read, or is not such a file: of another type, cut short or too long.
    """
    size(path)  # no pipe and no device
    magic = bytes((0, 0, 8, num_dims))
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            head = stream.read(4 + 4 * num_dims)
            if len(head) < 4 + 4 * num_dims or head[:4] != magic:
                raise DataError(
                    f"{printable(path)}: expected an IDX file of bytes in {num_dims} dimensions, which begins with "
                    f"{magic!r}, got {head[:4]!r}; download it again"
                )
            shape = struct.unpack(f">{num_dims}I", head[4:])
            length = math.prod(shape)
            # One byte more than there should be, so that gzip comes to its checksum.
            data = stream.read(length + 1) if length <= _LARGEST_FILE else b""
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{printable(path)}: not a readable IDX file: {error}; download it again") from error
    if len(data) != length or length > _LARGEST_FILE:
        got = "more" if len(data) > length else f"{len(data)}" if length <= _LARGEST_FILE else "a damaged header"
        raise DataError(
            f"{printable(path)}: expected {length} bytes of data, as its header says {list(shape)}, got {got}; "
            "download it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)
