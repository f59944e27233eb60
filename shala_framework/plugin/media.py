"""Read and write media files, for all plugins of pictures, clips and sounds.

Writing: encodes frames and sounds as files that a browser opens (mp4, png, gif, wav). Equal input gives equal bytes.
    Reading: lists the containers of films, chooses the streams that a player would play, and detects truncated files.
"""

import io
import struct
import wave
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition, Stream
from PIL import Image

from shala_framework.support.errors import DataError

FILM_FIELDS: Final = (
    *("mp4", "avi", "mkv", "webm", "mov", "mpg"),
    *("mpeg", "m4v", "ts", "m2ts", "mts", "wmv", "asf", "flv", "ogv", "3gp", "vob"),
)  # sample fields that hold a film, with picture and sound, in order of preference
# FFmpeg's names of the containers that can hold both. FFmpeg also reads play lists and session descriptions, which
# refer to other files and hosts. Bytes from a shard must not choose what is opened.
FILM_CONTAINERS: Final = "mov,avi,matroska,mpeg,mpegts,asf,flv,ogg,nut,mxf,rm,dv"

NOT_PLAYED: Final = Disposition.attached_pic | Disposition.timed_thumbnails  # cover art, chapter marks
FOR_SOME: Final = (
    Disposition.comment | Disposition.hearing_impaired | Disposition.visual_impaired | Disposition.descriptions
)
LARGEST_LOSS = 0.1  # largest share of a file that may be missing at its end
UNKNOWN_SIZE = 0x7FFFF000  # programs that write RIFF to a pipe state sizes from here on, or 0

AnyStream = TypeVar("AnyStream", bound=Stream)

MP4_QUALITY = "18"  # constant rate factor of x264: 18 is visually lossless, 23 the default
# With the preset's own settings, libx264 did not always write the same bytes for the same frames, even on one thread.
# With all of these features off it did in every trial. We do not know which of them matters.
REPRODUCIBLE = "weightp=0:mbtree=0:aq-mode=0:rc-lookahead=0:bframes=0"


# PyAV before 19 fails on metadata that is not UTF-8 unless this option is set; later versions do not have the option.
_ANY_METADATA: Final[dict[str, Any]] = (
    {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}
)


def open_film(data: bytes, containers: str = FILM_CONTAINERS, **options: str) -> InputContainer:
    """Open a film or a sound for reading; the caller closes it.

    Args:
        data: Bytes of the file.
        containers: FFmpeg's names of the containers to accept.
        options: Further options of FFmpeg.

    Raises:
        av.error.FFmpegError: The file cannot be opened.
    """
    container: InputContainer = av.open(
        io.BytesIO(data), "r", options={"format_whitelist": containers, **options}, **_ANY_METADATA
    )
    return container


