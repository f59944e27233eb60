"""Vary spectrograms in training, and mask parts of them. Shapes: B batch, T frames.

Reference: Park et al. 2019, "SpecAugment", for the masks.
"""

import attrs
import torch
from torch import Tensor

from shala_framework.plugin import Draws, between, by_row, take_along


@attrs.frozen(kw_only=True)
class AudioAugment:
    """How training rows of stage 1 vary. Samples vary likewise, except for masks, which only the encoder sees.

    Each modality draws on its own: do not move time where another modality runs along with the sound.

    Attributes:
        shift_seconds: Largest time by which a sound moves, forwards or backwards; silence fills the gap.
        gain_decibels: Largest change of level, up or down.
        masks: Number of stretches of time, and of ranges of bands, that are masked. The decoder learns the sound
            without masks.
        mask_seconds: Longest stretch of time of a mask.
        mask_mels: Largest number of bands of a mask.
    """

    shift_seconds: float = attrs.field(default=0.0, validator=between(0, 3_600))
    gain_decibels: float = attrs.field(default=0.0, validator=between(0, 60))
    masks: int = attrs.field(default=1, validator=between(0, 100))
    mask_seconds: float = attrs.field(default=0.0, validator=between(0, 3_600))
    mask_mels: int = attrs.field(default=0, validator=between(0, 512))


def moved(x: Tensor, most: int, silence: float, draws: Draws) -> Tensor:
    """Move spectrograms x [B, mels, T] by at most so many frames; silence fills the gap."""
    num_frames = x.shape[2]
    most = min(num_frames - 1, most)
    if not most:
        return x
    offset_B = draws.integers(-most, most)
    silent = x.new_full(x.shape, silence)
    index_BT = torch.arange(num_frames, device=x.device) - offset_B[:, None] + num_frames
    return take_along(torch.cat([silent, x, silent], 2), index_BT, 2)


def amplified(x: Tensor, most: float, silence: float, draws: Draws) -> Tensor:
    """Change the level of x [B, mels, T] by at most so many decibels, as if the sound was louder above its silence."""
    if not most:
        return x
    gain = 10 ** (by_row(draws.uniform(-most, most), x) / 10)
    silent = 10 ** (silence / 10)  # the power that is added to every band
    power = (10 ** (x / 10) - silent).clamp_min(0) * gain
    return 10 * (power + silent).log10()


def masked(x: Tensor, mean: Tensor, masks: int, most_mels: int, most_frames: int, draws: Draws) -> Tensor:
    """Hide random stretches of x [B, mels, T] behind the mean level of each band.

    Args:
        x: Spectrograms.
        mean: Mean level [mels, 1].
        masks: Number of stretches of time, and of ranges of bands.
        most_mels: Largest number of bands of a mask; 0 masks none.
        most_frames: Largest number of frames of a mask; 0 masks none.
        draws: Draws of the rows.
    """
    chosen = [(min(x.shape[dim], most), dim) for most, dim in ((most_frames, 2), (most_mels, 1)) if most]
    if not masks or not chosen:
        return x
    hidden = torch.zeros_like(x, dtype=torch.bool)
    for _ in range(masks):
        for most, dim in chosen:
            hidden = hidden | _stretch(x, most, dim, draws)
    return torch.where(hidden, mean, x)


def _stretch(x: Tensor, most: int, dim: int, draws: Draws) -> Tensor:
    """Choose a stretch of at most so many positions of a dimension of x [B, mels, T]: bool that broadcasts to x."""
    length_B = draws.integers(0, most)
    start_B = (draws.uniform(0, 1) * (x.shape[dim] - length_B + 1)).long()
    place_BN = torch.arange(x.shape[dim], device=x.device)[None]
    inside_BN = (place_BN >= start_B[:, None]) & (place_BN < (start_B + length_B)[:, None])
    return inside_BN[:, None] if dim == 2 else inside_BN[:, :, None]
