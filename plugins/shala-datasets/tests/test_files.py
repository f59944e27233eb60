"""Listing and reading raw files, the account of those left out, and division by hash."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from shala_datasets.files import read, read_or_leave_out, size, walk
from shala_datasets.folder import Folder
from shala_datasets.ntu import NTU
from shala_datasets.nw_ucla import NWUCLA
from shala_datasets.splits import held_out, split_by_hash
from shala_datasets.ucf101 import UCF101

from shala_framework.plugin import Account, DataError, Dataset


def test_walk_ends_and_has_one_order(tmp_path: Path) -> None:
    """Files come in the order of their names, linked folders count once for each link, and links in a circle end."""
    for name in ("b/2", "b/1", "a/x", "c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b/again").symlink_to(tmp_path / "a")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/across").symlink_to(tmp_path / "b")
    found = [str(path.relative_to(tmp_path)) for path in walk(tmp_path)]
    assert found == ["c", "a/x", "a/across/1", "a/across/2", "b/1", "b/2", "b/again/x"]
    with pytest.raises(DataError, match="absent: cannot list the folder"):
        list(walk(tmp_path / "absent"))


def test_what_is_no_plain_file_is_refused_and_noted(tmp_path: Path) -> None:
    """A pipe, which a reader would wait for, a link to nothing and an empty file are left out, each with its reason."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    (tmp_path / "empty").touch()
    (tmp_path / "full").write_bytes(b"content")
    account = Account()
    contents = [read_or_leave_out(path, tmp_path, account) for path in walk(tmp_path)]
    assert contents == [None, b"content", None, None]
    assert sorted(account.notes) == [
        "1 file left out, cannot read the file: No such file or directory: link",
        "1 file left out, cannot read the file: expected a regular file: pipe",
        "1 file left out, empty file: empty",
    ]
    assert len(account.left_out) == 3
    for refuse in (read, size):
        with pytest.raises(DataError, match="pipe: cannot read the file: expected a regular file"):
            refuse(tmp_path / "pipe")


def test_every_data_set_lists_all_that_it_left_out(tmp_path: Path) -> None:
    """What notes show five examples of is complete in `left_out`, with its reason, and of the last pass alone."""
    names = [f"odd{number}" for number in range(8)]
    clip, sequence = b"RIFF", json.dumps({"skeletons": np.zeros((2, 20, 3)).tolist()}).encode()
    cases: list[tuple[Dataset, dict[str, bytes], str, list[str]]] = [
        (Folder(Folder.Options()), {"1.jpg": b"1", "1.txt": b"1"}, "no extension, which would name its field", names),
        (
            UCF101(UCF101.Options(split="none")),
            {"v_Archery_g01_c01.avi": clip},
            "neither .avi nor a list of the splits",
            names,
        ),
        (NTU(NTU.Options()), {"S001C001P001R001A001.skeleton": b"1"}, "neither .skeleton nor .avi", names),
        (
            NWUCLA(NWUCLA.Options()),
            {"a01_s01_e00_v01.json": sequence},
            "name is not aNN_sNN_eNN_vNN.json with numbers of NW-UCLA",
            [f"{name}.json" for name in names],
        ),
    ]
    for number, (dataset, good, reason, odd) in enumerate(cases):
        source = tmp_path / str(number)
        source.mkdir()
        for name in (*good, *odd):
            (source / name).write_bytes(good.get(name, b"?"))
        for _ in range(2):
            account = Account()
            assert len(list(dataset.samples(source, account))) == 1
            assert account.left_out == [(reason, name) for name in odd]
        assert f"8 files left out, {reason}: {', '.join(odd[:5])}, ..." in account.notes
        for name in odd:
            (source / name).unlink()
        account = Account()
        list(dataset.samples(source, account))
        assert account.left_out == []


def test_rows_and_samples_of_a_folder_are_listed_with_their_table(tmp_path: Path) -> None:
    """A row of a table, a sample without one and an unreadable file all have their line."""
    for name, content in (("1.jpg", b"1"), ("2.jpg", b""), ("3.jpg", b"3"), ("4.jpg", b"4")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "t.csv").write_text("key,split\n1,train\n2,train\n4,test\n9,train\n")
    dataset = Folder(Folder.Options(table="t.csv"))
    account = Account()
    list(dataset.samples(tmp_path, account))
    assert account.left_out == [
        ("no file has that name", "t.csv line 5 (9)"),
        ("no row in t.csv, which has column 'split'", "3"),
        ("empty file", "2.jpg"),
        ("no readable file other than a label", "2"),
    ]


def test_hash_splits_keep_shares_and_places() -> None:
    """Each split gets its share of 4,000 names within 2 %, and larger shares only take names from train."""
    names = [f"name {number}" for number in range(4000)]
    small = {name: split_by_hash(name, 0.1, 0.2) for name in names}
    assert {split: round(number / 4000, 1) for split, number in Counter(small.values()).items()} == {
        "train": 0.7, "validation": 0.1, "test": 0.2,
    }  # fmt: skip
    assert abs(sum(split == "test" for split in small.values()) / 4000 - 0.2) < 0.02
    large = {name: split_by_hash(name, 0.3, 0.2) for name in names}
    assert {small[name] for name in names if large[name] != small[name]} == {"train"}
    assert split_by_hash(os.fsdecode(b"caf\xe9"), 0.0, 0.0) == "train"


@pytest.mark.parametrize(("number", "share", "expected"), [(0, 0.5, 0), (1, 0.5, 0), (2, 0.01, 1), (20, 0.25, 5)])
def test_held_out_groups_leave_at_least_one(number: int, share: float, expected: int) -> None:
    """At least one of several groups is held out, never the only one, and the order given does not matter."""
    groups = held_out(range(number), share, "test")
    assert len(groups) == expected
    assert groups == held_out(reversed(range(number)), share, "test")
    assert not held_out(range(number), 0.0, "test")
