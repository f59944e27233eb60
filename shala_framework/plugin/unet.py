"""The network that first-party modalities give to stage 3: a small U-Net over space, over time, or over both.

It maps a noisy residual to a clean one, given the decoder's mean beside it, the latent and the noise level. Blocks of
neighbouring values are folded into channels first, so that no convolution runs at full resolution.

Shapes: B batch, C channels of the signal, N rows of a map (B, or B * T for frames), K channels of a map, T frames, D
latent_dim, W condition_dim; an ellipsis is one or two dimensions of space.
Reference: Ronneberger et al. 2015 for the shape; Dhariwal and Nichol 2021 for group norm that the noise level scales.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shala_framework.plugin.layers import group_norm, initialise

CONDITION_DIM = 128
CANVAS_DIM, CANVAS_CHANNELS = 256, 32  # hidden units and channels of the map of z


class NoiseAndLatent(nn.Module):
    """One vector [B, W] of the noise level c_noise [B] and the latent z [B, D]."""

    frequencies: Tensor

    def __init__(self, latent_dim: int, condition_dim: int = CONDITION_DIM) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.linspace(math.log(0.5), math.log(32.0), 16).exp(), persistent=False)
        self.noise = nn.Linear(32, condition_dim)
        self.latent = nn.Linear(latent_dim, condition_dim)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(condition_dim, condition_dim), nn.SiLU())

    def forward(self, z_BD: Tensor, c_noise_B: Tensor) -> Tensor:
        angles = c_noise_B[:, None] * self.frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        condition_BW: Tensor = self.mix(self.noise(waves) + self.latent(z_BD))
        return condition_BW


class _Attention(nn.Module):
    """Self-attention among the places of a map [N, K, ...], for shapes that convolutions of few levels do not span."""

    def __init__(self, channels: int, head_dim: int = 32) -> None:
        super().__init__()
        self.heads = max(1, channels // head_dim)
        self.norm = group_norm(channels)
        self.enter, self.leave = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, h_NK: Tensor) -> Tensor:
        places_NSK = self.norm(h_NK).flatten(2).transpose(1, 2)
        q, k, v = self.enter(places_NSK).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        changed: Tensor = self.leave(mixed).transpose(1, 2).unflatten(2, h_NK.shape[2:])
        return h_NK + changed


class _Block(nn.Module):
    """x + f(x; condition): two convolutions over space and, of clips, one over time."""

    def __init__(self, channels: int, condition_dim: int, dims: int, *, over_time: bool, attention: bool) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d)[dims - 1]
        self.first_norm, self.first = group_norm(channels), convolution(channels, channels, 3, padding=1)
        self.second_norm, self.second = group_norm(channels), convolution(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(condition_dim, 2 * channels)
        self.time = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0)) if over_time else None
        self.attention = _Attention(channels) if attention else None

    def forward(self, x_NK: Tensor, condition_NW: Tensor, num_frames: int) -> Tensor:
        spatial = (1,) * (x_NK.ndim - 2)
        h_NK = self.first(nn.functional.silu(self.first_norm(x_NK)))
        scale, shift = self.modulation(condition_NW).unflatten(1, (2, -1, *spatial)).unbind(1)
        h_NK = nn.functional.silu(torch.addcmul(shift, self.second_norm(h_NK), 1 + scale))
        if self.time is not None:
            h_BKTS = h_NK.unflatten(0, (-1, num_frames)).transpose(1, 2).flatten(3)
            h_BKTS = h_BKTS + self.time(h_BKTS)
            h_NK = h_BKTS.transpose(1, 2).flatten(0, 1).unflatten(2, h_NK.shape[2:])
        x_NK = x_NK + self.second(h_NK)
        return x_NK if self.attention is None else self.attention(x_NK)


class _Level(nn.ModuleList):
    """The blocks of one level, one after the other."""

    def forward(self, h_NK: Tensor, condition_NW: Tensor, num_frames: int) -> Tensor:
        for block in self:
            h_NK = block(h_NK, condition_NW, num_frames)
        return h_NK


class Canvas(nn.Module):
    """A map [B, K, ...] of z [B, D]."""

    def __init__(self, latent_dim: int, channels: int, places: Sequence[int]) -> None:
        super().__init__()
        self.places, between = tuple(places), min(channels, CANVAS_CHANNELS)
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, CANVAS_DIM), nn.SiLU(), nn.Linear(CANVAS_DIM, between * math.prod(places))
        )
        convolution = (nn.Conv1d, nn.Conv2d)[len(places) - 1]
        self.leave = convolution(between, channels, 1)

    def forward(self, z_BD: Tensor) -> Tensor:
        h_BK = nn.functional.silu(self.layers(z_BD).unflatten(1, (-1, *self.places)))
        map_BK: Tensor = self.leave(h_BK)
        return map_BK


class RefinerUNet(nn.Module):
    """F(c_in r; c_noise, mean, z) of stage 3, for signals [B, C, ...] or clips [B, T, C, ...].

    Args:
        channels: Channels of the signal.
        latent_dim: Dimensions of z.
        dims: Dimensions of space, 1 or 2.
        width: Channels of the highest map; lower ones have twice that.
        fold: Side of the blocks that are folded into channels.
        num_blocks: Residual blocks of each level, the highest first; their number is that of the levels.
        over_time: Whether the signal is a clip, whose frames talk to their neighbours in each block.
        attention: Whether places of the lowest map attend to each other.
        sides: Sides of the signal in space; z is then also decoded to a map of its own, which joins the lowest one. A
            mean does not show what z says where values above and below it are as likely: strokes that are darker on
            bright grounds and brighter on dark ones.
    """

    def __init__(
        self,
        channels: int,
        latent_dim: int,
        *,
        dims: int = 2,
        width: int = 32,
        fold: int = 2,
        num_blocks: Sequence[int] = (1, 3),
        over_time: bool = False,
        attention: bool = False,
        sides: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d)[dims - 1]
        self.dims, self.fold, self.over_time = dims, fold, over_time
        self.condition = NoiseAndLatent(latent_dim)
        folded, lowest = channels * fold**dims, len(num_blocks) - 1
        widths = [width if level == 0 else 2 * width for level in range(len(num_blocks))]

        def blocks(level: int) -> _Level:
            return _Level(
                _Block(
                    widths[level],
                    CONDITION_DIM,
                    dims,
                    over_time=over_time,
                    attention=attention and level == lowest,
                )
                for _ in range(num_blocks[level])
            )

        self.canvas = None
        if sides is not None:
            places = [-(-side // (fold * 2**lowest)) for side in sides]
            self.canvas = Canvas(latent_dim, widths[lowest], places)
        self.enter = convolution(2 * folded, width, 3, padding=1)
        self.down = nn.ModuleList(blocks(level) for level in range(lowest))
        self.shrink = nn.ModuleList(
            convolution(widths[level], widths[level + 1], 3, stride=2, padding=1) for level in range(lowest)
        )
        self.lowest = blocks(lowest)
        self.enlarge = nn.ModuleList(
            convolution(widths[level + 1], 2**dims * widths[level], 1) for level in reversed(range(lowest))
        )
        self.up = nn.ModuleList(blocks(level) for level in reversed(range(lowest)))
        self.norm, self.leave = group_norm(width), convolution(width, folded, 3, padding=1)
        initialise(self)
        for block in self.modules():
            if isinstance(block, _Block):
                nn.init.zeros_(block.second.weight)
        nn.init.zeros_(self.leave.weight)

    def forward(self, noisy: Tensor, mean: Tensor, z_BD: Tensor, c_noise_B: Tensor) -> Tensor:
        num_frames = noisy.shape[1] if self.over_time else 1
        condition_NW = self.condition(z_BD, c_noise_B)
        if self.over_time:
            noisy, mean = noisy.flatten(0, 1), mean.flatten(0, 1)
            condition_NW = condition_NW.repeat_interleave(num_frames, 0)
        sides = noisy.shape[2:]
        h_NK = torch.cat([fold(noisy, self.fold), fold(mean, self.fold)], dim=1)
        if self.dims == 2:
            h_NK = h_NK.contiguous(memory_format=torch.channels_last)
        h_NK = self.enter(h_NK)
        skips: list[Tensor] = []
        for level, shrink in zip(self.down, self.shrink, strict=True):
            h_NK = level(h_NK, condition_NW, num_frames)
            skips.append(h_NK)
            h_NK = shrink(h_NK)
        if self.canvas is not None:
            h_NK = h_NK + self.canvas(z_BD).repeat_interleave(num_frames, 0)
        h_NK = self.lowest(h_NK, condition_NW, num_frames)
        for enlarge, level in zip(self.enlarge, self.up, strict=True):
            skip = skips.pop()
            h_NK = level(skip + unfold(enlarge(h_NK), 2, skip.shape[2:]), condition_NW, num_frames)
        raw = unfold(self.leave(nn.functional.silu(self.norm(h_NK))), self.fold, sides)
        return raw.unflatten(0, (-1, num_frames)) if self.over_time else raw


def fold(x_NC: Tensor, factor: int) -> Tensor:
    """[N, C, ...] to [N, C * factor ** dims, ... / factor], padded by its last values where need be."""
    padding = [amount for side in reversed(x_NC.shape[2:]) for amount in (0, -side % factor)]
    if any(padding):
        x_NC = nn.functional.pad(x_NC, padding, mode="replicate")
    if x_NC.ndim == 4:
        return nn.functional.pixel_unshuffle(x_NC, factor)
    folded_NK: Tensor = x_NC.unflatten(2, (-1, factor)).transpose(2, 3).flatten(1, 2)
    return folded_NK


def unfold(h_NK: Tensor, factor: int, sides: Sequence[int]) -> Tensor:
    """The inverse of `fold`, cut to the sides."""
    if h_NK.ndim == 4:
        return nn.functional.pixel_shuffle(h_NK, factor)[:, :, : sides[0], : sides[1]]
    whole_NC: Tensor = h_NK.unflatten(1, (-1, factor)).transpose(2, 3).flatten(2)
    return whole_NC[:, :, : sides[0]]
