"""A human body of 25 Kinect v2 joints: proportions, joint angles, and the forward kinematics between them.

Body axes: x towards the person's right, y up, z backwards, in metres. A person who faces the camera therefore needs no
rotation to Kinect's camera coordinates, where x grows to the right of the (mirrored) picture and z away from the
camera. Angles written in the code are in degrees.

Shapes: T frames, J = 25 joints.
"""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Angle = float | FloatArray

JOINT_NAMES: tuple[str, ...] = (
    "spine base", "spine mid", "neck", "head",
    "left shoulder", "left elbow", "left wrist", "left hand",
    "right shoulder", "right elbow", "right wrist", "right hand",
    "left hip", "left knee", "left ankle", "left foot",
    "right hip", "right knee", "right ankle", "right foot",
    "spine shoulder", "left hand tip", "left thumb", "right hand tip", "right thumb",
)  # fmt: skip
NUM_JOINTS = len(JOINT_NAMES)
BONES: tuple[tuple[int, int], ...] = (
    (0, 1), (1, 20), (20, 2), (2, 3), (20, 4), (4, 5), (5, 6), (6, 7), (7, 21), (7, 22), (20, 8), (8, 9), (9, 10),
    (10, 11), (11, 23), (11, 24), (0, 12), (12, 13), (13, 14), (14, 15), (0, 16), (16, 17), (17, 18), (18, 19),
)  # fmt: skip
_LEFT, _RIGHT = -1, 1


@attrs.frozen(kw_only=True)
class Body:
    """Proportions of one person in metres; bone lengths unless stated otherwise.

    Attributes:
        height: Distance from the floor to the top of the head.
        lower_spine: Distance from spine base to spine mid.
        upper_spine: Distance from spine mid to spine shoulder.
        neck: Distance from spine shoulder to neck.
        head: Distance from neck to the centre of the head.
        shoulder_width: Half the distance between the shoulders.
        hip_width: Half the distance between the hips.
        ankle_height: Height of the ankle above the floor when the foot is flat.
        girth: Thickness of limbs and torso relative to the average.
    """

    height: float
    lower_spine: float
    upper_spine: float
    neck: float
    head: float
    shoulder_width: float
    upper_arm: float
    forearm: float
    hand: float
    hip_width: float
    thigh: float
    shank: float
    foot: float
    ankle_height: float
    girth: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Body":
        """Draw a person 1.55 to 1.88 m tall whose proportions differ by a few percent from an average adult's."""
        height = float(rng.uniform(1.55, 1.88))
        average = {
            "lower_spine": 0.150, "upper_spine": 0.130, "neck": 0.040, "head": 0.085, "shoulder_width": 0.106,
            "upper_arm": 0.165, "forearm": 0.145, "hand": 0.045, "hip_width": 0.052, "thigh": 0.245, "shank": 0.246,
            "foot": 0.085, "ankle_height": 0.040,
        }  # fmt: skip
        lengths = {name: height * share * float(rng.uniform(0.94, 1.06)) for name, share in average.items()}
        return cls(height=height, girth=float(rng.uniform(0.85, 1.2)), **lengths)


@attrs.define(kw_only=True)
class Arm:
    """Angles of one arm. All zero is an arm that hangs down with the palm inwards.

    Attributes:
        lift: Elevation from hanging (0) over horizontal (90) to overhead (180).
        plane: Direction of the elevation: sideways (0), forwards (90) or across the body (above 90).
        twist: Outward rotation about its own axis. It turns the forearm of an arm held sideways from forwards (0) to up
            (90).
        elbow: Bend of the elbow; 0 is straight.
    """

    lift: Angle = 6.0
    plane: Angle = 20.0
    twist: Angle = 0.0
    elbow: Angle = 12.0


@attrs.define(kw_only=True)
class Leg:
    """Angles of one leg. All zero is a leg that is stretched down.

    Attributes:
        flexion: Forward angle of the thigh.
        abduction: Sideways angle of the thigh.
        knee: Bend of the knee; 0 is straight.
        planted: 1 keeps the foot flat; 0 holds it at a right angle to the shank.
    """

    flexion: Angle = 2.0
    abduction: Angle = 4.0
    knee: Angle = 4.0
    planted: Angle = 1.0


@attrs.define(kw_only=True)
class Pose:
    """Joint angles of a whole clip; each value is a number or an array [T].

    Attributes:
        lean: Forward lean of the torso.
        side: Lean of the torso to the person's right.
        turn: Rotation of the whole body about the vertical.
        twist: Rotation of the chest against the pelvis about the vertical.
        nod: Forward tilt of the head against the torso.
        hop: Height of the feet above the floor, in metres.
        left_load: Share of the weight on the left foot, 0 to 1. Feet that carry weight stay in place.
    """

    left_arm: Arm = attrs.field(factory=Arm)
    right_arm: Arm = attrs.field(factory=Arm)
    left_leg: Leg = attrs.field(factory=Leg)
    right_leg: Leg = attrs.field(factory=Leg)
    lean: Angle = 2.0
    side: Angle = 0.0
    turn: Angle = 0.0
    twist: Angle = 0.0
    nod: Angle = 0.0
    hop: Angle = 0.0
    left_load: Angle = 0.5

    def mirrored(self) -> "Pose":
        """Return the same motion with left and right exchanged."""
        return attrs.evolve(
            self,
            left_arm=self.right_arm,
            right_arm=self.left_arm,
            left_leg=self.right_leg,
            right_leg=self.left_leg,
            side=-self.side,
            turn=-self.turn,
            twist=-self.twist,
            left_load=1.0 - self.left_load,
        )


