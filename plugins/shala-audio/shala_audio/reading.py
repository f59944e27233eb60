"""Decode sound, alone or in a video, to one channel of samples: mixed, resampled and cut to length."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Final, Literal

import av
import numpy as np
import torch
import torchaudio.functional

from shala_framework.plugin import FILM_CONTAINERS, DataError, open_film, played_stream, refuse_truncated

Crop = Literal["start", "centre", "loudest"]

CONTAINERS: Final = "wav,w64,aiff,au,caf,flac,mp3,aac," + FILM_CONTAINERS
FULL_SCALE: Final = {"u8": 128.0, "s16": 2.0**15, "s32": 2.0**31, "flt": 1.0, "dbl": 1.0}

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 768_000
MAX_SAMPLES: Final = 30_000_000  # ten minutes at 48 kHz; a few kilobytes of FLAC can claim hours
MOST_BROKEN = 0.1  # largest share of packets that may be skipped
LOUDEST = 100.0  # largest plausible sample, at full scale 1; larger values come from flipped bits
JITTER_SECONDS = 0.05  # time stamps within this of the end of the previous sound leave no gap
BLOCK_SECONDS = 0.01  # step in which the loudest stretch is searched
LARGEST_TERM = 1_000  # largest term of the ratio of two rates
MARGIN_SECONDS = 0.02  # sound on both sides of a cut that resampling includes


def read_sound(
    data: bytes, field: str, enough_seconds: float | None = None, *, max_samples: int = MAX_SAMPLES
) -> tuple[np.ndarray, int] | None:
    """Decode one audio track, the container's default, and mix its channels by their mean.

    In a film, the result starts when the picture does: a late track is preceded by silence, an early one is cut. Gaps
    in the track are silent. Without a picture, the result starts with the first sample.

    A file is refused as truncated if a tenth of it or more is missing. WAV, AIFF, AVI, MP4 and Matroska files show this
    by their structure, FLAC files by a broken last frame. In other formats, whatever is there is read. Durations in
    headers are not trusted. FLAC frames have checksums, so only the last one may be broken.

    Args:
        data: A file in any of `CONTAINERS`, with any codec that FFmpeg knows.
        field: Name of the field, for error messages.
        enough_seconds: Stop decoding after this much sound; None decodes the whole track.
        max_samples: Largest number of samples of the result.

    Returns:
        float32 [N], full scale 1, and its rate in Hz, or None if there is no audio track or it has no sample.

    Raises:
        DataError: The bytes are not such a file, or the track cannot be decoded or is longer than `max_samples`.
    """
    if not data:
        raise DataError(f"field {field!r}: expected encoded sound, got 0 bytes; was the shard written completely?")
    refuse_truncated(data, field)
    try:
        return _decode(data, field, enough_seconds, max_samples)
    except av.error.FFmpegError as error:
        raise DataError(
            f"field {field!r}: expected sound or video that FFmpeg can decode, got {len(data)} bytes starting with "
            f"{data[:8]!r} ({error.strerror}); re-encode the file or leave the field out"
        ) from error


def declared_seconds(data: bytes) -> float:
    """Return the length of a sound according to its header; 0 if the file declares none."""
    try:
        with open_film(data, CONTAINERS) as container:
            stream = played_stream(container.streams.audio)
            if stream is not None and stream.duration and stream.time_base:
                return float(stream.duration * stream.time_base)
            return container.duration / av.time_base if stream is not None and container.duration else 0.0
    except av.error.FFmpegError:
        return 0.0


class _Track:
    """Samples of a track, placed in time.

    Args:
        rate: Samples per second.
        origin_seconds: Time stamp of sample 0, or None to start with the first sound.
        max_samples: Largest number of samples.
        field: Name of the field, for error messages.
    """

    def __init__(self, rate: int, origin_seconds: float | None, max_samples: int, field: str) -> None:
        self.rate, self.origin_seconds = rate, origin_seconds
        self.max_samples, self.field = max_samples, field
        self.length = 0
        self._pieces: list[np.ndarray] = []

    def add(self, sound: np.ndarray, seconds: float | None, enough: float) -> None:
        """Append a piece at its time stamp, or directly after the previous piece if it has none.

        Args:
            sound: float32 [N].
            seconds: Time stamp of the piece.
            enough: Number of samples needed; silence before the piece is not extended beyond it.
        """
        if seconds is not None:
            if self.origin_seconds is None:
                self.origin_seconds = seconds
            start = round((seconds - self.origin_seconds) * self.rate)
            gap = start - self.length
            if self.length == 0 and gap < 0:  # the piece is from before the picture
                sound = sound[-gap:]
            elif gap > (JITTER_SECONDS * self.rate if self.length else 0):
                gap = min(gap, math.ceil(min(enough, self.max_samples + 1)))
                self._check(gap)
                self._append(np.zeros(gap, np.float32))
            elif gap < -JITTER_SECONDS * self.rate:  # the stamps start again, as in joined recordings
                self.origin_seconds = seconds - self.length / self.rate
        self._check(len(sound))
        self._append(sound)

    def _check(self, more: int) -> None:
        if self.length + more > self.max_samples:
            raise DataError(
                f"field {self.field!r}: expected at most {self.max_samples:,} samples "
                f"({self.max_samples / self.rate:.0f} s at {self.rate:,} Hz), got more; cut the file, read only its "
                f"start with the option `crop`, or raise the option `max_samples`"
            )

    def _append(self, sound: np.ndarray) -> None:
        if len(sound):
            self._pieces.append(sound)
            self.length += len(sound)

    def sound(self) -> np.ndarray:
        """Return all samples: float32 [N], at least one."""
        return np.concatenate(self._pieces)


def _decode(data: bytes, field: str, enough_seconds: float | None, max_samples: int) -> tuple[np.ndarray, int] | None:
    with open_film(data, CONTAINERS) as container:
        stream = played_stream(container.streams.audio)
        if stream is None:
            if not len(container.streams):
                raise DataError(
                    f"field {field!r}: expected a file with a track of sound or a picture, got one without any; the "
                    f"file is cut short: copy it again or leave the field out"
                )
            return None
        if stream.codec_context is None:
            raise DataError(
                f"field {field!r}: expected an audio codec that FFmpeg knows, got a track of an unknown one"
            )
        # Loader processes already divide the cores among them.
        stream.codec_context.thread_count = 1
        track: _Track | None = None
        enough = math.inf
        # In FLAC, the header's length is only a hint; trimming without re-encoding leaves it wrong.
        declared = stream.duration if container.format.name == "flac" else None
        declared_seconds = float(declared * stream.time_base) if declared and stream.time_base else 0.0
        for frame in _frames(container, stream, field, declared_seconds):
            if track is None:
                _check_rate(frame, 0, field)
                track = _Track(frame.sample_rate, _picture_start(container), max_samples, field)
                if enough_seconds is not None:
                    enough = enough_seconds * track.rate
            if frame.sample_rate != track.rate:
                _check_rate(frame, track.rate, field)
            track.add(_mix(frame, field), frame.time, enough)
            if track.length >= enough:
                break
    return (track.sound(), track.rate) if track is not None and track.length else None


def _picture_start(container: av.container.InputContainer) -> float | None:
    """Return the time stamp at which the picture of a film starts, or None without a picture."""
    picture = played_stream(container.streams.video)
    if picture is None or picture.start_time is None or picture.time_base is None:
        return None
    return float(picture.start_time * picture.time_base)


def _frames(
    container: av.container.InputContainer, stream: av.AudioStream, field: str, declared_seconds: float
) -> Iterator[av.AudioFrame]:
    """Decode packet by packet. Skip a few packets that cannot be decoded, as at the ends of many MP3 files.

    Args:
        container: An open file.
        stream: Its track.
        field: Name of the field, for error messages.
        declared_seconds: Length according to the header. The file counts as truncated if it is shorter than this and
            its last packet is broken. 0 disables the check.
    """
    num_packets = num_broken = end = 0
    ends_broken = False
    last: av.AudioFrame | None = None
    has_sums = container.format.name == "flac"
    if has_sums:
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
    for packet in container.demux(stream):
        num_packets += 1
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            num_broken += 1
            ends_broken = True
            continue
        if frames:  # the packet that flushes the decoder may give none
            if has_sums:
                first = _first_sample(bytes(packet), frames[0].samples) if last is None else end
                if ends_broken or len(frames) != 1 or first is None or frames[0].pts != first:
                    raise _damaged_flac(field, "the start" if last is None else f"{last.time or 0:.2f} s")
                end = first + frames[0].samples
            last, ends_broken = frames[-1], False
            yield from frames
    seconds = 0.0 if last is None else (last.time or 0.0) + last.samples / last.sample_rate
    if ends_broken and seconds < 0.9 * (declared_seconds - 0.1):
        raise DataError(
            f"field {field!r}: expected {declared_seconds:.2f} s of sound, as the header says, got {seconds:.2f} s and "
            f"a broken end; the file is cut short: copy it again or leave the field out"
        )
    if num_broken > MOST_BROKEN * num_packets:
        raise DataError(
            f"field {field!r}: expected sound that FFmpeg can decode, got {num_broken} broken packets of "
            f"{num_packets}; re-encode the file or leave the field out"
        )


def _first_sample(packet: bytes, num_samples: int) -> int | None:
    """Return the number of a FLAC frame's first sample, which its header encodes like UTF-8; None if it has none."""
    code = packet[4:11]
    ones = 8 - (code[0] ^ 0xFF).bit_length() if code else 0  # leading ones of the first byte: the number of bytes
    if len(code) < max(ones, 1):
        return None
    number = code[0] & (0x7F >> ones)
    for byte in code[1:ones]:
        number = number << 6 | byte & 0x3F
    return number if packet[1] & 1 else number * num_samples


