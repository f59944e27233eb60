"""Encoded sound, alone or in a video, to one channel of samples: decoded, mixed, resampled and cut to length."""

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Final, Literal

import av
import numpy as np
import torch
import torchaudio.functional

from shala_framework import DataError

Crop = Literal["start", "centre", "loudest"]

# FFmpeg also reads play lists, which name other files: bytes from a shard must not choose what is opened.
CONTAINERS: Final = "wav,w64,aiff,au,caf,flac,mp3,aac,ogg,mov,avi,matroska,asf,flv,mpeg,mpegts"
EXACT_CONTAINERS: Final = ("flac", "avi", "mov")  # those whose headers state the length that was written
FULL_SCALE: Final = {"u8": 128.0, "s16": 2.0**15, "s32": 2.0**31, "flt": 1.0, "dbl": 1.0}

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 768_000
MOST_SAMPLES = 30_000_000  # ten minutes at 48 kHz; a few kilobytes of FLAC can claim hours
MOST_BROKEN = 0.1  # share of packets that may be left out
LOUDEST = 100.0  # largest sensible sample, where full scale is 1; beyond it lie flipped bits
UNKNOWN_SIZE = 0x7FFFF000  # programs that write to a pipe state sizes from here on, or 0
BLOCK_SECONDS = 0.01  # step in which the loudest stretch is looked for
LARGEST_TERM = 1_000  # of the ratio of two rates
MARGIN_SECONDS = 0.02  # sound on both sides of a cut that resampling takes into account


def read_sound(data: bytes, field: str, enough_seconds: float | None = None) -> tuple[np.ndarray, int] | None:
    """Decode the first audio track and mix its channels by their mean.

    A WAV, FLAC, AVI or MP4 file that was cut short is an error where a tenth of it or more is missing, as its header
    says; what else there is of a file is read, as the headers of other formats do not tell.

    Args:
        data: A file in any of `CONTAINERS`, with any codec that FFmpeg knows.
        field: Name of the field, for messages.
        enough_seconds: Decode no further than needed for this much; None for the whole track.

    Returns:
        float32 [N], full scale 1, and its rate in Hz; None where there is no audio track, or one without a sample.

    Raises:
        DataError: The bytes are no such file, or the track cannot be decoded or is longer than `MOST_SAMPLES`.
    """
    if not data:
        raise DataError(f"field {field!r}: expected encoded sound, got 0 bytes; was the shard written completely?")
    _refuse_cut_riff(data, field)
    try:
        return _decode(data, field, enough_seconds)
    except av.error.FFmpegError as error:
        raise DataError(
            f"field {field!r}: expected sound or video that FFmpeg can decode, got {len(data)} bytes starting with "
            f"{data[:8]!r} ({error.strerror}); re-encode the file or leave the field out"
        ) from error


def _refuse_cut_riff(data: bytes, field: str) -> None:
    """Refuse a WAV or AVI file that is cut short: FFmpeg takes its end for the end of the sound."""
    if data[:4] != b"RIFF" or len(data) < 8:
        return
    (declared,) = struct.unpack_from("<I", data, 4)
    if 0 < declared < UNKNOWN_SIZE and len(data) < 0.9 * declared:
        raise DataError(
            f"field {field!r}: expected {declared + 8} bytes, as the header says, got {len(data)}; the file is cut "
            f"short: copy it again or leave the field out"
        )


def _decode(data: bytes, field: str, enough_seconds: float | None) -> tuple[np.ndarray, int] | None:
    with av.open(
        io.BytesIO(data), "r", metadata_errors="replace", options={"format_whitelist": CONTAINERS}
    ) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise DataError(
                f"field {field!r}: expected an audio codec that FFmpeg knows, got a track of an unknown one"
            )
        # Loader processes already share the cores among them.
        stream.codec_context.thread_count = 1
        pieces: list[np.ndarray] = []
        rate, num_samples = 0, 0
        for frame in _frames(container, stream, field):
            rate = _checked_rate(frame, rate, field)
            pieces.append(_mix(frame, field))
            num_samples += len(pieces[-1])
            if enough_seconds is not None and num_samples >= enough_seconds * rate:
                return np.concatenate(pieces), rate
            if num_samples > MOST_SAMPLES:
                raise DataError(
                    f"field {field!r}: expected at most {MOST_SAMPLES:,} samples, got more; cut the file, or read the "
                    f"start of it only, with the option `crop`"
                )
        exact = container.format.name.split(",")[0] in EXACT_CONTAINERS
        declared = float(stream.duration * stream.time_base) if exact and stream.duration and stream.time_base else 0.0
    if num_samples < 0.9 * (declared - 0.1) * rate or (declared and not num_samples):
        raise DataError(
            f"field {field!r}: expected {declared:.2f} s of sound, as the header says, got {num_samples} samples at "
            f"{rate} Hz; the file is cut short: copy it again or leave the field out"
        )
    return (np.concatenate(pieces), rate) if num_samples else None


def _frames(container: av.container.InputContainer, stream: av.AudioStream, field: str) -> Iterator[av.AudioFrame]:
    """Decode packet by packet; a few that cannot be decoded, as at the ends of many MP3 files, are left out."""
    num_packets = num_broken = 0
    for packet in container.demux(stream):
        num_packets += 1
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            num_broken += 1
    if num_broken > MOST_BROKEN * num_packets:
        raise DataError(
            f"field {field!r}: expected sound that FFmpeg can decode, got {num_broken} broken packets of "
            f"{num_packets}; re-encode the file or leave the field out"
        )


def _checked_rate(frame: av.AudioFrame, rate: int, field: str) -> int:
    if not LOWEST_RATE_HZ <= frame.sample_rate <= HIGHEST_RATE_HZ or rate not in (0, frame.sample_rate):
        expected = f"{rate} Hz throughout" if rate else f"a rate from {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz"
        raise DataError(
            f"field {field!r}: expected {expected}, got {frame.sample_rate} Hz; the file is damaged: re-encode it or "
            f"leave the field out"
        )
    return frame.sample_rate


def _mix(frame: av.AudioFrame, field: str) -> np.ndarray:
    """The mean of the frame's channels, float32 [N]."""
    kind = frame.format.name.removesuffix("p")
    if kind not in FULL_SCALE:
        raise DataError(
            f"field {field!r}: expected samples of a kind in {list(FULL_SCALE)}, got {kind!r}; re-encode it"
        )
    values = frame.to_ndarray()
    by_channel = values if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels).T
    with np.errstate(invalid="ignore"):  # infinities of both signs; what is not finite is refused below
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
    """A stretch of `num_samples` at another rate; shorter sounds are followed by silence.

    Args:
        sound: float [N] at `rate` Hz.
        rate: Rate of `sound`.
        new_rate: Rate of the result.
        num_samples: Length of the result.
        crop: Which stretch of a longer sound: its "start", its "centre", or where its energy is largest.

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
    """Where the stretch that `crop` names begins."""
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
    """The sound at another rate: windowed sinc interpolation, sharp enough to keep 94 % of what both rates can hold.

    Args:
        sound: float [N]; silence is taken to surround it.
        rate: Rate of `sound` in Hz.
        new_rate: Rate of the result. Where the two have no small ratio the nearest one stands in, less than a
            millionth off: the filter's size grows with the ratio's terms.

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
