"""Draw moving skeletons: bones as thick coloured lines, seen from the front, at one scale for the whole clip."""

import numpy as np
from PIL import Image, ImageDraw

from shala_skeleton.bones import Bone

Colour = tuple[int, int, int]

BACKGROUND: Colour = (255, 255, 255)
# One palette per body; further bodies reuse them. Left and right are those of the person.
PALETTES: tuple[dict[str, Colour], ...] = (
    {"torso": (70, 70, 80), "left": (31, 119, 200), "right": (220, 70, 40)},
    {"torso": (150, 120, 90), "left": (20, 150, 110), "right": (160, 70, 190)},
)
OVERSAMPLING = 3  # frames are drawn larger and averaged down, because Pillow's lines have hard edges
MARGIN = 0.08  # share of the picture's side
SMALLEST_SPREAD = 1e-2  # of the clip's extent; a body whose joints lie closer together counts as absent


def draw_clip(x_TPJC: np.ndarray, bones: tuple[Bone, ...], side: int) -> np.ndarray:
    """Draw each frame as a frontal orthographic view, x to the right and y up.

    Without bones, as for the tip of a pen, each frame shows the trail of each joint up to that frame.

    Args:
        x_TPJC: Joints, float [frames, bodies, joints, coordinates]; at least two coordinates.
        bones: Joints to connect.
        side: Height and width of the result in pixels.

    Returns:
        uint8 array [T, side, side, 3] of RGB.
    """
    present = _present_bodies(x_TPJC)
    points = _to_pixels(x_TPJC[..., :2], present, side * OVERSAMPLING)
    return np.stack([_draw_frame(points[: frame + 1], present, bones, side) for frame in range(len(points))])


def _present_bodies(x_TPJC: np.ndarray) -> list[int]:
    if x_TPJC.shape[1] == 1:
        return [0]
    moved = np.ptp(x_TPJC[..., :2], axis=(0, 2)).max(axis=1)
    return [body for body in range(x_TPJC.shape[1]) if moved[body] > SMALLEST_SPREAD * moved.max()] or [0]


def _to_pixels(x_TPJ2: np.ndarray, present: list[int], side: int) -> np.ndarray:
    """Map coordinates to pixels so that everything present in any frame fits and is centred."""
    seen = x_TPJ2[:, present]
    low, high = seen.min(axis=(0, 1, 2)), seen.max(axis=(0, 1, 2))
    extent = max(float((high - low).max()), 1e-6)
    scaled = (x_TPJ2 - (low + high) / 2) * (1 - 2 * MARGIN) / extent
    pixels: np.ndarray = (0.5 + scaled * np.array([1, -1])) * side
    return pixels


def _draw_frame(points: np.ndarray, present: list[int], bones: tuple[Bone, ...], side: int) -> np.ndarray:
    """Draw the last of the frames in points [T, P, J, 2]; the others are its past."""
    large = side * OVERSAMPLING
    image = Image.new("RGB", (large, large), BACKGROUND)
    draw = ImageDraw.Draw(image)
    thickness = max(large // 45, 1)
    for body in reversed(present):
        palette = PALETTES[body % len(PALETTES)]
        now = points[-1, body]
        for bone in bones:
            _limb(draw, now[[bone.start, bone.end]], palette[bone.side], thickness)
        for joint in range(len(now)) if not bones else ():
            _limb(draw, points[:, body, joint], palette["torso"], thickness)
            _disc(draw, now[joint], palette["right"], thickness)
    return np.asarray(image.reduce(OVERSAMPLING))


def _limb(draw: ImageDraw.ImageDraw, points: np.ndarray, colour: Colour, thickness: int) -> None:
    draw.line([(float(x), float(y)) for x, y in points], fill=colour, width=thickness, joint="curve")
    for point in points[[0, -1]]:
        _disc(draw, point, colour, thickness / 2)


def _disc(draw: ImageDraw.ImageDraw, centre: np.ndarray, colour: Colour, radius: float) -> None:
    x, y = centre.tolist()
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
