"""Vary moving skeletons in training. Shapes: B batch, T frames, P bodies, J joints, C coordinates."""

import attrs
import torch
from torch import Tensor

from shala_framework.plugin import Draws, between, by_row, take_along


@attrs.frozen(kw_only=True)
class SkeletonAugment:
    """How training rows of stage 1 vary. Samples vary likewise, except for `jitter`, which only the encoder sees.

    Each modality draws on its own: do not turn bodies where another modality shows them from one side, nor move time
    where another runs along with the clip.

    Attributes:
        turn_degrees: Largest angle by which everything turns about the vertical axis (the second coordinate), through
            the first body's root in the first frame.
        scale: Largest relative change of size, about the same point.
        time: Largest share of a clip that is cut off at its start, and at its end; the rest is slowed down to the
            length of the clip.
        jitter: Standard deviation of noise that is added to the joints which the encoder sees, in the unit of x. The
            decoder learns the joints without it.
    """

    turn_degrees: float = attrs.field(default=0.0, validator=between(0, 180))
    scale: float = attrs.field(default=0.0, validator=between(0, 0.9))
    time: float = attrs.field(default=0.0, validator=between(0, 0.45))
    jitter: float = attrs.field(default=0.0, validator=between(0, 1e6))


def slowed(x_BTPJC: Tensor, share: float, draws: Draws) -> Tensor:
    """Cut off at most this share of a clip at its start and at its end, and stretch the rest to the same frames."""
    if not share:
        return x_BTPJC
    last = x_BTPJC.shape[1] - 1
    start_B1, end_B1 = draws.uniform(0, share, 1), 1 - draws.uniform(0, share, 1)
    times_BT = last * (start_B1 + (end_B1 - start_B1) * torch.linspace(0, 1, last + 1, device=x_BTPJC.device))
    before_BT = times_BT.long().clamp(0, last - 1)
    after_share = (times_BT - before_BT)[..., None, None, None]
    return torch.lerp(take_along(x_BTPJC, before_BT, 1), take_along(x_BTPJC, before_BT + 1, 1), after_share)


def turned(x_BTPJC: Tensor, root: int, scale: float, degrees: float, draws: Draws) -> Tensor:
    """Scale clips and turn them about the vertical axis, through the first body's root in the first frame.

    Args:
        x_BTPJC: Clips; with degrees, in three coordinates, of which the second is the vertical one.
        root: Joint that represents a body's position.
        scale: Largest relative change of size.
        degrees: Largest angle.
        draws: Draws of the rows.
    """
    if not scale and not degrees:
        return x_BTPJC
    pivot = x_BTPJC[:, :1, :1, root : root + 1]
    moved = x_BTPJC - pivot
    if scale:
        moved = moved * by_row(1 + draws.uniform(-scale, scale), moved)
    if degrees:
        across, up, deep = moved.unbind(-1)
        angle = by_row(draws.uniform(-degrees, degrees).deg2rad(), up)
        cosine, sine = angle.cos(), angle.sin()
        moved = torch.stack([cosine * across + sine * deep, up, cosine * deep - sine * across], -1)
    return torch.where(_is_there(x_BTPJC), moved + pivot, x_BTPJC)


def jittered(x_BTPJC: Tensor, deviation: float, draws: Draws) -> Tensor:
    """Add normal noise to the joints of bodies that are there."""
    if not deviation:
        return x_BTPJC
    return torch.where(_is_there(x_BTPJC), x_BTPJC + deviation * draws.normal(*x_BTPJC.shape[1:]), x_BTPJC)


def _is_there(x_BTPJC: Tensor) -> Tensor:
    """Which bodies are not all zeros: bool [B, 1, P, 1, 1]."""
    return x_BTPJC.ne(0).flatten(3).any(3).any(1)[:, None, :, None, None]
