"""Parse files of joints: NTU RGB+D's .skeleton text, .npy arrays and JSON lists.

Shapes: T frames, P bodies (persons), J joints, C coordinates.
"""

import itertools
import json

import attrs
import numpy as np

from shala_framework.plugin import DataError, decode_npy
from shala_skeleton.axes import to_frames_first
from shala_skeleton.bodies import Track, join_tracks
from shala_skeleton.gaps import fill_body, fill_gaps
from shala_skeleton.gaps import interpolate as interpolate

BODY_VALUES = 10  # id, clipped edges, four hand values, restriction, lean x and y, tracking state
JOINT_VALUES = 12  # x y z in metres, depth x y, colour x y, orientation w x y z, tracking state
FORMATS = ("skeleton", "npy", "json")
MAX_FRAMES, MAX_MEGABYTES = 20_000, 32  # an NTU file has some hundred frames and a few megabytes
_MOST_IDS = 256  # number of bodies in a file; a Kinect tracks six at a time
_LONGEST_WORD = 64  # characters of a number


def parse(
    data: bytes,
    field: str,
    joints: int,
    bodies: int,
    *,
    axes: str = "auto",
    dims: int = 1,
    root: int = 0,
    max_frames: int = MAX_FRAMES,
    max_megabytes: float = MAX_MEGABYTES,
) -> np.ndarray:
    """Parse a file according to the last part of its field's name: "skeleton", "npy" or "json".

    Args:
        data: Bytes of the file.
        field: Name of its field, such as "skeleton.json".
        joints: Number of joints that each body must have.
        bodies: Largest number of bodies to return: of an array the first ones that are seen, of an NTU file the ones
            that `parse_ntu` prefers.
        axes: Order of an array's axes, or "auto" to recognise it.
        dims: Number of wanted coordinates, with which "auto" distinguishes orders.
        root: Joint that is likely to be at the origin in centred data.
        max_frames: Largest number of frames of a file.
        max_megabytes: Largest size of a file.

    Returns:
        float64 array [T, P, J, C] without gaps. P is at most `bodies`, and 0 if the file is valid but nobody is
        tracked.

    Raises:
        DataError: The file does not have that format, is truncated or too large, or has another number of joints.
    """
    if not data:
        raise DataError(f"field {field!r}: expected joints, got 0 bytes; was the shard written completely?")
    if len(data) > max_megabytes * 1_000_000:
        raise DataError(
            f"field {field!r}: expected a file of at most {max_megabytes:g} MB, got {len(data) / 1_000_000:.1f} MB; "
            f"raise the option `max_megabytes` if that is right"
        )
    if field.endswith("skeleton"):
        return parse_ntu(data, field, joints, bodies, max_frames)
    array = decode_npy(data, field) if field.endswith("npy") else _load_json(data, field)
    array = to_frames_first(array, joints, axes, field, dims)
    if len(array) > max_frames:
        raise DataError(f"field {field!r}: {_too_many(max_frames, len(array))}")
    if not np.isfinite(array).all():
        frame, body, joint, _ = np.argwhere(~np.isfinite(array))[0]
        raise DataError(
            f"field {field!r}: expected finite coordinates, got {array[frame, body, joint].tolist()} "
            f"at frame {frame}, body {body}, joint {joint}; interpolate missing joints first"
        )
    return fill_gaps(array.astype(np.float64), field, root)[:, :bodies]


def _too_many(max_frames: int, got: int) -> str:
    return f"expected at most {max_frames} frames, got {got}; raise the option `max_frames` if that is right"


@attrs.define
class _Lines:
    """The lines of a .skeleton file as words, their numbers, and the position of the next line."""

    words: list[list[bytes]]
    values: np.ndarray
    starts: list[int]
    field: str
    position: int = 0

    def count(self, what: str) -> int:
        """Read a line with one whole number."""
        self._expect(self.position, 1, what)
        word = self.words[self.position][0]
        if not word.isdigit():
            raise self.problem(self.position, f"expected {what}, a whole number", word[:40].decode(errors="replace"))
        self.position += 1
        return int(word)

    def take(self, rows: int, columns: int, what: str) -> np.ndarray:
        """Read `rows` lines of `columns` finite values."""
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
            f"the file is damaged or not an NTU .skeleton file: copy it again or leave it out"
        )


def parse_ntu(data: bytes, field: str, joints: int, bodies: int, max_frames: int = MAX_FRAMES) -> np.ndarray:
    """Parse NTU RGB+D's text format: [T, P, J, 3] in metres, P at most `bodies`.

    A file has one track per body id, and `join_tracks` joins those of one person. The tracks with the most frames are
    kept, and of equally long ones those that move most, because Kinect also tracks furniture, which does not move. The
    track that moves most comes first. A body that is not seen in some frames is interpolated there, and so is a joint
    of zeros. A body of zeros counts as absent.

    Raises:
        DataError: A number is missing, superfluous or not a number, a body has another number of joints, or there are
            too many frames.
    """
    lines = _split(data, field)
    tracks: dict[bytes, Track] = {}
    num_frames = lines.count("the number of frames")
    if num_frames == 0:
        raise lines.problem(0, "expected at least one frame", "0")
    if num_frames > max_frames:
        raise DataError(f"field {field!r}, line 1: {_too_many(max_frames, num_frames)}")
    for frame in range(num_frames):
        in_frame: set[bytes] = set()
        for _ in range(lines.count(f"the number of bodies in frame {frame}")):
            header = lines.position
            lines.take(1, BODY_VALUES, f"a body in frame {frame}")
            # Ids exceed 2 ** 53; converted to floats, neighbouring ids would become equal.
            body_id = lines.words[header][0]
            got = lines.count(f"the number of joints in frame {frame}")
            if got != joints:
                raise DataError(
                    f"field {field!r}, line {header + 2}: expected {joints} joints, got {got}; "
                    f"set the option `joints` to what the files hold"
                )
            if body_id in in_frame:
                raise lines.problem(header, f"expected each body once in frame {frame}", f"{body_id.decode()} again")
            in_frame.add(body_id)
            taken = lines.take(joints, JOINT_VALUES, f"{joints} joints in frame {frame}")[:, :3]
            if not taken.any():
                continue
            track = tracks.setdefault(body_id, Track())
            if len(tracks) > _MOST_IDS:
                raise lines.problem(header, f"expected at most {_MOST_IDS} bodies", "another one")
            track.frames.append(frame)
            track.joints.append(taken)
    if lines.position != len(lines.words):
        extra = len(lines.words) - lines.position
        raise lines.problem(lines.position, f"expected the end after {num_frames} frames", f"{extra} more lines")
    if not tracks:
        return np.zeros((num_frames, 0, joints, 3))
    kept = sorted(join_tracks(tracks.values()), key=lambda track: (-len(track.frames), -track.motion()))[:bodies]
    kept.sort(key=lambda track: -track.motion())
    filled = [fill_body(np.stack(track.joints), np.array(track.frames), num_frames, field) for track in kept]
    return np.stack(filled, axis=1)


def _split(data: bytes, field: str) -> _Lines:
    words = [line.split() for line in data.rstrip().split(b"\n")]
    starts = [0, *itertools.accumulate(map(len, words))]
    for index, line in enumerate(words):  # first, as each entry of the array is as long as the longest word
        if max(map(len, line), default=0) > _LONGEST_WORD:
            raise _Lines(words, np.empty(0), starts, field).problem(
                index, "expected a number", f"a word of {max(map(len, line))} characters"
            )
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
    """Parse nested lists of numbers, or an object that holds them under "skeletons"."""
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
