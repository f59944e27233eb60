"""Frames and sounds to files that a browser opens: mp4, png, gif and wav. The same input gives the same bytes."""

import io
import wave
from fractions import Fraction

import av
import numpy as np
from PIL import Image

MP4_QUALITY = "18"  # x264's constant rate factor: 18 is visually lossless, 23 its default
# With the preset's own settings libx264 did not always write the same bytes for the same frames, even on one thread;
# with all of these off it did in every trial. Which of them matters was not found out.
REPRODUCIBLE = "weightp=0:mbtree=0:aq-mode=0:rc-lookahead=0:bframes=0"


def encode_mp4(frames: np.ndarray, frames_per_second: float) -> bytes:
    """A silent H.264 clip (yuv420p, which every browser plays).

    Args:
        frames: uint8 array [T, H, W, 3] of RGB; odd sizes are padded to even by repeating the last row or column.
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
        # One thread: x264 splits rate control between threads, and the bytes would depend on the machine.
        stream.codec_context.thread_count = 1
        stream.options = {"crf": MP4_QUALITY, "preset": "veryfast", "threads": "1", "x264-params": REPRODUCIBLE}
        for frame in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def encode_wav(sound: np.ndarray, sample_rate_hz: int) -> bytes:
    """A sound, float [N] in [-1, 1], as 16 bits of one channel."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(np.round(np.clip(sound, -1, 1) * 32_767).astype("<i2").tobytes())
    return buffer.getvalue()


def encode_png(frame: np.ndarray) -> bytes:
    """A picture from a uint8 array [H, W, 3] of RGB, or [H, W] of grey.

    Raises:
        ValueError: The frame is not such an array.
    """
    if frame.dtype != np.uint8 or not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 3)):
        raise ValueError(f"expected a uint8 frame [H, W, 3] or [H, W], got {frame.dtype} {list(frame.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG")
    return buffer.getvalue()


def encode_gif(frames: np.ndarray, frames_per_second: float) -> bytes:
    """An animation that repeats for ever, of at most 256 colours a frame.

    Args:
        frames: uint8 array [T, H, W, 3] of RGB.
        frames_per_second: Playback rate, above 0; the format rounds a frame's time to hundredths of a second.

    Raises:
        ValueError: The frames are not such an array.
    """
    _check_clip(frames)
    first, *rest = (Image.fromarray(frame).quantize(256) for frame in frames)
    buffer = io.BytesIO()
    duration_milliseconds = round(1000 / frames_per_second)
    first.save(buffer, format="GIF", save_all=True, append_images=rest, duration=duration_milliseconds, loop=0)
    return buffer.getvalue()


def _check_clip(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(f"expected uint8 frames [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
