"""Twelve whole-body actions as joint-angle trajectories, each modelled on the NTU action with its number.

An action is a function from a Performance (timing, speed and extent of the motion) to a Pose of arrays over time. The
actions differ both in their joints and in clips of 16 frames of 48x48 pixels.

Shapes: T frames.
"""

from collections.abc import Callable

import attrs
import numpy as np

from shala_datasets.body import Angle, Arm, FloatArray, Leg, Pose


@attrs.frozen(kw_only=True)
class Performance:
    """How one clip performs an action.

    Attributes:
        seconds: Time of each frame, [T].
        clip_seconds: Length of the clip.
        tempo: Speed of repetitions relative to the action's usual speed.
        phase: Point in a repetition at which the clip starts, in [0, 1).
        reach: Size of the motion relative to the action's usual size.
        onset: Start of an action that is done once, as a share of the clip.
        span: Duration of such an action, as a share of the clip.
        direction: Sense of rotation of a circle, 1 or -1.
        elbow: Habitual bend of the elbows, in degrees.
    """

    seconds: FloatArray
    clip_seconds: float
    tempo: float
    phase: float
    reach: float
    onset: float
    span: float
    direction: int
    elbow: float

    @classmethod
    def random(cls, rng: np.random.Generator, num_frames: int, frames_per_second: float) -> "Performance":
        """Draw a performance within the range that still looks natural."""
        return cls(
            seconds=np.arange(num_frames) / frames_per_second,
            clip_seconds=num_frames / frames_per_second,
            tempo=float(rng.uniform(0.8, 1.25)),
            phase=float(rng.uniform(0, 1)),
            reach=float(rng.uniform(0.85, 1.12)),
            onset=float(rng.uniform(0.03, 0.22)),
            span=float(rng.uniform(0.5, 0.72)),
            direction=int(rng.choice((-1, 1))),
            elbow=float(rng.uniform(5, 25)),
        )

    def cycle(self, hertz: float) -> FloatArray:
        """Angle of a repetition at each frame, in radians."""
        return 2 * np.pi * (hertz * self.tempo * self.seconds + self.phase)

    def swing(self, hertz: float) -> FloatArray:
        """Repetition between -1 and 1."""
        return np.sin(self.cycle(hertz))

    def pulse(self, hertz: float) -> FloatArray:
        """Repetition between 0 and 1."""
        return 0.5 - 0.5 * np.cos(self.cycle(hertz))

    def progress(self) -> FloatArray:
        """Linear progress from 0 before the action to 1 after it."""
        return np.clip((self.seconds / self.clip_seconds - self.onset) / self.span, 0.0, 1.0)

    def once(self) -> FloatArray:
        """Smooth progress from 0 to 1."""
        return ease(self.progress())

    def there_and_back(self) -> FloatArray:
        """Smooth progress from 0 to 1 and back, with a short hold at 1."""
        progress = self.progress()
        return ease(np.clip(progress / 0.42, 0.0, 1.0)) * ease(np.clip((1.0 - progress) / 0.42, 0.0, 1.0))


def ease(progress: FloatArray) -> FloatArray:
    """Minimum-jerk profile of a reaching movement from 0 to 1.

    Reference: Flash and Hogan 1985, "The coordination of arm movements".
    """
    return progress**3 * (10.0 + progress * (6.0 * progress - 15.0))


def _crouch(depth: Angle, *, abduction: float = 8.0) -> tuple[Leg, Leg]:
    """Bend both knees and keep the feet below the hips. depth is the bend of the hips."""
    legs = (Leg(flexion=2.0 + depth, knee=4.0 + 1.9 * depth, abduction=abduction) for _ in range(2))
    return next(legs), next(legs)


def _seated(sitting: FloatArray, performance: Performance) -> Pose:
    left_leg = Leg(flexion=2.0 + 86.0 * sitting, knee=4.0 + 86.0 * sitting, abduction=9.0)
    arms = [Arm(lift=6.0 + 34.0 * sitting, plane=20.0 + 65.0 * sitting, elbow=12.0 + 38.0 * sitting) for _ in range(2)]
    lean = 2.0 + 4.0 * sitting + 30.0 * performance.reach * np.sin(np.pi * sitting)
    return Pose(
        left_arm=arms[0], right_arm=arms[1], left_leg=left_leg, right_leg=attrs.evolve(left_leg), lean=lean,
        nod=-0.4 * lean,
    )  # fmt: skip


