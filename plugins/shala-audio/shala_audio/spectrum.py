"""Convert sound to mel spectrograms in decibels, and back with a phase reconstruction that preserves the mel bands.

The way back follows Griffin and Lim 1984, accelerated as in Perraudin, Balazs and Sondergaard 2013: alternating
analysis and synthesis draw a spectrogram towards those that real sounds have. These methods set the magnitude of each
frequency to a known value. Here only the energies of bands are known, so each iteration scales the magnitudes to give
the bands their energies. The magnitudes within a band are found along with the phases.

Shapes: M mel bands, T frames, K frequencies of the Fourier transform, N samples.
"""

import math

import torch
import torchaudio.functional
from torch import Tensor


def hertz_to_mel(frequency_hz: Tensor) -> Tensor:
    """Convert Hz to mel on the scale of O'Shaughnessy 1987."""
    return 2595 * torch.log10(1 + frequency_hz / 700)


def mel_to_hertz(mel: Tensor) -> Tensor:
    """Invert `hertz_to_mel`."""
    return 700 * (10 ** (mel / 2595) - 1)


def mel_edges(num_mels: int, min_frequency_hz: float, max_frequency_hz: float) -> Tensor:
    """Return the edges of torchaudio's bands, evenly spaced in mel. Band m rises to edge m + 1, falls to edge m + 2.

    Returns:
        float64 [num_mels + 2], in Hz.
    """
    low, high = hertz_to_mel(torch.tensor([min_frequency_hz, max_frequency_hz], dtype=torch.float64)).tolist()
    return mel_to_hertz(torch.linspace(low, high, num_mels + 2, dtype=torch.float64))


def transform_length(window: int) -> int:
    """Return the power of two that is between two and four times the window's length."""
    return int(2 ** math.ceil(math.log2(2 * window)))


class MelSpectrum:
    """Log-mel analysis and synthesis of sounds of one length.

    Levels are in decibels relative to a full-scale sine: the powers of all bands add up to the square of a sine's
    amplitude. `floor_decibels` is added to each band's power, so the level of silence is finite.

    Attributes:
        num_frames: Number of frames T.
        hop: Number of samples from one frame to the next. Frame t is centred on sample (t + 0.5) * hop.
    """

    ITERATIONS = 32
    MOMENTUM = 0.99  # as Perraudin et al. recommend
    HIGHEST = 20.0  # decibels above full scale that synthesis accepts

    def __init__(
        self,
        sample_rate_hz: int,
        num_frames: int,
        hop: int,
        window: int,
        num_mels: int,
        min_frequency_hz: float,
        max_frequency_hz: float,
        floor_decibels: float,
    ) -> None:
        self.num_frames, self.hop = num_frames, hop
        self.floor = 10 ** (floor_decibels / 10)
        self.window_W = torch.hann_window(window)
        # At least twice the window's length: low bands are narrower than the spacing of frequencies in a shorter
        # transform.
        self.num_points = transform_length(window)
        self.filters_MK = torchaudio.functional.melscale_fbanks(
            self.num_points // 2 + 1, min_frequency_hz, max_frequency_hz, num_mels, sample_rate_hz
        ).T.contiguous()
        # Energy of the main lobe of a full-scale sine.
        self.unit = self.num_points * self.window_W.square().sum().item() / 4
        # Frames extend beyond both ends of the sound.
        self.before = (window - hop) // 2
        self.padded = (num_frames - 1) * hop + window
        self.overlap_N = self._overlap_add(self.window_W.square()[:, None].expand(-1, num_frames)).clamp_min(1e-3)

    @property
    def num_samples(self) -> int:
        return self.num_frames * self.hop

    def analyse(self, sound_N: Tensor) -> Tensor:
        """Compute the mel spectrogram of a sound of `num_samples`, full scale 1: float32 [M, T] in decibels."""
        after = self.padded - self.before - self.num_samples
        beside = (self.num_points - len(self.window_W)) // 2  # the transform centres its window
        power_KT = torchaudio.functional.spectrogram(
            torch.nn.functional.pad(sound_N, (self.before + beside, after + self.num_points - len(self.window_W))),
            pad=0,
            window=self.window_W,
            n_fft=self.num_points,
            hop_length=self.hop,
            win_length=len(self.window_W),
            power=2.0,
            normalized=False,
            center=False,
        )[:, : self.num_frames]
        level_MT: Tensor = 10 * torch.log10(self.filters_MK @ power_KT / self.unit + self.floor)
        return level_MT

    def synthesise(self, level_MT: Tensor) -> Tensor:
        """Return a sound whose mel spectrogram is close to `level_MT`, deterministically: float32 [num_samples]."""
        highest = 10 ** (self.HIGHEST / 10)
        wanted_TM = (10 ** (level_MT.T / 10)).nan_to_num(self.floor).clamp_max(highest)
        wanted_TM = (wanted_TM - self.floor).clamp_min(0) * self.unit
        generator = torch.Generator().manual_seed(0)
        shape = (self.num_frames, self.num_points // 2 + 1)
        phase_TK = 2 * math.pi * torch.rand(shape, generator=generator)
        guess_TK = self._with_bands(torch.polar(torch.ones(shape), phase_TK), wanted_TM)
        previous_TK = guess_TK
        for _ in range(self.ITERATIONS):
            real_TK = self._transform(self._inverse(guess_TK))
            guess_TK = self._with_bands(real_TK + self.MOMENTUM * (real_TK - previous_TK), wanted_TM)
            previous_TK = real_TK
        return self._inverse(guess_TK)[self.before :][: self.num_samples]

    def _with_bands(self, spectrum_TK: Tensor, wanted_TM: Tensor) -> Tensor:
        """Scale the spectrum so that its bands approach the wanted energies."""
        power_TK = torch.view_as_real(spectrum_TK).square().sum(2)
        ratio_TM = wanted_TM / (power_TK @ self.filters_MK.T).clamp_min(1e-12)
        # Frequencies outside all bands are silent.
        gain_TK = (ratio_TM @ self.filters_MK) / self.filters_MK.sum(0).clamp_min(1e-3)
        scaled_TK: Tensor = spectrum_TK * gain_TK.sqrt()
        return scaled_TK

    def _transform(self, padded_N: Tensor) -> Tensor:
        """Compute complex spectra of the windowed frames: [T, K]."""
        frames_TW = padded_N.unfold(0, len(self.window_W), self.hop) * self.window_W
        spectrum_TK: Tensor = torch.fft.rfft(frames_TW, self.num_points)
        return spectrum_TK

    def _inverse(self, spectrum_TK: Tensor) -> Tensor:
        """Return the sound with the nearest spectra: [padded]."""
        frames_TW = torch.fft.irfft(spectrum_TK, self.num_points)[:, : len(self.window_W)] * self.window_W
        return self._overlap_add(frames_TW.T) / self.overlap_N

    def _overlap_add(self, frames_WT: Tensor) -> Tensor:
        window, size = len(self.window_W), (1, self.padded)
        summed: Tensor = torch.nn.functional.fold(frames_WT[None], size, (1, window), stride=(1, self.hop))
        return summed.flatten()
