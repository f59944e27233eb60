"""Skeleton: the contract tests, and tests of NTU's text format, several bodies, and damaged files."""

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from shala_skeleton import Skeleton
from shala_skeleton.augmenting import SkeletonAugment
from shala_skeleton.bones import NTU, NW_UCLA
from shala_skeleton.drawing import draw_clip
from shala_skeleton.parsing import interpolate, parse, parse_ntu

from shala_framework.plugin import DataError, Draws
from shala_framework.plugin.testing import ModalitySuite

DATA = Path(os.environ.get("SHALA_DATA", Path(__file__).parents[3] / "../shared/data"))
PAIRS = ((0, 1), (1, 2), (2, 3))


def waving(index: int, num_frames: int = 12, joints: int = 4) -> np.ndarray:
    """float [T, J, 3]: a chain of joints that swings; phase and place depend on the index."""
    time = np.linspace(0, 2 * np.pi, num_frames)[:, None] + index
    along = np.arange(joints)[None]
    sway = 0.2 * along * np.sin(time)
    return np.stack([sway + 0.1 * index, np.broadcast_to(0.3 * along, sway.shape), sway * 0.5 + 3.0], axis=2)


def npy(array: np.ndarray, **kwargs: Any) -> bytes:
    """The array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, **kwargs)
    return buffer.getvalue()


def ntu_text(frames: list[dict[int, np.ndarray]]) -> str:
    """A .skeleton file: for each frame the joints [J, 3] of each body id."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for body_id, joints in bodies.items():
            lines += [f"{body_id} 0 1 1 1 1 0 0.02 0.05 2", str(len(joints))]
            lines += [f"{x:.7g} {y:.7g} {z:.7g} 277.4 191.8 1036.2 519.1 0 0 0 0 2" for x, y, z in joints]
    return "\r\n".join(lines) + "\r\n"


# Ids as Kinect gives them: beyond 2 ** 53, where neighbours are the same as floats.
FIRST, SECOND, THIRD = 72057594037944734, 72057594037944738, 72057594037944739


class TestSkeleton(ModalitySuite):
    modality = Skeleton
    options: ClassVar = {"frames": 8, "joints": 4, "bones": PAIRS, "width": 32}
    augmenting: ClassVar = {"augment": SkeletonAugment(turn_degrees=30, scale=0.2, time=0.2, jitter=0.01)}

    def sample_fields(self, index: int) -> dict[str, bytes]:
        return {"npy": npy(waving(index))}


class TestTwoBodies(ModalitySuite):
    """NTU text with a second body that only some samples have; an odd number of frames, another likelihood."""

    modality = Skeleton
    options: ClassVar = {
        "frames": 7, "joints": 4, "bodies": 2, "dims": 2, "bones": PAIRS, "width": 32,
        "centre": "every_frame", "likelihood": "laplace", "scale": 0.05,
    }  # fmt: skip
    augmenting: ClassVar = {"augment": SkeletonAugment(scale=0.2, jitter=0.01)}

    def sample_fields(self, index: int) -> dict[str, bytes]:
        poses = waving(index)
        frames = [{FIRST: pose} if index % 2 else {FIRST: pose, SECOND: 0.5 * pose + 1} for pose in poses]
        return {"skeleton": ntu_text(frames).encode()}


class TestPen(ModalitySuite):
    """The smallest skeleton: the tip of a pen, one joint in the plane, without bones."""

    modality = Skeleton
    options: ClassVar = {
        "frames": 8,
        "joints": 1,
        "dims": 2,
        "bones": (),
        "width": 16,
        "centre": "none",
        "fields": ("json",),
    }
    augmenting: ClassVar = {"augment": SkeletonAugment(scale=0.2, time=0.3)}

    def sample_fields(self, index: int) -> dict[str, bytes]:
        return {"json": json.dumps((100 * waving(index, 8, 4)[:, 3:, :2]).tolist()).encode()}


# Parsing.


