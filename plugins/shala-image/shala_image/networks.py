"""Convolutional residual encoder and decoder of pictures of any size from 28 x 28.

Only one layer runs at full resolution: a space-to-depth stem folds blocks of 2 x 2 or 4 x 4 pixels into channels, and
overlapping patches unfold them at the end. In between, maps are halved or doubled as often as the size requires. Odd
sides are rounded up on input and cropped on output. Maps are in channels-last order, in which a CPU runs convolutions
of few channels faster.

Shapes: B batch, C channels of a map or of the picture, H height, W width, F feature_dim, D latent_dim, K components.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from shala_framework.plugin import (
    LOCATION_SCALE,
    ConditionedResidual,
    Likelihood,
    LogScale,
    Pixels,
    Residual,
    group_norm,
    initialise,
    pixels_to_unit,
)
from shala_image.mixture import LogisticMixture, lower_bounded

LARGE_SIDE = 48  # pictures whose shorter side is at least this have blocks of 4 x 4 pixels, others of 2 x 2
CONDITION_DIM = 128  # size of the vector that modulates the decoder's maps
LOWEST_SIDE = 8  # maps are halved until no side is longer than twice this, and the shorter side is at most this


def stem_block(height: int, width: int) -> int:
    """Return the side of the pixel block that the stem folds into channels. Small blocks keep thin strokes apart."""
    return 4 if min(height, width) >= LARGE_SIDE else 2


def map_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Return height and width of each map, from the one after the stem to the smallest; at least two."""
    block = stem_block(height, width)
    sizes = [(-(-height // block), -(-width // block))]
    while len(sizes) < 2 or min(sizes[-1]) > LOWEST_SIDE or max(sizes[-1]) > 2 * LOWEST_SIDE:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def map_channels(height: int, width: int, network_width: int) -> tuple[int, int]:
    """Return the channels of the map nearest to the pixels, proportional to a block's pixels, and of the lower maps."""
    high = network_width * stem_block(height, width) ** 2 // 4
    return high, 2 * high


class ImageEncoder(nn.Module):
    """Encodes uint8 pictures [B, C, H, W] as features [B, F]."""

    def __init__(self, shape: tuple[int, int, int], network_width: int, feature_dim: int) -> None:
        super().__init__()
        channels, height, width = shape
        block, sizes = stem_block(height, width), map_sizes(height, width)
        high, low = map_channels(height, width, network_width)
        self.padding = (0, -width % block, 0, -height % block)
        self.unshuffle = nn.PixelUnshuffle(block)
        layers: list[nn.Module] = [nn.Conv2d(channels * block**2, high, 3, padding=1)]
        for index in range(len(sizes) - 1):
            current = high if index == 0 else low
            layers += [group_norm(current), nn.SiLU(), nn.Conv2d(current, low, 3, stride=2, padding=1)]
            layers.append(Residual(nn.Conv2d(low, low, 3, padding=1)))
        layers += [group_norm(low), nn.SiLU(), nn.Flatten()]
        self.layers = nn.Sequential(*layers)
        # Group norm removes brightness and contrast; the means over a coarse grid keep them.
        self.coarse = nn.AdaptiveAvgPool2d(sizes[-1])
        self.head = nn.Linear((low + channels) * sizes[-1][0] * sizes[-1][1], feature_dim)
        initialise(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = nn.functional.pad(pixels_to_unit(x_BCHW), self.padding, mode="replicate")
        h_BCHW = self.unshuffle(x_BCHW).contiguous(memory_format=torch.channels_last)
        h_BF: Tensor = self.head(torch.cat([self.layers(h_BCHW), self.coarse(x_BCHW).flatten(1)], dim=1))
        return h_BF.float()


class OverlappingPatches(nn.Module):
    """Maps [B, C, H, W] to [B, num_maps, H * block, W * block]; positions become patches twice as wide as a block.

    Patches fade out towards their borders and add up, so block edges are invisible.
    """

    window: Tensor

    def __init__(self, channels: int, num_maps: int, block: int) -> None:
        super().__init__()
        self.block = block
        self.weight = nn.Parameter(torch.randn(channels, num_maps, 2 * block, 2 * block) * (2 / channels) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(num_maps))
        fade = 1 - ((torch.arange(2 * block) + 0.5) / block - 1).abs()
        self.register_buffer("window", fade[:, None] * fade, persistent=False)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        weight = self.weight * self.window
        return nn.functional.conv_transpose2d(h_BCHW, weight, self.bias, stride=self.block, padding=self.block // 2)


class ImageDecoder(nn.Module):
    """Decodes latents [B, D] as a likelihood of uint8 pictures [B, C, H, W].

    The output is a backdrop, which z sets directly on the coarse grid, plus what the convolutions paint over it.
    Colours and large shapes are learned within tens of steps, whatever the state of the deeper layers.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        network_width: int,
        latent_dim: int,
        head: "LocationScaleHead | MixtureHead",
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.size, self.sizes, self.block = (height, width), map_sizes(height, width), stem_block(height, width)
        (low_height, low_width), num_levels = self.sizes[-1], len(self.sizes) - 1
        high, low = map_channels(height, width, network_width)
        self.condition = nn.Sequential(
            nn.Linear(latent_dim, CONDITION_DIM), nn.SiLU(), nn.Linear(CONDITION_DIM, CONDITION_DIM), nn.SiLU()
        )
        self.to_map = nn.Sequential(
            nn.Linear(latent_dim + CONDITION_DIM, low * low_height * low_width),
            nn.Unflatten(1, (low, low_height, low_width)),
        )
        self.position = nn.Parameter(0.1 * torch.randn(low, low_height, low_width))
        self.lowest = ConditionedResidual(nn.Conv2d(low, low, 3, padding=1), CONDITION_DIM)
        self.enlarge, self.blocks = nn.ModuleList(), nn.ModuleList()
        for index in range(num_levels):
            following = high if index == num_levels - 1 else low
            self.enlarge.append(nn.Sequential(nn.Conv2d(low, 4 * following, 1), nn.PixelShuffle(2)))
            self.blocks.append(ConditionedResidual(nn.Conv2d(following, following, 3, padding=1), CONDITION_DIM))
        self.norm, self.patches = group_norm(high), OverlappingPatches(high, head.num_maps, self.block)
        self.backdrop = nn.Linear(latent_dim, channels * low_height * low_width)
        self.head = head
        initialise(self)
        with torch.no_grad():  # initially, most pixels lie within [-1, 1]
            self.backdrop.weight.mul_(0.3)
            self.patches.weight.mul_(0.3)

    def forward(self, z_BD: Tensor) -> Likelihood:
        condition_BC = self.condition(z_BD)
        h_BCHW = self.to_map(torch.cat([z_BD, condition_BC], dim=1)) + self.position
        h_BCHW = self.lowest(h_BCHW.contiguous(memory_format=torch.channels_last), condition_BC)
        for enlarge, block, (height, width) in zip(self.enlarge, self.blocks, self.sizes[-2::-1], strict=True):
            h_BCHW = block(enlarge(h_BCHW)[:, :, :height, :width], condition_BC)
        maps_BCHW = self.patches(nn.functional.silu(self.norm(h_BCHW)))
        backdrop_BCHW = self.backdrop(z_BD).float().unflatten(1, (-1, *self.sizes[-1]))
        backdrop_BCHW = nn.functional.interpolate(backdrop_BCHW, self.size, mode="bilinear")
        likelihood: Likelihood = self.head(maps_BCHW[:, :, : self.size[0], : self.size[1]].float(), backdrop_BCHW)
        return likelihood


class LocationScaleHead(nn.Module):
    """Turns maps and a backdrop, both [B, C, H, W], into a normal or Laplace likelihood with one scale for all."""

    def __init__(self, name: Literal["normal", "laplace"], channels: int, scale: float | None) -> None:
        super().__init__()
        self.num_maps, self.likelihood, self.log_scale = channels, LOCATION_SCALE[name], LogScale(fixed=scale)

    def forward(self, maps_BCHW: Tensor, backdrop_BCHW: Tensor) -> Pixels:
        return Pixels(self.likelihood(backdrop_BCHW + maps_BCHW, self.log_scale()))


class MixtureHead(nn.Module):
    """Turns maps [B, K * (1 + 2 * C), H, W] and a backdrop [B, C, H, W] into a mixture of discretised logistics.

    The components start apart, around the backdrop, from darker to brighter.
    """

    def __init__(self, components: int, channels: int) -> None:
        super().__init__()
        self.components, self.channels, self.num_maps = components, channels, components * (1 + 2 * channels)
        spread = torch.linspace(-0.5, 0.5, components) if components > 1 else torch.zeros(1)
        self.offset = nn.Parameter(spread.view(-1, 1, 1, 1).repeat(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.full((components, channels, 1, 1), -1.5))

    def forward(self, maps_BCHW: Tensor, backdrop_BCHW: Tensor) -> LogisticMixture:
        maps_BKCHW = maps_BCHW.unflatten(1, (self.components, -1))
        logits, means, log_scales = maps_BKCHW.split([1, self.channels, self.channels], dim=2)
        means = backdrop_BCHW[:, None] + self.offset + means
        return LogisticMixture(logits.squeeze(2), means, lower_bounded(self.log_scale + log_scales))
