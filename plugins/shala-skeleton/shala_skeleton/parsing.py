"""Files of joints to arrays: NTU RGB+D's .skeleton text, .npy arrays and JSON lists.

Shapes: T frames, P bodies (persons), J joints, C coordinates.
"""

import itertools
import json

import attrs
import numpy as np

from shala_framework import DataError, decode_npy

BODY_VALUES = 10  # id, clipped edges, four hand values, restriction, lean x and y, tracking state
JOINT_VALUES = 12  # x y z in metres, depth x y, colour x y, orientation w x y z, tracking state
FORMATS = ("skeleton", "npy", "json")


def parse(data: bytes, field: str, joints: int, bodies: int) -> np.ndarray:
    """Parse a file by the last part of its field's name: "skeleton", "npy" or "json".

    Args:
        data: The file.
        field: Name of its field, such as "skeleton.json".
        joints: Number of joints that each body must have.
        bodies: Most bodies to return. Of an array these are the first that are not all zeros, of an NTU file those
            that `parse_ntu` prefers.

    Returns:
        float64 array [T, P, J, C] without gaps, P at most `bodies`, and 0 where the file is sound but tracks nobody.

    Raises:
        DataError: The file is not of that format, is cut short, or has another number of joints.
    """
    if not data:
        raise DataError(f"field {field!r}: expected joints, got 0 bytes; was the shard written completely?")
    if field.endswith("skeleton"):
        return parse_ntu(data, field, joints, bodies)
    array = decode_npy(data, field) if field.endswith("npy") else _load_json(data, field)
    one_body = array.ndim == 3
    if one_body:
        array = array[:, None]
    if array.ndim != 4 or 0 in array.shape or array.shape[2] != joints:
        raise DataError(
            f"field {field!r}: expected an array [frames, {joints} joints, coordinates], or with bodies after frames, "
            f"got shape {list(array.shape)}; set the option `joints` to what the files hold"
        )
    if not np.isfinite(array).all():
        frame, body, joint, _ = np.argwhere(~np.isfinite(array))[0]
        raise DataError(
            f"field {field!r}: expected finite coordinates, got {array[frame, body, joint].tolist()} "
            f"at frame {frame}, body {body}, joint {joint}; interpolate missing joints first"
        )
    present = [body for body in range(array.shape[1]) if one_body or array[:, body].any()]
    return array[:, present[:bodies]].astype(np.float64)


@attrs.define
class _Track:
    """One body id: the frames that it was seen in, and its joints [J, 3] there."""

    frames: list[int] = attrs.field(factory=list)
    joints: list[np.ndarray] = attrs.field(factory=list)

    def motion(self) -> float:
        """Variance of the joints over time, summed over joints and coordinates, in square metres."""
        return float(np.stack(self.joints).var(axis=0).sum())

    def filled(self, num_frames: int) -> np.ndarray:
        """Joints [T, J, 3] in all frames: interpolated between frames that lack the body, held at both ends."""
        return interpolate(np.stack(self.joints), np.array(self.frames), np.arange(num_frames))


@attrs.define
class _Lines:
    """The lines of a .skeleton file as words, the numbers they spell, and how far they have been read."""

    words: list[list[bytes]]
    values: np.ndarray
    starts: list[int]
    field: str
    position: int = 0

    def count(self, what: str) -> int:
        """Take a line that is one whole number."""
        self._expect(self.position, 1, what)
        word = self.words[self.position][0]
        if not word.isdigit():
            raise self.problem(self.position, f"expected {what}, a whole number", word[:40].decode(errors="replace"))
        self.position += 1
        return int(word)

    def take(self, rows: int, columns: int, what: str) -> np.ndarray:
        """Take `rows` lines of `columns` finite values."""
        for index in range(self.position, self.position + rows):
            self._expect(index, columns, what)
        start = self.starts[self.position]
        taken = self.values[start : start + rows * columns].reshape(rows, columns)
        if not np.isfinite(taken[:, :3]).all():
            index = self.position + int(np.argwhere(~np.isfinite(taken[:, :3]))[0, 0])
            raise self.problem(index, f"expected finite values of {what}", "nan or inf")
        self.position += rows
        return taken

    def _expect(self, index: int, columns: int, what: str) -> None:
        if index >= len(self.words):
            raise self.problem(index, f"expected {what}", "the end of the file")
        if len(self.words[index]) != columns:
            raise self.problem(index, f"expected {what}, a line of {columns} values", str(len(self.words[index])))

    def problem(self, index: int, expected: str, got: str) -> DataError:
        return DataError(
            f"field {self.field!r}, line {index + 1}: {expected}, got {got}; "
            f"the file is damaged or no NTU .skeleton file: copy it again or leave it out"
        )