def test_ntu_text_gives_its_numbers() -> None:
    """Joints are read as they were written, with either line ending."""
    poses = waving(1)
    text = ntu_text([{FIRST: pose} for pose in poses])
    for variant in (text, text.replace("\r\n", "\n")):
        parsed = parse_ntu(variant.encode(), "skeleton", joints=4, bodies=2)
        np.testing.assert_allclose(parsed, poses[:, None], atol=1e-6)


def test_bodies_are_chosen_by_frames_then_motion() -> None:
    """The tracks seen longest are kept, and the one that moves most comes first."""
    poses = waving(0)
    still = np.ones((4, 3))
    frames = [{FIRST: 0.1 * pose, SECOND: pose, THIRD: still} for pose in poses]
    frames[3].pop(THIRD)
    parsed = parse_ntu(ntu_text(frames).encode(), "skeleton", joints=4, bodies=2)
    np.testing.assert_allclose(parsed, np.stack([poses, 0.1 * poses], axis=1), atol=1e-6)
    frames[5].pop(SECOND)
    frames[5][THIRD] = 100 * still
    alone = parse_ntu(ntu_text(frames).encode(), "skeleton", joints=4, bodies=1)
    np.testing.assert_allclose(alone[:, 0], 0.1 * poses, atol=1e-6)


def test_gaps_of_a_track_are_interpolated() -> None:
    """Frames without the body lie on the line between its neighbours, and are held at both ends."""
    poses = np.arange(6.0)[:, None, None] * np.ones((1, 4, 3))
    frames: list[dict[int, np.ndarray]] = [{FIRST: pose} for pose in poses]
    for missing in (0, 2, 3, 5):
        frames[missing] = {}
    parsed = parse_ntu(ntu_text(frames).encode(), "skeleton", joints=4, bodies=1)
    np.testing.assert_allclose(parsed[:, 0, 0, 0], [1, 1, 2, 3, 4, 4])


def test_file_without_bodies_is_missing() -> None:
    """A valid file in which nobody is tracked is a missing modality, as in NTU's list of missing skeletons."""
    assert Skeleton(Skeleton.Options()).read({"skeleton": ntu_text([{}, {}]).encode()}) is None


def walk(num_frames: int, start: float = 0.0) -> np.ndarray:
    """float [T, J, 3]: a chain of joints that goes 2 cm to the right in each frame, 3 m before the camera."""
    along = np.broadcast_to(0.3 * np.arange(4)[None], (num_frames, 4))
    right = start + 0.02 * np.arange(num_frames)[:, None] + 0.1 * along
    return np.stack([right, along, np.full_like(right, 3.0)], axis=2)


def test_one_person_with_several_ids_is_one_body() -> None:
    """Ids that take turns are joined, over gaps too, each with the nearest that follows; ids that overlap are not."""
    one, other = walk(60), walk(60, start=2.0) + np.array([0, 0.2, 0])
    frames: list[dict[int, np.ndarray]] = [{} for _ in range(60)]
    for frame in range(60):
        if not 20 <= frame < 25:
            frames[frame][FIRST if frame < 20 else SECOND if frame < 40 else THIRD] = one[frame]
    alone = parse_ntu(ntu_text(frames).encode(), "skeleton", joints=4, bodies=2)
    np.testing.assert_allclose(alone, one[:, None], atol=1e-6)
    for frame in range(60):
        frames[frame][FIRST + 100 + (frame >= 40)] = other[frame]  # both get new ids in frame 40
    both = parse_ntu(ntu_text(frames).encode(), "skeleton", joints=4, bodies=4)
    assert both.shape[1] == 2
    for expected in (one, other):
        assert min(np.abs(both[:, body] - expected).max() for body in range(2)) < 1e-6


