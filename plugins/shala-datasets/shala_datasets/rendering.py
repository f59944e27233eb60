"""Render RGB clips of the synthetic body: tapered capsules for limbs, drawn far to near, at three times the size.

Shapes: T frames, J = 25 joints, P parts, V vertices of an outline.
"""

import io
from fractions import Fraction

import attrs
import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from shala_datasets.appearance import Background, Outfit
from shala_datasets.body import Body, FloatArray
from shala_datasets.camera import FOCAL_SHARE, to_pixels

_SUPERSAMPLING = 3
_OUTLINE_SHADE = 0.5
_OUTLINE_PIXELS = 0.5
_ARC_POINTS = 5


@attrs.frozen(kw_only=True)
class _Part:
    """A capsule from one joint to another.

    Attributes:
        radii: Radius at either end, in metres, for a body of average girth.
        colour: Name of a field of Outfit.
        shade: Brightness factor. It separates lower legs and sleeves from adjoining parts.
        extend: Length beyond the end joint, as a share of the part's length.
    """

    start: int
    end: int
    radii: tuple[float, float]
    colour: str
    shade: float = 1.0
    extend: float = 0.0


_TORSO = (
    _Part(start=4, end=8, radii=(0.07, 0.07), colour="shirt"),
    _Part(start=4, end=12, radii=(0.07, 0.10), colour="shirt"),
    _Part(start=8, end=16, radii=(0.07, 0.10), colour="shirt"),
    _Part(start=12, end=16, radii=(0.10, 0.10), colour="trousers"),
)
_LIMBS = (
    _Part(start=4, end=5, radii=(0.062, 0.05), colour="shirt", shade=0.82),
    _Part(start=5, end=6, radii=(0.048, 0.038), colour="skin"),
    _Part(start=6, end=21, radii=(0.042, 0.048), colour="skin"),
    _Part(start=8, end=9, radii=(0.062, 0.05), colour="shirt", shade=0.82),
    _Part(start=9, end=10, radii=(0.048, 0.038), colour="skin"),
    _Part(start=10, end=23, radii=(0.042, 0.048), colour="skin"),
    _Part(start=12, end=13, radii=(0.092, 0.066), colour="trousers"),
    _Part(start=13, end=14, radii=(0.066, 0.048), colour="trousers", shade=0.86),
    _Part(start=14, end=15, radii=(0.050, 0.046), colour="shoes", extend=0.35),
    _Part(start=16, end=17, radii=(0.092, 0.066), colour="trousers"),
    _Part(start=17, end=18, radii=(0.066, 0.048), colour="trousers", shade=0.86),
    _Part(start=18, end=19, radii=(0.050, 0.046), colour="shoes", extend=0.35),
    _Part(start=20, end=3, radii=(0.05, 0.05), colour="skin", shade=0.85),
)
_HEAD_RADIUS = 0.115
_TORSO_QUAD = (4, 8, 16, 12)


def render(joints_TJ3: FloatArray, body: Body, outfit: Outfit, background: Background, size: int) -> NDArray[np.uint8]:
    """Draw a clip.

    Args:
        joints_TJ3: Camera coordinates of the 25 joints, in metres.
        body: Body that determines the thickness of limbs.
        outfit: Colours of the person.
        background: Scene behind the person.
        size: Height and width of the clip, in pixels.

    Returns:
        uint8 RGB array [T, size, size, 3].
    """
    canvas_size = size * _SUPERSAMPLING
    edge_width = _OUTLINE_PIXELS * _SUPERSAMPLING * size / 64
    pixels_TJ2 = to_pixels(joints_TJ3, canvas_size)
    scale_TJ = FOCAL_SHARE * canvas_size / joints_TJ3[..., 2]
    parts = _LIMBS + _TORSO
    limbs, torso, head = range(len(_LIMBS)), range(len(_LIMBS), len(parts)), len(parts)
    fills_TPV = _capsules(parts, pixels_TJ2, scale_TJ * body.girth, 0.0).tolist()
    edges_TPV = _capsules(parts, pixels_TJ2, scale_TJ * body.girth, edge_width).tolist()
    quads_TV = pixels_TJ2[:, _TORSO_QUAD].reshape(len(pixels_TJ2), -1).tolist()
    heads = [outline.tolist() for outline in _head(joints_TJ3, pixels_TJ2, scale_TJ, edge_width)]
    fills = [_ink(getattr(outfit, part.colour) * part.shade) for part in parts]
    edges = [_ink(getattr(outfit, part.colour) * part.shade * _OUTLINE_SHADE) for part in parts]
    skin, skin_edge, hair = _ink(outfit.skin), _ink(outfit.skin * _OUTLINE_SHADE), _ink(outfit.hair)

    empty = background.picture(size).resize((canvas_size, canvas_size), Image.Resampling.NEAREST)
    frames = np.empty((len(joints_TJ3), size, size, 3), np.uint8)
    for t, order in enumerate(_far_to_near(joints_TJ3)):
        canvas = empty.copy()
        polygon = ImageDraw.Draw(canvas).polygon
        for item in order:
            if item in limbs:
                polygon(edges_TPV[t][item], edges[item])
                polygon(fills_TPV[t][item], fills[item])
            elif item == head:
                for outline, ink in zip(heads, (skin_edge, skin, hair), strict=True):
                    polygon(outline[t], ink)
            else:
                for part in torso:
                    polygon(edges_TPV[t][part], edges[part])
                polygon(quads_TV[t], fills[torso[0]])
                for part in torso:
                    polygon(fills_TPV[t][part], fills[part])
        frames[t] = np.asarray(canvas.reduce(_SUPERSAMPLING))
    return frames


