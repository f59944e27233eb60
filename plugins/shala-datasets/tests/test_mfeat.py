"""UCI's multiple features: rows of six files become samples, and files that disagree or are damaged are refused."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from shala_datasets import MultipleFeatures
from shala_datasets.mfeat import VIEWS

from shala_framework.plugin import Account, DataError, decode_npy
from shala_framework.plugin.testing import damage

LABELS = [number // 10 for number in range(100)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for offset, (name, width) in enumerate(VIEWS.items()):
        rows = [[*(row + offset + np.arange(width) / 8), LABELS[row]] for row in range(len(LABELS))]
        lines = [",".join(map(str, range(width + 1))), *(",".join(f"{cell:g}" for cell in row) for row in rows)]
        (tmp_path / f"mfeat-{name}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_rows_become_samples(folder: Path) -> None:
    """Each row has its numbers in six fields and its digit, and every digit is divided in the same shares."""
    samples = list(MultipleFeatures(MultipleFeatures.Options()).samples(folder, Account()))
    assert [sample.label for sample in samples] == [str(label) for label in LABELS]
    for offset, (name, width) in enumerate(VIEWS.items()):
        x = decode_npy(samples[7].fields[f"{name}.npy"], name)
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, 7 + offset + np.arange(width) / 8, rtol=1e-4)
    divided = Counter((sample.label, sample.split) for sample in samples)
    assert {divided[str(digit), split] for digit in range(10) for split in ("validation",)} == {1}
    assert {divided[str(digit), "test"] for digit in range(10)} == {2}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pix", lambda text: text[:-40], r"mfeat-pix\.csv, row 101: expected 240 numbers"),
        ("kar", lambda text: text.replace("3,", "x,", 1).replace(",9\n", ",8\n", 1), "mfeat-kar"),
        ("mor", lambda text: text.replace("\n5,", "\ninf,", 1), r"mfeat-mor\.csv: expected finite numbers"),
        ("zer", lambda text: text.replace(",0\n", ",1\n", 1), "the same digits"),
        ("fou", lambda text: "", r"mfeat-fou\.csv: .* got no row"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(folder: Path, name: str, change: Callable[[str], str], message: str) -> None:
    """The message names the file and what is wrong with it."""
    path = folder / f"mfeat-{name}.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        list(MultipleFeatures(MultipleFeatures.Options()).samples(folder, Account()))


def test_no_damage_raises_anything_else(folder: Path) -> None:
    """100 damaged copies of a file end in samples or a DataError; so does a folder without one."""
    path, generator = folder / "mfeat-mor.csv", np.random.default_rng(0)
    whole = path.read_bytes()
    for _ in range(100):
        path.write_bytes(damage(whole, generator))
        with suppress(DataError):
            list(MultipleFeatures(MultipleFeatures.Options()).samples(folder, Account()))
    path.unlink()
    with pytest.raises(DataError, match=r"mfeat-mor\.csv"):
        list(MultipleFeatures(MultipleFeatures.Options()).samples(folder, Account()))
