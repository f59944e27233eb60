"""UCF101: clips by the published lists, complete groups for validation, and notes about the rest."""

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest
from shala_datasets import UCF101

from shala_framework.plugin import Account, DataError, Sample

DATA = Path(os.environ.get("SHALA_DATA", Path(__file__).parents[3] / "../shared/data")).resolve()
REAL = DATA / "ucf101"
ACTIONS = ("ApplyEyeMakeup", "HandstandPushups", "YoYo")


def file_name(action: str, group: int, number: int) -> str:
    """The clip's file below its class folder, one class spelt in two ways as in the original."""
    spelt = action.replace("Handstand", "HandStand")
    return f"{action}/v_{spelt}_g{group:02d}_c{number:02d}.avi"


def build(root: Path) -> list[str]:
    """A miniature: 3 classes of 12 groups of 2 clips, groups 1 to 2 for the test of split 1 and 3 to 4 of split 2."""
    clips = [file_name(action, group, number) for action in ACTIONS for group in range(1, 13) for number in (1, 2)]
    for clip in clips:
        path = root / "UCF-101" / clip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip.encode())
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_bytes(b"".join(b"%d %s\r\n" % (i, a.encode()) for i, a in enumerate(ACTIONS, 1)))
    for split in (1, 2, 3):
        test = [clip for clip in clips if f"_g{2 * split - 1:02d}" in clip or f"_g{2 * split:02d}" in clip]
        train = [f"{clip} {ACTIONS.index(clip.split('/')[0]) + 1}" for clip in clips if clip not in test]
        (lists / f"testlist0{split}.txt").write_bytes("\r\n".join([*test, ""]).encode())
        (lists / f"trainlist0{split}.txt").write_bytes("\r\n".join([*train, ""]).encode())
    return clips


def groups_of(samples: list[Sample]) -> dict[str, dict[str, set[int]]]:
    """Groups by split and class."""
    groups: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for sample in samples:
        groups[sample.split][sample.label or ""].add(json.loads(sample.fields["json"])["group"])
    return groups


def test_lists_decide_and_validation_takes_whole_groups(tmp_path: Path) -> None:
    """Test groups are those of the lists in every class; validation has its share of each class's other groups."""
    clips = build(tmp_path)
    dataset = UCF101(UCF101.Options(split=2, validation_share=0.2))
    account = Account()
    samples = list(dataset.samples(tmp_path, account))
    assert not account.notes
    assert [sample.fields["avi"].decode() for sample in samples] == clips
    assert [sample.label for sample in samples] == [clip.split("/")[0] for clip in clips]
    assert samples[24].key == "v_HandstandPushups_g01_c01"
    groups = groups_of(samples)
    assert all(groups["test"][action] == {3, 4} for action in ACTIONS)
    assert all(len(groups["validation"][action]) == 2 for action in ACTIONS)
    assert all(groups["train"][action].isdisjoint(groups["validation"][action]) for action in ACTIONS)
    assert samples == list(dataset.samples(tmp_path, Account()))
    default = groups_of(list(UCF101(UCF101.Options()).samples(tmp_path, Account())))
    assert all(default["test"][action] == {1, 2} and len(default["validation"][action]) == 1 for action in ACTIONS)


def test_every_file_that_does_not_fit_is_noted(tmp_path: Path) -> None:
    """Clips outside the lists, absent, empty or twice there, odd names and other files are counted with examples."""
    build(tmp_path)
    clips = tmp_path / "UCF-101"
    (clips / file_name("YoYo", 12, 2)).unlink()
    (clips / file_name("YoYo", 12, 1)).write_bytes(b"")
    (clips / "v_YoYo_g25_c01.avi").write_bytes(b"unlisted")
    (clips / "a").mkdir()
    (clips / "a/v_YoYo_g01_c01.AVI").write_bytes(b"again")
    (clips / "._v_YoYo_g01_c01.avi").write_bytes(b"fork")
    (clips / "readme.md").write_bytes(b"text")
    dataset = UCF101(UCF101.Options())
    account = Account()
    samples = {sample.key: sample for sample in dataset.samples(tmp_path, account)}
    assert len(samples) == 70
    assert account.notes == [
        "1 file left out, name is not v_Class_gGG_cCC: UCF-101/._v_YoYo_g01_c01.avi",
        "1 file left out, neither .avi nor a list of the splits: UCF-101/readme.md",
        "1 file left out, same name twice: UCF-101/a/v_YoYo_g01_c01.AVI (used: UCF-101/YoYo/v_YoYo_g01_c01.avi)",
        "1 file left out, not in the lists of split 1: UCF-101/v_YoYo_g25_c01.avi",
        "1 of 72 clips of the lists are absent: v_YoYo_g12_c02",
        "1 file left out, empty file: UCF-101/YoYo/v_YoYo_g12_c01.avi",
    ]