def test_a_body_that_appears_elsewhere_is_another_one() -> None:
    """A chair that was tracked before the person came is not the person's past."""
    chair = np.ones((4, 3)) * np.array([4.0, 0, 3])
    frames = [{SECOND: chair} if frame < 5 else {FIRST: pose} for frame, pose in enumerate(walk(30))]
    parsed = parse_ntu(ntu_text(frames).encode(), "skeleton", joints=4, bodies=1)
    np.testing.assert_allclose(parsed[5:, 0], walk(30)[5:], atol=1e-6)
    np.testing.assert_allclose(parsed[:5, 0], walk(30)[5:6].repeat(5, 0), atol=1e-6)


def test_zeros_of_joints_that_were_not_tracked_are_gaps() -> None:
    """Frames and joints of zeros are interpolated, the padding of an array's end is cut; in text as in arrays."""
    whole = walk(20)
    holed = whole.copy()
    holed[5:8], holed[10:12, 2] = 0, 0
    padded = np.concatenate([holed, np.zeros((80, 4, 3))])
    np.testing.assert_allclose(parse(npy(padded), "npy", 4, 2), whole[:, None], atol=1e-12)
    text = ntu_text([{FIRST: pose} for pose in holed])
    np.testing.assert_allclose(parse_ntu(text.encode(), "skeleton", 4, 2), whole[:, None], atol=1e-6)
    second = np.stack([whole, np.where(np.arange(20)[:, None, None] < 10, whole + 1, 0)], axis=1)
    held = parse(npy(second), "npy", 4, 2)[:, 1]
    np.testing.assert_allclose(held, np.concatenate([whole[:10] + 1, (whole[9:10] + 1).repeat(10, 0)]))
    assert parse(npy(np.zeros((9, 4, 3))), "npy", 4, 1).shape[1] == 0
    assert Skeleton(Skeleton.Options(joints=4, bones=PAIRS)).read({"npy": npy(np.zeros((9, 4, 3)))}) is None


def test_zeros_that_are_places_stay() -> None:
    """The centre of centred data, and a pen that goes through the origin, are data."""
    for root in range(4):
        for centred in (waving(1) - waving(1)[:, root : root + 1], waving(1) - waving(1)[:1, root : root + 1]):
            np.testing.assert_array_equal(parse(npy(centred), "npy", 4, 1, root=root)[:, 0], centred)
    pen = np.array([[-1.0, 1], [0, 0], [1, 0.5], [0, 0]])[:, None]
    np.testing.assert_array_equal(parse(npy(pen), "npy", 1, 1)[:, 0], pen)


def test_a_joint_that_was_never_tracked_is_an_error() -> None:
    """Nothing can be interpolated from, so that the message names the joint."""
    poses = walk(9)
    poses[:, 2] = 0
    with pytest.raises(DataError, match=r"zeros for joints \[2\] in all 9 frames"):
        parse(npy(poses), "npy", 4, 1)


@pytest.mark.parametrize("order", ["TVC", "CTV", "TCV", "TMVC", "CTVM", "MTVC", "TVCM", "MCTV", "CTMV"])
def test_usual_orders_of_axes_are_recognised(order: str) -> None:
    """The same joints in any of the field's orders are the same x, by the shape or by the option."""
    poses = np.stack([waving(0), waving(1)], axis=1)  # [T, M, V, C]
    letters = "TMVC" if "M" in order else "TVC"
    poses = poses if "M" in order else poses[:, :1]
    stored = np.ascontiguousarray((poses if "M" in order else poses[:, 0]).transpose([letters.index(c) for c in order]))
    for axes in ("auto", order):
        np.testing.assert_array_equal(parse(npy(stored), "npy", 4, 2, axes=axes, dims=3), poses)


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((3, 3, 4, 2), "auto", r"fits \[frames, bodies, joints, coordinates\] and \[coordinates, "
         r"frames, joints, bodies\]; set the option `axes` to 'TMVC' or 'CTVM'"),
        ((4, 60, 3), "auto", "it may be .joints, frames, coordinates.: then set the option `axes` to 'VTC'"),
        ((60, 12), "auto", r"reshape it to \[frames, 4 joints, 3 coordinates\]"),
        ((3, 300, 5, 2), "auto", "set the option `joints`"),
        ((3, 60, 4, 2), "TVC", r"expected an array \[frames, joints, coordinates\] with 4 joints"),
        ((30_000, 4, 3), "auto", "at most 20000 frames, got 30000; raise the option `max_frames`"),
    ],
)  # fmt: skip
def test_other_shapes_are_named(shape: tuple[int, ...], axes: str, message: str) -> None:
    """What is not clear is an error that says what fits, and by which option it is read."""
    with pytest.raises(DataError, match=message):
        parse(npy(np.ones(shape, dtype=np.float32)), "npy", 4, 2, axes=axes)


