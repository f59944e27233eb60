"""Six descriptions of 2,000 handwritten digits: the UCI collection "Multiple Features" as CSV files.

    fac.npy  216 profile correlations
    fou.npy  76 Fourier coefficients of the shape
    kar.npy  64 Karhunen-Loeve coefficients
    mor.npy  6 morphological features
    pix.npy  240 averages of 2 x 3 pixels, from 0 to 6
    zer.npy  47 Zernike moments

All six describe the same digit, so they share its slant and stroke besides its class. The label is the digit.

Reference: van Breukelen et al. 1998, "Handwritten digit recognition by combined classifiers"; UCI data set 72.
"""

from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np

from shala_datasets.files import check_folder, count, printable, read
from shala_datasets.splits import check_share, held_out
from shala_framework.plugin import Account, DataError, Dataset, Sample, encode_npy

VIEWS = {"fac": 216, "fou": 76, "kar": 64, "mor": 6, "pix": 240, "zer": 47}
LAYOUT = ", ".join(f"mfeat-{name}.csv" for name in VIEWS) + ", each with a header"
LONGEST_CELL = 40  # bytes
LARGEST = 1e9  # beyond it lies damage; the collection has at most 20,000


class MultipleFeatures(Dataset):
    """Digits in six views: samples with the fields fac.npy, fou.npy, kar.npy, mor.npy, pix.npy, zer.npy and a label."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of the data set. Each digit is divided in the same way.

        Attributes:
            validation_share: Share of each digit's samples for validation.
            test_share: Share of each digit's samples for the test set.
        """

        validation_share: float = attrs.field(default=0.1, validator=check_share)
        test_share: float = attrs.field(default=0.2, validator=check_share)

        def __attrs_post_init__(self) -> None:
            if self.validation_share + self.test_share >= 1:
                total = self.validation_share + self.test_share
                raise ValueError(f"expected validation_share and test_share below 1 together, got {total}")

    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield the samples in the order of the files.

        Args:
            source: Folder of the six files, in which row n is the same digit.
            account: Receives notes.

        Raises:
            DataError: A file is missing or damaged, or the files disagree on the digits.
        """
        source = check_folder(source, LAYOUT)
        views, labels = {}, None
        for name, width in VIEWS.items():
            path = source / f"mfeat-{name}.csv"
            views[name], found = _read(path, width)
            if labels is not None and not np.array_equal(found, labels):
                raise DataError(f"{printable(path)}: expected the same digits in the same order as in mfeat-fac.csv")
            labels = found
        assert labels is not None
        splits = self._splits(labels)
        for row, label in enumerate(labels.tolist()):
            fields = {f"{name}.npy": encode_npy(values[row]) for name, values in views.items()}
            yield Sample(key=f"{row:04d}", split=splits[row], fields=fields, label=str(label))
        account.note(f"{count(len(labels), 'digit')} in {len(VIEWS)} views")

    def _splits(self, labels: np.ndarray) -> list[str]:
        """The split of each row: equal shares of every digit, by a hash of the row's number."""
        validation, test = self.options.validation_share, self.options.test_share
        splits = ["train"] * len(labels)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label).tolist()
            for_test = held_out(rows, test, "mfeat test")
            rest = [row for row in rows if row not in for_test]
            for row in for_test:
                splits[row] = "test"
            for row in held_out(rest, validation / (1 - test), "mfeat validation"):
                splits[row] = "validation"
        return splits


def _read(path: Path, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the numbers [N, width], float32, and digits [N] of one view."""
    lines = read(path).splitlines()[1:]
    rows = [line.split(b",") for line in lines if line.strip()]
    for number, row in enumerate(rows, 2):
        if len(row) != width + 1 or max(map(len, row)) > LONGEST_CELL:
            raise DataError(
                f"{printable(path)}, row {number}: expected {width} numbers and the digit, got {len(row)} cells; copy "
                "the file again"
            )
    if not rows:
        raise DataError(f"{printable(path)}: expected a header and a row for each digit, got no row; copy it again")
    try:
        table = np.array(rows, dtype="S").astype(np.float64)
    except ValueError as error:
        raise DataError(f"{printable(path)}: expected numbers, got another cell ({error}); copy it again") from error
    labels = table[:, -1]
    if not (np.abs(table) < LARGEST).all() or not np.isin(labels, np.arange(10)).all():
        raise DataError(f"{printable(path)}: expected finite numbers and digits 0 to 9, got others; copy it again")
    return table[:, :-1].astype(np.float32), labels.astype(np.int64)
