"""The joints that each bone connects, and the side of the body it belongs to."""

import itertools
from typing import Literal

import attrs

Side = Literal["torso", "left", "right"]


@attrs.frozen
class Bone:
    """A line between two joints, given by their indices."""

    start: int
    end: int
    side: Side = "torso"


def _limb(side: Side, *joints: int) -> tuple[Bone, ...]:
    return tuple(Bone(start, end, side) for start, end in itertools.pairwise(joints))


# Kinect v2: 0 spine base, 1 spine middle, 2 neck, 3 head, 4-7 left arm, 8-11 right arm, 12-15 left leg, 16-19 right
# leg, 20 spine at the shoulders, 21 and 22 tip and thumb of the left hand, 23 and 24 of the right hand.
NTU = (
    *_limb("torso", 0, 1, 20, 2, 3),
    *_limb("left", 20, 4, 5, 6, 7, 21),
    *_limb("left", 7, 22),
    *_limb("right", 20, 8, 9, 10, 11, 23),
    *_limb("right", 11, 24),
    *_limb("left", 0, 12, 13, 14, 15),
    *_limb("right", 0, 16, 17, 18, 19),
)

# Kinect v1: 0 hip centre, 1 spine, 2 shoulder centre, 3 head, then arms and legs in the order of Kinect v2.
NW_UCLA = (
    *_limb("torso", 0, 1, 2, 3),
    *_limb("left", 2, 4, 5, 6, 7),
    *_limb("right", 2, 8, 9, 10, 11),
    *_limb("left", 0, 12, 13, 14, 15),
    *_limb("right", 0, 16, 17, 18, 19),
)

NAMED_BONES = {"ntu": NTU, "nw-ucla": NW_UCLA}


def bone_list(bones: str | tuple[tuple[int, int], ...]) -> tuple[Bone, ...]:
    """Return the bones of a named skeleton, or of pairs of joint indices."""
    if isinstance(bones, str):
        return NAMED_BONES[bones]
    return tuple(Bone(start, end) for start, end in bones)