def _damaged_flac(field: str, place: str) -> DataError:
    return DataError(
        f"field {field!r}: expected FLAC whose frames fit their checksums and follow each other, got others after "
        f"{place}; the file is damaged: copy it again or leave the field out"
    )


def _check_rate(frame: av.AudioFrame, rate: int, field: str) -> None:
    if not LOWEST_RATE_HZ <= frame.sample_rate <= HIGHEST_RATE_HZ or rate not in (0, frame.sample_rate):
        expected = f"{rate} Hz throughout" if rate else f"a rate from {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz"
        raise DataError(
            f"field {field!r}: expected {expected}, got {frame.sample_rate} Hz; the file is damaged: re-encode it or "
            f"leave the field out"
        )


def _mix(frame: av.AudioFrame, field: str) -> np.ndarray:
    """Return the mean of the frame's channels, float32 [N]."""
    kind = frame.format.name.removesuffix("p")
    if kind not in FULL_SCALE:
        raise DataError(
            f"field {field!r}: expected samples of a kind in {list(FULL_SCALE)}, got {kind!r}; re-encode it"
        )
    values = frame.to_ndarray()
    by_channel = values if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels).T
    with np.errstate(invalid="ignore"):  # infinities of both signs; values that are not finite are refused below
        mean = by_channel.mean(0, dtype=np.float64)
    # Unsigned bytes are silent at 128.
    mono: np.ndarray = (mean - (128 if kind == "u8" else 0)) / FULL_SCALE[kind]
    if not np.abs(mono).max(initial=0.0) <= LOUDEST:
        raise DataError(
            f"field {field!r}: expected finite samples of at most {LOUDEST:g} times full scale, got others; the file "
            f"is damaged: re-encode it or leave the field out"
        )
    return mono.astype(np.float32)


