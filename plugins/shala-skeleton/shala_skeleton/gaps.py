"""Find frames and joints that were not tracked, which arrays mark by zeros, and fill them.

Shapes: T frames, P bodies (persons), J joints, C coordinates.
"""

import numpy as np

from shala_framework.plugin import DataError

# Distances as a share of a body's size. The origin may lie this far outside the other joints and still be the position
# of a joint, or of the root, at which data are centred and which may be the end of a limb.
MARGIN, ROOT_MARGIN = 0.25, 1.0


def fill_gaps(joints_TPJC: np.ndarray, field: str, root: int = 0) -> np.ndarray:
    """Fill what an array marks as not tracked by zeros, and cut the frames that pad its end.

    A frame of a body has no data if all its values are zero. A joint has no data if it is at the origin while the rest
    of its body is elsewhere. Both are interpolated over time and held at the ends. A joint at the origin counts as a
    joint if its body surrounds the origin, as in centred data. Frames after the last frame with a body are padding. For
    a single joint, the origin is a position like any other.

    Args:
        joints_TPJC: The stored array.
        field: Name of its field, for error messages.
        root: Joint that is likely to be at the origin in centred data.

    Returns:
        Array [T, P, J, C] of the bodies that are seen, with fewer frames if the end was padded.

    Raises:
        DataError: A joint of a body is not tracked in any frame.
    """
    if joints_TPJC.shape[2] == 1:
        present = [body for body in range(joints_TPJC.shape[1]) if joints_TPJC[:, body].any()]
        return joints_TPJC[:, present] if joints_TPJC.shape[1] > 1 else joints_TPJC
    seen_TP: np.ndarray = np.any(joints_TPJC, axis=(2, 3))
    (frames,) = np.nonzero(seen_TP.any(axis=1))
    if not len(frames):
        return joints_TPJC[:, :0]
    joints_TPJC, seen_TP = joints_TPJC[: frames[-1] + 1], seen_TP[: frames[-1] + 1]
    bodies = []
    for body in np.nonzero(seen_TP.any(axis=0))[0]:
        (at,) = np.nonzero(seen_TP[:, body])
        bodies.append(fill_body(joints_TPJC[at, body], at, len(joints_TPJC), field, root))
    return np.stack(bodies, axis=1)


def fill_body(seen_NJC: np.ndarray, at: np.ndarray, num_frames: int, field: str, root: int = 0) -> np.ndarray:
    """Return a body's joints in all frames.

    Args:
        seen_NJC: Its joints in the N frames that have it.
        at: Those frames, ascending.
        num_frames: Total number of frames T.
        field: Name of the field, for error messages.
        root: Joint that is likely to be at the origin in centred data.

    Returns:
        Array [T, J, C], interpolated where the body or a joint was not tracked, and held at both ends.

    Raises:
        DataError: A joint is not tracked in any frame.
    """
    lost_NJ = lost_joints(seen_NJC, root)
    wanted = np.arange(num_frames)
    if not lost_NJ.any():
        return seen_NJC if len(at) == num_frames else interpolate(seen_NJC, at, wanted)
    never = np.nonzero(lost_NJ.all(axis=0))[0].tolist()
    if never:
        raise DataError(
            f"field {field!r}: expected each joint to be tracked in some frame, got zeros for joints {never} in all "
            f"{len(at)} frames of a body that is elsewhere; leave the file out, or remove these joints from all files"
        )
    filled_TJC = np.empty((num_frames, *seen_NJC.shape[1:]))
    for joint in range(seen_NJC.shape[1]):
        known = ~lost_NJ[:, joint]
        filled_TJC[:, joint] = interpolate(seen_NJC[known, joint], at[known], wanted)
    return filled_TJC


def lost_joints(seen_NJC: np.ndarray, root: int = 0) -> np.ndarray:
    """Return which joints are zeros because data are missing: bool [N, J].

    Args:
        seen_NJC: Joints of one body in frames that have it.
        root: Joint that is likely to be at the origin in centred data.
    """
    zero_NJ: np.ndarray = ~np.any(seen_NJC, axis=2)
    margin_J = np.full(zero_NJ.shape[1], MARGIN)
    margin_J[root] = ROOT_MARGIN
    (frames,) = np.nonzero(zero_NJ.any(axis=1))
    for frame in frames:
        others = seen_NJC[frame][~zero_NJ[frame]]
        low_C, high_C = others.min(axis=0), others.max(axis=0)
        away = max(low_C.max(), (-high_C).max())  # distance of the origin from the box around the other joints
        zero_NJ[frame] &= away > margin_J * (high_C - low_C).max()
    return zero_NJ


def interpolate(values: np.ndarray, at: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Interpolate linearly along the first axis, and hold the values before the first and after the last position.

    Args:
        values: Array [N, ...].
        at: Ascending positions [N] of the values.
        wanted: Positions [M] to interpolate at.

    Returns:
        Array [M, ...].
    """
    if len(at) == 1:
        return np.repeat(values, len(wanted), axis=0)
    right = np.clip(np.searchsorted(at, wanted), 1, len(at) - 1)
    share = np.clip((wanted - at[right - 1]) / (at[right] - at[right - 1]), 0, 1)
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    interpolated: np.ndarray = values[right - 1] * (1 - share) + values[right] * share
    return interpolated
