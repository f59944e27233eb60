"""What stage 3 requires of a likelihood: its mean, the scale of the residual, and the conversion of x to numbers.

Stage 3 learns the residual between x and the decoder's mean. It works in a space of real numbers, as x may be bytes. A
decoder whose likelihood is `Refinable` can be refined; `Normal`, `Laplace` and `Pixels` are.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import attrs
from torch import Tensor


def _same(x: Tensor) -> Tensor:
    return x


@attrs.frozen(kw_only=True)
class Levels:
    """The values of a discrete signal, evenly spaced, in the space of the residual.

    Attributes:
        lowest: The first value.
        highest: The last one.
        step: Distance between neighbours.
    """

    lowest: float
    highest: float
    step: float


@attrs.frozen(kw_only=True, eq=False)
class ResidualSpace:
    """The space in which p(x | z) is refined, and where it lies in it.

    Attributes:
        mean: Mean of the likelihood, float [B, ...] in the shape of x.
        log_scale: Log standard deviation, which broadcasts to the mean.
        to_space: Maps x, as `Modality.read` returns it, to the space; for a continuous x, volumes must not change.
        from_space: Maps back, to the dtype and range of `Modality.read`.
        to_encoder: Maps the space to what the modality's encoder takes, with gradients.
        levels: Values that x takes in the space; None where they are continuous.
    """

    mean: Tensor
    log_scale: Tensor
    to_space: Callable[[Tensor], Tensor] = _same
    from_space: Callable[[Tensor], Tensor] = _same
    to_encoder: Callable[[Tensor], Tensor] = _same
    levels: Levels | None = None


@runtime_checkable
class Refinable(Protocol):
    """A likelihood whose draws stage 3 can refine."""

    def residual_space(self) -> ResidualSpace:
        """Mean, scale and coordinates of p(x | z)."""
        ...
