"""Audio: the contract tests, and tests of levels, resampling, missing tracks, and the way back to sound."""

import functools
import io
import os
import struct
import tarfile
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
import pytest
import torch
import torchaudio.functional
from av.stream import Disposition
from shala_audio import Audio
from shala_audio.augmenting import AudioAugment
from shala_audio.drawing import cubehelix, draw_spectrum
from shala_audio.networks import SpectrumDecoder
from shala_audio.reading import cut, read_sound, resample

from shala_framework.plugin import DataError, Draws, Standardise, encode_mp4, encode_wav
from shala_framework.plugin.testing import ModalitySuite

DATA = Path(os.environ.get("SHALA_DATA", Path(__file__).parents[3] / "../shared/data"))


def tone(frequency_hz: float, rate: int = 8_000, seconds: float = 0.5, amplitude: float = 0.5) -> np.ndarray:
    """float64 [N]: a sine."""
    return amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(round(rate * seconds)) / rate)


def wav(sound: np.ndarray, rate: int = 8_000) -> bytes:
    """A 16-bit WAV file of [N] or [channels, N] in [-1, 1]."""
    channels = np.atleast_2d(sound)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(channels.T * 32_767).astype("<i2").tobytes())
    return buffer.getvalue()


def encoded(sound: np.ndarray, rate: int, container: str, codec: str, kind: str) -> bytes:
    """The sound [N] in another container and codec, whose samples are of `kind`."""
    buffer = io.BytesIO()
    values = sound if kind.startswith("flt") else np.round(sound * 32_767).astype(np.int16)
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        for start in range(0, len(values), 1_000):
            piece = values[None, start : start + 1_000].astype(np.float32 if kind.startswith("flt") else np.int16)
            frame = av.AudioFrame.from_ndarray(piece, format=kind, layout="mono")
            frame.sample_rate, frame.pts = rate, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def read(audio: Audio, data: bytes, field: str = "wav") -> torch.Tensor:
    x = audio.read({field: data})
    assert x is not None
    return x


def power(x: torch.Tensor) -> torch.Tensor:
    """Powers of the bands, relative to a sine of full scale."""
    return 10 ** (x / 10)


SMALL: dict[str, Any] = {"sample_rate_hz": 8_000, "clip_seconds": 0.4, "mels": 24, "width": 32}


class TestAudio(ModalitySuite):
    modality = Audio
    options: ClassVar = SMALL
    value_range = (-70.1, 20.0)
    round_trip_tolerance = 0.04  # steady tones are the hardest: see test_real_words_survive_writing
    augmenting: ClassVar = {
        "augment": AudioAugment(shift_seconds=0.1, gain_decibels=6, masks=2, mask_seconds=0.1, mask_mels=4)
    }

    def sample_fields(self, index: int) -> dict[str, bytes]:
        return {"wav": wav(tone(300 + 150 * index) + tone(900, amplitude=0.02 * (index + 1)))}

    def check_values(self, x: torch.Tensor) -> None:
        # Levels that a network draws may lie anywhere.
        assert torch.isfinite(x).all()


class TestLongLaplace(TestAudio):
    """Compressed music of another rate, an odd number of frames that is padded, and the other likelihood."""

    options: ClassVar = {
        "sample_rate_hz": 16_000, "clip_seconds": 0.83, "mels": 20, "hop_milliseconds": 12.5, "crop": "loudest",
        "width": 16, "likelihood": "laplace", "scale": 3.0, "fields": ("flac",), "floor_decibels": -80.0,
        "max_frequency_hz": 6_000.0,
    }  # fmt: skip

    def sample_fields(self, index: int) -> dict[str, bytes]:
        sweep = np.sin(np.cumsum(np.linspace(0.02, 0.1 + 0.05 * index, 22_050)))
        return {"flac": encoded(0.3 * sweep, 22_050, "flac", "flac", "s16")}


# Levels and pitch.


@pytest.mark.parametrize("frequency_hz", [250.0, 1_000.0, 2_718.0])
@pytest.mark.parametrize("amplitude", [1.0, 0.05])
def test_sine_is_at_its_pitch_and_level(frequency_hz: float, amplitude: float) -> None:
    """A sine's loudest band is the one whose centre is nearest, and its bands add up to its amplitude squared."""
    audio = Audio(Audio.Options(**SMALL, floor_decibels=-110.0))
    x = read(audio, wav(tone(frequency_hz, amplitude=amplitude)))[:, 4:-4]
    centres = audio.options.edges_hz[1:-1]
    assert (x.argmax(0) == (centres - frequency_hz).abs().argmin()).all()
    np.testing.assert_allclose(power(x).sum(0), amplitude**2, rtol=0.01)


