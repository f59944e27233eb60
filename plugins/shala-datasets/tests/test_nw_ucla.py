"""NW-UCLA: sequences split by view, named by their action, and broken files noted."""

import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from shala_datasets import NWUCLA
from shala_datasets.nw_ucla import ACTIONS, check_sequence

from shala_framework.plugin import Account, DataError, Sample
from shala_framework.plugin.testing import damage


def make(source: Path, **options: tuple[int, ...]) -> tuple[list[Sample], list[str]]:
    """All samples, and the notes."""
    dataset = NWUCLA(NWUCLA.Options(**options))
    account = Account()
    return list(dataset.samples(source, account)), account.notes


def sequence(num_frames: int = 3, value: object = 0.5) -> bytes:
    """A file."""
    return json.dumps({"file_name": "a", "skeletons": [[[value] * 3] * 20] * num_frames, "label": 1}).encode()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A sequence of each action for two subjects and three views."""
    folder = tmp_path / "source/nw_ucla/all_sqe"
    folder.mkdir(parents=True)
    for action in ACTIONS:
        for subject in (1, 10):
            for view in (1, 2, 3):
                (folder / f"a{action:02d}_s{subject:02d}_e00_v{view:02d}.json").write_bytes(sequence(action))
    return tmp_path / "source"


def test_views_and_subjects_make_the_splits(source: Path) -> None:
    """View 3 tests on all; of views 1 and 2 the named subjects are for validation, none where none is named."""
    samples, notes = make(source)
    assert [sample.key for sample in samples] == sorted(sample.key for sample in samples)
    for sample in samples:
        view, subject = sample.key[-1], sample.key[4:7]
        assert sample.split == ("test" if view == "3" else "validation" if subject == "s10" else "train")
        assert sample.label == ACTIONS[int(sample.key[1:3])] == sample.fields["txt"].decode()
        assert len(json.loads(sample.fields["skeleton.json"])["skeletons"]) == int(sample.key[1:3])
    assert Counter(sample.split for sample in samples) == {"train": 20, "validation": 20, "test": 20}
    assert Counter(s.split for s in make(source, validation_subjects=())[0]) == {"train": 40, "test": 20}
    assert notes == ["6 sequences of a single frame kept"]


def test_archive_and_folder_give_the_same(source: Path, tmp_path: Path) -> None:
    """The sequences may be unpacked in the folder, in a folder of that name in it, or in an archive."""
    samples, _ = make(source)
    assert make(source / "nw_ucla/all_sqe")[0] == samples
    (tmp_path / "other/nw_ucla").mkdir(parents=True)
    with tarfile.open(tmp_path / "other/nw_ucla/all_sqe.tar.xz", "w:xz") as tar:
        tar.add(source / "nw_ucla/all_sqe", "all_sqe")
    assert make(tmp_path / "other")[0] == samples


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "not a JSON object"),
        (b"\xff\xfe", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b'{"skeletons": [[1], [1, 2]]}', "not a JSON object"),
        (b'{"skeletons": null}', "does not have the shape"),
        (b'{"skeletons": []}', "does not have the shape"),
        (sequence(2)[:-20], "not a JSON object"),
        (json.dumps({"skeletons": [[[0.5] * 3] * 25] * 2}).encode(), "does not have the shape"),
        (sequence(value="1"), "does not have the shape"),
        (sequence(value=True), "does not have the shape"),
        (sequence(value=None), "does not have the shape"),
        (sequence(value=10**40), "does not have the shape"),
        (sequence(value=-(2**63)), "beyond 100 metres"),
        (sequence(value=1e300), "beyond 100 metres"),
        (sequence(value=float("nan")), "not finite"),
    ],
)
def test_broken_files_are_left_out_and_noted(source: Path, content: bytes, problem: str) -> None:
    """For any content of a file, the other files are read and the note names it."""
    (source / "nw_ucla/all_sqe/a01_s01_e01_v01.json").write_bytes(content)
    samples, notes = make(source)
    assert len(samples) == 60
    assert problem in notes[0]
    assert notes[0].endswith(": a01_s01_e01_v01.json")


def test_damaged_files_are_told_or_sound(source: Path) -> None:
    """100 damaged copies are sound or have a problem; none raises."""
    generator = np.random.default_rng(0)
    for _ in range(100):
        num_frames, problem = check_sequence(damage(sequence(), generator))
        assert (num_frames > 0) != bool(problem)


def test_a_huge_file_is_not_parsed() -> None:
    """JSON takes many times its size in memory."""
    assert check_sequence(b"[" * 33_000_000) == (0, "more than 32000000 bytes")


def test_odd_names_are_noted_and_nothing_else_is_an_error(source: Path) -> None:
    """Actions, subjects and views that the data set lacks are left out; a folder of nothing else is an error."""
    folder = source / "nw_ucla/all_sqe"
    for path in folder.iterdir():
        path.unlink()
    for name in ("a07_s01_e00_v01.json", "a01_s11_e00_v01.json", "a01_s01_e00_v04.json", "labels.json"):
        (folder / name).write_bytes(sequence())
    with pytest.raises(DataError, match=r"got no sequence\n4 files left out, name is not aNN_sNN_eNN_vNN\.json"):
        make(source)
    with pytest.raises(DataError, match="expected a folder with nw_ucla/ with files such as all_sqe/a01"):
        make(source / "absent")


def test_cut_archive_is_an_error(source: Path, tmp_path: Path) -> None:
    """A cut archive is not taken for a smaller data set."""
    path = tmp_path / "cut" / "all_sqe.tar.xz"
    path.parent.mkdir()
    with tarfile.open(path, "w:xz") as tar:
        tar.add(source / "nw_ucla/all_sqe", "all_sqe")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"all_sqe\.tar\.xz: not a readable archive.*download it again"):
        make(path.parent)


def test_some_subjects_must_train() -> None:
    """Validation subjects are of the ten, and not all of them."""
    with pytest.raises(ValueError, match=r"\[1\]: expected a number from 1 to 10, got 11"):
        NWUCLA.Options(validation_subjects=(1, 11))
    with pytest.raises(ValueError, match="expected some of the 10 subjects to be left"):
        NWUCLA.Options(validation_subjects=tuple(range(1, 11)))


@pytest.mark.real_data
def test_real_sequences(real_data: Path) -> None:
    """1,484 sequences: 1,020 of views 1 and 2, 464 of view 3, ten actions, two sequences of one frame."""
    samples, notes = make(real_data)
    assert Counter(sample.split for sample in samples) == {"train": 920, "validation": 100, "test": 464}
    assert Counter(sample.label for sample in samples)["walk around"] == 173
    assert {sample.label for sample in samples} == set(ACTIONS.values())
    assert notes == ["2 sequences of a single frame kept"]
    for sample in samples[::50]:
        content = json.loads(sample.fields["skeleton.json"])
        assert content["file_name"] == sample.key
        assert np.shape(content["skeletons"])[1:] == (20, 3)