def encode_mp4(frames: np.ndarray, frames_per_second: float) -> bytes:
    """Encode a silent H.264 clip (yuv420p, which every browser plays).

    Args:
        frames: uint8 array [T, H, W, 3] of RGB. Odd sizes are padded to even ones by repeating the last row or column.
        frames_per_second: Playback rate, above 0.

    Raises:
        ValueError: The frames are not such an array.
    """
    _check_clip(frames)
    even = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(frames_per_second).limit_denominator(1001))
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # Use one thread: x264 divides rate control among threads, and the bytes would depend on the machine.
        stream.codec_context.thread_count = 1
        stream.options = {"crf": MP4_QUALITY, "preset": "veryfast", "threads": "1", "x264-params": REPRODUCIBLE}
        for frame in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def encode_wav(sound: np.ndarray, sample_rate_hz: int) -> bytes:
    """Encode a sound, float [N] in [-1, 1], as mono WAV with 16 bits."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(np.round(np.clip(sound, -1, 1) * 32_767).astype("<i2").tobytes())
    return buffer.getvalue()


def encode_png(frame: np.ndarray) -> bytes:
    """Encode a picture from a uint8 array [H, W, 3] of RGB or [H, W] of grey values.

    Raises:
        ValueError: The frame is not such an array.
    """
    if frame.dtype != np.uint8 or not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 3)):
        raise ValueError(f"expected a uint8 frame [H, W, 3] or [H, W], got {frame.dtype} {list(frame.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG")
    return buffer.getvalue()


def encode_gif(frames: np.ndarray, frames_per_second: float) -> bytes:
    """Encode an endlessly repeating animation with at most 256 colours per frame.

    Args:
        frames: uint8 array [T, H, W, 3] of RGB.
        frames_per_second: Playback rate, above 0. The format rounds the duration of a frame to hundredths of a second.

    Raises:
        ValueError: The frames are not such an array.
    """
    _check_clip(frames)
    first, *rest = (Image.fromarray(frame).quantize(256) for frame in frames)
    buffer = io.BytesIO()
    duration_milliseconds = round(1000 / frames_per_second)
    first.save(buffer, format="GIF", save_all=True, append_images=rest, duration=duration_milliseconds, loop=0)
    return buffer.getvalue()


def played_stream(streams: Sequence[AnyStream]) -> AnyStream | None:
    """Return the stream of one kind that a player would play.

    Cover art and thumbnails, which containers store as video streams, do not count. Among the others, the container's
    default stream comes first, then streams that are neither still pictures nor made for special needs, then the lowest
    index.

    Args:
        streams: The video streams, or the audio streams, of an open container.

    Returns:
        One of them, or None if there is nothing to play.
    """
    played = (stream for stream in streams if not stream.disposition & NOT_PLAYED)
    return min(played, key=_reluctance, default=None)


def _reluctance(stream: Stream) -> tuple[bool, bool, bool, int]:
    disposition = stream.disposition
    still = bool(disposition & (Disposition.still_image | Disposition.dependent))
    return not disposition & Disposition.default, still, bool(disposition & FOR_SOME), stream.index


def refuse_truncated(data: bytes, field: str) -> None:
    """Refuse a media file if a tenth or more is missing at its end.

    The check uses the file's structure, which players depend on: the lengths of RIFF and FORM chunks, of MP4 and
    QuickTime boxes, and of Matroska's segment. It ignores frame counts and durations in headers, because trimming
    without re-encoding leaves them wrong. Other formats do not state their length.

    Args:
        data: The file.
        field: Name of the field, for the error message.

    Raises:
        DataError: The file is truncated.
    """
    stated = _stated_length(data)
    if stated is not None and len(data) < (1 - LARGEST_LOSS) * stated:
        raise DataError(
            f"field {field!r}: expected {stated} bytes, as the lengths inside the file say, got {len(data)}; the file "
            f"is cut short: copy it again or leave the field out"
        )


def _stated_length(data: bytes) -> int | None:
    """Return the length of the whole file according to its outermost chunks, or None if they do not state it."""
    if data[:4] == b"RIFF" and len(data) >= 8:
        (size,) = struct.unpack_from("<I", data, 4)
        return size + 8 if 0 < size < UNKNOWN_SIZE else None
    if data[:4] == b"FORM" and len(data) >= 8:
        (size,) = struct.unpack_from(">I", data, 4)
        return size + 8 if 0 < size < UNKNOWN_SIZE else None
    if data[:4] == b"\x1aE\xdf\xa3":
        return _length_of_matroska(data)
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return _length_of_boxes(data)
    return None


def _length_of_boxes(data: bytes) -> int | None:
    """Return the end of the last box of an MP4 or QuickTime file."""
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if size == 1 and position + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, position + 8)
        # A size of 0 means the rest of the file. Anything else that is not a box may be padding.
        if size < 8 or not kind.isalnum():
            return None
        position += size
    return position


def _length_of_matroska(data: bytes) -> int | None:
    """Return the end of the segment after the EBML header, or None if the writer did not know it."""
    header = _ebml_size(data, 4)
    if header is None:
        return None
    start = header[0] + header[1]
    if data[start : start + 4] != b"\x18\x53\x80\x67":
        return None
    segment = _ebml_size(data, start + 4)
    return None if segment is None else segment[0] + segment[1]


def _ebml_size(data: bytes, position: int) -> tuple[int, int] | None:
    """Return the start and length of an element's content, or None if unknown or absent."""
    first = data[position] if position < len(data) else 0
    width = 9 - first.bit_length()
    if not 1 <= width <= 8 or position + width > len(data):
        return None
    value = int.from_bytes(data[position : position + width], "big") & ((1 << 7 * width) - 1)
    return None if value == (1 << 7 * width) - 1 else (position + width, value)


def _check_clip(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(f"expected uint8 frames [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
