"""Pictures as a modality: grey or RGB, at a fixed size."""

from collections.abc import Mapping
from typing import Any, Literal, final

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from shala_framework.plugin import (
    CutOff,
    Draws,
    Modality,
    Preview,
    RefinerUNet,
    above,
    at_least,
    between,
    each,
    encode_png,
    hookimpl,
    multiple_of,
    not_empty,
    vary_pictures,
)
from shala_image.networks import (
    ImageDecoder,
    ImageEncoder,
    LocationScaleHead,
    MixtureHead,
    map_sizes,
    stem_block,
)
from shala_image.pretrained import PretrainedImageEncoder, known_library, load_backbone, safetensors_file
from shala_image.reading import MAX_PIXELS, MOST_PIXELS, Fit, cropped_share, read_picture

MUCH_CROPPED = 0.3  # share of a picture's area


@attrs.frozen(kw_only=True)
class ImageAugment:
    """How training rows of stage 1 vary. Samples vary likewise, because the model learns what it is shown.

    Each modality draws on its own: do not flip or crop where another modality tells left from right or says where
    things are.

    Attributes:
        shift: Largest distance in pixels by which a picture moves along each axis; its edge is repeated.
        crop: Largest share of each side that is cut off; the rest is enlarged.
        flip: Whether half of the pictures are mirrored, left to right.
        brightness: Largest relative change of brightness.
        contrast: Largest relative change of contrast.
        saturation: Largest relative change of saturation; grey pictures have none.
    """

    shift: int = attrs.field(default=0, validator=between(0, 128))
    crop: float = attrs.field(default=0.0, validator=between(0, 0.9))
    flip: bool = False
    brightness: float = attrs.field(default=0.0, validator=between(0, 1))
    contrast: float = attrs.field(default=0.0, validator=between(0, 1))
    saturation: float = attrs.field(default=0.0, validator=between(0, 1))


