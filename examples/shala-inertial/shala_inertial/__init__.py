"""Inertial sensors (accelerometers, gyroscopes) as a modality of shala_framework. Shapes: T steps, C channels."""

from collections.abc import Iterable, Mapping
from typing import Any, final

import attrs
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from shala_framework.plugin import (
    Modality,
    Preview,
    Standardise,
    above,
    at_least,
    encode_png,
    hookimpl,
    multiple_of,
    not_empty,
    read_each,
)
from shala_inertial.networks import SeriesDecoder, SeriesEncoder
from shala_inertial.recording import read_recording, write_recording


@final
class Inertial(Modality):
    """A few seconds of a recording: x float32 [T, C], in the unit of the files."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of the modality.

        Attributes:
            channels: Columns of the files to read.
            time: Column of seconds; samples need not be evenly spaced.
            seconds: Length of x, from the middle of the recording; a shorter one is extended by its first and last
                values.
            rate_hz: Steps of x per second.
            fields: Sample fields to look for, in this order.
            width: Channels of the networks, a multiple of 8.
        """

        channels: tuple[str, ...] = attrs.field(default=("ax", "ay", "az", "gx", "gy", "gz"), validator=not_empty)
        time: str = "time"
        seconds: float = attrs.field(default=2.0, validator=above(0, at_most=3_600))
        rate_hz: float = attrs.field(default=32.0, validator=above(0, at_most=100_000))
        fields: tuple[str, ...] = attrs.field(default=("csv",), validator=not_empty)
        width: int = attrs.field(default=128, validator=[at_least(8, at_most=16_384), multiple_of(8)])

        def __attrs_post_init__(self) -> None:
            if len(set(self.channels)) < len(self.channels):
                raise ValueError(f"expected channels that differ, got {list(self.channels)}")
            if self.steps < 4:
                raise ValueError(f"expected seconds * rate_hz of 4 or more, got {self.seconds} * {self.rate_hz}")

        @property
        def steps(self) -> int:
            """Number of steps T."""
            return round(self.seconds * self.rate_hz)

    options: Options
    network_options = frozenset({"width"})

    def __init__(self, options: Options | None = None, /, **values: Any) -> None:
        super().__init__(options, **values)
        self._standardise = Standardise((len(self.options.channels),), per_entry=True)

    @property
    def shape(self) -> tuple[int, int]:
        return self.options.steps, len(self.options.channels)

    @property
    def fields(self) -> tuple[str, ...]:
        return self.options.fields

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        """Read the first of `fields` that the sample has: float32 [T, C].

        Raises:
            DataError: The field is no CSV file with these columns, or has values that cannot be a signal.
        """
        field = self.first_field(sample)
        if field is None:
            return None
        options = self.options
        recording = read_recording(sample[field], field, options.time, options.channels)
        return torch.from_numpy(recording.window(options.steps, options.rate_hz).astype(np.float32))

    def write(self, x: Tensor) -> dict[str, bytes]:
        """Write a recording under "csv" and a plot of it under "png"."""
        options = self.options
        csv = write_recording(x.float().cpu().numpy(), options.rate_hz, options.time, options.channels)
        return {"csv": csv, "png": encode_png(self._drawn(x))}

    def preview(self, x: Tensor) -> Preview:
        """Plot one line for each channel, one above the other."""
        return Preview(frames=self._drawn(x)[None])

    def _drawn(self, x: Tensor) -> np.ndarray:
        standardised_CT = self._standardise(x.float().cpu()).clamp(-3, 3).T.numpy()
        height, width = 32, 192
        canvas = Image.new("RGB", (width, height * len(standardised_CT)), "white")
        draw = ImageDraw.Draw(canvas)
        across = np.linspace(2, width - 3, standardised_CT.shape[1])
        for number, values in enumerate(standardised_CT):
            down = height * (number + 0.5 - values / 7)
            draw.line(list(zip(across.tolist(), down.tolist(), strict=True)), fill=(20, 80, 160), width=2)
        return np.asarray(canvas)

    def fit(self, samples: Iterable[Mapping[str, bytes]]) -> None:
        """Learn mean and standard deviation of each channel, from at most 2,000 samples.

        Raises:
            DataError: No sample has this modality.
        """
        self._standardise.fit(read_each(self.read, samples, 2_000), self.fields, 2_000)

    def state(self) -> dict[str, Any]:
        """Return mean and standard deviation of each channel."""
        return self._standardise.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._standardise.load_state(state)

    def encoder(self, feature_dim: int) -> nn.Module:
        """Encode x, float [B, T, C], as h [B, feature_dim]."""
        return SeriesEncoder(self._standardise.copy(), self.options.steps, self.options.width, feature_dim)

    def decoder(self, latent_dim: int) -> nn.Module:
        """Decode z [B, latent_dim] as a likelihood of x."""
        return SeriesDecoder(self._standardise.copy(), self.options.steps, self.options.width, latent_dim)


@hookimpl
def shala_register_modalities(register: Any) -> None:
    register("inertial", Inertial)
