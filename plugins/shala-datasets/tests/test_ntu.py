"""The raw NTU folder reader: what it finds, how it splits, and what it says of the rest."""

import json
import os
from pathlib import Path

import pytest
from shala_datasets import NTU
from shala_datasets.ntu_actions import ACTION_NAMES
from shala_datasets.ntu_protocols import (
    NTU60_TRAIN_SUBJECTS,
    NTU120_TRAIN_SUBJECTS,
    held_out_subjects,
    missing_skeletons,
)

from shala_framework.plugin import Account, DataError, Sample

REAL = Path(os.environ.get("SHALA_DATA", Path(__file__).resolve().parents[3] / "../shared/data")) / "ntu"


def write(folder: Path, *names: str, content: bytes = b"1\n") -> None:
    """Fabricate raw files."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def splits(dataset: NTU, folder: Path, account: Account | None = None) -> dict[str, str]:
    """Key to split."""
    return {sample.key: sample.split for sample in dataset.samples(folder, account or Account())}


def test_pairs_files_of_one_key_in_key_order(tmp_path: Path) -> None:
    """Skeleton and RGB pair by key wherever they lie; a sample may have one of them only."""
    write(tmp_path / "b", "S001C001P001R001A002.skeleton", "S001C001P001R001A001.skeleton", content=b"skeleton")
    write(tmp_path / "a/deep", "S001C001P001R001A001_rgb.avi", "S002C001P003R002A060.AVI", content=b"avi")
    samples = list(NTU(NTU.Options(validation_share=0.0)).samples(tmp_path, Account()))
    assert [sample.key[-4:] for sample in samples] == ["A001", "A002", "A060"]
    assert [sorted(sample.fields) for sample in samples] == [
        ["avi", "json", "skeleton"], ["json", "skeleton"], ["avi", "json"],
    ]  # fmt: skip
    assert samples[0].label == "A001 drink water"
    assert json.loads(samples[2].fields["json"]) == {
        "action": 60, "action_name": "walking apart", "camera": 1, "replication": 2, "setup": 2, "subject": 3,
    }  # fmt: skip


def test_every_file_that_does_not_fit_is_noted(tmp_path: Path) -> None:
    """Odd names, other types, empty files and duplicates are left out with the reason, never in silence."""
    write(tmp_path, "a/S001C001P001R001A001.skeleton", content=b"first")
    write(tmp_path, "b/S001C001P001R001A001.skeleton", content=b"second")
    write(tmp_path, "S1C1.skeleton", "S001C004P001R001A001.skeleton", "S001C001P001R001A121_rgb.avi", "readme.txt")
    write(tmp_path, "S001C001P001R001A002.skeleton", content=b"")
    dataset = NTU(NTU.Options())
    account = Account()
    (sample,) = dataset.samples(tmp_path, account)
    assert sample.fields["skeleton"] == b"first"
    notes = "\n".join(account.notes)
    for expected in (
        "1 file left out, neither .skeleton nor .avi: readme.txt",
        "3 files left out, name is not SsssCcccPpppRrrrAaaa",
        "1 file left out, empty file: S001C001P001R001A002.skeleton",
        f"1 file left out, same key twice: {Path('b/S001C001P001R001A001.skeleton')} (used: {Path('a')}",
        "1 of 1 sample without avi",
    ):
        assert expected in notes


def test_protocols_split_as_published(tmp_path: Path) -> None:
    """Cross-subject by performer, cross-setup by even setups, cross-view by camera, none all to train."""
    write(
        tmp_path, *(f"S{s:03d}C{c:03d}P{p:03d}R001A001.skeleton" for s in (1, 2, 18) for c in (1, 2, 3) for p in (1, 3))
    )
    write(tmp_path, "S018C001P103R001A061.skeleton")

    def train(**options: object) -> set[str]:
        dataset = NTU(NTU.Options(validation_share=0.0, **options))  # type: ignore[arg-type]
        return {key for key, split in splits(dataset, tmp_path).items() if split == "train"}

    assert {key[8:12] for key in train(protocol="cross-subject")} == {"P001", "P103"}
    assert {key[8:12] for key in train(protocol="cross-subject", version=60)} == {"P001"}
    assert {key[:4] for key in train(protocol="cross-setup")} == {"S002", "S018"}
    assert {key[4:8] for key in train(protocol="cross-view", version=60)} == {"C002", "C003"}
    assert len(train(protocol="none")) == 19
    assert {key[4:8] for key in train(protocol="none", cameras=(2,))} == {"C002"}


def test_version_60_counts_what_it_leaves_out(tmp_path: Path) -> None:
    """Version 60 keeps setups 1 to 17 and actions 1 to 60 and says how many keys it left out."""
    write(tmp_path, "S001C001P001R001A060.skeleton", "S018C001P001R001A001.skeleton", "S001C001P001R001A061.skeleton")
    dataset = NTU(NTU.Options(version=60))
    account = Account()
    assert list(splits(dataset, tmp_path, account)) == ["S001C001P001R001A060"]
    assert any(note.startswith("2 keys left out, not in version 60") for note in account.notes)


def test_validation_holds_out_whole_training_subjects(tmp_path: Path) -> None:
    """Validation subjects are a fixed few of the training subjects, and all of their samples go there."""
    write(tmp_path, *(f"S001C00{c}P{p:03d}R001A001.skeleton" for p in range(1, 41) for c in (1, 2, 3)))
    by_key = splits(NTU(NTU.Options(version=60, validation_share=0.2)), tmp_path)
    subjects = {split: {int(key[9:12]) for key in by_key if by_key[key] == split} for split in by_key.values()}
    assert subjects["validation"] == held_out_subjects(NTU60_TRAIN_SUBJECTS, 0.2)
    assert len(subjects["validation"]) == 4
    assert subjects["train"] == NTU60_TRAIN_SUBJECTS - subjects["validation"]
    assert subjects["test"].isdisjoint(NTU60_TRAIN_SUBJECTS)


def test_constants_have_the_published_sizes() -> None:
    """120 different actions; 20 and 53 training subjects."""
    assert len(set(ACTION_NAMES)) == 120
    assert (len(NTU60_TRAIN_SUBJECTS), len(NTU120_TRAIN_SUBJECTS)) == (20, 53)


def test_skeletons_on_the_owners_list_are_left_out(tmp_path: Path) -> None:
    """535 samples, 302 of them of version 60, lose the skeleton and keep the clip; the option keeps both."""
    listed = missing_skeletons()
    assert (len(listed), sum(key.in_version(60) for key in listed)) == (535, 302)
    names = ("S001C002P005R002A008", "S001C002P006R001A008", "S001C002P005R002A009")
    write(tmp_path, *(f"{name}.skeleton" for name in names), "S001C002P005R002A008_rgb.avi")
    dataset = NTU(NTU.Options())
    account = Account()
    fields = {sample.key: sorted(sample.fields) for sample in dataset.samples(tmp_path, account)}
    assert fields == {names[0]: ["avi", "json"], names[2]: ["json", "skeleton"]}
    assert [name for reason, name in account.left_out if "NTU's list" in reason] == [f"{n}.skeleton" for n in names[:2]]
    assert any(note.startswith("2 skeletons left out, on NTU's list") for note in account.notes)
    assert len(list(NTU(NTU.Options(listed_skeletons=True)).samples(tmp_path, Account()))) == 3


def test_changes_of_a_body_id_are_noted(tmp_path: Path) -> None:
    """A person with two ids, one after the other, is named; two persons at once and damaged files are not."""

    def skeleton(frames: list[list[int]]) -> bytes:
        bodies = "".join(
            f"{len(ids)}\r\n" + "".join(f"{body} 0 0 0 0 0 0 0 0 2\r\n1\r\n0 0 3 0 0 0 0 0 0 0 0 2\r\n" for body in ids)
            for ids in frames
        )
        return f"{len(frames)}\r\n{bodies}".encode()

    for action, frames in enumerate(([[7], [7], [8]], [[7, 8], [8]], [[7], [], [7]], [[7, 8], [8, 9]]), 1):
        write(tmp_path, f"S001C001P001R001A{action:03d}.skeleton", content=skeleton(frames))
    write(tmp_path, "S001C001P001R001A005.skeleton", content=skeleton([[7], [8]])[:-60])
    dataset = NTU(NTU.Options())
    account = Account()
    assert len(list(dataset.samples(tmp_path, account))) == 5
    (note,) = (note for note in account.notes if "body ids" in note)
    assert note.startswith("2 skeletons with body ids that never overlap in time")
    assert note.endswith("S001C001P001R001A001, S001C001P001R001A004")


def test_folder_without_matching_files_is_an_error(tmp_path: Path) -> None:
    """The error says where it looked, what it expected and what lay there instead."""
    write(tmp_path, "notes.txt")
    with pytest.raises(DataError, match=r"expected files named Ssss[\s\S]*1 file left out[\s\S]*notes.txt") as error:
        list(NTU(NTU.Options()).samples(tmp_path, Account()))
    assert str(tmp_path) in str(error.value)
    with pytest.raises(DataError, match="expected a folder"):
        list(NTU(NTU.Options()).samples(tmp_path / "absent", Account()))


def test_options_that_contradict_each_other_are_refused() -> None:
    """Cross-view exists for version 60 alone; names and shares are checked."""
    with pytest.raises(ValueError, match="expected version = 60 with cross-view"):
        NTU.Options(protocol="cross-view")
    with pytest.raises(ValueError, match="expected one of cross-subject"):
        NTU.Options(protocol="cross-actor")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="less than 1, got 1"):
        NTU.Options(validation_share=1.0)


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real NTU files at {REAL}")
def test_reads_the_real_files() -> None:
    """Five real skeletons and the one real RGB clip, paired by key."""
    samples: dict[str, Sample] = {sample.key: sample for sample in NTU(NTU.Options()).samples(REAL, Account())}
    assert len(samples) == 5
    pair = samples["S001C001P001R001A001"]
    assert pair.fields["skeleton"].split()[0] == b"103"
    assert pair.fields["avi"][:4] == b"RIFF"
    assert {key for key, sample in samples.items() if "avi" in sample.fields} == {pair.key}
    assert samples["S001C003P008R002A058"].label == "A058 shaking hands"
    assert samples["S002C001P003R001A003"].split == "test"
