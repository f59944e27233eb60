"""Emoji: five views and a name of each, and no variant of a training emoji among those held out."""

import os
import tarfile
from pathlib import Path

import pytest
from shala_datasets.emoji import VIEWS, Emoji

from shala_framework.plugin import Account, DataError, Sample

DATA = Path(os.environ.get("SHALA_DATA", Path(__file__).parents[3] / "../shared/data"))


def make(source: Path, **options: float | str) -> tuple[list[Sample], list[str]]:
    """All samples, and the notes."""
    account = Account()
    return list(Emoji(Emoji.Options(**options)).samples(source, account)), account.notes  # type: ignore[arg-type]


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """60 emoji, three variants of each of twenty bases, as files beside the table."""
    rows = [f"e{n:02d},b{n // 3},{'Food' if n % 2 else 'Flags'},kind,name {n}" for n in range(60)]
    (tmp_path / "emoji.csv").write_text("\n".join(["key,base,category,subcategory,label", *rows]))
    (tmp_path / "images").mkdir()
    for n in range(60):
        for view in VIEWS:
            (tmp_path / f"images/e{n:02d}.{view}.png").write_bytes(f"{view} {n}".encode())
        (tmp_path / f"images/e{n:02d}.txt").write_text(f"name {n}")
    return tmp_path


def test_a_sample_has_five_views_and_a_name(drawn: Path) -> None:
    """Fields are named after the views, classes come from the table, and an archive gives the same."""
    samples, notes = make(drawn)
    assert [sample.key for sample in samples] == [f"e{n:02d}" for n in range(60)]
    assert not notes
    assert samples[7].fields == {"txt": b"name 7", **{f"{view}.png": f"{view} 7".encode() for view in VIEWS}}
    assert samples[7].label == "Food"
    assert make(drawn, label="subcategory")[0][7].label == "kind"
    with tarfile.open(drawn / "images.tar", "w") as tar:
        tar.add(drawn / "images", "images")
    for path in (drawn / "images").iterdir():
        path.unlink()
    assert make(drawn)[0] == samples


def test_variants_of_a_base_stay_together(drawn: Path) -> None:
    """No base is on two sides, every side has some, and the order of the table does not matter."""
    samples, _ = make(drawn, validation_share=0.2, test_share=0.2)
    splits: dict[str, set[str]] = {}
    for n, sample in enumerate(samples):
        splits.setdefault(f"b{n // 3}", set()).add(sample.split)
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "validation", "test"}
    lines = (drawn / "emoji.csv").read_text().splitlines()
    (drawn / "emoji.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    again, _ = make(drawn, validation_share=0.2, test_share=0.2)
    assert {s.key: s.split for s in again} == {s.key: s.split for s in samples}


def test_what_is_absent_is_noted_or_refused(drawn: Path) -> None:
    """A view may be missing; an emoji without any file is noted; a table without its columns is an error."""
    (drawn / "images/e03.noto.png").unlink()
    for path in (drawn / "images").glob("e04.*"):
        path.unlink()
    samples, notes = make(drawn)
    assert "noto.png" not in next(s for s in samples if s.key == "e03").fields
    assert notes == ["1 rows of emoji.csv without any file: e04"]
    (drawn / "emoji.csv").write_text("key,category\ne00,Food\n")
    with pytest.raises(DataError, match="expected a column 'base'"):
        make(drawn)
    (drawn / "emoji.csv").write_text("key,base,category\ne00,b,Food\ne00,b,Food\n")
    with pytest.raises(DataError, match="expected each key once, got 'e00' again"):
        make(drawn)


@pytest.mark.real_data
def test_the_real_set() -> None:
    """3,372 emoji of 1,852 bases, nearly all with every view."""
    if not (DATA / "emoji").is_dir():
        pytest.skip(f"no real data at {DATA}; set SHALA_DATA")
    samples, notes = make(DATA / "emoji")
    assert len(samples) == 3372
    assert not notes
    assert sum(len(sample.fields) == 6 for sample in samples) > 3000
