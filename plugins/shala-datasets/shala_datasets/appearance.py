"""Colours of a synthetic clip: a person's skin, hair and clothes, and a background that contrasts with them.

Colours are float RGB in [0, 255].
"""

import attrs
import numpy as np
from PIL import Image

from shala_datasets.body import FloatArray

_SKIN = np.array(
    ((245, 212, 186), (226, 178, 142), (198, 146, 106), (154, 104, 72), (112, 74, 52), (84, 56, 42)), float
)
_HAIR = np.array(((28, 22, 20), (62, 40, 26), (110, 70, 38), (170, 130, 70), (140, 140, 140), (96, 36, 24)), float)
_SHIRTS = np.array(
    ((205, 45, 45), (45, 85, 205), (40, 150, 75), (235, 195, 45), (235, 235, 235), (130, 55, 165), (235, 120, 35)),
    float,
)
_TROUSERS = np.array(((32, 38, 90), (115, 115, 120), (115, 78, 48), (28, 28, 32), (60, 95, 80)), float)
_WALLS = np.array(
    (
        (218, 208, 182), (165, 198, 225), (176, 214, 178), (150, 150, 156), (226, 182, 186), (192, 182, 226),
        (62, 112, 118), (66, 66, 74), (240, 240, 236), (122, 66, 66),
    ),
    float,
)  # fmt: skip
_MIN_CONTRAST = 60.0


@attrs.frozen(kw_only=True, eq=False)
class Outfit:
    """One person's colours, each an array [3]."""

    skin: FloatArray
    hair: FloatArray
    shirt: FloatArray
    trousers: FloatArray
    shoes: FloatArray

    @classmethod
    def random(cls, person: np.random.Generator, day: np.random.Generator) -> "Outfit":
        """Draw a person's skin and hair, and clothes for one day. Shirt and skin differ, so arms are visible.

        Args:
            person: Generator for what stays the same in all clips of a person.
            day: Generator for the clothes in this clip.
        """
        skin = _SKIN[person.integers(len(_SKIN))] + person.uniform(-8, 8)
        hair = _HAIR[person.integers(len(_HAIR))] + person.uniform(-10, 10)
        shirt = _first_distinct(_shuffled(day, _SHIRTS), skin[None])
        return cls(
            skin=skin,
            hair=hair,
            shirt=shirt,
            trousers=_first_distinct(_shuffled(day, _TROUSERS), np.stack([skin, shirt])),
            shoes=np.full(3, day.choice((40.0, 235.0))),
        )


@attrs.frozen(kw_only=True, eq=False)
class Background:
    """The scene behind the person.

    Attributes:
        wall: Colour [3].
        floor: Colour [3]; equal to the wall's colour if no floor is visible.
        horizon: Row where the floor begins, as a share of the height.
        light: Relative increase in brightness from left to right and from top to bottom.
    """

    wall: FloatArray
    floor: FloatArray
    horizon: float
    light: tuple[float, float]

    @classmethod
    def random(cls, rng: np.random.Generator, outfit: Outfit) -> "Background":
        """Draw colours that differ from all colours of the outfit."""
        worn = np.stack([outfit.skin, outfit.hair, outfit.shirt, outfit.trousers, outfit.shoes])
        wall = _first_distinct(_shuffled(rng, _WALLS), worn)
        has_floor = rng.uniform() < 0.65
        shades = wall * rng.uniform(0.6, 1.2, size=(16, 1))
        floor = _first_distinct(np.clip(shades, 0, 255), worn) if has_floor else wall
        light = rng.uniform(-0.12, 0.12, size=2)
        return cls(
            wall=wall, floor=floor, horizon=float(rng.uniform(0.74, 0.82)), light=(float(light[0]), float(light[1]))
        )

    def picture(self, size: int) -> Image.Image:
        """Draw the empty scene, size x size pixels."""
        ramp = np.linspace(-0.5, 0.5, size)
        brightness = 1.0 + self.light[0] * ramp[None, :] + self.light[1] * ramp[:, None]
        rows = np.where((np.arange(size) < self.horizon * size)[:, None], self.wall, self.floor)
        pixels = np.clip(rows[:, None] * brightness[..., None], 0, 255).astype(np.uint8)
        return Image.fromarray(pixels)


def _shuffled(rng: np.random.Generator, palette: FloatArray, jitter: float = 10.0) -> FloatArray:
    """Return the colours of a palette [N, 3] in random order, each slightly changed."""
    colours: FloatArray = np.clip(rng.permutation(palette) + rng.uniform(-jitter, jitter, palette.shape), 0, 255)
    return colours


def _first_distinct(candidates: FloatArray, others: FloatArray) -> FloatArray:
    """Return the first candidate [N, 3] that is far from all others [M, 3], or the farthest one."""
    distances = np.linalg.norm(candidates[:, None] - others, axis=2).min(axis=1)
    distinct = np.flatnonzero(distances >= _MIN_CONTRAST)
    chosen: FloatArray = candidates[distinct[0] if len(distinct) else int(distances.argmax())]
    return chosen
