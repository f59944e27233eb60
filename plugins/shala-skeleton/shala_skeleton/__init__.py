"""Moving skeletons as a modality: the joints of one or more bodies over a fixed number of frames."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, final

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from shala_framework.plugin import (
    DataError,
    Draws,
    Modality,
    Preview,
    Standardise,
    above,
    at_least,
    between,
    each,
    encode_mp4,
    encode_npy,
    hookimpl,
    multiple_of,
    not_empty,
    read_each,
)
from shala_skeleton.augmenting import SkeletonAugment, jittered, slowed, turned
from shala_skeleton.axes import known_axes
from shala_skeleton.bones import NAMED_BONES, bone_list
from shala_skeleton.drawing import draw_clip
from shala_skeleton.gaps import interpolate
from shala_skeleton.networks import SkeletonDecoder, SkeletonEncoder, SkeletonRefiner
from shala_skeleton.parsing import FORMATS, MAX_FRAMES, MAX_MEGABYTES, parse

PREVIEW_SIDE = 192
FIT_SAMPLES = 2_000  # enough for the mean pose
FARTHEST = 1e6  # largest plausible coordinate in any unit; larger values come from flipped bits
SHORTEST = 1e-6  # distance in any unit; two joints closer than this have no direction


def named_after_its_format(_: Any, __: Any, value: str) -> None:
    """Validator: accept field names whose last part is a format that `parse` knows."""
    if value.rpartition(".")[2] not in FORMATS:
        choices = ", ".join(repr(name) for name in FORMATS)
        raise ValueError(f"expected a field name that is or ends in one of {choices}, got {value!r}")


def known_bones(_: Any, __: Any, value: Any) -> None:
    """Validator: accept the name of a skeleton or pairs of joint indices."""
    if isinstance(value, str) and value not in NAMED_BONES:
        raise ValueError(f"expected one of {sorted(NAMED_BONES)} or pairs of joints, got {value!r}")
    if not isinstance(value, str) and any(len(bone) != 2 for bone in value):
        raise ValueError(f"expected pairs of joint indices, got {value!r}")


@final
class Skeleton(Modality):
    """Joints x, float32 [T, bodies, joints, dims], in metres. An absent body is all zeros."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of a skeleton modality.

        Attributes:
            frames: Number of frames of x. The whole clip is resampled to it linearly.
            joints: Number of joints of each body in the files: 25 for Kinect v2 (NTU RGB+D), 20 for v1 (NW-UCLA).
            bodies: Number of bodies of x. From an NTU file, the bodies seen longest are taken, with the one that moves
                most first. Ids that never overlap in time and follow each other in one place count as one body.
            dims: Number of coordinates of a joint that are kept: 3, or 2 to omit depth.
            root: Joint that represents the body's position.
            centre: Where to move the first body's root to the origin: in the "first_frame" (which keeps walking), in
                "every_frame", or in "none".
            facing: Two joints, such as the shoulders [4, 8]. Everything is turned about the vertical axis (the second
                coordinate) until the first body's line from one joint to the other points along the first coordinate in
                the first frame. An action then looks alike from any side. An empty list keeps the recorded view.
            bones: Joints that drawings connect: "ntu", "nw-ucla", or pairs of joint indices. An empty list draws the
                trail of each joint.
            frames_per_second: Playback rate of written clips and previews.
            fields: Sample fields to look for, in this order. The last part of the name is the format: "skeleton" (NTU's
                text), "npy" or "json". The defaults do not include plain "json", because data sets keep metadata there.
            axes: Order of the axes of npy and json arrays, as the letters T (frames), M (bodies), V (joints) and C
                (coordinates), such as "CTVM". "auto" recognises the usual orders by the shape and refuses a shape that
                fits two of them.
            max_frames: Largest number of frames in a file; a file with more is refused.
            max_megabytes: Largest size of a file, in millions of bytes; a larger one is refused before it is parsed.
            width: Number of channels in the networks, a multiple of 8.
            likelihood: Distribution of a coordinate given z.
            scale: Scale of the likelihood in metres. By default it is learned.
            refiner_width: Channels of the highest map of stage 3's network, a multiple of 8; 0 leaves it out.
            augment: How training rows of stage 1 vary: `turn_degrees`, `scale`, `time` and `jitter`. By default they do
                not.
        """

        frames: int = attrs.field(default=64, validator=at_least(4, at_most=10_000))
        joints: int = attrs.field(default=25, validator=at_least(1, at_most=1_000))
        bodies: int = attrs.field(default=1, validator=at_least(1, at_most=100))
        dims: int = attrs.field(default=3, validator=between(2, 3))
        root: int = attrs.field(default=0, validator=at_least(0, at_most=1_000))
        centre: Literal["first_frame", "every_frame", "none"] = attrs.field(
            default="first_frame", validator=attrs.validators.in_(("first_frame", "every_frame", "none"))
        )
        facing: tuple[int, ...] = ()
        bones: Literal["ntu", "nw-ucla"] | tuple[tuple[int, int], ...] = attrs.field(
            default="ntu", validator=known_bones
        )
        frames_per_second: float = attrs.field(default=15.0, validator=[above(0), between(0.01, 1_000)])
        fields: tuple[str, ...] = attrs.field(
            default=("skeleton", "npy", "skeleton.json"), validator=[not_empty, each(named_after_its_format)]
        )
        axes: str = attrs.field(default="auto", validator=known_axes)
        max_frames: int = attrs.field(default=MAX_FRAMES, validator=at_least(1, at_most=100_000_000))
        max_megabytes: float = attrs.field(default=MAX_MEGABYTES, validator=above(0, at_most=1_000_000))
        width: int = attrs.field(default=256, validator=[at_least(8, at_most=16_384), multiple_of(8)])
        likelihood: Literal["normal", "laplace"] = attrs.field(
            default="normal", validator=attrs.validators.in_(("normal", "laplace"))
        )
        scale: float | None = attrs.field(
            default=None, validator=attrs.validators.optional((above(0), between(1e-6, 1e6)))
        )
        refiner_width: int = attrs.field(default=128, validator=[at_least(0, at_most=16_384), multiple_of(8)])
        augment: SkeletonAugment = attrs.field(factory=SkeletonAugment)

        def __attrs_post_init__(self) -> None:
            named = [joint for bone in bone_list(self.bones) for joint in (bone.start, bone.end)]
            if not all(0 <= joint < self.joints for joint in (self.root, *named)):
                raise ValueError(
                    f"expected root and bones to name joints 0 to {self.joints - 1}, got root {self.root} and bones "
                    f"{self.bones!r} up to joint {max(named, default=self.root)}; choose `bones` to match `joints`"
                )
            if self.facing:
                two = len(self.facing) == 2 and len(set(self.facing)) == 2
                if not two or not all(0 <= joint < self.joints for joint in self.facing):
                    raise ValueError(
                        f"expected facing to be empty or two different joints of 0 to {self.joints - 1}, "
                        f"got {list(self.facing)}"
                    )
                if self.dims != 3:
                    raise ValueError(f"expected dims 3 with facing, which turns bodies in depth, got {self.dims}")
            if self.augment.turn_degrees and self.dims != 3:
                raise ValueError(
                    f"expected dims 3 with augment.turn_degrees, which turns bodies in depth, got {self.dims}"
                )

    options: Options
    correlated_residuals = True
    refiner_options = frozenset({"refiner_width"})
    network_options = frozenset(
        {"bones", "frames_per_second", "width", "likelihood", "scale", "refiner_width", "augment"}
    )

    def __init__(self, options: Options | None = None, /, **values: Any) -> None:
        super().__init__(options, **values)
        self._standardise = Standardise(self.shape[1:], smallest=1e-3, scale=0.5)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        options = self.options
        return options.frames, options.bodies, options.joints, options.dims

    @property
    def fields(self) -> tuple[str, ...]:
        return self.options.fields

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        """Parse the first of `fields` that the sample has: float32 [T, bodies, joints, dims].

        A valid file in which nobody is tracked, as some of NTU's are, counts as missing. So does an array of only
        zeros, which means the same. Other frames and joints of zeros are filled as `fill_gaps` describes.

        Raises:
            DataError: The file does not have the format that its field's name states, or its joints do not match the
                options.
        """
        field = self.first_field(sample)
        if field is None:
            return None
        options = self.options
        tracked_TPJC = parse(
            sample[field],
            field,
            options.joints,
            options.bodies,
            axes=options.axes,
            dims=options.dims,
            root=options.root,
            max_frames=options.max_frames,
            max_megabytes=options.max_megabytes,
        )
        _, num_bodies, _, num_coordinates = tracked_TPJC.shape
        if num_coordinates < options.dims:
            raise DataError(
                f"field {field!r}: expected {options.dims} coordinates a joint, got {num_coordinates}; "
                f"set the option `dims` to {num_coordinates}"
            )
        if num_bodies == 0:
            return None
        tracked_TPJC = tracked_TPJC[..., : options.dims]
        if np.abs(tracked_TPJC).max() > FARTHEST:
            raise DataError(
                f"field {field!r}: expected coordinates of at most {FARTHEST:g} (metres, or pixels), got "
                f"{tracked_TPJC.flat[np.abs(tracked_TPJC).argmax()]:g}; the file is damaged or in another unit"
            )
        tracked_TPJC = self._turned(self._centred(tracked_TPJC))
        times = np.arange(len(tracked_TPJC))
        x_TPJC = np.zeros(self.shape, dtype=np.float32)
        x_TPJC[:, :num_bodies] = interpolate(tracked_TPJC, times, np.linspace(0, times[-1], options.frames))
        return torch.from_numpy(x_TPJC)

    def blank_reason(self) -> str:
        """Say that nobody is tracked."""
        return "nobody is tracked in it"

    def _centred(self, tracked_TPJC: np.ndarray) -> np.ndarray:
        root_T11C = tracked_TPJC[:, :1, self.options.root][:, :, None]
        origin = {"first_frame": root_T11C[:1], "every_frame": root_T11C, "none": np.zeros(1)}[self.options.centre]
        centred: np.ndarray = tracked_TPJC - origin
        return centred

    def _turned(self, tracked_TPJC: np.ndarray) -> np.ndarray:
        if not self.options.facing:
            return tracked_TPJC
        start, end = self.options.facing
        across, _, deep = tracked_TPJC[0, 0, end] - tracked_TPJC[0, 0, start]
        length = np.hypot(across, deep)
        if length < SHORTEST:  # joints above each other do not show where a body faces
            return tracked_TPJC
        cosine, sine = across / length, deep / length
        rotation_CC = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
        turned: np.ndarray = tracked_TPJC @ rotation_CC
        return turned

    def write(self, x: Tensor) -> dict[str, bytes]:
        """Encode the joints under "npy" and a drawing of them under "mp4"."""
        npy = encode_npy(x.float().cpu().numpy())
        return {"npy": npy, "mp4": encode_mp4(self._drawn(x), self.options.frames_per_second)}

    def preview(self, x: Tensor) -> Preview:
        """Draw the clip, seen from the front."""
        return Preview(frames=self._drawn(x), frames_per_second=self.options.frames_per_second)

    def _drawn(self, x: Tensor) -> np.ndarray:
        return draw_clip(x.float().cpu().numpy(), bone_list(self.options.bones), PREVIEW_SIDE)

    def fit(self, samples: Iterable[Mapping[str, bytes]]) -> None:
        """Learn the mean pose and the scale of the coordinates around it, from at most 2,000 samples.

        Raises:
            DataError: No sample has this modality.
        """
        self._standardise.fit(read_each(self.read, samples, FIT_SAMPLES), self.fields, FIT_SAMPLES)

    def state(self) -> dict[str, Any]:
        """Return the mean pose [bodies, joints, dims] and the scale, in metres."""
        return self._standardise.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._standardise.load_state(state)

    def augment(self, x: Tensor, draws: Draws) -> Tensor:
        """Slow down, scale and turn clips float32 [B, T, bodies, joints, dims]; an absent body stays all zeros."""
        table = self.options.augment
        x = slowed(x, table.time, draws)
        return turned(x, self.options.root, table.scale, table.turn_degrees, draws)

    def corrupt(self, x: Tensor, draws: Draws) -> Tensor:
        """Add noise to the joints that the encoder sees, where there is a body."""
        return jittered(x, self.options.augment.jitter, draws)

    def encoder(self, feature_dim: int) -> nn.Module:
        """Encode x, float [B, T, bodies, joints, dims], as h [B, feature_dim]."""
        return SkeletonEncoder(self._standardise.copy(), self.options.frames, self.options.width, feature_dim)

    def decoder(self, latent_dim: int) -> nn.Module:
        """Decode z [B, latent_dim] as a likelihood of coordinates."""
        return SkeletonDecoder(
            self._standardise.copy(),
            self.options.frames,
            self.options.width,
            latent_dim,
            self.options.likelihood,
            self.options.scale,
        )

    def refiner(self, latent_dim: int) -> nn.Module | None:
        """A U-Net over time, whose channels are the coordinates of all joints."""
        width = self.options.refiner_width
        return SkeletonRefiner(self._standardise.copy(), width, latent_dim) if width else None


@hookimpl
def shala_register_modalities(register: Any) -> None:
    register("skeleton", Skeleton)