@pytest.mark.parametrize(
    ("field", "data", "message"),
    [
        ("skeleton", b"1000000000\n" + b"0\n" * 50, "line 1: expected at most 20000 frames, got 1000000000"),
        ("skeleton", b"9" * 100_000, "line 1: expected a number, got a word of 100000 characters"),
        ("skeleton", b"1\n" + b"1 " * 400_000 + b"1" * 1_000_000, "a word of 1000000 characters"),
        ("skeleton", b"1\n" * 17_000_000, "at most 32 MB, got 34.0 MB; raise the option `max_megabytes`"),
        ("skeleton.json", b"[" * 33_000_000, "at most 32 MB"),
        ("skeleton.json", b'{"a":' * 1_000_000, "JSON lists"),
        ("skeleton.json", b"[[[1,2," + b"9" * 100_000 + b"]]]", "JSON lists"),
    ],
)  # fmt: skip
def test_declared_and_real_sizes_are_bounded(field: str, data: bytes, message: str) -> None:
    """Huge counts, words, files and depths are refused before memory or minutes go into them."""
    with pytest.raises(DataError, match=message):
        parse(data, field, 4, 1)


def test_many_ids_are_refused() -> None:
    """A file with a new body in each frame is none of a sensor's."""
    text = ntu_text([{FIRST + frame: pose} for frame, pose in enumerate(walk(300))])
    with pytest.raises(DataError, match="at most 256 bodies"):
        parse_ntu(text.encode(), "skeleton", 4, 1)


def damaged(**changes: str) -> bytes:
    """Four frames of two joints (lines 1 to 21) with some lines replaced; the key is "line" and its number."""
    lines = ntu_text([{FIRST: pose} for pose in waving(0, 4, 2)]).split("\r\n")
    for name, line in changes.items():
        lines[int(name.removeprefix("line")) - 1] = line
    return "\n".join(lines).encode()


GOOD = damaged()


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (b"\x00\xff" * 50, 1, "expected a number"),
        (GOOD[: len(GOOD) // 2], 13, "a body in frame 2, a line of 10 values, got 1"),
        (GOOD[:-60], 20, "a line of 12 values"),
        (GOOD[: GOOD.rindex(b"0")], 21, "a line of 12 values"),
        (GOOD + b"1\n", 22, "1 more lines"),
        (damaged(line1="0"), 1, "at least one frame"),
        (damaged(line1="3"), 17, "5 more lines"),
        (damaged(line1="5"), 22, "number of bodies in frame 4"),
        (damaged(line1="1e3"), 1, "whole number"),
        (damaged(line1="-4"), 1, "whole number"),
        (damaged(line2="99999999999"), 7, "a body in frame 0, a line of 10 values, got 1"),
        (damaged(line4=""), 4, "number of joints in frame 0"),
        (damaged(line6="1 2 3"), 6, "got 3"),
        (damaged(line4="25"), 4, "expected 2 joints, got 25; set the option `joints`"),
        (damaged(line5="0.1 nan 2 0 0 0 0 0 0 0 0 2"), 5, "finite"),
        (damaged(line11="0.1 0.x 2 0 0 0 0 0 0 0 0 2"), 11, "expected a number, got '0.x'"),
        (damaged(line7="2"), 12, "a body in frame 1"),
        (damaged(line7="two"), 7, "expected a number, got 'two'"),
        (damaged(line7="2.0"), 7, "whole number"),
    ],
)
def test_damaged_text_is_a_data_error(data: bytes, line: int, message: str) -> None:
    """The message states the problem and its line."""
    with pytest.raises(DataError, match=message) as caught:
        parse_ntu(data, "skeleton", joints=2, bodies=1)
    assert f"line {line}:" in str(caught.value)