@final
class Image(Modality):
    """Pictures x, uint8 [C, H, W], grey or RGB."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of an image modality.

        Attributes:
            channels: 3 for RGB or 1 for grey. Files of either kind are converted.
            height: Height of x in pixels, from 28 to 256.
            width: Width of x in pixels, from 28 to 256.
            fit: How a picture of another size becomes height x width. "cover" keeps its aspect and crops around the
                centre, "contain" keeps its aspect and pads with black, "stretch" changes its aspect.
            fields: Sample fields to look for, in this order. The bytes determine the format: JPEG, PNG, WebP or BMP.
            bits: Number of bits of the values in 16-bit grey PNG files, which often hold 10, 12 or 14. It applies to
                all files, because scaling each by its own values would make them incomparable. A larger value is an
                error. The default is 16, with a warning for a picture whose values all fit into 12 bits.
            max_pixels: Largest number of pixels of a file. A file that declares more is an error and is not decoded.
            encoder: Pretrained encoder instead of the plugin's own: "timm:MODEL", "torchvision:MODEL" or
                "transformers:FOLDER" (or the name of a model in its cache). The library has to be installed, and
                nothing is downloaded: weights come from its cache, or from `encoder_weights`. Pictures are stretched
                to the side that it takes.
            encoder_weights: Safetensors file with the weights of `encoder`.
            encoder_trained: Whether training changes the pretrained weights; otherwise they are frozen, and only two
                layers after them learn.
            encoder_side: Side in pixels of the pictures that `encoder` sees; by default the one that it was trained
                with. A smaller one is faster.
            network_width: Number of channels of the feature maps nearest to the pixels, a multiple of 8. It is
                multiplied by four if both sides are 48 or more, because each position then covers four times as many
                pixels. The lower maps have twice as many channels.
            likelihood: Distribution of a pixel's value given z. "logistic_mixture" gives the exact probability of each
                level.
            scale: Scale of "normal" and "laplace", in units of pixel values in [-1, 1]. By default it is learned.
            components: Number of components of "logistic_mixture".
            refiner_width: Channels of the highest map of stage 3's network, a multiple of 8; twice that if both sides
                are 48 or more. 0 leaves the network out. 32 suits a CPU, 64 to 128 a GPU.
            refiner_blocks: Residual blocks of each of that network's levels, the highest first; leave it out for 1 each
                and 3 at the lowest, with as many levels as halve the picture to a side of at most 8.
            refiner_attention: Whether places of that network's lowest map attend to each other.
            augment: How training rows of stage 1 vary: `shift`, `crop`, `flip`, `brightness`, `contrast` and
                `saturation`. By default they do not.
        """

        channels: Literal[1, 3] = attrs.field(default=3, validator=attrs.validators.in_((1, 3)))
        height: int = attrs.field(default=64, validator=between(28, 256))
        width: int = attrs.field(default=64, validator=between(28, 256))
        fit: Fit = attrs.field(default="cover", validator=attrs.validators.in_(("cover", "contain", "stretch")))
        fields: tuple[str, ...] = attrs.field(
            default=("jpg", "jpeg", "png", "webp", "bmp"), validator=[not_empty, each(not_empty)]
        )
        bits: int | None = attrs.field(default=None, validator=attrs.validators.optional(between(9, 16)))
        max_pixels: int = attrs.field(default=MAX_PIXELS, validator=between(1, MOST_PIXELS))
        encoder: str | None = attrs.field(default=None, validator=known_library)
        encoder_weights: str | None = attrs.field(default=None, validator=safetensors_file)
        encoder_trained: bool = False
        encoder_side: int | None = attrs.field(default=None, validator=attrs.validators.optional(between(32, 1_024)))
        network_width: int = attrs.field(default=16, validator=[at_least(8, at_most=4_096), multiple_of(8)])
        likelihood: Literal["normal", "laplace", "logistic_mixture"] = attrs.field(
            default="normal", validator=attrs.validators.in_(("normal", "laplace", "logistic_mixture"))
        )
        scale: float | None = attrs.field(
            default=None, validator=attrs.validators.optional((above(0), between(1e-6, 1e6)))
        )
        components: int = attrs.field(default=5, validator=between(1, 100))
        refiner_width: int = attrs.field(default=32, validator=[at_least(0, at_most=4_096), multiple_of(8)])
        refiner_blocks: tuple[int, ...] | None = attrs.field(
            default=None, validator=attrs.validators.optional((not_empty, each(between(1, 100))))
        )
        refiner_attention: bool = False
        augment: ImageAugment = attrs.field(factory=ImageAugment)

        def __attrs_post_init__(self) -> None:
            if self.encoder is None and (self.encoder_weights or self.encoder_trained or self.encoder_side):
                raise ValueError(
                    "expected the option encoder beside encoder_weights, encoder_trained and encoder_side, got none"
                )
            if self.likelihood == "logistic_mixture" and self.scale is not None:
                raise ValueError(
                    f"expected no scale with 'logistic_mixture', whose scales depend on z, got {self.scale!r}; "
                    f"leave `scale` out or choose 'normal' or 'laplace'"
                )

    options: Options
    dtype = torch.uint8
    refiner_options = frozenset({"refiner_width", "refiner_blocks", "refiner_attention"})
    network_options = frozenset(
        {"network_width", "likelihood", "scale", "components", "max_pixels"}
        | {"refiner_width", "refiner_blocks", "refiner_attention", "augment"}
        | {"encoder", "encoder_weights", "encoder_trained", "encoder_side"}
    )

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.options.channels, self.options.height, self.options.width

    @property
    def fields(self) -> tuple[str, ...]:
        return self.options.fields

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        """Decode the first of `fields` that shows anything: uint8 [C, H, W].

        Returns:
            x, or None if no field has a visible pixel.

        Raises:
            DataError: A field is not a picture that Pillow can decode, or exceeds a limit.
        """
        options = self.options
        for field in self.fields:
            if field not in sample:
                continue
            picture_HWC = read_picture(
                sample[field], field, *self.shape, options.fit, bits=options.bits, max_pixels=options.max_pixels
            )
            if picture_HWC is not None:
                return torch.from_numpy(np.ascontiguousarray(picture_HWC.transpose(2, 0, 1)))
        return None

    def cut_off(self, sample: Mapping[str, bytes]) -> CutOff | None:
        """Say how much of a picture is cropped if that is more than `MUCH_CROPPED`, by its header."""
        options, field = self.options, self.first_field(sample)
        share = cropped_share(sample[field], options.height, options.width) if field and options.fit == "cover" else 0.0
        if share <= MUCH_CROPPED:
            return None
        return CutOff(
            excess=f"lose more than {MUCH_CROPPED:.0%} of their area",
            amount=100 * share,
            unit="%",
            consequence=f'fit = "cover" crops them to {options.height} x {options.width}; set another height and '
            'width, or fit = "contain", to keep more',
        )

    def write(self, x: Tensor) -> dict[str, bytes]:
        """Encode the picture under "png", in grey if it has one channel."""
        picture_HWC = x.permute(1, 2, 0).contiguous().cpu().numpy()
        return {"png": encode_png(picture_HWC[..., 0] if self.options.channels == 1 else picture_HWC)}

    def preview(self, x: Tensor) -> Preview:
        """Show the picture itself."""
        return Preview(frames=x.expand(3, -1, -1).permute(1, 2, 0).contiguous().cpu().numpy()[None])

    def augment(self, x: Tensor, draws: Draws) -> Tensor:
        """Crop, move, mirror and recolour pictures uint8 [B, C, H, W] as the option `augment` says."""
        table = self.options.augment
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
        """Encode x, uint8 [B, C, H, W], as h [B, feature_dim].

        Raises:
            DataError: The library of a pretrained encoder is not installed, or has no such model.
        """
        options = self.options
        if options.encoder is not None:
            backbone = load_backbone(options.encoder, options.encoder_weights, options.encoder_side)
            varied = options.augment != ImageAugment()  # each step then has other pictures
            return PretrainedImageEncoder(backbone, feature_dim, trained=options.encoder_trained, cached=not varied)
        return ImageEncoder(self.shape, options.network_width, feature_dim)

    def decoder(self, latent_dim: int) -> nn.Module:
        """Decode z [B, latent_dim] as a likelihood of 8-bit pixels."""
        options = self.options
        head = (
            MixtureHead(options.components, options.channels)
            if options.likelihood == "logistic_mixture"
            else LocationScaleHead(options.likelihood, options.channels, options.scale)
        )
        return ImageDecoder(self.shape, options.network_width, latent_dim, head)

    def refiner(self, latent_dim: int) -> nn.Module | None:
        """A U-Net whose highest map lies a block of pixels below the picture."""
        options = self.options
        if not options.refiner_width:
            return None
        levels, block = len(map_sizes(options.height, options.width)), stem_block(options.height, options.width)
        return RefinerUNet(
            options.channels,
            latent_dim,
            width=options.refiner_width * block // 2,
            fold=block,
            num_blocks=options.refiner_blocks or (*(1,) * (levels - 1), 3),
            attention=options.refiner_attention,
            sides=(options.height, options.width),
        )


@hookimpl
def shala_register_modalities(register: Any) -> None:
    register("image", Image)
