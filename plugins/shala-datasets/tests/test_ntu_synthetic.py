"""The synthetic stand-in: a plausible body, reproducible samples, and joints that lie on the figure."""

import io
import json
import tomllib
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from shala_datasets import NTUSynthetic, shala_register_datasets
from shala_datasets.body import BONES
from shala_datasets.motion import ACTIONS
from shala_datasets.ntu_synthetic import SPLITS

from shala_framework.plugin import Account, DataError, Sample

ONE_OF_EACH = range(len(ACTIONS))


def parse(text: bytes) -> tuple[np.ndarray, list[list[str]]]:
    """Read NTU text token by token, apart from the writer: joints [T, 25, 12] and the body lines."""
    lines = iter(text.decode().splitlines())
    joints, bodies = [], []
    for _ in range(int(next(lines))):
        assert int(next(lines)) == 1
        bodies.append(next(lines).split())
        joints.append([[float(value) for value in next(lines).split()] for _ in range(int(next(lines)))])
    assert not list(lines)
    return np.array(joints), bodies


def decode(clip: bytes) -> np.ndarray:
    """All frames of a clip, uint8 RGB [T, H, W, 3]."""
    with av.open(io.BytesIO(clip), "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def dataset() -> NTUSynthetic:
    """A small set with the default clip."""
    return NTUSynthetic(NTUSynthetic.Options(train=24, validation=12, test=12))


@pytest.fixture(scope="module")
def samples(dataset: NTUSynthetic) -> list[Sample]:
    """Every sample of the small set."""
    return list(dataset.samples(None, Account()))


def test_bones_keep_their_length(dataset: NTUSynthetic) -> None:
    """In every action each of the 24 bones is positive and constant through the clip, and the person is adult."""
    for index in ONE_OF_EACH:
        joints = dataset.scene("train", index).joints
        starts, ends = zip(*BONES, strict=True)
        lengths = np.linalg.norm(joints[:, list(starts)] - joints[:, list(ends)], axis=2)
        assert np.ptp(lengths, axis=0).max() < 1e-9
        assert lengths.min() > 0.02
        assert joints[..., 2].min() > 2.0
        assert joints[..., 2].max() < 4.5


def test_motion_is_smooth_and_moves(dataset: NTUSynthetic) -> None:
    """No joint jumps between frames (below 14 m/s), and every action moves some joint by at least 20 cm."""
    for index in ONE_OF_EACH:
        scene = dataset.scene("train", index)
        joints = scene.joints
        assert np.linalg.norm(np.diff(joints, axis=0), axis=2).max() < 14 / 16
        assert np.ptp(joints, axis=0).max() > 0.2, scene.key


def test_same_options_give_the_same_bytes(samples: list[Sample]) -> None:
    """A sample is made again alone, by another instance with other counts, byte for byte."""
    other = NTUSynthetic(NTUSynthetic.Options(train=1))
    for number in (0, 7, 23):
        assert other.sample("train", number) == samples[number]
    assert other.sample("test", 3) == samples[24 + 12 + 3]
    assert NTUSynthetic(NTUSynthetic.Options(seed=1)).sample("train", 0).fields != samples[0].fields


def test_text_parses_and_joints_lie_on_the_figure(dataset: NTUSynthetic, samples: list[Sample]) -> None:
    """At 90 % of the colour coordinates that the text gives, the decoded clip differs from the empty background."""
    for index, sample in enumerate(samples[:24]):
        joints, bodies = parse(sample.fields["skeleton"])
        clip = decode(sample.fields["avi"]).astype(int)
        assert joints.shape == (32, 25, 12)
        assert clip.shape == (32, 64, 64, 3)
        assert all(len(body) == 10 for body in bodies)
        assert np.allclose(joints[..., :3], dataset.scene("train", index).joints, atol=1e-4)
        empty = np.asarray(dataset.scene("train", index).background.picture(64)).astype(int)
        columns, rows = np.floor(joints[..., 5]).astype(int), np.floor(joints[..., 6]).astype(int)
        inside = (columns >= 0) & (columns < 64) & (rows >= 0) & (rows < 64)
        leaves = "jump" in (sample.label or "")  # for a moment, at its top
        assert inside.mean() > (0.95 if leaves else 0.97), sample.label
        frame = np.broadcast_to(np.arange(32)[:, None], columns.shape)[inside]
        here = rows[inside], columns[inside]
        differs = np.abs(clip[frame, here[0], here[1]] - empty[here]).max(axis=-1) > 24
        assert differs.mean() > 0.9, sample.label


def test_samples_are_labelled_and_balanced(samples: list[Sample]) -> None:
    """Each split holds every class equally often; keys are unique; the facts say that it is synthetic."""
    assert Counter(Counter((sample.split, sample.label) for sample in samples).values()) == {2: 12, 1: 24}
    assert len({sample.key for sample in samples}) == len(samples)
    for sample in samples:
        facts = json.loads(sample.fields["json"])
        assert facts["synthetic"] is True
        assert sample.label == f"A{facts['action']:03d} {facts['action_name']}"
        assert f"A{facts['action']:03d}_" in sample.key


def test_subjects_are_disjoint_across_splits(dataset: NTUSynthetic) -> None:
    """No subject, hence no body and no outfit, appears in two splits."""
    subjects = [{dataset.scene(split, index).key.subject for index in range(60)} for split in SPLITS]
    assert all(len(several) > 8 for several in subjects)
    assert len(set.union(*subjects)) == sum(map(len, subjects))


def test_missing_shares_leave_the_rest_as_it_was(samples: list[Sample]) -> None:
    """About the asked share of training samples lacks a field, none lacks both, and what is there is unchanged."""
    options = NTUSynthetic.Options(train=24, validation=2, test=2, frames=4, rgb_missing=0.3, skeleton_missing=0.5)
    made = list(NTUSynthetic(options).samples(None, Account()))
    train = made[:24]
    assert 2 <= sum("avi" not in sample.fields for sample in train) <= 13
    assert 6 <= sum("skeleton" not in sample.fields for sample in train) <= 18
    assert all({"avi", "skeleton"} & set(sample.fields) for sample in train)
    assert all(set(sample.fields) == {"avi", "json", "skeleton"} for sample in made[24:])
    full = NTUSynthetic(NTUSynthetic.Options(frames=4))
    for index, sample in enumerate(train):
        assert sample.fields.items() <= full.sample("train", index).fields.items()


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    """A source folder, shares above 1 and odd sizes are errors that say what was expected."""
    with pytest.raises(DataError, match="expected no folder"):
        list(NTUSynthetic(NTUSynthetic.Options()).samples(tmp_path, Account()))
    with pytest.raises(ValueError, match=r"at most 1, got 1\.2"):
        NTUSynthetic.Options(rgb_missing=0.6, skeleton_missing=0.6)
    with pytest.raises(ValueError, match="expected an even number of at least 16 and at most 2048, got 33"):
        NTUSynthetic.Options(size=33)


def test_entry_points_name_what_the_plugin_registers() -> None:
    """The core finds a data set by the name of its entry point, so the two lists of names are one."""
    offered: dict[str, type] = {}
    shala_register_datasets(lambda name, dataset: offered.update({name: dataset}))
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
    assert set(project["entry-points"]["shala.plugins"]) == set(offered)
    assert offered["ntu-synthetic"].synthetic  # type: ignore[attr-defined]
    assert not offered["ntu-synthetic"].needs_source  # type: ignore[attr-defined]


def test_a_stride_leaves_out_frames_of_the_clip_alone(dataset: NTUSynthetic) -> None:
    """Every second frame of the same picture at half the rate, as long as before; the skeleton stays."""
    whole = dataset.sample("train", 3).fields
    halved = NTUSynthetic(NTUSynthetic.Options(rgb_stride=2)).sample("train", 3).fields
    assert halved["skeleton"] == whole["skeleton"]
    frames, kept = decode(whole["avi"]).astype(int), decode(halved["avi"]).astype(int)
    assert len(kept) * 2 == len(frames)
    assert np.abs(kept - frames[::2]).mean() < 3  # two encodings of one picture
    with av.open(io.BytesIO(halved["avi"]), "r") as container:
        assert container.streams.video[0].average_rate == 8
