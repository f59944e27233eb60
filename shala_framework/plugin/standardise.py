"""Mean and scale of a signal, learned from the training samples and saved with the networks."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from shala_framework.support.errors import DataError


class Standardise(nn.Module):
    """Maps x to (x - mean) / scale and back.

    A modality learns mean and scale from its training samples and gives each network a copy.

    Args:
        shape: Shape of the mean. Axes of x before it are averaged over.
        trailing: Number of axes of x after those of the mean; they are averaged over too.
        per_entry: Whether to learn one scale for each entry of the mean instead of one scale for all.
        smallest: Lower bound of the learned scale, in units of x.
        mean: Initial mean.
        scale: Initial scale, in units of x.

    Example:
        >>> standardise = Standardise((2,), per_entry=True)  # for x [T, 2]
        >>> standardise.fit([torch.tensor([[0.0, 5.0], [2.0, 9.0]]), None], fields=("npy",))
        >>> standardise.state()
        {'mean': [1.0, 7.0], 'scale': [1.0, 2.0]}
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        *,
        trailing: int = 0,
        per_entry: bool = False,
        smallest: float = 1e-6,
        mean: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.shape, self.trailing, self.per_entry, self.smallest = tuple(shape), trailing, per_entry, smallest
        self.register_buffer("mean", torch.full(self._broadcast(self.shape), mean))
        self.register_buffer("scale", torch.full(self._broadcast(self._scale_shape), scale))
        self._state = self._described()

    def forward(self, x: Tensor) -> Tensor:
        """Standardise x [N, ...]."""
        return (x - self.mean) / self.scale

    def inverse(self, x: Tensor) -> Tensor:
        """Undo the standardisation."""
        return x * self.scale + self.mean

    def copy(self) -> "Standardise":
        """Return a copy with its own buffers. Each network needs one, as networks are saved and moved separately."""
        return copy.deepcopy(self)

    def fit(self, read: Iterable[Tensor | None], fields: Sequence[str], at_most: int = 2_000) -> None:
        """Learn mean and scale from the training samples of a modality.

        Args:
            read: x of each sample in turn, None for a sample that lacks the modality; usually `map(self.read,
                samples)`.
            fields: Fields of the modality, for the error message.
            at_most: Largest number of x to learn from. Later samples are not read.

        Raises:
            DataError: No sample has this modality.
        """
        count, mean, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
        for x in islice((x for x in read if x is not None), at_most):
            # Merging the moments of parts stays accurate when the mean is large (Chan et al. 1979).
            part, number = x.double(), x.numel() // self.mean.numel()
            part_mean = part.sum_to_size(self.mean.shape) / number
            gap, total = part_mean - mean, count + number
            squares = squares + (part - part_mean).square().sum_to_size(self.mean.shape)
            squares = squares + gap.square() * (count * number / total)
            mean, count = mean + gap * (number / total), total
        if not count:
            raise DataError(
                f"expected at least one training sample that has this modality in one of the fields {list(fields)}, "
                "got none"
            )
        variance = squares / count
        scale = (variance if self.per_entry else variance.mean()).sqrt().clamp_min(self.smallest)
        self.mean, self.scale = mean.float(), scale.float()
        self._state = self._described()

    def state(self) -> dict[str, Any]:
        """Return the mean, a list of `shape`, and the scale: a number, or a list of the same shape with `per_entry`."""
        return copy.deepcopy(self._state)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`.

        Raises:
            ValueError: The state has other keys or shapes, or its values are not a valid mean and scale.
        """
        if set(state) != {"mean", "scale"}:
            raise ValueError(f"expected the keys 'mean' and 'scale', got {sorted(state)}")
        try:
            mean, scale = (torch.tensor(state[key], dtype=torch.float32) for key in ("mean", "scale"))
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected numbers for mean and scale, got others ({error})") from error
        if mean.shape != self.shape or scale.shape != self._scale_shape:
            raise ValueError(
                f"expected a mean of shape {list(self.shape)} and a scale of shape {list(self._scale_shape)}, "
                f"got {list(mean.shape)} and {list(scale.shape)}"
            )
        if not (mean.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
            raise ValueError("expected a finite mean and a finite scale above 0, got other numbers")
        self.mean, self.scale = mean.view(self.mean.shape), scale.view(self.scale.shape)
        # Keep the original: float32 may not reproduce every digit, and states are compared.
        self._state = copy.deepcopy(dict(state))

    @property
    def _scale_shape(self) -> tuple[int, ...]:
        return self.shape if self.per_entry else ()

    def _broadcast(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape + (1,) * self.trailing if shape else ()

    def _described(self) -> dict[str, Any]:
        mean, scale = self.mean.view(self.shape), self.scale.view(self._scale_shape)
        return {"mean": mean.tolist(), "scale": scale.tolist()}
