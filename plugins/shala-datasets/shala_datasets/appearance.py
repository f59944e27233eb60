"""Colours of a synthetic clip: a person's skin, hair and clothes, and a background that they stand out from.

Colours are float RGB in [0, 255].
"""

import colorsys

import attrs
import numpy as np
from PIL import Image

from shala_datasets.body import FloatArray

_SKIN = np.array(
    ((245, 212, 186), (226, 178, 142), (198, 146, 106), (154, 104, 72), (112, 74, 52), (84, 56, 42)), float
)
_HAIR = np.array(((28, 22, 20), (62, 40, 26), (110, 70, 38), (170, 130, 70), (140, 140, 140), (96, 36, 24)), float)
_MIN_CONTRAST = 85.0
_NUM_CANDIDATES = 48


@attrs.frozen(kw_only=True, eq=False)
class Outfit:
    """One person's colours, each an array [3]."""

    skin: FloatArray
    hair: FloatArray
    shirt: FloatArray
    trousers: FloatArray
    shoes: FloatArray

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Outfit":
        """Any skin, hair and clothes; shirt and skin differ, so that arms show before the torso."""
        skin = _SKIN[rng.integers(len(_SKIN))] + rng.uniform(-8, 8)
        shirts = _colours(rng, _NUM_CANDIDATES, saturation=(0.35, 1.0), value=(0.25, 0.95))
        shirt = _first_distinct(shirts, skin[None])
        trousers = _colours(rng, _NUM_CANDIDATES, saturation=(0.1, 0.7), value=(0.15, 0.7))
        return cls(
            skin=skin,
            hair=_HAIR[rng.integers(len(_HAIR))] + rng.uniform(-10, 10),
            shirt=shirt,
            trousers=_first_distinct(trousers, np.stack([skin, shirt])),
            shoes=np.full(3, rng.choice((30.0, 60.0, 235.0))),
        )


@attrs.frozen(kw_only=True, eq=False)
class Background:
    """What is behind the person.

    Attributes:
        wall: Colour [3].
        floor: Colour [3]; that of the wall where there is no visible floor.
        horizon: Row where the floor begins, as a share of the height.
        light: How much brighter [right, bottom] is than [left, top], as a share of the colour.
    """

    wall: FloatArray
    floor: FloatArray
    horizon: float
    light: tuple[float, float]

    @classmethod
    def random(cls, rng: np.random.Generator, outfit: Outfit) -> "Background":
        """Colours unlike every one of the outfit's."""
        worn = np.stack([outfit.skin, outfit.hair, outfit.shirt, outfit.trousers, outfit.shoes])
        walls = _colours(rng, _NUM_CANDIDATES, saturation=(0.0, 0.55), value=(0.15, 1.0))
        wall = _first_distinct(walls, worn)
        has_floor = rng.uniform() < 0.65
        shades = wall * rng.uniform(0.55, 1.3, size=(_NUM_CANDIDATES, 1)) + rng.uniform(-14, 14, (_NUM_CANDIDATES, 3))
        floor = _first_distinct(np.clip(shades, 0, 255), worn) if has_floor else wall
        light = rng.uniform(-0.12, 0.12, size=2)
        return cls(
            wall=wall, floor=floor, horizon=float(rng.uniform(0.7, 0.84)), light=(float(light[0]), float(light[1]))
        )

    def picture(self, size: int) -> Image.Image:
        """The empty scene, size x size pixels."""
        ramp = np.linspace(-0.5, 0.5, size)
        brightness = 1.0 + self.light[0] * ramp[None, :] + self.light[1] * ramp[:, None]
        rows = np.where((np.arange(size) < self.horizon * size)[:, None], self.wall, self.floor)
        pixels = np.clip(rows[:, None] * brightness[..., None], 0, 255).astype(np.uint8)
        return Image.fromarray(pixels)


def _colours(
    rng: np.random.Generator, number: int, saturation: tuple[float, float], value: tuple[float, float]
) -> FloatArray:
    hues = rng.uniform(0, 1, number)
    saturations = rng.uniform(*saturation, number)
    values = rng.uniform(*value, number)
    triples = zip(hues.tolist(), saturations.tolist(), values.tolist(), strict=True)
    return 255.0 * np.array([colorsys.hsv_to_rgb(*triple) for triple in triples])


def _first_distinct(candidates: FloatArray, others: FloatArray) -> FloatArray:
    """First of the candidates [N, 3] that is far from all others [M, 3]; the farthest where none is far enough."""
    distances = np.linalg.norm(candidates[:, None] - others, axis=2).min(axis=1)
    distinct = np.flatnonzero(distances >= _MIN_CONTRAST)
    chosen: FloatArray = candidates[distinct[0] if len(distinct) else int(distances.argmax())]
    return chosen
