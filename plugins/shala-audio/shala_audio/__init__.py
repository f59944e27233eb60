"""Sound as a modality: log-mel spectrograms of fixed length."""

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal, final

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from shala_audio.augmenting import AudioAugment, amplified, masked, moved
from shala_audio.drawing import draw_spectrum
from shala_audio.networks import SpectrumDecoder, SpectrumEncoder, SpectrumRefiner
from shala_audio.reading import MAX_SAMPLES, cut, declared_seconds, read_sound
from shala_audio.spectrum import MelSpectrum, mel_edges, transform_length
from shala_framework.plugin import (
    FILM_FIELDS,
    CutOff,
    Draws,
    Modality,
    Preview,
    Standardise,
    above,
    at_least,
    between,
    each,
    encode_wav,
    hookimpl,
    multiple_of,
    not_empty,
    read_each,
)

FEWEST_FRAMES, MOST_FRAMES = 8, 20_000
SILENT = 2.0**-16  # peak level; 16-bit samples round anything below to nothing
LONGER = 1.1  # times clip_seconds, from which sounds are said to be cut
FIT_SAMPLES = 1_000  # enough for the mean of each band


@final
class Audio(Modality):
    """Log-mel spectrograms x, float32 [mels, T], in decibels relative to a full-scale sine.

    T is `clip_seconds` divided by `hop_milliseconds`. The powers of all bands of a frame add up to the square of a
    sine's amplitude. Silence, including the padding after a short sound, has the level `floor_decibels`.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of an audio modality.

        Attributes:
            sample_rate_hz: Sample rate of x; sounds are resampled to it on reading and written at it.
            clip_seconds: Length of x; a shorter sound is padded with silence.
            crop: Part of a longer sound to keep: its "start", its "centre", or the "loudest" stretch.
            mels: Number of bands of x, evenly spaced in mel.
            hop_milliseconds: Time from one frame of x to the next.
            window_milliseconds: Length of the Hann window of a frame, at least twice the hop.
            min_frequency_hz: Lower edge of the lowest band.
            max_frequency_hz: Upper edge of the highest band; by default half of `sample_rate_hz`.
            floor_decibels: Level of silence. It is added to all bands, so levels far below it do not count.
            silence: Meaning of a stretch without any sound: "missing", like a track without samples, or "keep", which
                gives x at the floor.
            max_samples: Largest number of samples of a track, at its own rate; a longer track is an error. If only the
                start of a sound is kept, no more than needed is decoded.
            fields: Sample fields to look for, in this order; the first one with sound is read. The sound of a film
                starts when its picture does.
            width: Number of channels in the networks, a multiple of 8.
            likelihood: Distribution of a level given z.
            scale: Scale of the likelihood in decibels. By default it is learned.
            refiner_width: Channels of the highest map of stage 3's network, a multiple of 8; 0 leaves it out. 32 suits
                a CPU, 64 to 128 a GPU.
            augment: How training rows of stage 1 vary: `shift_seconds`, `gain_decibels`, `masks`, `mask_seconds` and
                `mask_mels`. By default they do not.
        """

        sample_rate_hz: int = attrs.field(default=16_000, validator=between(2_000, 192_000))
        clip_seconds: float = attrs.field(default=2.0, validator=above(0, at_most=3_600))
        crop: Literal["start", "centre", "loudest"] = attrs.field(
            default="start", validator=attrs.validators.in_(("start", "centre", "loudest"))
        )
        mels: int = attrs.field(default=64, validator=between(4, 512))
        hop_milliseconds: float = attrs.field(default=10.0, validator=above(0, at_most=1_000))
        window_milliseconds: float = attrs.field(default=32.0, validator=[above(0), between(0, 1_000)])
        min_frequency_hz: float = attrs.field(default=50.0, validator=at_least(0, at_most=96_000))
        max_frequency_hz: float | None = attrs.field(
            default=None, validator=attrs.validators.optional(above(0, at_most=96_000))
        )
        floor_decibels: float = attrs.field(default=-70.0, validator=between(-120, -20))
        fields: tuple[str, ...] = attrs.field(
            default=("wav", "flac", "mp3", "ogg", "opus", "m4a", "aac", "aiff", *FILM_FIELDS),
            validator=[not_empty, each(not_empty)],
        )
        silence: Literal["missing", "keep"] = attrs.field(
            default="missing", validator=attrs.validators.in_(("missing", "keep"))
        )
        max_samples: int = attrs.field(default=MAX_SAMPLES, validator=at_least(1, at_most=10**12))
        width: int = attrs.field(default=96, validator=[at_least(8, at_most=16_384), multiple_of(8)])
        likelihood: Literal["normal", "laplace"] = attrs.field(
            default="normal", validator=attrs.validators.in_(("normal", "laplace"))
        )
        scale: float | None = attrs.field(
            default=None, validator=attrs.validators.optional((above(0), between(1e-6, 1e6)))
        )
        refiner_width: int = attrs.field(default=32, validator=[at_least(0, at_most=4_096), multiple_of(8)])
        augment: AudioAugment = attrs.field(factory=AudioAugment)

        def __attrs_post_init__(self) -> None:
            if not FEWEST_FRAMES <= self.num_frames <= MOST_FRAMES:
                raise ValueError(
                    f"expected {FEWEST_FRAMES} to {MOST_FRAMES} frames, got {self.num_frames} from `clip_seconds` "
                    f"{self.clip_seconds:g} and `hop_milliseconds` {self.hop_milliseconds:g}; change either"
                )
            if self.window < 2 * self.hop:
                raise ValueError(
                    f"expected a window of at least twice the hop, got `window_milliseconds` "
                    f"{self.window_milliseconds:g} and `hop_milliseconds` {self.hop_milliseconds:g}"
                )
            if not self.min_frequency_hz < self.highest_frequency_hz <= self.sample_rate_hz / 2:
                raise ValueError(
                    f"expected `min_frequency_hz` < `max_frequency_hz` <= {self.sample_rate_hz / 2:g}, half of "
                    f"`sample_rate_hz`, got {self.min_frequency_hz:g} and {self.highest_frequency_hz:g}"
                )
            # The lowest band is the narrowest; a band between two frequencies of the transform would be empty.
            lowest_hz = (self.edges_hz[2] - self.edges_hz[0]).item()
            spacing_hz = self.sample_rate_hz / transform_length(self.window)
            if lowest_hz < 2 * spacing_hz:
                raise ValueError(
                    f"expected bands at least {2 * spacing_hz:.3g} Hz wide, got {lowest_hz:.3g} Hz for the lowest; "
                    f"choose fewer `mels` than {self.mels} or a longer window than {self.window_milliseconds:g} ms"
                )

        @property
        def hop(self) -> int:
            """Number of samples from one frame to the next."""
            return max(1, round(self.hop_milliseconds * self.sample_rate_hz / 1_000))

        @property
        def frames_per_second(self) -> float:
            """Frames of x per second."""
            return self.sample_rate_hz / self.hop

        @property
        def window(self) -> int:
            """Number of samples of a frame."""
            return round(self.window_milliseconds * self.sample_rate_hz / 1_000)

        @property
        def num_frames(self) -> int:
            """Number of frames of x."""
            return math.ceil(self.clip_seconds * self.sample_rate_hz / self.hop - 1e-6)

        @property
        def highest_frequency_hz(self) -> float:
            """Upper edge of the highest band."""
            return self.sample_rate_hz / 2 if self.max_frequency_hz is None else self.max_frequency_hz

        @property
        def edges_hz(self) -> Tensor:
            """Edges of the bands: float64 [mels + 2]."""
            return mel_edges(self.mels, self.min_frequency_hz, self.highest_frequency_hz)

    options: Options
    refiner_options = frozenset({"refiner_width"})
    network_options = frozenset({"width", "likelihood", "scale", "max_samples", "refiner_width", "augment"})

    def __init__(self, options: Options | None = None, /, **values: Any) -> None:
        super().__init__(options, **values)
        self._standardise = Standardise(
            (self.options.mels,), trailing=1, smallest=1.0, mean=self.options.floor_decibels + 15, scale=15.0
        )

    @cached_property
    def _spectrum(self) -> MelSpectrum:
        options = self.options
        return MelSpectrum(
            sample_rate_hz=options.sample_rate_hz,
            num_frames=options.num_frames,
            hop=options.hop,
            window=options.window,
            num_mels=options.mels,
            min_frequency_hz=options.min_frequency_hz,
            max_frequency_hz=options.highest_frequency_hz,
            floor_decibels=options.floor_decibels,
        )

    @property
    def shape(self) -> tuple[int, int]:
        return self.options.mels, self.options.num_frames

    @property
    def fields(self) -> tuple[str, ...]:
        return self.options.fields

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        """Compute the log-mel spectrogram of the first of `fields` that has sound: float32 [mels, T].

        Returns:
            x, or None if no field has sound: a film without an audio track, a track without samples or, unless
            `silence` is "keep", a silent stretch.

        Raises:
            DataError: A field tried before is not a file that FFmpeg can decode, is truncated, or exceeds a limit.
        """
        options, spectrum = self.options, self._spectrum
        # Finding a later stretch requires decoding the whole sound.
        enough_seconds = (
            options.num_frames * options.hop / options.sample_rate_hz + 1 if options.crop == "start" else None
        )
        for field in self.fields:
            if field not in sample:
                continue
            decoded = read_sound(sample[field], field, enough_seconds, max_samples=options.max_samples)
            if decoded is None:
                continue
            sound, rate = decoded
            clip = cut(sound, rate, options.sample_rate_hz, spectrum.num_samples, options.crop)
            if options.silence == "keep" or np.abs(clip).max() >= SILENT:
                return spectrum.analyse(torch.from_numpy(clip))
        return None

    def cut_off(self, sample: Mapping[str, bytes]) -> CutOff | None:
        """Say how long a sound is that is at least a tenth longer than x, by its header."""
        options, field = self.options, self.first_field(sample)
        seconds = declared_seconds(sample[field]) if field else 0.0
        if seconds < LONGER * options.clip_seconds:
            return None
        kept = {"start": "their start", "centre": "their centre", "loudest": "their loudest stretch"}[options.crop]
        return CutOff(
            excess=f"are longer than clip_seconds = {options.clip_seconds:g}",
            amount=seconds,
            unit=" s",
            consequence=f"only {kept} is read; raise clip_seconds to keep more",
        )

    def write(self, x: Tensor) -> dict[str, bytes]:
        """Encode a sound with that spectrogram under "wav": 16 bits, mono. Its phases are estimated, always alike."""
        return {"wav": encode_wav(self._sound(x), self.options.sample_rate_hz)}

    def preview(self, x: Tensor) -> Preview:
        """Show a picture of the spectrogram, low frequencies at the bottom, and play its sound."""
        picture = draw_spectrum(x.float().cpu().numpy(), self.options.floor_decibels)
        return Preview(frames=picture[None], sound=self._sound(x), sample_rate_hz=self.options.sample_rate_hz)

    def _sound(self, x: Tensor) -> np.ndarray:
        """Synthesise float32 [N] in [-1, 1]. Peaks beyond full scale are clipped to preserve the level of the rest."""
        sound: np.ndarray = self._spectrum.synthesise(x.float().cpu()).clamp(-1, 1).numpy()
        return sound

    def fit(self, samples: Iterable[Mapping[str, bytes]]) -> None:
        """Learn the mean of each band and the scale around it, from at most 1,000 samples.

        Raises:
            DataError: No sample has this modality.
        """
        self._standardise.fit(read_each(self.read, samples, FIT_SAMPLES), self.fields, FIT_SAMPLES)

    def state(self) -> dict[str, Any]:
        """Return the mean [mels] and the scale, in decibels."""
        return self._standardise.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._standardise.load_state(state)

    def augment(self, x: Tensor, draws: Draws) -> Tensor:
        """Move spectrograms float32 [B, mels, T] in time and change their level, above the same floor."""
        options = self.options
        longest = round(options.augment.shift_seconds * options.frames_per_second)
        x = moved(x, longest, options.floor_decibels, draws)
        return amplified(x, options.augment.gain_decibels, options.floor_decibels, draws)

    def corrupt(self, x: Tensor, draws: Draws) -> Tensor:
        """Set stretches of time and ranges of bands to the mean level of each band, in what the encoder sees."""
        table = self.options.augment
        longest = round(table.mask_seconds * self.options.frames_per_second)
        return masked(x, self._standardise.mean.to(x.device), table.masks, table.mask_mels, longest, draws)

    def encoder(self, feature_dim: int) -> nn.Module:
        """Encode x, float [B, mels, T], as h [B, feature_dim]."""
        return SpectrumEncoder(self._standardise.copy(), self.options.num_frames, self.options.width, feature_dim)

    def decoder(self, latent_dim: int) -> nn.Module:
        """Decode z [B, latent_dim] as a likelihood of levels in decibels."""
        return SpectrumDecoder(
            self._standardise.copy(),
            self.options.num_frames,
            self.options.width,
            latent_dim,
            self.options.likelihood,
            self.options.scale,
        )

    def refiner(self, latent_dim: int) -> nn.Module | None:
        """A U-Net over bands and time."""
        width = self.options.refiner_width
        return SpectrumRefiner(self._standardise.copy(), width, latent_dim) if width else None


@hookimpl
def shala_register_modalities(register: Any) -> None:
    register("audio", Audio)
