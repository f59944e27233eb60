"""Read MNIST's handwritten digits from its four IDX files, plain or gzipped.

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
_LARGEST_FILE = 1 << 30  # bytes; MNIST's largest file has 47 million, and a damaged header may state any number


@attrs.frozen(kw_only=True, eq=False)
class MNISTDigits:
    """The digits of one split.

    Attributes:
        images: uint8 array [N, 28, 28], bright ink on black.
        labels: uint8 array [N] of 0 to 9.
        numbers: Position of each digit in its file, from 0, an array [N].
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    numbers: NDArray[np.intp]

    def take(self, rows: NDArray[np.intp]) -> "MNISTDigits":
        """Select some digits."""
        return MNISTDigits(images=self.images[rows], labels=self.labels[rows], numbers=self.numbers[rows])

    def of_class(self, label: int) -> NDArray[np.intp]:
        """Return the rows of one digit."""
        return np.flatnonzero(self.labels == label)


def read_mnist(folder: Path, validation_share: float = VALIDATION_SHARE) -> dict[str, MNISTDigits]:
    """Return the digits by split. A fixed share of the training file's images is for validation instead of training.

    Args:
        folder: Folder that contains the four files.
        validation_share: Share of validation images, in [0, 1).

    Raises:
        DataError: A file is missing, truncated or invalid.
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
    """Read images and labels of "train" or "t10k"."""
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
    raise DataError(f"{printable(folder)}: expected {name} or {name}.gz, got neither; the layout is {LAYOUT}")


def read_idx(path: Path, num_dims: int) -> NDArray[np.uint8]:
    """Read an array of unsigned bytes in IDX format: two zeros, type, number of dimensions, their sizes, data.

    Args:
        path: File, gzipped if its name ends in .gz.
        num_dims: Required number of dimensions.

    Raises:
        DataError: The file cannot be read or is invalid: of another type, truncated or too long.
    """
    size(path)  # refuses pipes and devices
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
            # One byte more than expected, so that gzip reaches its checksum.
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
