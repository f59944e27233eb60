"""A synthetic stand-in for NTU RGB+D, which may not be redistributed: same fields and formats, generated motion.

A sample shows a random person, one of a split's subjects, performing one of twelve NTU actions. Joints and RGB clip
show one motion through one camera. Every sample depends only on the seed, its split and its index.
"""

import json
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from shala_datasets.appearance import Background, Outfit
from shala_datasets.body import Body, FloatArray, joint_positions
from shala_datasets.camera import Viewpoint, to_depth_pixels, to_pixels
from shala_datasets.motion import ACTIONS, Performance, add_sway
from shala_datasets.ntu_actions import ACTION_NAMES, action_label
from shala_datasets.ntu_protocols import NTU120_TRAIN_SUBJECTS, NUM_SUBJECTS, NTUKey, held_out_subjects
from shala_datasets.rendering import encode_avi, render
from shala_datasets.skeleton_text import skeleton_text
from shala_framework.plugin import Account, DataError, Dataset, Sample, at_least, between

FRAMES_PER_SECOND = 16
SPLITS: tuple[str, ...] = ("train", "validation", "test")
_VALIDATION = held_out_subjects(NTU120_TRAIN_SUBJECTS, 0.2)
SUBJECTS: dict[str, tuple[int, ...]] = {
    "train": tuple(sorted(NTU120_TRAIN_SUBJECTS - _VALIDATION)),
    "validation": tuple(sorted(_VALIDATION)),
    "test": tuple(sorted(frozenset(range(1, NUM_SUBJECTS[120] + 1)) - NTU120_TRAIN_SUBJECTS)),
}
"""Subjects of each split, those of NTU RGB+D 120's cross-subject protocol."""
_ACTION_NUMBERS = tuple(ACTIONS)
_CAMERA_DEGREES = 10.0
_PERSON_STREAM, _MISSING_STREAM, _SAMPLE_STREAM = 0, 1, 2


def _check_size(_: Any, __: Any, size: int) -> None:
    if not 16 <= size <= 2_048 or size % 2:
        raise ValueError(f"expected an even number of at least 16 and at most 2048, got {size!r}")


@attrs.frozen(kw_only=True, eq=False)
class Scene:
    """The content of one sample, before it is encoded.

    Attributes:
        key: NTU numbers of action, subject and camera.
        joints: Camera coordinates of the 25 joints [T, 25, 3], in metres.
    """

    key: NTUKey
    body: Body
    outfit: Outfit
    background: Background
    performance: Performance
    viewpoint: Viewpoint
    mirrored: bool
    joints: FloatArray


