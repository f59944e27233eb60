"""Find when frames are shown, and which frames are on screen at evenly spaced moments."""

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np

ROUNDING_SECONDS: Final = 1e-3  # some containers round time stamps to milliseconds
MOST_REORDERED: Final = 16  # frames between decoding and display order, the most that H.264 allows


def shown_times(stamps: Sequence[int | None], tick_seconds: float) -> np.ndarray:
    """Return the times in seconds at which frames appear, in ascending order.

    Packets come in decoding order, and FFmpeg invents stamps for AVI files in which neighbours may be swapped, so both
    are sorted. A step back that is larger than any codec's reordering is a restart, as in joined recordings, and the
    following frames continue after the frame before it. A frame without a stamp follows its neighbour at the usual
    interval. If most frames have no stamp, all frames are spaced evenly.

    Args:
        stamps: Presentation time of each frame or packet, in ticks.
        tick_seconds: Length of a tick.

    Returns:
        float64 [number of frames], from any start.
    """
    times = np.array(stamps, dtype=np.float64)  # None becomes NaN
    absent = np.isnan(times)
    num_absent = np.count_nonzero(absent)
    if 2 * num_absent > len(times) or num_absent == len(times):
        return np.arange(len(times), dtype=np.float64)
    intervals = np.diff(times[~absent] if num_absent else times)
    if num_absent or (len(intervals) and intervals.min() < 0):
        forward = np.sort(intervals[intervals > 0])
        usual = float(forward[len(forward) // 2]) if len(forward) else 1.0
        times = _in_order(_bridged(times, usual) if num_absent else times, usual)
    return times * tick_seconds


def _bridged(times: np.ndarray, usual: float) -> np.ndarray:
    filled: list[float] = []
    for time in times.tolist():
        filled.append(time if time == time else filled[-1] + usual if filled else 0.0)  # NaN differs from itself
    return np.array(filled)


def _in_order(times: np.ndarray, usual: float) -> np.ndarray:
    restarts = np.flatnonzero(np.diff(times) < -MOST_REORDERED * usual) + 1
    parts = [np.sort(part) for part in np.split(times, restarts)]
    for before, part in itertools.pairwise(parts):
        part += before[-1] + usual - part[0]
    return np.concatenate(parts)


def shown_at_even_moments(times: np.ndarray, count: int) -> list[int]:
    """Return the frames on screen at `count` moments, evenly spaced from the first frame's time to the last one's.

    Args:
        times: Time in seconds at which each frame appears, ascending; at least one.
        count: Number of moments. A single one is in the middle.

    Returns:
        `count` indices of frames; each is the latest frame that has appeared by that moment.
    """
    first, last = float(times[0]), float(times[-1])
    share = np.arange(count) / (count - 1) if count > 1 else np.array([0.5])
    slack = min(ROUNDING_SECONDS, (last - first) / (4 * max(len(times) - 1, 1)))
    indices: list[int] = (np.searchsorted(times, first + share * (last - first) + slack, "right") - 1).tolist()
    return indices
