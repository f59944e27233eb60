"""Random draws for augmenting training rows, and operations on batches that several plugins share.

Shapes: B rows of this process, W processes.
"""

import torch
from torch import Tensor

from shala_framework.support.machine import to_device


class Draws:
    """Random draws for the rows of a training batch, one for each row.

    They depend only on the seed and on a row's place in the batch of all processes, so a step has the same draws for
    any number of processes and workers, on any device, and when a run is resumed.

    Args:
        seed: Seed of the draws.
        num_rows: Number of rows B of this process.
        rank: Number of this process; it has the rows rank, rank + world_size, ... of the batch.
        world_size: Number of processes W.
        device: Device of the results.

    Example:
        >>> draws = Draws(seed=1, num_rows=4)
        >>> shifts = draws.integers(-2, 2, 2)  # two whole numbers for each row
        >>> shifts.shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        *,
        seed: int,
        num_rows: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self.num_rows, self.rank, self.world_size = num_rows, rank, world_size
        self.device = device or torch.device("cpu")
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw float32 [B, *shape] from [low, high)."""
        return low + (high - low) * self._own(torch.rand(self._size(shape), generator=self._generator))

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal float32 [B, *shape]."""
        return self._own(torch.randn(self._size(shape), generator=self._generator))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Draw int64 [B, *shape] from low to high, both included."""
        return self._own(torch.randint(low, high + 1, self._size(shape), generator=self._generator))

    def chance(self, probability: float) -> Tensor:
        """Draw bool [B], True with the given probability."""
        return self.uniform(0, 1) < probability

    def _size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.num_rows * self.world_size, *shape)

    def _own(self, drawn: Tensor) -> Tensor:
        return to_device(drawn[self.rank :: self.world_size].contiguous(), self.device)


def by_row(value_B: Tensor, x: Tensor) -> Tensor:
    """Reshape [B] to [B, 1, ...], so that it broadcasts against x [B, ...]."""
    return value_B.view(-1, *(1,) * (x.dim() - 1))


def take_along(x: Tensor, index_BN: Tensor, dim: int) -> Tensor:
    """Select positions of one dimension, others for each row.

    Args:
        x: Rows [B, ...].
        index_BN: int64, the positions of each row.
        dim: Dimension of x, not the first.

    Returns:
        Rows with N positions in that dimension.
    """
    shape = [1] * x.dim()
    shape[0], shape[dim] = index_BN.shape
    sizes = list(x.shape)
    sizes[dim] = index_BN.shape[1]
    return x.gather(dim, index_BN.view(shape).expand(sizes))


def shift(x: Tensor, offset_B: Tensor, dim: int) -> Tensor:
    """Move the content of each row along one dimension; the values at the edge fill the gap.

    Args:
        x: Rows [B, ...].
        offset_B: int64, by how many positions each row moves.
        dim: Dimension of x, not the first.
    """
    length = x.shape[dim]
    index_BN = torch.arange(length, device=x.device)[None] - offset_B[:, None]
    return take_along(x, index_BN.clamp(0, length - 1), dim)


def flip(x: Tensor, flipped_B: Tensor, dim: int) -> Tensor:
    """Reverse one dimension of the rows for which flipped_B is True."""
    return torch.where(by_row(flipped_B, x), x.flip(dim), x)


def crop_pixels(x: Tensor, share: float, draws: Draws) -> Tensor:
    """Cut a random part out of each picture and enlarge it to the whole size, with the same aspect.

    Args:
        x: Pixels uint8 [B, C, H, W], or [B, T, C, H, W], whose frames are cut alike.
        share: Largest share of each side that is cut off, below 1.
        draws: Draws of the rows.
    """
    kept_B = 1 - draws.uniform(0, share)
    centre_B2 = draws.uniform(-1, 1, 2) * (1 - kept_B)[:, None]
    transform_B23 = torch.zeros(len(x), 2, 3, device=x.device)
    transform_B23[:, 0, 0] = transform_B23[:, 1, 1] = kept_B
    transform_B23[:, :, 2] = centre_B2
    frames = x.flatten(1, -3) if x.dim() > 4 else x  # frames and channels of a clip are cut alike
    grid = torch.nn.functional.affine_grid(transform_B23, [*frames.shape], align_corners=False)
    cut = torch.nn.functional.grid_sample(frames.float(), grid, padding_mode="border", align_corners=False)
    return cut.round().clamp(0, 255).to(x.dtype).view_as(x)


def jitter_colours(x: Tensor, brightness: float, contrast: float, saturation: float, draws: Draws) -> Tensor:
    """Change brightness, contrast and saturation of each row by random factors from 1 - value to 1 + value.

    Args:
        x: Pixels uint8 [B, ..., C, H, W]; the frames of a clip change alike.
        brightness: Largest change of brightness.
        contrast: Largest change of contrast, around the mean of the row.
        saturation: Largest change of saturation; grey pictures have none.
        draws: Draws of the rows.
    """

    def factors(value: float) -> Tensor:
        return by_row(1 + draws.uniform(-value, value), x)

    values = x.float()
    if brightness:
        values = values * factors(brightness)
    if contrast:
        mean = values.mean(tuple(range(1, x.dim())), keepdim=True)
        values = mean + (values - mean) * factors(contrast)
    if saturation and x.shape[-3] == 3:
        weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(3, 1, 1)
        grey = (values * weights).sum(-3, keepdim=True)
        values = grey + (values - grey) * factors(saturation)
    return values.round().clamp(0, 255).to(x.dtype)


def vary_pictures(
    x: Tensor,
    draws: Draws,
    *,
    crop: float,
    shift_by: int,
    mirror: bool,
    brightness: float,
    contrast: float,
    saturation: float,
) -> Tensor:
    """Crop, move, mirror and recolour the pictures or clips of a batch; 0 and False leave a step out.

    Args:
        x: uint8 [B, ..., C, H, W].
        draws: Random draws of the rows.
        crop: As for `crop_pixels`.
        shift_by: Largest number of pixels to move by, up or down and to either side.
        mirror: Whether half of the rows are mirrored from left to right.
        brightness: As for `jitter_colours`, and so the next two.
        contrast: Largest change of contrast.
        saturation: Largest change of saturation.
    """
    if crop:
        x = crop_pixels(x, crop, draws)
    if shift_by:
        for dim in (-2, -1):
            x = shift(x, draws.integers(-shift_by, shift_by), dim)
    if mirror:
        x = flip(x, draws.chance(0.5), -1)
    if brightness or contrast or saturation:
        x = jitter_colours(x, brightness, contrast, saturation, draws)
    return x