class NTUSynthetic(Dataset):
    """Generated samples with the fields skeleton, avi and json, in the formats of NTU RGB+D."""

    synthetic = True
    needs_source = False

    @attrs.frozen(kw_only=True)
    class Options:
        """Number and properties of the samples.

        Attributes:
            train: Number of training samples.
            validation: Number of validation samples.
            test: Number of test samples.
            seed: Seed of every random draw.
            frames: Number of frames of a performance, at 16 frames per second.
            rgb_stride: Interval between the frames that the RGB clip shows; it has 16 / rgb_stride frames per second.
            size: Height and width of the RGB clip, in pixels.
            rgb_missing: Share of the training samples without an RGB clip. Validation and test samples are complete,
                because inferred modalities are compared with real ones.
            skeleton_missing: Share of the training samples without a skeleton. No sample lacks both.
        """

        train: int = attrs.field(default=3000, validator=at_least(0, at_most=100_000_000))
        validation: int = attrs.field(default=300, validator=at_least(0, at_most=100_000_000))
        test: int = attrs.field(default=300, validator=at_least(0, at_most=100_000_000))
        seed: int = attrs.field(default=0, validator=at_least(0, at_most=2**63 - 1))
        frames: int = attrs.field(default=32, validator=at_least(2, at_most=10_000))
        rgb_stride: int = attrs.field(default=1, validator=between(1, FRAMES_PER_SECOND))
        size: int = attrs.field(default=64, validator=_check_size)
        rgb_missing: float = attrs.field(default=0.0, validator=between(0, 1))
        skeleton_missing: float = attrs.field(default=0.0, validator=between(0, 1))

        def __attrs_post_init__(self) -> None:
            if self.rgb_missing + self.skeleton_missing > 1:
                total = self.rgb_missing + self.skeleton_missing
                raise ValueError(f"expected rgb_missing + skeleton_missing of at most 1, got {total:g}")

    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield the samples of "train", "validation" and "test". The actions take turns.

        Args:
            source: None, because nothing is read.
            account: Receives notes and what is left out.

        Raises:
            DataError: A folder is given.
        """
        if source is not None:
            raise DataError(f"{source}: expected no folder, because ntu-synthetic generates its samples")
        for split in SPLITS:
            for index in range(getattr(self.options, split)):
                yield self.sample(split, index)

    def sample(self, split: str, index: int) -> Sample:
        """Generate one sample, independently of all others and of their number."""
        options = self.options
        scene = self.scene(split, index)
        fields: dict[str, bytes] = {}
        has_skeleton, has_rgb = self._presence(split, index)
        if has_rgb:
            joints = scene.joints[:: options.rgb_stride]
            frames = render(joints, scene.body, scene.outfit, scene.background, options.size)
            fields["avi"] = encode_avi(frames, Fraction(FRAMES_PER_SECOND, options.rgb_stride))
        fields["json"] = json.dumps(self._facts(scene, index), sort_keys=True).encode()
        if has_skeleton:
            depth, colour = to_depth_pixels(scene.joints), to_pixels(scene.joints, options.size)
            fields["skeleton"] = skeleton_text(scene.joints, depth, colour, body_id=scene.key.subject)
        label = action_label(scene.key.action)
        return Sample(key=f"synthetic_{scene.key}_{index:06d}", split=split, fields=fields, label=label)

    def scene(self, split: str, index: int) -> Scene:
        """Choose person, action and viewpoint of one sample."""
        seed, split_number = self.options.seed, SPLITS.index(split)
        rng = np.random.default_rng((seed, _SAMPLE_STREAM, split_number, index))
        action = _ACTION_NUMBERS[index % len(_ACTION_NUMBERS)]
        subject = int(rng.choice(SUBJECTS[split]))
        person = np.random.default_rng((seed, _PERSON_STREAM, subject))
        body, outfit = Body.random(person), Outfit.random(person, rng)
        performance = Performance.random(rng, self.options.frames, FRAMES_PER_SECOND)
        viewpoint = Viewpoint.random(rng)
        mirrored = bool(rng.uniform() < 0.5)
        pose = ACTIONS[action](performance)
        pose = add_sway(pose.mirrored() if mirrored else pose, performance.seconds, rng)
        joints = viewpoint.to_camera(joint_positions(body, pose, self.options.frames), 0.5 * body.height)
        # NTU's camera 1 is in the middle, 2 and 3 are at the sides.
        camera = 1 if math.fabs(viewpoint.yaw) < _CAMERA_DEGREES else 2 if viewpoint.yaw > 0 else 3
        return Scene(
            key=NTUKey(setup=1, camera=camera, subject=subject, replication=1, action=action),
            body=body,
            outfit=outfit,
            background=Background.random(rng, outfit),
            performance=performance,
            viewpoint=viewpoint,
            mirrored=mirrored,
            joints=joints,
        )

    def _presence(self, split: str, index: int) -> tuple[bool, bool]:
        """Return whether a sample has a skeleton and whether it has an RGB clip. The motion does not depend on it."""
        if split != "train":
            return True, True
        draw = np.random.default_rng((self.options.seed, _MISSING_STREAM, index)).uniform()
        rgb_missing = draw < self.options.rgb_missing
        return rgb_missing or draw >= self.options.rgb_missing + self.options.skeleton_missing, not rgb_missing

    def _facts(self, scene: Scene, index: int) -> dict[str, Any]:
        performance = scene.performance
        return {
            "synthetic": True,
            **attrs.asdict(scene.key),
            "action_name": ACTION_NAMES[scene.key.action - 1],
            "seed": self.options.seed,
            "index": index,
            "frames_per_second": FRAMES_PER_SECOND,
            "mirrored": scene.mirrored,
            "height": round(scene.body.height, 4),
            "yaw": round(scene.viewpoint.yaw, 3),
            "pitch": round(scene.viewpoint.pitch, 3),
            "position": [round(value, 4) for value in scene.viewpoint.position],
            "tempo": round(performance.tempo, 4),
            "phase": round(performance.phase, 4),
            "reach": round(performance.reach, 4),
            "onset": round(performance.onset, 4),
            "span": round(performance.span, 4),
            "direction": performance.direction,
        }