def cut(sound: np.ndarray, rate: int, new_rate: int, num_samples: int, crop: Crop) -> np.ndarray:
    """Cut a stretch of `num_samples` at another rate. Shorter sounds are padded with silence.

    Args:
        sound: float [N] at `rate` Hz.
        rate: Rate of `sound`.
        new_rate: Rate of the result.
        num_samples: Length of the result.
        crop: Part of a longer sound to keep: its "start", its "centre", or the stretch with the largest energy.

    Returns:
        float32 [num_samples].
    """
    # The resampled lengths are whole numbers if the original ones are multiples of this.
    unit = rate // np.gcd(rate, new_rate)
    length = -(-num_samples * rate // new_rate)
    start = _stretch(sound, rate, length, crop)
    margin = _rounded_up(int(MARGIN_SECONDS * rate), unit)
    piece = np.zeros(_rounded_up(length + 2 * margin, unit))
    first, last = max(start - margin, 0), min(start + length + margin, len(sound))
    piece[first - start + margin :][: last - first] = sound[first:last]
    return resample(piece, rate, new_rate)[margin * new_rate // rate :][:num_samples].astype(np.float32)


def _rounded_up(length: int, unit: int) -> int:
    return -(-length // unit) * unit


def _stretch(sound: np.ndarray, rate: int, length: int, crop: Crop) -> int:
    """Return the start of the stretch that `crop` names."""
    if crop == "start" or len(sound) <= length:
        return 0
    if crop == "centre":
        return (len(sound) - length) // 2
    block = max(int(BLOCK_SECONDS * rate), 1)
    energy = np.add.reduceat(sound.astype(np.float64) ** 2, np.arange(0, len(sound), block))
    before = np.concatenate([[0.0], np.cumsum(energy)])
    num_blocks = min(max(length // block, 1), len(energy))
    start = int((before[num_blocks:] - before[:-num_blocks]).argmax()) * block
    return min(start, len(sound) - length)


def resample(sound: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resample with windowed sinc interpolation, sharp enough to keep 94 % of the band that both rates can represent.

    Args:
        sound: float [N]; silence is assumed around it.
        rate: Rate of `sound` in Hz.
        new_rate: Rate of the result. If the two rates have no small ratio, the nearest one is used, which is off by
            less than a millionth, because the filter's size grows with the ratio's terms.

    Returns:
        float64 [N * new_rate / rate], rounded up.
    """
    if rate == new_rate:
        return sound
    ratio = Fraction(new_rate, rate).limit_denominator(LARGEST_TERM)
    resampled: np.ndarray = torchaudio.functional.resample(
        torch.from_numpy(np.ascontiguousarray(sound, np.float64)),
        ratio.denominator,
        ratio.numerator,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,  # with the next two, torchaudio's recommendation for the highest quality
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    ).numpy()
    return resampled
