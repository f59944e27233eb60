"""Show a decoded frame as a player does: opaque, with square pixels, upright, scaled to cover a size and cropped."""

import math
import struct
from functools import cache
from typing import Any, Final

import attrs
import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter

WHITE: Final = 255  # behind transparent pixels, as in pictures of shala-image
MOST_SCALED_PIXELS: Final = 2**24  # a very narrow frame that would become larger is cropped before scaling


@attrs.frozen
class Turn:
    """The operation that sets a stored frame upright: optionally transpose, then optionally flip either axis.

    Attributes:
        transposes: Whether rows become columns.
        flips_rows: Whether to reverse the order of rows.
        flips_columns: Whether to reverse the order of columns.
    """

    transposes: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    def __call__(self, picture_HWC: np.ndarray) -> np.ndarray:
        """Set a picture upright."""
        turned = picture_HWC.swapaxes(0, 1) if self.transposes else picture_HWC
        return turned[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1]


UPRIGHT: Final = Turn()


def turn_of(frame: av.VideoFrame) -> Turn:
    """Read the operation from the frame's display matrix, with the angle rounded to a multiple of 90 degrees.

    The matrix maps a stored position (column, row) to (a column + c row, b column + d row); its layout is in FFmpeg's
    libavutil/display.h. PyAV's side data and its frame refer to each other, which delays the reuse of the frame's
    memory, so call this once per stream, not for each frame.
    """
    side_data: Any = frame.side_data  # PyAV's stub knows only one kind of entry
    for entry in side_data:
        if entry.type is Type.DISPLAYMATRIX:
            a, b, _, c, d = struct.unpack_from("=5i", bytes(entry))
            if abs(b) + abs(c) > abs(a) + abs(d):
                return Turn(transposes=True, flips_rows=b < 0, flips_columns=c < 0)
            return Turn(flips_rows=d < 0, flips_columns=a < 0)
    return UPRIGHT


@cache
def has_alpha(pixel_format: str) -> bool:
    """Return whether frames of FFmpeg's pixel format may be transparent. Palettes may contain transparent colours."""
    described = av.VideoFormat(pixel_format)
    return described.has_palette or any(component.is_alpha for component in described.components)


def show(
    frame: av.VideoFrame, turn: Turn, aspect: float, height: int, width: int, scaler: VideoReformatter
) -> tuple[np.ndarray, bool]:
    """Show a frame as a player does, scaled to cover a size and cropped around the centre.

    Transparent pixels are composited on white before scaling, so hidden colours do not bleed into visible ones.

    Args:
        frame: Decoded frame.
        turn: Operation that sets it upright.
        aspect: Ratio of a stored pixel's width to its height.
        height: Height of the result.
        width: Width of the result.
        scaler: Scaler to reuse for all frames; setting one up costs far more than scaling a small frame.

    Returns:
        uint8 [height, width, 3] of RGB, and whether any pixel of the frame is visible.
    """
    visible = True
    if has_alpha(frame.format.name):
        frame, visible = _on_white(frame)
    rows, columns = (width, height) if turn.transposes else (height, width)
    picture = _cover(frame, aspect, rows, columns, scaler)
    return (picture if turn is UPRIGHT else np.ascontiguousarray(turn(picture))), visible


def _on_white(frame: av.VideoFrame) -> tuple[av.VideoFrame, bool]:
    rgba_HW4 = frame.to_ndarray(format="rgba").astype(np.uint16)
    alpha_HW1 = rgba_HW4[..., 3:]
    opaque = (rgba_HW4[..., :3] * alpha_HW1 + WHITE * (255 - alpha_HW1) + 127) // 255
    return av.VideoFrame.from_ndarray(opaque.astype(np.uint8), format="rgb24"), bool(alpha_HW1.any())


def _cover(frame: av.VideoFrame, aspect: float, height: int, width: int, scaler: VideoReformatter) -> np.ndarray:
    scale = max(height / frame.height, width / (frame.width * aspect))
    across = scale * aspect
    scaled_height = max(height, math.ceil(frame.height * scale - 1e-6))
    scaled_width = max(width, math.ceil(frame.width * across - 1e-6))
    if scaled_height * scaled_width > MOST_SCALED_PIXELS:
        stored = frame.to_ndarray(format="rgb24")
        middle = _centre(stored, math.ceil(height / scale), math.ceil(width / across))
        frame = av.VideoFrame.from_ndarray(middle, format="rgb24")
        scaled_height, scaled_width = height, width
    scaled = scaler.reformat(
        frame,
        width=scaled_width,
        height=scaled_height,
        format="rgb24",
        interpolation="AREA" if max(scale, across) < 1 else "BICUBIC",
        threads=1,
    ).to_ndarray()
    return _centre(scaled, height, width)


def _centre(picture_HW3: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = max(picture_HW3.shape[0] - height, 0) // 2, max(picture_HW3.shape[1] - width, 0) // 2
    return np.ascontiguousarray(picture_HW3[top : top + height, left : left + width])
