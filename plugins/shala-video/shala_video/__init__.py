"""Video clips as a modality: a fixed number of frames of a fixed size."""

from collections.abc import Mapping
from typing import Any, Literal, final

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from shala_framework.plugin import (
    FILM_FIELDS,
    Draws,
    Modality,
    Preview,
    RefinerUNet,
    above,
    at_least,
    between,
    each,
    encode_mp4,
    hookimpl,
    multiple_of,
    not_empty,
    take_along,
    vary_pictures,
)
from shala_video.networks import STEM, ClipDecoder, ClipEncoder, low_resolution
from shala_video.reading import MAX_FRAMES, MAX_PIXELS, read_clip

SIDE = [between(16, 256), multiple_of(8)]


@attrs.frozen(kw_only=True)
class VideoAugment:
    """How training rows of stage 1 vary. Samples vary likewise, because the model learns what it is shown.

    Each modality draws on its own: do not flip or crop where another modality tells left from right or says where
    things are, and do not move time where another runs along with the clip.

    Attributes:
        shift: Largest distance in pixels by which a clip moves along each axis; its edge is repeated.
        crop: Largest share of each side that is cut off; the rest is enlarged.
        flip: Whether half of the clips are mirrored, left to right.
        brightness: Largest relative change of brightness.
        contrast: Largest relative change of contrast.
        saturation: Largest relative change of saturation.
        time: Largest share of a clip that is cut off at its start, and at its end; the rest is slowed down to the
            length of the clip by repeating frames.
    """

    shift: int = attrs.field(default=0, validator=between(0, 128))
    crop: float = attrs.field(default=0.0, validator=between(0, 0.9))
    flip: bool = False
    brightness: float = attrs.field(default=0.0, validator=between(0, 1))
    contrast: float = attrs.field(default=0.0, validator=between(0, 1))
    saturation: float = attrs.field(default=0.0, validator=between(0, 1))
    time: float = attrs.field(default=0.0, validator=between(0, 0.45))