def _ink(colour: FloatArray) -> tuple[int, ...]:
    return tuple(np.clip(colour, 0, 255).astype(int).tolist())


def _far_to_near(joints_TJ3: FloatArray) -> list[list[int]]:
    """Return each frame's drawing order: limbs by index, the torso's first part for the whole torso, then the head."""
    starts, ends = [part.start for part in _LIMBS], [part.end for part in _LIMBS]
    limbs_TP = 0.5 * (joints_TJ3[:, starts, 2] + joints_TJ3[:, ends, 2])
    torso_T1 = joints_TJ3[:, _TORSO_QUAD, 2].mean(axis=1, keepdims=True)
    order_TP = np.argsort(-np.concatenate([limbs_TP, torso_T1, joints_TJ3[:, 3:4, 2]], axis=1), axis=1, kind="stable")
    names = np.array([*range(len(_LIMBS) + 1), len(_LIMBS) + len(_TORSO)])
    order: list[list[int]] = names[order_TP].tolist()
    return order


def _capsules(parts: tuple[_Part, ...], pixels_TJ2: FloatArray, scale_TJ: FloatArray, margin: float) -> FloatArray:
    """Return the outline of every part in every frame, flat [T, P, 2 V]: half circles at both ends, plus a margin."""
    starts, ends = [part.start for part in parts], [part.end for part in parts]
    extend = np.array([part.extend for part in parts])[:, None]
    from_TP2 = pixels_TJ2[:, starts]
    to_TP2 = pixels_TJ2[:, ends] + extend * (pixels_TJ2[:, ends] - from_TP2)
    along_TP2 = to_TP2 - from_TP2
    heading_TP = np.arctan2(along_TP2[..., 1], along_TP2[..., 0])
    arc = np.linspace(-0.5 * np.pi, 0.5 * np.pi, _ARC_POINTS)
    end_angles, start_angles = heading_TP[..., None] + arc, heading_TP[..., None] + arc + np.pi
    radii = np.array([part.radii for part in parts])
    start_radii = (scale_TJ[:, starts] * radii[:, 0] + margin)[..., None]
    end_radii = (scale_TJ[:, ends] * radii[:, 1] + margin)[..., None]
    at_end = to_TP2[..., None, :] + end_radii[..., None] * _unit(end_angles)
    at_start = from_TP2[..., None, :] + start_radii[..., None] * _unit(start_angles)
    return np.concatenate([at_end, at_start], axis=2).reshape(*heading_TP.shape, -1)


def _head(joints_TJ3: FloatArray, pixels_TJ2: FloatArray, scale_TJ: FloatArray, margin: float) -> list[FloatArray]:
    """Return outlines of the head's edge, the head and its hair, flat [T, 2 V]. A bowed head shows more hair."""
    up_T2 = pixels_TJ2[:, 3] - pixels_TJ2[:, 2]
    heading_T1 = np.arctan2(up_T2[:, 1], up_T2[:, 0])[:, None]
    radius_T11 = (_HEAD_RADIUS * scale_TJ[:, 3])[:, None, None]
    circle = np.linspace(-np.pi, np.pi, 16, endpoint=False)
    cap = np.linspace(-0.52 * np.pi, 0.52 * np.pi, 10)
    bowed_T1 = np.clip((joints_TJ3[:, 2, 2] - joints_TJ3[:, 3, 2]) / 0.14, -0.4, 1.0)[:, None]
    shapes = (
        (radius_T11 + margin) * _unit(heading_T1 + circle),
        radius_T11 * _unit(heading_T1 + circle),
        1.04 * radius_T11 * _unit(heading_T1 + cap * (1.0 + 0.55 * bowed_T1)),
    )
    return [(pixels_TJ2[:, None, 3] + shape).reshape(len(shape), -1) for shape in shapes]


def _unit(angles: FloatArray) -> FloatArray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def encode_avi(frames: NDArray[np.uint8], frames_per_second: int | Fraction) -> bytes:
    """Encode MPEG-4 in AVI at a fixed high quality. Equal frames give equal bytes.

    NTU's own clips are H.264 in AVI, which takes 2.5 times as long to encode and no less space at 64x64 pixels.

    Args:
        frames: RGB array [T, H, W, 3], even height and width.
        frames_per_second: Playback rate.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=frames_per_second, options={"qmin": "2", "qmax": "2"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
