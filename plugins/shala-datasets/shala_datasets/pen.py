"""Digits as pen movements: the trajectories of Pen-Based Recognition of Handwritten Digits, and a film of the writing.

Shapes: N trajectories, T = 8 points of each, C = 2 coordinates, F frames.

Reference: Alimoglu and Alpaydin 1996, "Methods of combining multiple classifiers based on different representations
for pen-based handwriting recognition".
"""

import itertools
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from shala_datasets.files import lines_of, printable, read
from shala_framework.plugin import DataError, encode_npy

LAYOUT = "pendigits/ with pendigits.tra and pendigits.tes (archive.ics.uci.edu/dataset/81)"
NUM_POINTS = 8
_LARGEST = 100  # largest value of a coordinate
_MARGIN = 3.5  # pixels between the trajectory and the frame's edge, for the pen's width
_PEN_RADIUS = 1.15  # pixels
PAPER = 255
INKS = ((32, 32, 38), (24, 58, 168), (176, 28, 40), (14, 108, 62), (112, 34, 142), (132, 72, 16))
"""Colours of the pen, all much darker than the paper."""


@attrs.frozen(kw_only=True, eq=False)
class Writings:
    """The rows of one file.

    Attributes:
        points_NTC: int array [N, 8, 2], x to the right and y up, 0 to 100. The points are evenly spaced along the
            joined strokes of the pen.
        labels: int array [N] of 0 to 9.
    """

    points_NTC: NDArray[np.int64]
    labels: NDArray[np.int64]


def read_pendigits(path: Path) -> Writings:
    """Read pendigits.tra or pendigits.tes.

    Raises:
        DataError: The file is missing, or a line does not consist of eight points and a digit.
    """
    values = []
    for number, line in enumerate(lines_of(read(path)), 1):
        words = line.split(",")
        try:
            row = [int(word) for word in words]
        except ValueError:
            row = []
        if len(row) != 2 * NUM_POINTS + 1 or not all(0 <= value <= _LARGEST for value in row) or row[-1] > 9:
            raise DataError(
                f"{printable(path)}, line {number}: expected {NUM_POINTS} points x, y of 0 to {_LARGEST} and a digit, "
                f"{2 * NUM_POINTS + 1} whole numbers with commas between, got {line[:60]!r}"
            )
        values.append(row)
    if not values:
        raise DataError(f"{printable(path)}: expected a line for each trajectory, got an empty file")
    table = np.array(values)
    return Writings(points_NTC=table[:, :-1].reshape(-1, NUM_POINTS, 2), labels=table[:, -1])


def trajectory(points_TC: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the points as a moving skeleton with one joint: float32 [T, 1, C] in [-1, 1], y up."""
    return (points_TC[:, None] / (0.5 * _LARGEST) - 1).astype(np.float32)


def trajectory_npy(points_TC: NDArray[np.int64]) -> bytes:
    """Encode `trajectory` as a .npy file."""
    return encode_npy(trajectory(points_TC))


def to_pixels(points_TC: NDArray[np.int64], side: int) -> NDArray[np.float64]:
    """Return the positions of the points in a frame: float64 [T, C], column and row. The first pixel is from 0 to 1."""
    columns, rows = points_TC[:, 0] / _LARGEST, 1 - points_TC[:, 1] / _LARGEST
    return _MARGIN + np.stack([columns, rows], axis=1) * (side - 2 * _MARGIN)


def film(points_TC: NDArray[np.int64], ink: tuple[int, int, int], num_frames: int, side: int) -> NDArray[np.uint8]:
    """Draw a film of the writing pen: antialiased straight lines from point to point, with equal time for each.

    Args:
        points_TC: One trajectory of `Writings`.
        ink: Colour of the pen.
        num_frames: Number of frames, at least 2. The first shows where the pen sets down, the last shows everything.
        side: Height and width of a frame, in pixels.

    Returns:
        uint8 RGB array [F, side, side, 3].
    """
    pixels_TC = to_pixels(points_TC, side)
    centres = np.arange(side) + 0.5
    grid = np.stack(np.meshgrid(centres, centres), axis=-1)
    num_lines = len(pixels_TC) - 1
    lines = list(itertools.pairwise(pixels_TC))
    whole = [_distance(grid, start, end) for start, end in lines]
    written = np.hypot(*np.moveaxis(grid - pixels_TC[0], -1, 0))
    frames = np.empty((num_frames, side, side, 3), np.uint8)
    done = 0
    for frame in range(num_frames):
        progress = frame * num_lines / (num_frames - 1)
        while done < int(progress):
            written = np.minimum(written, whole[done])
            done += 1
        distance = written
        if done < num_lines:
            start, end = lines[done]
            distance = np.minimum(written, _distance(grid, start, start + (progress - done) * (end - start)))
        cover = np.clip(_PEN_RADIUS + 0.5 - distance, 0, 1)[..., None]
        frames[frame] = np.round(PAPER + cover * (np.array(ink) - PAPER))
    return frames


def _distance(grid: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance [H, W] of each pixel's centre from the line between two points, which may coincide."""
    along = end - start
    share = np.clip((grid - start) @ along / max(float(along @ along), 1e-9), 0, 1)
    away = grid - start - share[..., None] * along
    distance: NDArray[np.float64] = np.hypot(away[..., 0], away[..., 1])
    return distance