class Trap:
    """Fails the test if it is ever unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was loaded",)


def huge_header() -> bytes:
    """A .npy file of a few bytes that claims to hold terabytes."""
    return npy(np.zeros((2, 4, 3))).replace(b"(2, 4, 3), }      ", b"(2000000000,4,3),}")


@pytest.mark.parametrize(
    ("field", "data", "message"),
    [
        ("npy", npy(np.array([Trap()], dtype=object), allow_pickle=True), "numbers"),
        ("npy", pickle.dumps(Trap()), "expected a .npy file"),
        ("npy", huge_header(), "as long as its header says"),
        ("npy", npy(waving(0))[:-5], "as long as its header says"),
        ("npy", npy(waving(0)[0]), "expected an array"),
        ("npy", npy(waving(0, joints=5)), "set the option `joints`"),
        ("npy", npy(np.zeros((0, 4, 3))), "expected an array"),
        ("npy", npy(np.full((2, 4, 3), np.nan)), "frame 0, body 0, joint 0"),
        ("npy", npy(waving(0)[..., :2]), "expected 3 coordinates"),
        ("skeleton.json", b"[[[1, 2, 3], [1, 2]]]", "JSON lists"),
        ("skeleton.json", b'{"label": 3}', "skeletons"),
        ("skeleton.json", b"[" * 100_000, "JSON lists"),
        ("skeleton.json", b"[[[1, 2, null]]]", "expected an array"),
        ("skeleton.json", b"[[[1" + b"0" * 400 + b", 2, 3]]]", "JSON lists"),
        ("skeleton.json", b'"text"', "JSON lists"),
    ],
)
def test_hostile_arrays_are_data_errors(field: str, data: bytes, message: str) -> None:
    """No array is unpickled or allocated beyond the file; other shapes and values are reported."""
    with pytest.raises(DataError, match=message):
        Skeleton(Skeleton.Options(joints=4, bones=PAIRS)).read({field: data})


def test_arrays_and_json_read_alike() -> None:
    """The same joints as an array, as nested lists and under "skeletons" are the same x."""
    skeleton = Skeleton(Skeleton.Options(frames=6, joints=4, bones=PAIRS))
    poses = waving(2)
    files = {
        "npy": [npy(poses), npy(poses[:, None]), npy(np.asfortranarray(poses))],
        "skeleton.json": [json.dumps(poses.tolist()).encode(), json.dumps({"skeletons": poses.tolist()}).encode()],
    }
    for field, contents in files.items():
        for data in contents:
            x = skeleton.read({field: data})
            assert x is not None
            torch.testing.assert_close(x, skeleton.read({"npy": npy(poses)}))


def test_absent_body_is_skipped() -> None:
    """A body of zeros is absent; the other bodies of the array keep their order."""
    poses = waving(0)
    bodies = np.stack([np.zeros_like(poses), poses, 2 * poses], axis=1)
    np.testing.assert_array_equal(parse(npy(bodies), "npy", 4, 1), bodies[:, 1:2])
    np.testing.assert_array_equal(parse(npy(bodies), "npy", 4, 3), bodies[:, 1:])
    skeleton = Skeleton(Skeleton.Options(joints=4, bodies=3, bones=PAIRS))
    x = skeleton.read({"npy": npy(bodies)})
    assert x is not None
    assert not x[:, 2].any()


@pytest.mark.parametrize("centre", ["first_frame", "every_frame", "none"])
def test_centre(centre: str) -> None:
    """The first root is at the origin in the first frame, in all, or where it was; bodies keep their distance."""
    poses = waving(3)
    bodies = np.stack([poses, poses + 1], axis=1)
    skeleton = Skeleton(Skeleton.Options(frames=12, joints=4, bodies=2, bones=PAIRS, root=3, centre=centre))  # type: ignore[arg-type]
    x = skeleton.read({"npy": npy(bodies)})
    assert x is not None
    expected = {"first_frame": poses - poses[0, 3], "every_frame": poses - poses[:, 3:], "none": poses}[centre]
    np.testing.assert_allclose(x[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(x[:, 1] - x[:, 0], 1, atol=1e-6)


@pytest.mark.parametrize("degrees", [0, 37, 90, 180, 290])
def test_facing_takes_the_side_away_from_which_a_body_was_seen(degrees: float) -> None:
    """Bodies turned about the vertical axis read alike, with the first frame's line along the first coordinate."""
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    bodies = np.stack([waving(3), waving(4) + 1], axis=1)
    skeleton = Skeleton(Skeleton.Options(frames=12, joints=4, bodies=2, bones=PAIRS, facing=(1, 3)))
    straight, turned = (skeleton.read({"npy": npy(poses)}) for poses in (bodies, bodies @ rotation))
    assert straight is not None
    torch.testing.assert_close(turned, straight, atol=1e-5, rtol=0)
    line = straight[0, 0, 3] - straight[0, 0, 1]
    across = bodies[0, 0, 3] - bodies[0, 0, 1]
    torch.testing.assert_close(line, torch.tensor([np.hypot(across[0], across[2]), across[1], 0]), check_dtype=False)