@final
class Video(Modality):
    """Clips x, uint8 [T, 3, H, W] of RGB."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of a video modality.

        Attributes:
            frames: Number of frames of x, a multiple of 4. They show the clip at moments that are evenly spaced in time
                from its first to its last frame, whatever its frame rate.
            height: Height of x in pixels, a multiple of 8 from 16 to 256.
            width: Width of x in pixels, a multiple of 8 from 16 to 256.
            channels: Width of the networks. Their maps have 2 and 3 times as many channels.
            fields: Sample fields to look for, in this order, in any format that FFmpeg reads from one file.
            max_pixels: Largest number of pixels of a stored frame. A file that declares more is refused before it is
                decoded.
            max_frames: Largest number of frames of a file. A file with more is refused before it is decoded.
            frames_per_second: Playback rate of written clips and previews.
            likelihood: Distribution of a pixel's value given z.
            scale: Scale of the likelihood, in units of pixel values in [-1, 1]. By default it is learned.
            training_frames: Number of randomly chosen frames of each clip that a training step decodes, which makes its
                log-likelihood an unbiased estimate. The encoder always sees all frames.
            refiner_width: Channels of the highest map of stage 3's network, a multiple of 8; 0 leaves it out. 32 suits
                a CPU, 64 to 128 a GPU.
            refiner_attention: Whether places of that network's lowest map attend to each other in each frame.
            augment: How training rows of stage 1 vary: `shift`, `crop`, `flip`, `brightness`, `contrast`, `saturation`
                and `time`. By default they do not.
        """

        frames: int = attrs.field(default=16, validator=[at_least(4, at_most=1_024), multiple_of(4)])
        height: int = attrs.field(default=64, validator=SIDE)
        width: int = attrs.field(default=64, validator=SIDE)
        channels: int = attrs.field(default=32, validator=[at_least(8, at_most=4_096), multiple_of(8)])
        fields: tuple[str, ...] = attrs.field(default=FILM_FIELDS, validator=[not_empty, each(not_empty)])
        max_pixels: int = attrs.field(default=MAX_PIXELS, validator=between(1, 2**31 - 1))
        max_frames: int = attrs.field(default=MAX_FRAMES, validator=at_least(1, at_most=10**9))
        frames_per_second: float = attrs.field(default=8.0, validator=[above(0), between(0.01, 1_000)])
        likelihood: Literal["normal", "laplace"] = attrs.field(
            default="normal", validator=attrs.validators.in_(("normal", "laplace"))
        )
        scale: float | None = attrs.field(
            default=None, validator=attrs.validators.optional((above(0), between(1e-6, 1e6)))
        )
        training_frames: int = attrs.field(default=4, validator=at_least(1, at_most=1_024))
        refiner_width: int = attrs.field(default=32, validator=[at_least(0, at_most=4_096), multiple_of(8)])
        refiner_attention: bool = False
        augment: VideoAugment = attrs.field(factory=VideoAugment)

    options: Options
    dtype = torch.uint8
    refiner_options = frozenset({"refiner_width", "refiner_attention"})
    network_options = frozenset(
        {"channels", "frames_per_second", "likelihood", "scale", "training_frames", "max_pixels", "max_frames"}
        | {"refiner_width", "refiner_attention", "augment"}
    )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.options.frames, 3, self.options.height, self.options.width

    @property
    def fields(self) -> tuple[str, ...]:
        return self.options.fields

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        """Decode the first of `fields` that has a picture: uint8 [T, 3, H, W].

        Returns:
            x, or None if no field has a picture: a film with only sound, a video track without a frame, or frames that
            are completely transparent.

        Raises:
            DataError: A field is not a video that FFmpeg can decode, or exceeds a limit.
        """
        options = self.options
        for field in self.fields:
            frames = (
                read_clip(
                    sample[field],
                    field,
                    options.frames,
                    options.height,
                    options.width,
                    max_pixels=options.max_pixels,
                    max_frames=options.max_frames,
                )
                if field in sample
                else None
            )
            if frames is not None:
                return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))
        return None

    def write(self, x: Tensor) -> dict[str, bytes]:
        """Encode the clip as H.264 under "mp4"."""
        return {"mp4": encode_mp4(_to_frames(x), self.options.frames_per_second)}

    def preview(self, x: Tensor) -> Preview:
        """Show the clip itself."""
        return Preview(frames=_to_frames(x), frames_per_second=self.options.frames_per_second)

    def augment(self, x: Tensor, draws: Draws) -> Tensor:
        """Crop, move, mirror, recolour and slow down clips uint8 [B, T, 3, H, W] as the option `augment` says."""
        table = self.options.augment
        if table.time:
            start_B1, end_B1 = draws.uniform(0, table.time, 1), 1 - draws.uniform(0, table.time, 1)
            times_BT = start_B1 + (end_B1 - start_B1) * torch.linspace(0, 1, x.shape[1], device=x.device)
            x = take_along(x, (times_BT * (x.shape[1] - 1)).round().long(), 1)
        return vary_pictures(
            x,
            draws,
            crop=table.crop,
            shift_by=table.shift,
            mirror=table.flip,
            brightness=table.brightness,
            contrast=table.contrast,
            saturation=table.saturation,
        )

    def encoder(self, feature_dim: int) -> nn.Module:
        """Encode x, uint8 [B, T, 3, H, W], as h [B, feature_dim]."""
        return ClipEncoder(self.shape, self.options.channels, feature_dim)

    def decoder(self, latent_dim: int) -> nn.Module:
        """Decode z [B, latent_dim] as a likelihood of 8-bit pixels."""
        options = self.options
        return ClipDecoder(
            self.shape, options.channels, latent_dim, options.likelihood, options.scale, options.training_frames
        )

    def refiner(self, latent_dim: int) -> nn.Module | None:
        """A U-Net over the space of each frame, with convolutions over time."""
        options = self.options
        if not options.refiner_width:
            return None
        _, _, halvings = low_resolution(options.height, options.width)
        return RefinerUNet(
            3,
            latent_dim,
            width=options.refiner_width,
            fold=STEM,
            num_blocks=(1,) * halvings + (2,),
            over_time=True,
            attention=options.refiner_attention,
        )


def _to_frames(x_TCHW: Tensor) -> np.ndarray:
    return x_TCHW.permute(0, 2, 3, 1).contiguous().cpu().numpy()


@hookimpl
def shala_register_modalities(register: Any) -> None:
    register("video", Video)
