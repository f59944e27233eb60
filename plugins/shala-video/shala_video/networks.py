"""Convolutional encoder and decoder of clips: 2D networks for frames, 1D networks for time.

Two properties keep a step cheap on a CPU. No convolution runs at full resolution: a space-to-depth stem on input and a
sub-pixel layer on output handle 4 x 4 pixels each. No 3D convolution is used. All networks use group norm; without it,
such networks reconstruct only background colours.

Shapes: B batch, T frames, N = B * T, C channels, H height, W width, F feature_dim, D latent_dim.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from shala_framework.plugin import (
    LOCATION_SCALE,
    ConditionedResidual,
    LogScale,
    Pixels,
    Residual,
    ResidualSpace,
    group_norm,
    initialise,
    pixels_to_unit,
)

STEM = 4  # side of the pixel block that the stem folds into channels and the last layer unfolds
LOWEST_SIDE = 8  # maps are halved until their shorter side is at most this


def low_resolution(height: int, width: int) -> tuple[int, int, int]:
    """Return height and width of the smallest map, and how often it was halved after the stem (at least once)."""
    height, width, halvings = height // (2 * STEM), width // (2 * STEM), 1
    while min(height, width) > LOWEST_SIDE and height % 2 == 0 and width % 2 == 0:
        height, width, halvings = height // 2, width // 2, halvings + 1
    return height, width, halvings


class FrameEncoder(nn.Module):
    """Encodes frames [N, 3, H, W] in [-1, 1] as vectors [N, frame_dim]."""

    def __init__(self, height: int, width: int, channels: int, frame_dim: int) -> None:
        super().__init__()
        low_height, low_width, halvings = low_resolution(height, width)
        layers: list[nn.Module] = [nn.PixelUnshuffle(STEM), nn.Conv2d(3 * STEM**2, 2 * channels, 1)]
        for index in range(halvings):
            current = 2 * channels if index == 0 else 3 * channels
            layers += [group_norm(current), nn.SiLU(), nn.Conv2d(current, 3 * channels, 3, stride=2, padding=1)]
        layers += [group_norm(3 * channels), nn.SiLU(), nn.Flatten()]
        self.layers = nn.Sequential(*layers)
        # Group norm removes brightness and contrast; the mean colours of a coarse grid keep them.
        self.coarse = nn.AdaptiveAvgPool2d((low_height, low_width))
        self.to_vector = nn.Linear(3 * (channels + 1) * low_height * low_width, frame_dim)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        h_NC: Tensor = self.to_vector(torch.cat([self.layers(x_NCHW), self.coarse(x_NCHW).flatten(1)], dim=1))
        return h_NC


class ClipEncoder(nn.Module):
    """Encodes uint8 clips [B, T, 3, H, W] as features [B, F]."""

    def __init__(self, shape: tuple[int, int, int, int], channels: int, feature_dim: int) -> None:
        super().__init__()
        num_frames, _, height, width = shape
        frame_dim = 4 * channels
        self.frames = FrameEncoder(height, width, channels, frame_dim)
        self.time = nn.Sequential(
            Residual(nn.Conv1d(frame_dim, frame_dim, 3, padding=1)),
            nn.Conv1d(frame_dim, frame_dim, 4, stride=2, padding=1),
            Residual(nn.Conv1d(frame_dim, frame_dim, 3, padding=1)),
            nn.Conv1d(frame_dim, frame_dim, 4, stride=2, padding=1),
            Residual(nn.Conv1d(frame_dim, frame_dim, 3, padding=1)),
            group_norm(frame_dim),
            nn.SiLU(),
            nn.Flatten(),
        )
        self.head = nn.Linear(frame_dim * (num_frames // 4 + 1), feature_dim)
        initialise(self)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        x_NCHW = pixels_to_unit(x_BTCHW).flatten(0, 1)
        h_BTC = self.frames(x_NCHW).unflatten(0, x_BTCHW.shape[:2])
        # The mean over time, which holds what stays the same in all frames, bypasses the norms as well.
        h_BF: Tensor = self.head(torch.cat([self.time(h_BTC.transpose(1, 2)), h_BTC.mean(1)], dim=1))
        return h_BF.float()


class FrameDecoder(nn.Module):
    """Decodes vectors [N, frame_dim] as maps [N, num_maps, H, W]."""

    def __init__(self, height: int, width: int, channels: int, frame_dim: int, num_maps: int) -> None:
        super().__init__()
        low_height, low_width, halvings = low_resolution(height, width)
        low, high = 3 * channels, 2 * channels
        self.to_map = nn.Sequential(
            nn.Linear(frame_dim, low * low_height * low_width), nn.Unflatten(1, (low, low_height, low_width))
        )
        self.position = nn.Parameter(0.1 * torch.randn(low, low_height, low_width))
        self.lowest = ConditionedResidual(nn.Conv2d(low, low, 3, padding=1), frame_dim)
        self.enlarge = nn.Sequential()
        for index in range(halvings):
            following = high if index == halvings - 1 else low
            self.enlarge.extend([nn.Conv2d(low, 4 * following, 1), nn.PixelShuffle(2)])
            self.enlarge.append(Residual(nn.Conv2d(following, following, 3, padding=1)))
        self.norm, self.last = group_norm(high), nn.Conv2d(high, num_maps * STEM**2, 1)

    def forward(self, h_NC: Tensor) -> Tensor:
        h_NCHW = self.enlarge(self.lowest(self.to_map(h_NC) + self.position, h_NC))
        return nn.functional.pixel_shuffle(self.last(nn.functional.silu(self.norm(h_NCHW))), STEM)


class ClipDecoder(nn.Module):
    """Decodes latents [B, D] as a likelihood of uint8 clips [B, T, 3, H, W].

    A frame is painted in layers: each pixel is softly assigned to a smooth backdrop or to one of a few colours, and a
    small correction is added. Backdrop and colours come directly from z and apply to the whole clip; only the
    assignment changes over time. Appearance and position are therefore separate by construction.
    """

    NUM_COLOURS = 7

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        channels: int,
        latent_dim: int,
        likelihood: Literal["normal", "laplace"],
        scale: float | None,
        training_frames: int,
    ) -> None:
        super().__init__()
        self.num_frames, _, height, width = shape
        self.training_frames = min(training_frames, self.num_frames)
        frame_dim = 4 * channels
        self.likelihood = LOCATION_SCALE[likelihood]
        self.log_scale = LogScale(fixed=scale)
        self.from_latent = nn.Sequential(nn.Linear(latent_dim, frame_dim), nn.SiLU(), nn.Linear(frame_dim, frame_dim))
        self.to_time = nn.Sequential(
            nn.SiLU(), nn.Linear(frame_dim, frame_dim * self.num_frames), nn.Unflatten(1, (frame_dim, self.num_frames))
        )
        self.blocks = nn.ModuleList(
            ConditionedResidual(nn.Conv1d(frame_dim, frame_dim, 3, padding=1), frame_dim) for _ in range(3)
        )
        # Each frame's vector also contains what stays the same in all frames.
        self.to_frame = nn.Sequential(nn.LayerNorm(2 * frame_dim), nn.Linear(2 * frame_dim, frame_dim), nn.SiLU())
        self.frames = FrameDecoder(height, width, channels, frame_dim, 1 + self.NUM_COLOURS + 3)
        low_height, low_width, _ = low_resolution(height, width)
        self.backdrop = nn.Linear(latent_dim, 3 * low_height * low_width)
        self.enlarge = nn.Sequential(
            nn.Unflatten(1, (3, low_height, low_width)), nn.Upsample((height, width), mode="bilinear")
        )
        self.palette = nn.Sequential(
            nn.Linear(latent_dim, frame_dim),
            nn.SiLU(),
            nn.Linear(frame_dim, 3 * self.NUM_COLOURS),
            nn.Unflatten(1, (self.NUM_COLOURS, 3)),
        )
        initialise(self)
        with torch.no_grad():
            self.backdrop.weight.mul_(0.3)
            self.frames.last.weight.mul_(0.3)

    def forward(self, z_BD: Tensor) -> "ClipLikelihood":
        static_BC = self.from_latent(z_BD)
        h_BCT = self.to_time(static_BC)
        for block in self.blocks:
            h_BCT = block(h_BCT, static_BC)
        h_BTC = h_BCT.transpose(1, 2)
        h_BTC = self.to_frame(torch.cat([h_BTC, static_BC[:, None].expand_as(h_BTC)], dim=2))
        palette_BK3 = self.palette(z_BD).float()
        backdrop_B3HW = self.enlarge(self.backdrop(z_BD).float())

        def paint(frames: Tensor | None, num_rows: int | None) -> Pixels:
            some_BTC = (h_BTC if frames is None else h_BTC[:, frames])[:num_rows]
            maps = self.frames(some_BTC.flatten(0, 1)).float().unflatten(0, some_BTC.shape[:2])
            share_BTKHW = maps[:, :, : 1 + self.NUM_COLOURS].softmax(2)
            x_BTCHW = torch.einsum("btkhw,bkc->btchw", share_BTKHW[:, :, 1:], palette_BK3[:num_rows])
            x_BTCHW = x_BTCHW + share_BTKHW[:, :, :1] * backdrop_B3HW[:num_rows, None]
            return Pixels(self.likelihood(x_BTCHW + 0.1 * maps[:, :, 1 + self.NUM_COLOURS :], self.log_scale()))

        return ClipLikelihood(paint, self.num_frames, self.training_frames if self.training else self.num_frames)


class ClipLikelihood:
    """p(x | z) of whole clips that paints only the frames and rows it needs.

    While its decoder trains, log_prob paints a few random frames and scales their log-likelihood up. This is an
    unbiased estimate of the whole at a fraction of the cost, because the frames of a clip are similar.
    """

    is_bound = False

    def __init__(
        self,
        paint: Callable[[Tensor | None, int | None], Pixels],
        num_frames: int,
        num_painted: int,
        num_rows: int | None = None,
    ) -> None:
        """Describe what to paint.

        Args:
            paint: Paints some frames, or all for None, of so many first rows, or of all for None.
            num_frames: Number of frames of a clip.
            num_painted: Number of frames that log_prob paints.
            num_rows: Number of rows; None for all.
        """
        self.paint, self.num_frames, self.num_painted, self.num_rows = paint, num_frames, num_painted, num_rows

    def first_rows(self, num_rows: int) -> "ClipLikelihood":
        """Return the same of the first rows alone."""
        return ClipLikelihood(self.paint, self.num_frames, self.num_painted, num_rows)

    def _whole(self) -> Pixels:
        return self.paint(None, self.num_rows)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of uint8 x [B, T, 3, H, W] in nats, or an unbiased estimate of it in training: [B]."""
        if self.num_painted == self.num_frames:
            return self._whole().log_prob(x)
        frames = torch.randperm(self.num_frames, device=x.device)[: self.num_painted]
        return self.paint(frames, self.num_rows).log_prob(x[:, frames]) * (self.num_frames / self.num_painted)

    def mode(self) -> Tensor:
        return self._whole().mode()

    def relaxed(self) -> Tensor:
        """Return `mode` before rounding and clamping, of all frames also in training: the encoder sees whole clips."""
        return self._whole().relaxed()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self._whole().sample(generator)

    def residual_space(self) -> ResidualSpace:
        return self._whole().residual_space()