def test_facing_leaves_a_body_without_direction_as_it_is() -> None:
    """Joints above each other do not say where a body faces."""
    poses = waving(2)
    poses[0, 3] = poses[0, 1] + np.array([0, 0.4, 0])
    plain, faced = (
        Skeleton(Skeleton.Options(frames=12, joints=4, bones=PAIRS, facing=facing)) for facing in ((), (1, 3))
    )
    torch.testing.assert_close(faced.read({"npy": npy(poses)}), plain.read({"npy": npy(poses)}))


def test_interpolate_is_linear_and_holds_its_ends() -> None:
    """Between positions the line, outside the nearest value."""
    at, wanted = np.array([1, 2, 5]), np.array([0, 1, 1.5, 3, 5, 9])
    values = np.array([10.0, 20.0, 50.0])[:, None]
    np.testing.assert_allclose(interpolate(values, at, wanted)[:, 0], [10, 10, 15, 30, 50, 50])


# Options, likelihood, drawing.


@pytest.mark.parametrize(
    ("options", "message"),
    [({"joints": 20}, "choose `bones` to match `joints`"), ({"root": 25}, "0 to 24"), ({"bones": "coco"}, "nw-ucla"),
     ({"bones": ((0, 1, 2),)}, "pairs"), ({"fields": ("txt",)}, "skeleton"), ({"dims": 4}, "2 to 3"),
     ({"width": 12}, "multiple of 8"), ({"frames": 3}, "at least 4"), ({"centre": "hip"}, "first_frame"),
     ({"facing": (4,)}, "two different joints"), ({"facing": (4, 25)}, "of 0 to 24"),
     ({"facing": (4, 8), "dims": 2}, "expected dims 3"), ({"axes": "TVX"}, "order of the letters"),
     ({"max_frames": 0}, "at least 1"), ({"max_megabytes": 0}, "above 0")],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    """Options out of range say what was expected."""
    with pytest.raises(ValueError, match=message):
        Skeleton.Options(**options)


def test_log_prob_is_in_metres() -> None:
    """What fit learned changes how networks see x, not the unit of its density."""
    skeleton = Skeleton(Skeleton.Options(frames=4, joints=4, bones=PAIRS, width=16, scale=0.1))
    skeleton.fit([{"npy": npy(waving(index))} for index in range(4)])
    likelihood = skeleton.decoder(3)(torch.randn(2, 3))
    x = likelihood.mode().detach()
    expected = -x[0].numel() * (np.log(0.1) + 0.5 * np.log(2 * np.pi))
    np.testing.assert_allclose(likelihood.log_prob(x).detach(), expected, rtol=1e-4)


def test_fit_needs_a_sample() -> None:
    """A training set without this modality is an error instead of giving the mean of nothing."""
    with pytest.raises(DataError, match="training sample"):
        Skeleton(Skeleton.Options()).fit([{"txt": b"a"}])


@pytest.mark.parametrize(("bones", "joints"), [(NTU, 25), (NW_UCLA, 20)])
def test_bones_reach_every_joint(bones: Any, joints: int) -> None:
    """A named skeleton is a tree over all joints."""
    assert len(bones) == joints - 1
    reached = {0}
    for bone in bones:
        assert bone.start in reached
        reached.add(bone.end)
    assert reached == set(range(joints))


def test_drawing_is_upright() -> None:
    """x is to the right and y up, and the person's left is blue, the right red."""
    joints = np.zeros((1, 1, 25, 3))
    joints[..., 3, 1] = 1.0
    joints[..., 4:8, 0], joints[..., 8:12, 0] = 1.0, -1.0
    picture = draw_clip(joints, NTU, 96)[0].astype(int)
    dark = np.argwhere(picture.sum(2) < 300)
    assert dark[:, 0].min() < 40
    blue = np.argwhere(picture[..., 2] - picture[..., 0] > 100)
    red = np.argwhere(picture[..., 0] - picture[..., 2] > 100)
    assert blue[:, 1].mean() > 48 > red[:, 1].mean()


# Real files.


def real(name: str) -> bytes:
    """A file of NTU RGB+D, or a skip where there is none."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; set SHALA_DATA")
    return (DATA / "ntu" / f"{name}.skeleton").read_bytes()


def naive_bodies(data: bytes) -> dict[str, list[list[list[float]]]]:
    """Body id to its joints frame by frame, read line by line."""
    lines = iter(data.decode().splitlines())
    bodies: dict[str, list[list[list[float]]]] = {}
    for _ in range(int(next(lines))):
        for _ in range(int(next(lines))):
            body = bodies.setdefault(next(lines).split()[0], [])
            body.append([[float(word) for word in next(lines).split()[:3]] for _ in range(int(next(lines)))])
    return bodies


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["S001C001P001R001A001", "S001C001P001R001A011", "S002C001P003R001A003"])
def test_real_file(name: str) -> None:
    """One person: the joints are those of an independent parse of the text."""
    data = real(name)
    (expected,) = naive_bodies(data).values()
    parsed = parse_ntu(data, "skeleton", joints=25, bodies=2)
    np.testing.assert_array_equal(parsed, np.array(expected)[:, None])


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["S001C003P008R002A058", "S017C003P020R002A054"])
def test_real_file_of_two_bodies(name: str) -> None:
    """Two persons: both are there in full, the one that moves more first, and the same file read for one keeps one."""
    data = real(name)
    expected = sorted(naive_bodies(data).values(), key=lambda body: -np.array(body).var(axis=0).sum())
    assert len(expected) == 2
    parsed = parse_ntu(data, "skeleton", joints=25, bodies=2)
    np.testing.assert_array_equal(parsed, np.stack([np.array(body) for body in expected], axis=1))
    np.testing.assert_array_equal(parse_ntu(data, "skeleton", joints=25, bodies=1), parsed[:, :1])
    x = Skeleton(Skeleton.Options(bodies=3)).read({"skeleton": data})
    assert x is not None
    assert x[:, 1].any()
    assert not x[:, 2].any()


class RealTestSuite(TestSkeleton):
    """The contract suite's checks under the options that the real NTU files ask for."""

    __test__ = False
    options: ClassVar = {"frames": 8, "bodies": 2, "width": 32}

    def sample_fields(self, index: int) -> dict[str, bytes]:
        return {"skeleton": real(("S001C001P001R001A001", "S001C003P008R002A058")[index % 2])}


@pytest.mark.real_data
def test_damaged_real_files() -> None:
    """Damaged copies of real recordings, of one and of two bodies, end in joints or in a DataError."""
    suite = RealTestSuite()
    suite.check_damage([suite.sample_fields(index) for index in range(2)])


@pytest.mark.real_data
def test_real_files_survive_writing() -> None:
    """What is written of a real recording reads as the same joints."""
    RealTestSuite().test_write_and_read_again()


class TestAugmentation:
    """What `augment` keeps of a body."""

    def clips(self, count=32):
        x = torch.randn(count, 6, 2, 4, 3, generator=torch.Generator().manual_seed(0))
        x[::2, :, 1] = 0
        return x

    def test_turning_keeps_heights_and_distances(self):
        """The vertical coordinate, all distances and the first root stay; absent bodies stay zeros."""
        x = self.clips()
        modality = Skeleton(frames=6, joints=4, bodies=2, bones=PAIRS, root=2, augment={"turn_degrees": 90.0})
        turned = modality.augment(x, Draws(seed=0, num_rows=len(x)))
        assert (turned - x).abs().amax((1, 2, 3, 4)).min() > 0.01
        assert torch.equal(turned[::2, :, 1], x[::2, :, 1])
        torch.testing.assert_close(turned[:, 0, 0, 2], x[:, 0, 0, 2])
        torch.testing.assert_close(turned[..., 1], x[..., 1])
        for bodies in (slice(0, 1), slice(0, 2)):
            rows = slice(1, None, 2) if bodies == slice(0, 2) else slice(None)
            before, after = x[rows, :, bodies].flatten(2, 3), turned[rows, :, bodies].flatten(2, 3)
            torch.testing.assert_close(torch.cdist(after, after), torch.cdist(before, before), atol=1e-4, rtol=1e-4)

    def test_scaling_is_of_the_whole_clip(self):
        x = self.clips()
        modality = Skeleton(frames=6, joints=4, bodies=2, bones=PAIRS, augment={"scale": 0.3})
        scaled = modality.augment(x, Draws(seed=0, num_rows=len(x)))
        before, after = x[:, :, 0] - x[:, :1, 0, :1], scaled[:, :, 0] - scaled[:, :1, 0, :1]
        factor = (after * before).sum((1, 2, 3)) / before.square().sum((1, 2, 3))
        torch.testing.assert_close(after, factor[:, None, None, None] * before, atol=1e-4, rtol=1e-4)
        assert 0.7 <= factor.min() < 0.8
        assert 1.2 < factor.max() <= 1.3

    def test_jitter_is_for_the_encoder_alone(self):
        x = self.clips()
        modality = Skeleton(frames=6, joints=4, bodies=2, bones=PAIRS, augment={"jitter": 0.1})
        draws = Draws(seed=0, num_rows=len(x))
        assert torch.equal(modality.augment(x, draws), x)
        noise = modality.corrupt(x, draws) - x
        assert torch.equal(noise[::2, :, 1], torch.zeros_like(noise[::2, :, 1]))
        assert 0.09 < float(noise[:, :, 0].std()) < 0.11

    def test_time_is_stretched_linearly(self):
        """A joint that moves evenly still does, from within the first cut to within the last."""
        x = torch.linspace(0, 1, 11).view(1, 11, 1, 1, 1).expand(32, -1, 1, 4, 3)
        modality = Skeleton(frames=11, joints=4, bones=PAIRS, augment={"time": 0.25})
        slowed = modality.augment(x, Draws(seed=0, num_rows=32))[:, :, 0, 0, 0]
        steps = slowed.diff(dim=1)
        torch.testing.assert_close(steps, steps.mean(1, keepdim=True).expand_as(steps), atol=1e-5, rtol=0)
        assert 0 <= slowed[:, 0].min() < 0.1
        assert 0.15 < slowed[:, 0].max() <= 0.25
        assert 0.75 <= slowed[:, -1].min() < slowed[:, -1].max() <= 1

    def test_turning_in_the_plane_is_refused(self):
        with pytest.raises(ValueError, match="expected dims 3 with augment"):
            Skeleton(dims=2, augment={"turn_degrees": 10.0})