def rotation(axis: int, degrees: Angle, num_frames: int) -> FloatArray:
    """Return right-handed rotation matrices [T, 3, 3] about coordinate axis 0, 1 or 2."""
    angle = np.radians(degrees)
    following, last = (axis + 1) % 3, (axis + 2) % 3
    R_T33 = np.zeros((num_frames, 3, 3))
    R_T33[:, axis, axis] = 1.0
    R_T33[:, following, following] = R_T33[:, last, last] = np.cos(angle)
    R_T33[:, last, following] = np.sin(angle)
    R_T33[:, following, last] = -R_T33[:, last, following]
    return R_T33


def joint_positions(body: Body, pose: Pose, num_frames: int) -> FloatArray:
    """Forward kinematics: joints [T, 25, 3] in body axes.

    The floor is at y = 0, and the loaded feet are around x = z = 0.
    """

    def turned(axis: int, degrees: Any) -> FloatArray:
        return rotation(axis, degrees, num_frames)

    def along(R_T33: FloatArray, x: float, y: float, z: float) -> FloatArray:
        offset_T3: FloatArray = R_T33 @ np.array([x, y, z])
        return offset_T3

    joints_TJ3 = np.zeros((num_frames, NUM_JOINTS, 3))
    pelvis = turned(1, pose.turn)
    half_bend = turned(2, -0.5 * pose.side) @ turned(0, -0.5 * pose.lean)
    lower = pelvis @ half_bend
    chest = lower @ turned(1, pose.twist) @ half_bend
    joints_TJ3[:, 1] = along(lower, 0, body.lower_spine, 0)
    joints_TJ3[:, 20] = joints_TJ3[:, 1] + along(chest, 0, body.upper_spine, 0)
    joints_TJ3[:, 2] = joints_TJ3[:, 20] + along(chest, 0, body.neck, 0)
    joints_TJ3[:, 3] = joints_TJ3[:, 2] + along(chest @ turned(0, -pose.nod), 0, body.head, -0.02)

    arms = ((_LEFT, pose.left_arm, (4, 5, 6, 7, 21, 22)), (_RIGHT, pose.right_arm, (8, 9, 10, 11, 23, 24)))
    for side, arm, (shoulder, elbow, wrist, hand, tip, thumb) in arms:
        swing = turned(1, side * arm.plane) @ turned(2, side * arm.lift)
        upper = chest @ swing @ turned(1, -side * (arm.twist + arm.plane))
        fore = upper @ turned(0, arm.elbow)
        joints_TJ3[:, shoulder] = joints_TJ3[:, 20] + along(chest, side * body.shoulder_width, -0.03, 0)
        joints_TJ3[:, elbow] = joints_TJ3[:, shoulder] + along(upper, 0, -body.upper_arm, 0)
        joints_TJ3[:, wrist] = joints_TJ3[:, elbow] + along(fore, 0, -body.forearm, 0)
        joints_TJ3[:, hand] = joints_TJ3[:, wrist] + along(fore, 0, -body.hand, 0)
        joints_TJ3[:, tip] = joints_TJ3[:, hand] + along(fore, 0, -body.hand, 0)
        joints_TJ3[:, thumb] = joints_TJ3[:, hand] + along(fore, -0.3 * side * body.hand, -0.4 * body.hand, -0.03)

    legs = ((_LEFT, pose.left_leg, (12, 13, 14, 15)), (_RIGHT, pose.right_leg, (16, 17, 18, 19)))
    for side, leg, (hip, knee, ankle, foot) in legs:
        spread = pelvis @ turned(2, side * leg.abduction)
        thigh = spread @ turned(0, leg.flexion)
        shank = thigh @ turned(0, -leg.knee)
        sole = spread @ turned(1, -8.0 * side) @ turned(0, (1.0 - leg.planted) * (leg.flexion - leg.knee))
        joints_TJ3[:, hip] = along(pelvis, side * body.hip_width, -0.02, 0)
        joints_TJ3[:, knee] = joints_TJ3[:, hip] + along(thigh, 0, -body.thigh, 0)
        joints_TJ3[:, ankle] = joints_TJ3[:, knee] + along(shank, 0, -body.shank, 0)
        joints_TJ3[:, foot] = joints_TJ3[:, ankle] + along(sole, 0, -0.6 * body.ankle_height, -body.foot)

    return joints_TJ3 - _ground(body, pose, joints_TJ3)[:, None]


def _ground(body: Body, pose: Pose, joints_TJ3: FloatArray) -> FloatArray:
    """Return the point [T, 3] that stays at the origin: on the floor, below the feet in proportion to their weight."""
    left_load = np.broadcast_to(pose.left_load, len(joints_TJ3))[:, None]
    ground_T3 = left_load * joints_TJ3[:, 14] + (1.0 - left_load) * joints_TJ3[:, 18]
    ankles = joints_TJ3[:, (14, 18), 1] - body.ankle_height
    toes = joints_TJ3[:, (15, 19), 1] - 0.3 * body.ankle_height
    ground_T3[:, 1] = np.minimum(ankles.min(axis=1), toes.min(axis=1)) - pose.hop
    return ground_T3