def test_frames_lie_where_the_sound_is() -> None:
    """A click sounds in the frame around it alone, and a sound of half the length fills half of the frames."""
    audio = Audio(Audio.Options(**SMALL, window_milliseconds=20.0))
    click = np.zeros(3_200)
    click[80 * 17 + 40] = 1.0
    assert read(audio, wav(click)).mean(0).argmax() == 17
    x = read(audio, wav(tone(500, seconds=0.2)))
    assert x.shape == (24, 40)
    assert (x[:, :19].amax(0) > -15).all()
    assert (x[:, 21:] < -69.9).all()


def test_silence_is_the_floor_and_stays_silent() -> None:
    """Silence is finite, its likelihood has finite gradients, and it is written as silence; levels below it too."""
    audio = Audio(Audio.Options(**SMALL, silence="keep"))
    x = read(audio, wav(np.zeros(3_200)))
    torch.testing.assert_close(x, torch.full_like(x, -70.0))
    audio.fit([{"wav": wav(np.zeros(3_200))}])
    decoder = audio.decoder(2)
    decoder(audio.encoder(2)(x[None])).log_prob(x[None]).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in decoder.parameters())
    for level in (x, x - 1_000, torch.full_like(x, -torch.inf), torch.full_like(x, torch.nan)):
        sound, rate = read_sound(audio.write(level)["wav"], "wav") or pytest.fail("no sound")
        assert (len(sound), rate, np.abs(sound).max()) == (3_200, 8_000, 0)


def test_absent_rows_are_finite() -> None:
    """Rows of zeros, which stand for a missing modality, have a finite likelihood and finite gradients."""
    audio = Audio(Audio.Options(**SMALL))
    networks = torch.nn.Sequential(audio.encoder(4), audio.decoder(4))
    x = torch.zeros(2, *audio.shape)
    (networks(x).log_prob(x) * 0).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in networks.parameters())


def test_log_prob_is_in_decibels() -> None:
    """What fit learned changes how networks see x, not the unit of its density."""
    audio = Audio(Audio.Options(**SMALL, scale=2.0))
    audio.fit(TestAudio().sample_fields(index) for index in range(4))
    likelihood = audio.decoder(3)(torch.randn(2, 3))
    x = likelihood.mode().detach()
    expected = -x[0].numel() * (np.log(2.0) + 0.5 * np.log(2 * np.pi))
    np.testing.assert_allclose(likelihood.log_prob(x).detach(), expected, rtol=1e-4)


# Resampling, mixing, cropping.


