"""Tracks of a skeleton file: the frames of one body id, and which tracks show the same person under different ids."""

from collections.abc import Iterable

import attrs
import numpy as np

NEAR_METRES = 1.5  # distance that a person's centre may seem to jump when a sensor loses and finds it again
METRES_PER_FRAME = 0.1  # distance that it may move in each frame in between


@attrs.define
class Track:
    """One body: the frames in which it was seen, and its joints [J, 3] there, in metres."""

    frames: list[int] = attrs.field(factory=list)
    joints: list[np.ndarray] = attrs.field(factory=list)

    def motion(self) -> float:
        """Variance of the joints over time, summed over joints and coordinates, in square metres."""
        return float(np.stack(self.joints).var(axis=0).sum())

    def follow(self, later: "Track") -> None:
        """Append a later track of the same body."""
        self.frames += later.frames
        self.joints += later.joints


def join_tracks(tracks: Iterable[Track]) -> list[Track]:
    """Join tracks that show one person with a new id: they never overlap in time, and one begins where the other ended.

    If several tracks could follow a track, the nearest one does. A track that begins farther away than a person can get
    in the frames in between is another body.

    Args:
        tracks: Tracks, each with at least one frame.

    Returns:
        The remaining tracks, in order of their first frame.
    """
    ordered = sorted(tracks, key=lambda track: track.frames[0])
    starts = np.array([track.frames[0] for track in ordered])
    ends = np.array([track.frames[-1] for track in ordered])
    first_NC = np.array([track.joints[0].mean(axis=0) for track in ordered])
    last_NC = np.array([track.joints[-1].mean(axis=0) for track in ordered])
    gap_NN = starts[None] - ends[:, None]
    distance_NN = np.linalg.norm(last_NC[:, None] - first_NC[None], axis=2)
    near_NN = (gap_NN > 0) & (distance_NN <= NEAR_METRES + METRES_PER_FRAME * gap_NN)
    cost_NN = distance_NN + METRES_PER_FRAME * gap_NN
    pairs = np.argwhere(near_NN)
    follower: dict[int, int] = {}
    led: set[int] = set()
    for before, after in pairs[np.argsort(cost_NN[near_NN], kind="stable")].tolist():
        if before not in follower and after not in led:
            follower[before] = after
            led.add(after)
    kept = []
    for index, track in enumerate(ordered):
        if index in led:
            continue
        kept.append(track)
        while index in follower:
            index = follower[index]
            track.follow(ordered[index])
    return kept