def test_without_lists_the_error_says_what_to_download(tmp_path: Path) -> None:
    """No lists is an error with their address, unless split = "none", which trains on every clip."""
    (tmp_path / "v_YoYo_g01_c01.avi").write_bytes(b"clip")
    with pytest.raises(DataError, match=r"trainlist01\.txt and testlist01\.txt[\s\S]*https://[\s\S]*split = \"none\""):
        list(UCF101(UCF101.Options()).samples(tmp_path, Account()))
    (sample,) = UCF101(UCF101.Options(split="none")).samples(tmp_path, Account())
    assert (sample.split, sample.label) == ("train", "YoYo")


def test_damaged_lists_and_folders_are_errors(tmp_path: Path) -> None:
    """A damaged line, an empty list, a clip in both lists, lists of other clips, and a folder without clips."""
    build(tmp_path)
    lists = tmp_path / "ucfTrainTestlist"
    cases = {
        b"YoYo/v_YoYo_g11_c01.avi 3\n\xff\xfe YoYo\n": r"trainlist01\.txt, line 2: expected Class/v_Class",
        b"\n": "got an empty file",
        b"YoYo/v_YoYo_g01_c01.avi 3\n": "v_YoYo_g01_c01 in both",
    }
    for content, message in cases.items():
        (lists / "trainlist01.txt").write_bytes(content)
        with pytest.raises(DataError, match=message):
            list(UCF101(UCF101.Options()).samples(tmp_path, Account()))
    for kind in ("train", "test"):
        (lists / f"{kind}list01.txt").write_bytes(b"Surfing/v_Surfing_g0%d_c01.avi\n" % len(kind))
    with pytest.raises(DataError, match="expected clips of the lists, got none"):
        list(UCF101(UCF101.Options()).samples(tmp_path, Account()))
    with pytest.raises(DataError, match=r"expected clips named v_Class_gGG_cCC\.avi.*got no such file"):
        list(UCF101(UCF101.Options()).samples(lists, Account()))


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real UCF101 clips at {REAL}")
def test_real_clips_in_the_published_tree(tmp_path: Path) -> None:
    """Eight real clips, unchanged, in class folders with lists; and as they lie, with none."""
    names = sorted(path.name for path in REAL.glob("*.avi"))
    lines = [f"{name.split('_')[1]}/{name}" for name in names]
    for line in lines:
        (tmp_path / line).parent.mkdir(exist_ok=True)
        (tmp_path / line).symlink_to(REAL / line.split("/")[1])
    (tmp_path / "trainlist01.txt").write_text("".join(f"{line} 1\n" for line in lines if not line.startswith("D")))
    (tmp_path / "testlist01.txt").write_text("".join(f"{line}\n" for line in lines if line.startswith("D")))
    dataset = UCF101(UCF101.Options())
    account = Account()
    samples = list(dataset.samples(tmp_path, account))
    assert not account.notes
    assert [f"{sample.key}.avi" for sample in samples] == names
    assert all(sample.fields["avi"] == (REAL / f"{sample.key}.avi").read_bytes() for sample in samples)
    assert {sample.label: sample.split for sample in samples} == {
        "ApplyEyeMakeup": "train", "BenchPress": "train", "Diving": "test",
    }  # fmt: skip
    flat = list(UCF101(UCF101.Options(split="none")).samples(REAL, Account()))
    assert [sample.fields for sample in flat] == [sample.fields for sample in samples]