@pytest.mark.parametrize(("rate", "new_rate"), [(44_100, 8_000), (8_000, 16_000), (11_025, 16_000), (7_919, 8_000)])
def test_resampling_keeps_a_tone(rate: int, new_rate: int) -> None:
    """A tone that both rates can hold comes out as that very tone, in phase, up to the place where it was cut."""
    expected = tone(440.0, new_rate, 0.5)
    resampled = cut(tone(440.0, rate, 1.0), rate, new_rate, len(expected), "start")
    inner = slice(len(expected) // 10, None)  # the tone starts with a step in slope
    np.testing.assert_allclose(resampled[inner], expected[inner], atol=5e-3)


def test_resampling_does_not_alias() -> None:
    """What the lower rate cannot hold is gone rather than folded down, away from where a tone begins and ends."""
    inner = slice(200, -200)
    assert np.abs(resample(tone(5_000.0, 44_100, 1.0), 44_100, 8_000))[inner].max() < 1e-6
    np.testing.assert_allclose(
        resample(tone(3_000.0, 44_100, 1.0), 44_100, 8_000)[inner], tone(3_000.0, 8_000, 1.0)[inner], atol=1e-6
    )


def test_rates_without_a_small_ratio_cost_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may state any rate: the filter stays small, and a tone keeps its pitch."""
    asked: list[int] = []
    real = torchaudio.functional.resample

    def watched(sound: torch.Tensor, old: int, new: int, **kwargs: Any) -> torch.Tensor:
        asked.extend((old, new))
        return real(sound, old, new, **kwargs)

    monkeypatch.setattr("torchaudio.functional.resample", watched)
    resampled = resample(tone(440.0, 44_101, 1.0), 44_101, 16_000)
    assert max(asked) <= 1_000
    np.testing.assert_allclose(resampled[400:15_600], tone(440.0, 16_000, 1.0)[400:15_600], atol=5e-3)


def test_channels_are_mixed_by_their_mean() -> None:
    """Stereo is half of each side: opposite sides cancel, one side alone is 6 dB down."""
    audio = Audio(Audio.Options(**SMALL, silence="keep"))
    left = tone(700.0)
    alone = read(audio, wav(np.stack([left, 0 * left])))
    torch.testing.assert_close(alone, read(audio, wav(0.5 * left)), atol=0.05, rtol=0)
    assert (read(audio, wav(np.stack([left, -left]))) < -69.9).all()


@pytest.mark.parametrize(
    ("field", "container", "codec", "kind", "tolerance"),
    [("flac", "flac", "flac", "s16", 0.05), ("ogg", "ogg", "libopus", "s16", 0.5),
     ("mp3", "mp3", "libmp3lame", "s16p", 0.5), ("mkv", "matroska", "pcm_s16le", "s16", 0.05),
     ("mp4", "mp4", "aac", "fltp", 0.5), ("wav", "wav", "pcm_f32le", "flt", 0.05)],
)  # fmt: skip
def test_formats_read_alike(field: str, container: str, codec: str, kind: str, tolerance: float) -> None:
    """One tone in several formats has the same spectrogram: within hearing where it was compressed."""
    audio = Audio(Audio.Options(**SMALL))
    sound = tone(600.0, 48_000, 1.0)
    expected = read(audio, wav(sound, 48_000))
    x = read(audio, encoded(sound, 48_000, container, codec, kind), field)
    # Compression smears the tone's sudden start.
    loud = expected[:, 4:] > -40
    assert (x - expected)[:, 4:][loud].abs().mean() < tolerance
    assert x[:, 4:][~loud].max() < -38


@pytest.mark.parametrize(("crop", "expected"), [("start", 300), ("centre", 900), ("loudest", 2_000)])
def test_crop(crop: Any, expected: float) -> None:
    """A longer sound is cut to the stretch that the option names."""
    parts = [tone(300.0), tone(900.0), tone(2_000.0, amplitude=0.9), tone(3_000.0, seconds=0.1)]
    audio = Audio(Audio.Options(**SMALL | {"clip_seconds": 0.5}, crop=crop))
    parts = parts if crop != "centre" else [parts[0], parts[1], parts[0]]
    x = read(audio, wav(np.concatenate(parts)))[:, 2:-2]
    centres = audio.options.edges_hz[1:-1]
    assert (x.argmax(0) == (centres - expected).abs().argmin()).all()


@pytest.mark.parametrize("num_samples", [1, 7, 400, 3_199, 3_200, 3_201, 50_000])
@pytest.mark.parametrize("crop", ["start", "centre", "loudest"])
def test_any_length_gives_the_shape(num_samples: int, crop: Any) -> None:
    """Sounds from one sample upwards are padded or cut; where nothing is cut, all crops agree."""
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, num_samples)
    x = cut(sound, 8_000, 8_000, 3_200, crop)
    assert x.shape == (3_200,)
    if num_samples <= 3_200:
        np.testing.assert_allclose(x[:num_samples], sound, atol=1e-6)
        assert not x[num_samples:].any()
    else:
        assert any(np.allclose(x, sound[i : i + 3_200], atol=1e-6) for i in range(num_samples - 3_199))


# Missing, cut and hostile.


def test_container_without_sound_is_missing() -> None:
    """A silent film and a track without samples lack the modality; a later field may have it."""
    audio = Audio(Audio.Options(**SMALL, fields=("mp4", "wav")))
    silent = encode_mp4(np.zeros((4, 32, 32, 3), dtype=np.uint8), 8.0)
    for data in (silent, wav(np.zeros(0))):
        assert audio.read({"mp4": data}) is None
        x = audio.read({"mp4": data, "wav": wav(tone(500))})
        assert x is not None
        torch.testing.assert_close(x, read(audio, wav(tone(500))))


def test_first_field_with_sound_wins() -> None:
    """If several fields have sound, the first in the options' order is read."""
    audio = Audio(Audio.Options(**SMALL, fields=("mp3", "wav")))
    x = audio.read({"wav": wav(tone(500)), "mp3": wav(tone(2_000))})
    assert x is not None
    torch.testing.assert_close(x, read(audio, wav(tone(2_000))))


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_streamed_wav_is_read_to_its_end(size: int) -> None:
    """A WAV file whose writer did not know its size is not taken for one that is cut short."""
    data = bytearray(wav(tone(500)))
    struct.pack_into("<I", data, 4, size)
    struct.pack_into("<I", data, 40, size)
    sound, _ = read_sound(bytes(data), "wav") or pytest.fail("no sound")
    np.testing.assert_allclose(sound, tone(500), atol=1e-4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], r"expected 8044 bytes.*cut short"),
        (lambda data: data[:44], "cut short"),
        (lambda data: data[:20], "cut short"),
        (lambda data: data.replace(b"data", b"dada"), "field 'wav'"),
        (lambda data: data[:24] + struct.pack("<I", 0xFFFFFFF) + data[28:], "rate"),
        (lambda data: data[:24] + struct.pack("<I", 3) + data[28:], "rate"),
        (lambda data: data[:22] + b"\xff\xff" + data[24:], "field 'wav'"),
        (lambda data: encoded(np.array([0.1, np.nan, 0.2]), 8_000, "wav", "pcm_f32le", "flt"), "finite"),
        (lambda data: encoded(np.array([0.1, 1e30, 0.2]), 8_000, "wav", "pcm_f32le", "flt"), "finite"),
        (lambda data: encoded(tone(500, seconds=20), 8_000, "flac", "flac", "s16")[:-60_000], "cut short"),
    ],
)
def test_damaged_file_is_a_data_error(damage: Any, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Truncated files and impossible values are reported, and FFmpeg writes nothing to the terminal."""
    with pytest.raises(DataError, match=message):
        Audio(Audio.Options(**SMALL | {"clip_seconds": 30.0})).read({"wav": damage(wav(tone(500)))})
    assert capfd.readouterr() == ("", "")


def test_broken_packets() -> None:
    """A few broken packets are left out, as at the end of an MP3 file; a track full of them is an error."""
    data = bytearray(encoded(tone(600.0, 44_100, 2.0), 44_100, "mp3", "libmp3lame", "s16p"))
    x = read(Audio(Audio.Options(**SMALL, crop="centre")), bytes(data), "mp3")
    assert x.amax(0).min() > -15
    cut_short, _ = read_sound(bytes(data[:-600]), "mp3") or pytest.fail("no sound")
    assert 1.8 < len(cut_short) / 44_100 < 2.0
    junk = np.random.default_rng(0)
    for start in range(1_000, len(data) - 200, 200):
        data[start : start + 150] = junk.bytes(150)
    with pytest.raises(DataError, match=r"broken packets|FFmpeg can decode"):
        read_sound(bytes(data), "mp3")


@pytest.mark.parametrize("bytes_of_moov", [0, 4, 7, 8, 12, 15, 16, 40])
def test_a_film_cut_before_its_table_is_no_film_without_sound(bytes_of_moov: int) -> None:
    """FFmpeg opens an MP4 file of which a few bytes of the last box are left as one without a stream."""
    data = encode_mp4(np.zeros((4, 32, 32, 3), np.uint8), 10.0)
    assert read_sound(data, "mp4") is None
    place = data.index(b"moov") - 4
    for cut_short in (data[: place + bytes_of_moov], data[:place] + (1).to_bytes(4, "big") + b"moov"):
        with pytest.raises(DataError, match="field 'mp4'"):
            read_sound(cut_short, "mp4")


def test_a_flipped_bit_of_flac_is_an_error_or_costs_the_last_frame() -> None:
    """FFmpeg leaves out frames that do not fit their checksums, or plays them, and moves the others to the front."""
    data = encoded(tone(500.0, seconds=1.0), 8_000, "flac", "flac", "s16")
    whole, _ = read_sound(data, "flac") or pytest.fail("no sound")
    start = data.index(b"\xff\xf8")
    outcomes = {"refused": 0, "the same": 0, "without its last frame": 0}
    for place in [*range(4, start, 37), *range(start, len(data), 3)]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        try:
            sound, _ = read_sound(bytes(damaged), "flac") or pytest.fail("no sound")
        except DataError:
            outcomes["refused"] += 1
            continue
        np.testing.assert_array_equal(sound, whole[: len(sound)])
        assert len(whole) - len(sound) <= 576
        outcomes["the same" if len(sound) == len(whole) else "without its last frame"] += 1
    assert min(outcomes.values()) > 20, outcomes
    assert outcomes["refused"] > 500


def test_flac_that_was_trimmed_without_encoding_is_read() -> None:
    """Its first frame keeps its number, which would reveal damage before it."""
    buffer = io.BytesIO()
    data = encoded(tone(500.0, seconds=1.0), 8_000, "flac", "flac", "s16")
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format="flac") as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for number, packet in enumerate(source.demux()):
            if packet.dts is not None and number >= 4:
                packet.stream = stream
                out.mux(packet)
    sound, _ = read_sound(buffer.getvalue(), "flac") or pytest.fail("no sound")
    np.testing.assert_array_equal(sound, (read_sound(data, "flac") or pytest.fail("no sound"))[0][4 * 576 :])


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile {}\n", "#EXTM3U\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"])
def test_play_list_is_not_followed(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that name a file of this machine do not make it read that file."""
    (tmp_path / "private.wav").write_bytes(wav(tone(500)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="FFmpeg"):
        read_sound(text.format("private.wav").encode(), "wav")


def test_infinite_samples_are_a_data_error() -> None:
    """Floating-point samples of opposite infinities are refused like any other damage, without a warning."""
    samples = np.zeros((4_000, 2), "<f4")
    samples[100] = np.inf, -np.inf
    form = struct.pack("<HHIIHH", 3, 2, 8_000, 64_000, 8, 32)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", samples.nbytes)
    size = struct.pack("<I", 4 + len(chunks) + samples.nbytes)
    with pytest.raises(DataError, match="finite samples"):
        read_sound(b"RIFF" + size + b"WAVE" + chunks + samples.tobytes(), "wav")


def test_length_that_only_a_header_knows_is_bounded() -> None:
    """A small file of hours of silence is refused before it fills the memory, but its start can be read."""
    bomb = encoded(np.concatenate([tone(500.0), np.zeros(400_000)]), 8_000, "flac", "flac", "s16")
    assert len(bomb) < 30_000
    limited = SMALL | {"max_samples": 200_000}
    with pytest.raises(DataError, match=r"at most 200,000 samples \(25 s at 8,000 Hz\).*`max_samples`"):
        Audio(Audio.Options(**limited, crop="loudest")).read({"flac": bomb})
    assert Audio(Audio.Options(**limited)).read({"flac": bomb}) is not None


# The picture's clock.


CLICK_SECONDS = 1.0


def film_with_click(
    container: str,
    sound_from: float,
    *,
    picture_from: float = 0.0,
    lost: tuple[float, float] = (0.0, 0.0),
) -> bytes:
    """A picture of 1.6 s, and sound in which a tone of 30 ms begins at CLICK_SECONDS, as PCM or AAC.

    Args:
        container: FFmpeg's name for it.
        sound_from: When the sound begins.
        picture_from: When the picture begins.
        lost: Packets with time stamps from here to there are left out.
    """
    buffer, rate = io.BytesIO(), 16_000
    seconds = sound_from + np.arange(int((1.8 - sound_from) * rate)) / rate
    sounds = (seconds >= CLICK_SECONDS) & (seconds < CLICK_SECONDS + 0.03)
    wave_ = np.where(sounds, 0.5 * np.sin(2 * np.pi * 2_000 * seconds), 0).astype(np.float32)
    pcm = container in ("matroska", "avi", "nut")
    with av.open(buffer, "w", format=container) as out:
        picture = out.add_stream("mpeg4", rate=25)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        sound = out.add_stream("pcm_s16le" if pcm else "aac", rate=rate, layout="mono")
        packets = []
        for index in range(40):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = index + round(picture_from * 25), Fraction(1, 25)
            packets += picture.encode(frame)
        packets += picture.encode(None)
        for start in range(0, len(wave_) - 799, 800):
            piece = wave_[None, start : start + 800]
            values = np.round(piece * 32_767).astype(np.int16) if pcm else piece
            frame = av.AudioFrame.from_ndarray(values, format="s16" if pcm else "fltp", layout="mono")
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = start + round(sound_from * rate)
            packets += sound.encode(frame)
        packets += sound.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            time = float(packet.pts * packet.time_base)
            if packet.stream is sound and lost[0] <= time < lost[1]:
                continue
            out.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("container", "timing", "expected"),
    [
        ("mp4", {"sound_from": 0.0}, 1.0),
        ("mp4", {"sound_from": 0.6}, 1.0),
        ("mov", {"sound_from": 0.6}, 1.0),
        ("matroska", {"sound_from": 0.6}, 1.0),
        ("mpegts", {"sound_from": 0.6}, 1.0),
        ("matroska", {"sound_from": 0.0, "lost": (0.2, 0.7)}, 1.0),
        ("mpegts", {"sound_from": 0.0, "lost": (0.2, 0.7)}, 1.0),
        ("matroska", {"sound_from": 0.0, "picture_from": 0.4}, 0.6),
        ("mpegts", {"sound_from": 0.0, "picture_from": 0.4}, 0.6),
    ],
)
def test_sound_follows_the_clock_of_the_picture(container: str, timing: Any, expected: float) -> None:
    """Sound that begins late, early or lacks a stretch is heard when a player plays it, counted from the picture."""
    sound, rate = read_sound(film_with_click(container, **timing), "mp4") or pytest.fail("no sound")
    assert abs(np.flatnonzero(np.abs(sound) > 0.2)[0] / rate - expected) < 0.01


def test_start_of_a_late_track_takes_no_longer() -> None:
    """Only as much as is needed is filled with silence, however late the sound begins; such a clip says nothing."""
    film = film_with_click("matroska", 0.9)
    sound, rate = read_sound(film, "mkv", enough_seconds=0.5) or pytest.fail("no sound")
    assert 0.5 <= len(sound) / rate < 0.6
    assert Audio(Audio.Options(**SMALL)).read({"mkv": film}) is None


def test_sound_alone_begins_with_its_first_sample() -> None:
    """Without a picture, a late time stamp of the first sample does not mean silence."""
    source = io.BytesIO(film_with_click("matroska", 0.6))
    buffer = io.BytesIO()
    with av.open(source) as film, av.open(buffer, "w", format="matroska") as out:
        stream = out.add_stream_from_template(film.streams.audio[0])
        for packet in film.demux(film.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    sound, rate = read_sound(buffer.getvalue(), "mkv") or pytest.fail("no sound")
    assert abs(np.flatnonzero(np.abs(sound) > 0.2)[0] / rate - 0.4) < 0.01


def test_time_stamps_that_restart_do_not_cut_the_sound() -> None:
    """If recordings were joined and time stamps start again, one is heard after the other."""
    recording = film_with_click("mpegts", 0.0)
    sound, rate = read_sound(2 * recording, "ts") or pytest.fail("no sound")
    heard = np.flatnonzero(np.abs(sound) > 0.2) / rate
    assert abs(heard[0] - 1.0) < 0.01
    assert abs(heard[heard > 1.5][0] - 2.8) < 0.2  # AAC pads both ends


def test_default_track_is_preferred() -> None:
    """The audio track that the container marks as its default is heard, even if it comes second."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        tracks = [out.add_stream("pcm_s16le", rate=8_000, layout="mono") for _ in range(2)]
        for track, disposition in zip(tracks, (Disposition(0), Disposition.default), strict=True):
            track.disposition = disposition
        for track, amplitude in zip(tracks, (0.1, 0.5), strict=True):
            values = np.round(tone(500.0, amplitude=amplitude) * 32_767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(values[None], format="s16", layout="mono")
            frame.sample_rate = 8_000
            out.mux(track.encode(frame))
    sound, _ = read_sound(buffer.getvalue(), "mkv") or pytest.fail("no sound")
    assert abs(np.abs(sound).max() - 0.5) < 0.01


def test_trimmed_flac_is_sound() -> None:
    """A cut from a FLAC file, whose header still states the original length, does not count as truncated."""
    whole = encoded(tone(500.0, seconds=20.0), 8_000, "flac", "flac", "s16")
    buffer = io.BytesIO()
    with av.open(io.BytesIO(whole)) as source, av.open(buffer, "w", format="flac") as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux():
            if packet.dts is not None and packet.pts * packet.time_base < 8:
                packet.stream = stream
                out.mux(packet)
    with av.open(io.BytesIO(buffer.getvalue())) as trimmed:
        assert trimmed.streams.audio[0].duration * trimmed.streams.audio[0].time_base == 20
    sound, rate = read_sound(buffer.getvalue(), "flac") or pytest.fail("no sound")
    assert 8 <= len(sound) / rate < 9


def test_silence_says_nothing() -> None:
    """A clip that is silent throughout lacks the modality, like one without a track; the option keeps it."""
    film = {"mp4": encoded(np.zeros(16_000), 8_000, "mp4", "aac", "fltp")}
    audio = Audio(Audio.Options(**SMALL))
    assert audio.read(film) is None
    x = audio.read(film | {"wav": wav(tone(500))})
    assert x is not None
    assert Audio(Audio.Options(**SMALL, silence="keep")).read(film) is not None
    assert audio.read({"wav": wav(tone(500, amplitude=1e-4))}) is not None


# Back to sound and to pictures.


def test_written_sound_can_be_played() -> None:
    """The WAV file has one channel of 16 bits at the option's rate, as long as the clip, and sounds as high."""
    audio = Audio(Audio.Options(**SMALL))
    written = audio.write(read(audio, wav(tone(1_200.0))))
    with wave.open(io.BytesIO(written["wav"])) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (
            1,
            2,
            8_000,
            3_200,
        )
        sound = np.frombuffer(file.readframes(3_200), "<i2")
    assert abs(np.abs(np.fft.rfft(sound)).argmax() / 0.4 - 1_200) < 60


def test_writing_leaves_the_random_state_alone() -> None:
    """The phases that writing makes up do not change what training draws next."""
    audio = Audio(Audio.Options(**SMALL))
    before = torch.random.get_rng_state()
    audio.write(torch.full(audio.shape, -30.0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_too_loud_is_clipped() -> None:
    """Levels beyond full scale, which a network may draw, are written and shown within it."""
    audio = Audio(Audio.Options(**SMALL))
    for level in (30.0, 1e6, torch.inf):
        preview = audio.preview(torch.full(audio.shape, level))
        assert preview.sound is not None
        assert np.isfinite(preview.sound).all()
        assert 0.9 < np.abs(preview.sound).max() <= 1


def test_picture_has_low_frequencies_at_the_bottom() -> None:
    """A low tone is a light line at the bottom; brightness rises with the level throughout."""
    audio = Audio(Audio.Options(**SMALL))
    frames = audio.preview(read(audio, wav(tone(200.0)))).frames
    assert frames is not None
    assert frames.shape == (1, 168, 280, 3)
    assert frames[0].sum((1, 2)).argmax() > 0.8 * 168
    brightness = cubehelix(np.linspace(0, 1, 64)) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(brightness) > 0).all()
    assert draw_spectrum(np.full((4, 1_000), -80.0), -80.0).shape == (160, 1_000, 3)


# Options and networks.


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sample_rate_hz": 100}, "2000"), ({"clip_seconds": 0.05}, "8 to 20000 frames"), ({"crop": "end"}, "loudest"),
     ({"hop_milliseconds": 20.0}, "twice the hop"), ({"max_frequency_hz": 9_000.0}, "half of"),
     ({"fields": ()}, "at least one"), ({"min_frequency_hz": 8_000.0}, "min_frequency_hz"),
     ({"mels": 200}, "fewer `mels`"), ({"width": 12}, "multiple of 8"), ({"floor_decibels": 0.0}, "-120 to -20"),
     ({"likelihood": "cauchy"}, "laplace"), ({"scale": 0.0}, "above 0")],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    """Options out of range say what was expected."""
    with pytest.raises(ValueError, match=message):
        Audio.Options(**options)


@pytest.mark.parametrize("mels", [40, 64, 80])
def test_every_band_hears_something(mels: int) -> None:
    """No band lies between two frequencies of the transform."""
    audio = Audio(Audio.Options(mels=mels))
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    assert (read(audio, wav(noise, 16_000)).amin(1) > -69).all()


@pytest.mark.parametrize(("mels", "num_frames"), [(4, 8), (13, 33), (40, 64), (80, 1_000)])
def test_networks_adapt_to_the_size(mels: int, num_frames: int) -> None:
    """Any number of bands and of frames can be encoded and decoded, and z matters from the start."""
    audio = Audio(Audio.Options(mels=mels, clip_seconds=num_frames / 100, width=16))
    with torch.no_grad():
        x = torch.randn(2, *audio.shape) * 10 - 50
        likelihood = audio.decoder(12)(audio.encoder(12)(x))
        assert likelihood.log_prob(x).isfinite().all()
        decoder = SpectrumDecoder(Standardise((mels,), trailing=1), num_frames, 16, 12, "normal", None)
        assert decoder(torch.randn(64, 12)).mode().std(0).mean() > 0.2


def test_fit_needs_a_sample() -> None:
    """A training set without this modality is an error instead of giving the mean of nothing."""
    with pytest.raises(DataError, match="training sample"):
        Audio(Audio.Options()).fit([{"txt": b"a"}])


# Real files.


@functools.cache
def spoken_digits() -> dict[str, bytes]:
    """A few real recordings of each digit and speaker, or a skip where there are none."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; set SHALA_DATA")
    with tarfile.open(DATA / "fsdd" / "fsdd_recordings.tar.xz") as archive:
        names = [member for member in archive if member.name.endswith(("_0.wav", "_5.wav"))]
        return {Path(member.name).stem: archive.extractfile(member).read() for member in names}  # type: ignore[union-attr]


def clip_of_ucf(name: str) -> bytes:
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; set SHALA_DATA")
    return (DATA / "ucf101" / f"{name}.avi").read_bytes()


@pytest.mark.real_data
def test_real_clips_with_and_without_sound() -> None:
    """UCF101 clips with an MP3 track have sound, and the others lack the modality."""
    audio = Audio(Audio.Options())
    x = read(audio, clip_of_ucf("v_ApplyEyeMakeup_g01_c01"), "avi")
    assert x.std() > 5
    assert audio.read({"avi": clip_of_ucf("v_Diving_g01_c01")}) is None


@pytest.mark.real_data
def test_real_words_survive_writing() -> None:
    """A spoken digit that is written and read again has nearly the same spectrogram, word by word."""
    audio = Audio(Audio.Options(sample_rate_hz=8_000, clip_seconds=0.64, mels=40))
    words = [read(audio, data) for data in list(spoken_digits().values())[::8]]
    again = [read(audio, audio.write(x)["wav"]) for x in words]
    errors = torch.stack([(a - b).abs().mean() for a, b in zip(again, words, strict=True)])
    assert errors.max() < 0.8
    between = (words[0] - torch.stack(words[1:])).abs().mean((1, 2))
    assert between.min() > 4 * errors.max()


@pytest.mark.real_data
def test_real_files_damaged() -> None:
    """Damaged copies of real recordings and films end in an x or in a DataError."""
    digits = list(spoken_digits().values())[:4]
    films = [clip_of_ucf(f"v_ApplyEyeMakeup_g01_c0{index}") for index in (1, 2)]
    TestAudio().check_damage([*({"wav": data} for data in digits), *({"avi": data} for data in films)])


class TestAugmentation:
    """What `augment` does to levels, and that masks stay with the encoder."""

    def test_gain_is_that_of_a_louder_sound(self):
        """A spectrogram with a gain of g decibels is that of the sound times 10 ** (g / 20); silence stays silent."""
        modality = Audio(**SMALL, augment={"gain_decibels": 12.0})
        draws = Draws(seed=3, num_rows=1)
        x = modality.read({"wav": wav(tone(500, amplitude=0.1))})
        louder = modality.augment(x[None], draws)[0]
        gain = float(Draws(seed=3, num_rows=1).uniform(-12, 12))
        expected = modality.read({"wav": wav(tone(500, amplitude=0.1 * 10 ** (gain / 20)))})
        torch.testing.assert_close(louder, expected, atol=0.3, rtol=0)
        silence = torch.full_like(x[None], modality.options.floor_decibels)
        torch.testing.assert_close(modality.augment(silence, draws), silence)

    def test_a_sound_moves_into_silence(self):
        """Frames keep their values, and what they leave behind is at the floor."""
        modality = Audio(**SMALL, augment={"shift_seconds": 0.1})
        mels, frames = modality.shape
        x = torch.arange(frames).float().expand(32, mels, frames).clone()
        moved = modality.augment(x, Draws(seed=0, num_rows=32))
        offset = Draws(seed=0, num_rows=32).integers(
            *(sign * round(0.1 * modality.options.frames_per_second) for sign in (-1, 1))
        )
        assert offset.unique().numel() > 3
        for row, by in zip(moved, offset.tolist(), strict=True):
            expected = torch.full((frames,), modality.options.floor_decibels)
            for frame in range(frames):
                if 0 <= frame - by < frames:
                    expected[frame] = frame - by
            assert torch.equal(row, expected.expand(mels, frames))

    def test_masks_hide_stretches_from_the_encoder_alone(self):
        """Masked values are the mean of their band, within the sizes of the options; the decoder's x has no mask."""
        modality = Audio(**SMALL, augment={"mask_seconds": 0.05, "mask_mels": 3})
        x = torch.randn(64, *modality.shape, generator=torch.Generator().manual_seed(0))
        draws = Draws(seed=0, num_rows=64)
        assert torch.equal(modality.augment(x, draws), x)
        seen = modality.corrupt(x, draws)
        hidden = seen != x
        assert torch.equal(seen[hidden], modality._standardise.mean.expand(x.shape)[hidden])
        bands, times = hidden.all(2).sum(1), hidden.all(1).sum(1)
        assert 0 < bands.max() <= 3
        assert 0 < times.max() <= round(0.05 * modality.options.frames_per_second)


@pytest.mark.parametrize("crop", ["start", "centre", "loudest"])
def test_sounds_that_are_cut_are_counted(crop: str) -> None:
    """Those at least a tenth longer than x, by their header."""
    audio = Audio(sample_rate_hz=8_000, clip_seconds=0.5, crop=crop)
    cut = audio.cut_off({"wav": encode_wav(np.zeros(12_000, np.float32), 8_000)})
    assert cut is not None
    assert cut.amount == pytest.approx(1.5)
    assert cut.excess == "are longer than clip_seconds = 0.5"
    assert crop in cut.consequence
    assert audio.cut_off({"wav": encode_wav(np.zeros(4_200, np.float32), 8_000)}) is None
    assert audio.cut_off({"wav": b"no sound"}) is None
