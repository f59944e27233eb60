"""Draw mel spectrograms: time to the right, frequency upwards, louder is lighter."""

from typing import Final

import numpy as np

LEAST_HEIGHT, LEAST_WIDTH = 160, 256  # smallest size in pixels; smaller spectrograms are enlarged to it
LOUD_DECIBELS = 0.0  # level drawn as white: a full-scale sine
# Directions in which the primaries leave the grey diagonal without changing the perceived brightness.
TOWARDS_COSINE: Final = np.array([-0.14861, -0.29227, 1.97294])
TOWARDS_SINE: Final = np.array([1.78277, -0.90649, 0.0])


def cubehelix(value: np.ndarray) -> np.ndarray:
    """Map values to colours of evenly rising perceived brightness, also in print and for the colour-blind.

    Args:
        value: float [...] in [0, 1].

    Returns:
        uint8 [..., 3] of RGB.

    Reference: Green 2011, "A colour scheme for the display of astronomical intensity images"; its default start,
    turns and hue.
    """
    value = value[..., None]
    angle = 2 * np.pi * (0.5 / 3 + 1 - 1.5 * value)
    strength = value * (1 - value) / 2
    colour = value + strength * (TOWARDS_COSINE * np.cos(angle) + TOWARDS_SINE * np.sin(angle))
    pixels: np.ndarray = np.round(255 * colour.clip(0, 1)).astype(np.uint8)
    return pixels


def draw_spectrum(level_MT: np.ndarray, floor_decibels: float) -> np.ndarray:
    """Draw levels [M, T] in decibels, from the floor (black) to a sine of full scale (white).

    Returns:
        uint8 array [H, W, 3]; each value covers the same whole number of rows and of columns.
    """
    share_MT = ((level_MT - floor_decibels) / (LOUD_DECIBELS - floor_decibels)).clip(0, 1)
    picture = cubehelix(share_MT[::-1])
    rows, columns = (-(-LEAST_HEIGHT // level_MT.shape[0]), -(-LEAST_WIDTH // level_MT.shape[1]))
    return picture.repeat(rows, axis=0).repeat(columns, axis=1)