def parse_ntu(data: bytes, field: str, joints: int, bodies: int) -> np.ndarray:
    """Parse NTU RGB+D's text format: [T, P, J, 3] in metres, P at most `bodies`.

    A file has a track for each body id. Kept are those with most frames, and of equally long ones those that move
    most: Kinect also tracks furniture, which does not. The one that moves most comes first. A body that is not seen
    in some frames is interpolated there.

    Raises:
        DataError: A number is missing, superfluous or none, or a body has another number of joints.
    """
    lines = _split(data, field)
    tracks: dict[bytes, _Track] = {}
    num_frames = lines.count("the number of frames")
    if num_frames == 0:
        raise lines.problem(0, "expected at least one frame", "0")
    for frame in range(num_frames):
        for _ in range(lines.count(f"the number of bodies in frame {frame}")):
            header = lines.position
            lines.take(1, BODY_VALUES, f"a body in frame {frame}")
            # Ids exceed 2 ** 53: as floats, neighbouring ones would be the same body.
            body_id = lines.words[header][0]
            got = lines.count(f"the number of joints in frame {frame}")
            if got != joints:
                raise DataError(
                    f"field {field!r}, line {header + 2}: expected {joints} joints, got {got}; "
                    f"set the option `joints` to what the files hold"
                )
            track = tracks.setdefault(body_id, _Track())
            if track.frames and track.frames[-1] == frame:
                raise lines.problem(header, f"expected each body once in frame {frame}", f"{body_id.decode()} again")
            track.frames.append(frame)
            track.joints.append(lines.take(joints, JOINT_VALUES, f"{joints} joints in frame {frame}")[:, :3])
    if lines.position != len(lines.words):
        extra = len(lines.words) - lines.position
        raise lines.problem(lines.position, f"expected the end after {num_frames} frames", f"{extra} more lines")
    if not tracks:
        return np.zeros((num_frames, 0, joints, 3))
    kept = sorted(tracks.values(), key=lambda track: (-len(track.frames), -track.motion()))[:bodies]
    kept.sort(key=lambda track: -track.motion())
    return np.stack([track.filled(num_frames) for track in kept], axis=1)


def _split(data: bytes, field: str) -> _Lines:
    words = [line.split() for line in data.rstrip().split(b"\n")]
    starts = [0, *itertools.accumulate(map(len, words))]
    try:
        values = np.array([word for line in words for word in line], dtype="S").astype(np.float64)
    except ValueError:
        lines = _Lines(words, np.empty(0), starts, field)
        index, word = next((i, word) for i, line in enumerate(words) for word in line if not _is_number(word))
        raise lines.problem(index, "expected a number", repr(word[:40].decode(errors="replace"))) from None
    return _Lines(words, values, starts, field)


def _is_number(word: bytes) -> bool:
    try:
        np.array([word], dtype="S").astype(np.float64)
    except ValueError:
        return False
    return True


def _load_json(data: bytes, field: str) -> np.ndarray:
    """Nested lists of numbers, or an object that holds them under "skeletons"."""
    try:
        content = json.loads(data)
        if isinstance(content, dict):
            content = content["skeletons"]
        return np.array(content, dtype=np.float64)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise DataError(
            f"field {field!r}: expected JSON lists of numbers [frames, joints, coordinates], or an object with them "
            f'under "skeletons", got {len(data)} bytes starting with {data[:8]!r} ({type(error).__name__}: {error})'
        ) from error


def interpolate(values: np.ndarray, at: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Linear interpolation along the first axis, held before the first and after the last position.

    Args:
        values: Array [N, ...].
        at: Increasing positions [N] of values.
        wanted: Positions [M].

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
