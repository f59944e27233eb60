"""Encoded video to a clip of fixed size: evenly spaced frames, scaled to fit and cropped at the centre."""

import io
import math
from typing import Final

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from shala_framework import DataError

# FFmpeg also reads play lists and session descriptions, which name other files and hosts: bytes from a shard must not
# choose what is opened.
CONTAINERS: Final = (
    "mov,avi,matroska,mpeg,mpegts,mpegvideo,m4v,h264,hevc,av1,obu,ivf,flv,asf,ogg,gif,mjpeg,apng,nut,mxf,rm,dv,"
    "yuv4mpegpipe,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,wav,mp3,flac,aac"
)


def read_clip(data: bytes, field: str, num_frames: int, height: int, width: int) -> np.ndarray:
    """Decode a whole clip and keep `num_frames` frames of it, evenly spaced from its first to its last.

    A clip with fewer frames repeats the nearest ones. The frame rate is taken to be constant. Only frames that are
    kept are scaled, so memory does not grow with the length of the clip.

    Args:
        data: A file in one of CONTAINERS and any codec that FFmpeg knows.
        field: Name of the field, for messages.
        num_frames: Number of frames to keep.
        height: Height of the result; the picture is scaled to cover it, and the rest is cropped.
        width: Width of the result, likewise.

    Returns:
        uint8 array [num_frames, height, width, 3] of RGB.

    Raises:
        DataError: The bytes hold no video stream, no frame, or one that cannot be decoded.
    """
    if not data:
        raise DataError(f"field {field!r}: expected an encoded video, got 0 bytes; was the shard written completely?")
    try:
        return _decode(data, field, num_frames, height, width)
    except av.error.FFmpegError as error:
        raise DataError(
            f"field {field!r}: expected a video that FFmpeg can decode, got {len(data)} bytes starting with "
            f"{data[:8]!r} ({error.strerror}); re-encode the file or leave the field out"
        ) from error


def _open(data: bytes) -> InputContainer:
    return av.open(io.BytesIO(data), "r", metadata_errors="replace", options={"format_whitelist": CONTAINERS})


def _decode(data: bytes, field: str, num_frames: int, height: int, width: int) -> np.ndarray:
    num_packets, declared = _count_packets(data, field)
    wanted = set(_evenly_spaced(num_packets, num_frames))
    kept: dict[int, np.ndarray] = {}
    num_decoded = 0
    # One for the whole clip: setting up the scaler costs far more than scaling a small frame.
    scaler = VideoReformatter()
    with _open(data) as container:
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise DataError(
                f"field {field!r}: expected a video codec that FFmpeg knows, got a stream of an unknown one"
            )
        # Loader processes already share the cores among them.
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            num_decoded = index + 1
            if index in wanted:
                kept[index] = _cover(frame, height, width, scaler)
    # Headers are often off by a frame or two; a file cut short lacks far more.
    if not kept or num_decoded < 0.9 * declared - 2:
        raise DataError(
            f"field {field!r}: expected {declared or 'some'} video frames, as its header says, got {num_decoded}; "
            f"the file is empty or cut short: copy it again or leave the field out"
        )
    positions = np.array(sorted(kept))
    nearest = [positions[np.abs(positions - index).argmin()] for index in _evenly_spaced(num_decoded, num_frames)]
    return np.stack([kept[index] for index in nearest])


def _count_packets(data: bytes, field: str) -> tuple[int, int]:
    """Number of video packets, which is the number of frames or near it, and the number that the header states.

    Counting is cheap, as nothing is decoded, and many containers state no number.
    """
    with _open(data) as container:
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no stream at all"
            raise DataError(f"field {field!r}: expected a file with a video stream, got one with {kinds}")
        stream = container.streams.video[0]
        return sum(packet.size > 0 for packet in container.demux(stream)), stream.frames


def _evenly_spaced(length: int, count: int) -> list[int]:
    """`count` indices from 0 to length - 1, both ends included; the middle one for a count of 1."""
    if count == 1:
        return [max(length - 1, 0) // 2]
    return [round(index * max(length - 1, 0) / (count - 1)) for index in range(count)]


def _cover(frame: av.VideoFrame, height: int, width: int, scaler: VideoReformatter) -> np.ndarray:
    """The frame scaled, keeping its aspect, to cover height x width, and cropped at the centre."""
    scale = max(height / frame.height, width / frame.width)
    scaled = scaler.reformat(
        frame,
        width=max(width, math.ceil(frame.width * scale - 1e-6)),
        height=max(height, math.ceil(frame.height * scale - 1e-6)),
        format="rgb24",
        interpolation="AREA" if scale < 1 else "BICUBIC",
        threads=1,
    ).to_ndarray()
    top, left = (scaled.shape[0] - height) // 2, (scaled.shape[1] - width) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width])