def sit_down(performance: Performance) -> Pose:
    """Sit down from standing, hands on the thighs."""
    return _seated(performance.once(), performance)


def stand_up(performance: Performance) -> Pose:
    """Stand up from sitting."""
    return _seated(1.0 - performance.once(), performance)


def clapping(performance: Performance) -> Pose:
    """Open and close the forearms before the chest."""
    open_hands = performance.pulse(1.9)
    twist = -44.0 + 78.0 * performance.reach * open_hands
    arms = [Arm(lift=44.0, plane=72.0, twist=twist, elbow=88.0 + performance.elbow * 0.4) for _ in range(2)]
    return Pose(left_arm=arms[0], right_arm=arms[1], nod=4.0)


def cheer_up(performance: Performance) -> Pose:
    """Pump both arms overhead in a V while the knees bounce."""
    pump = performance.pulse(1.7)
    lift = 160.0 - 56.0 * performance.reach * pump
    arms = [Arm(lift=lift, plane=18.0, twist=70.0, elbow=8.0 + 72.0 * pump) for _ in range(2)]
    left_leg, right_leg = _crouch(14.0 * performance.reach * pump, abduction=11.0)
    return Pose(left_arm=arms[0], right_arm=arms[1], left_leg=left_leg, right_leg=right_leg, nod=-8.0)


def hand_waving(performance: Performance) -> Pose:
    """Sweep one raised forearm from side to side."""
    sweep = performance.swing(1.5)
    arm = Arm(lift=88.0, plane=12.0, twist=88.0, elbow=72.0 + 40.0 * performance.reach * sweep)
    return Pose(right_arm=arm, side=-2.0 + 2.0 * sweep)


def kicking_something(performance: Performance) -> Pose:
    """Draw one leg back and swing it forwards and up; the arms balance."""
    progress = performance.progress()
    back = np.sin(np.pi * np.clip(progress / 0.36, 0.0, 1.0)) ** 2
    kick = np.sin(np.pi * np.clip((progress - 0.26) / 0.74, 0.0, 1.0)) ** 2
    leg = Leg(
        flexion=2.0 - 30.0 * back + 88.0 * performance.reach * kick,
        knee=6.0 + 66.0 * back + 10.0 * kick,
        planted=1.0 - np.maximum(back, kick),
    )
    return Pose(
        right_leg=leg,
        left_leg=Leg(flexion=4.0, knee=10.0),
        left_arm=Arm(lift=14.0 + 46.0 * kick, plane=60.0, elbow=24.0),
        right_arm=Arm(lift=14.0 + 26.0 * back + 36.0 * kick, plane=-30.0, elbow=24.0),
        lean=4.0 + 8.0 * back - 16.0 * kick,
        left_load=1.0,
    )


def jump_up(performance: Performance) -> Pose:
    """Crouch, leap with the arms thrown up, and land."""
    progress = performance.progress()
    flight = np.clip((progress - 0.36) / 0.34, 0.0, 1.0)
    crouch = ease(np.clip(progress / 0.26, 0.0, 1.0)) * ease(np.clip((0.46 - progress) / 0.24, 0.0, 1.0))
    landing = np.sin(np.pi * np.clip((progress - 0.68) / 0.32, 0.0, 1.0)) ** 2
    throw = ease(np.clip((progress - 0.12) / 0.46, 0.0, 1.0)) * ease(np.clip((1.0 - progress) / 0.35, 0.0, 1.0))
    left_leg, right_leg = _crouch(46.0 * performance.reach * crouch + 26.0 * landing)
    arm = Arm(lift=6.0 - 20.0 * crouch + 118.0 * throw, plane=82.0, elbow=14.0 + 10.0 * throw)
    return Pose(
        left_arm=arm, right_arm=attrs.evolve(arm), left_leg=left_leg, right_leg=right_leg,
        lean=2.0 + 32.0 * crouch + 14.0 * landing, hop=0.24 * performance.reach * 4.0 * flight * (1.0 - flight),
    )  # fmt: skip


def bow(performance: Performance) -> Pose:
    """Bend the torso forwards from the hips and come up again, arms at the sides."""
    bend = performance.there_and_back()
    arm = Arm(lift=4.0 + 16.0 * bend, plane=80.0, elbow=10.0)
    return Pose(
        left_arm=arm, right_arm=attrs.evolve(arm), lean=2.0 + 78.0 * performance.reach * bend, nod=24.0 * bend
    )  # fmt: skip


def squat_down(performance: Performance) -> Pose:
    """Bend the knees deeply and stretch them again, both arms held out to the front."""
    depth = performance.there_and_back()
    left_leg, right_leg = _crouch(64.0 * performance.reach * depth, abduction=16.0)
    arm = Arm(lift=8.0 + 76.0 * depth, plane=84.0, elbow=10.0)
    return Pose(
        left_arm=arm, right_arm=attrs.evolve(arm), left_leg=left_leg, right_leg=right_leg, lean=2.0 + 22.0 * depth
    )  # fmt: skip


def arm_circles(performance: Performance) -> Pose:
    """Circle both straight arms through the whole plane before the body."""
    angle = np.degrees(performance.direction * performance.cycle(0.85))
    # In front of the torso throughout, both where the arms cross and where they are spread.
    arm = Arm(lift=angle, plane=34.0 * np.sin(np.radians(angle)), elbow=4.0 + 0.4 * performance.elbow)
    return Pose(left_arm=arm, right_arm=attrs.evolve(arm), left_leg=Leg(abduction=9.0), right_leg=Leg(abduction=9.0))


def run_on_the_spot(performance: Performance) -> Pose:
    """Raise knees and bent arms in turn."""
    stride = performance.swing(1.35)

    def leg(rise: FloatArray) -> Leg:
        return Leg(flexion=4.0 + 66.0 * performance.reach * rise**1.5, knee=8.0 + 86.0 * rise, planted=1.0 - rise)

    def arm(swing: FloatArray) -> Arm:
        return Arm(lift=4.0 + 38.0 * performance.reach * swing, plane=78.0, twist=-12.0, elbow=92.0 + 12.0 * swing)

    return Pose(
        left_leg=leg(0.5 + 0.5 * stride), right_leg=leg(0.5 - 0.5 * stride),
        left_arm=arm(-stride), right_arm=arm(stride), lean=7.0, twist=5.0 * stride,
    )  # fmt: skip


def side_kick(performance: Performance) -> Pose:
    """Draw one leg up and stretch it out to the side; the torso leans away from it."""
    lift = performance.there_and_back()
    leg = Leg(
        flexion=2.0 + 14.0 * lift * (1.0 - lift) * 4.0,
        abduction=4.0 + 74.0 * performance.reach * lift,
        knee=4.0 + 58.0 * 4.0 * lift * (1.0 - lift),
        planted=1.0 - lift,
    )
    guard = Arm(lift=14.0 + 12.0 * lift, plane=70.0, twist=-16.0, elbow=30.0 + 70.0 * lift)
    return Pose(
        right_leg=leg, left_leg=Leg(abduction=-2.0 * lift, knee=8.0), left_arm=guard, right_arm=attrs.evolve(guard),
        side=-26.0 * performance.reach * lift, left_load=1.0,
    )  # fmt: skip


ACTIONS: dict[int, Callable[[Performance], Pose]] = {
    8: sit_down,
    9: stand_up,
    10: clapping,
    22: cheer_up,
    23: hand_waving,
    24: kicking_something,
    27: jump_up,
    35: bow,
    80: squat_down,
    97: arm_circles,
    99: run_on_the_spot,
    102: side_kick,
}
"""Maps an NTU action number to its motion."""


def add_sway(pose: Pose, seconds: FloatArray, rng: np.random.Generator) -> Pose:
    """Add the small, slow movements of a person who tries to stand still: a few degrees, all different."""

    def drift(degrees: float) -> FloatArray:
        hertz = rng.uniform(0.15, 0.7, size=(2, 1))
        phases = rng.uniform(0, 2 * np.pi, size=(2, 1))
        angle: FloatArray = 0.5 * degrees * np.sin(2 * np.pi * hertz * seconds + phases).sum(axis=0)
        return angle

    def swayed(arm: Arm, lift: float) -> Arm:
        return attrs.evolve(arm, lift=arm.lift + lift + drift(3.0), elbow=np.maximum(arm.elbow + drift(4.0), 0.0))

    lifts = rng.uniform(-3.0, 5.0, size=2)
    return attrs.evolve(
        pose,
        left_arm=swayed(pose.left_arm, float(lifts[0])),
        right_arm=swayed(pose.right_arm, float(lifts[1])),
        lean=pose.lean + drift(2.5),
        side=pose.side + drift(2.0),
        turn=pose.turn + drift(3.0),
        twist=pose.twist + drift(3.0),
        nod=pose.nod + drift(5.0),
    )
