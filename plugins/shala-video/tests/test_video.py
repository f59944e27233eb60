"""Video: the contract of a modality, and what is its own: resampling, cropping and damaged files."""

import io
import os
import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from shala_video import Video, VideoAugment
from shala_video.reading import read_clip
from shala_video.timing import shown_at_even_moments, shown_times

from shala_framework.plugin import DataError, Draws, encode_mp4, encode_png
from shala_framework.plugin.testing import ModalitySuite

DATA = Path(os.environ.get("SHALA_DATA", Path(__file__).parents[3] / "../shared/data"))


def moving_square(index: int, num_frames: int = 10, side: int = 32) -> np.ndarray:
    """uint8 [T, side, side, 3]: a red square that crosses a background whose grey is the index's."""
    frames = np.full((num_frames, side, side, 3), 60 + 20 * index, dtype=np.uint8)
    for time in range(num_frames):
        left = (3 * index + time) % (side - 8)
        frames[time, 8:16, left : left + 8] = (230, 40, 20)
    return frames


def brightening(num_frames: int, height: int = 32, width: int = 32) -> bytes:
    """A clip whose frame t is of grey 10 t."""
    grey = (10 * np.arange(num_frames, dtype=np.uint8)).reshape(-1, 1, 1, 1)
    return encode_mp4(np.broadcast_to(grey, (num_frames, height, width, 3)), 25.0)


def greys(frames: np.ndarray) -> list[int]:
    """Mean grey of each frame of `brightening`, as the index it stands for."""
    return [round(frame.mean() / 10) for frame in frames]


def film(
    frames: Iterable[np.ndarray],
    ticks: Iterable[int] | None = None,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    change: Callable[[av.VideoStream], None] = lambda stream: None,
) -> bytes:
    """Frames [H, W, 3 or 4] at the given thirtieths of a second, by default one after the other."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        pictures = list(frames)
        stream = out.add_stream(codec, rate=30, options={"auto-alt-ref": "0"} if codec.startswith("libvpx") else {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 30)
        change(stream)
        for time, picture in zip(ticks or range(len(pictures)), pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[2] == 4 else "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 30)
            out.mux(stream.encode(frame.reformat(format=pixels)))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def plain(*levels: int, height: int = 32, width: int = 32) -> list[np.ndarray]:
    """One grey frame a level."""
    return [np.full((height, width, 3), level, dtype=np.uint8) for level in levels]


def remuxed(data: bytes, container: str, shift_seconds: int = 0, extra: bytes = b"", audio: bool = True) -> bytes:
    """Copy the streams, shifted in time, and add a PNG as cover art."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format=container) as out:
        streams = {s.index: out.add_stream_from_template(s) for s in source.streams if audio or s.type == "video"}
        cover = None
        if extra:
            cover = out.add_stream("png", rate=1)
            cover.height = cover.width = 32
            cover.pix_fmt = "rgb24"
            cover.disposition = Disposition.attached_pic
        for packet in source.demux():
            if packet.dts is not None and packet.stream.index in streams:
                ticks = round(shift_seconds / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
        if cover is not None:
            packet = av.Packet(extra)
            packet.stream, packet.pts, packet.dts, packet.time_base = cover, 0, 0, Fraction(1, 30)
            out.mux(packet)
    return buffer.getvalue()


def sound_track(container: str = "mp4") -> bytes:
    """Half a second of sound in a container that could hold a picture too."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream("aac" if container == "mp4" else "pcm_s16le", rate=8_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8_000
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=8_000)
        for piece in resampler.resample(frame):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def kept(clip: np.ndarray | None) -> np.ndarray:
    assert clip is not None
    return clip


class TestVideo(ModalitySuite):
    modality = Video
    options: ClassVar = {"frames": 8, "height": 16, "width": 24, "channels": 16}
    value_range = (0, 255)
    density_options: ClassVar = {"scale": 0.05}
    augmenting: ClassVar = {
        "augment": VideoAugment(shift=2, crop=0.2, flip=True, brightness=0.2, contrast=0.2, saturation=0.2, time=0.2)
    }

    def sample_fields(self, index: int) -> dict[str, bytes]:
        return {"mp4": encode_mp4(moving_square(index), 10.0)}


def test_terms_see_whole_clips_of_the_rows_that_they_ask_for() -> None:
    """The relaxed form has all frames, also in training, is the mode before rounding, and can be had for few rows."""
    decoder = Video(frames=8, height=16, width=16, channels=8, training_frames=2).decoder(3).train()
    z = torch.randn(5, 3, requires_grad=True)
    likelihood = decoder(z)
    relaxed = likelihood.relaxed()
    assert relaxed.shape == (5, 8, 3, 16, 16)
    torch.testing.assert_close(relaxed.round().clamp(0, 255), likelihood.mode().float())
    frames = []
    decoder.frames.register_forward_hook(lambda _, inputs, __: frames.append(len(inputs[0])))
    few = likelihood.first_rows(2).relaxed()
    assert frames == [2 * 8]
    torch.testing.assert_close(few, relaxed[:2])
    few.sum().backward()
    assert z.grad is not None
    assert z.grad.any(1).tolist() == [True, True, False, False, False]


class TestLaplaceVideo(TestVideo):
    """Another likelihood of fixed scale, and maps whose lowest side is odd."""

    options: ClassVar = {"frames": 4, "height": 40, "width": 24, "channels": 8, "likelihood": "laplace", "scale": 0.1}


@pytest.mark.parametrize(
    ("num_frames", "kept", "expected"),
    [(9, 5, [0, 2, 4, 6, 8]), (3, 6, [0, 0, 0, 1, 1, 2]), (1, 4, [0, 0, 0, 0]), (7, 7, list(range(7)))],
)
def test_frames_are_evenly_spaced(num_frames: int, kept: int, expected: list[int]) -> None:
    """The first and the last frame are kept, and a short clip repeats the frame that is on screen."""
    assert greys(read_clip(brightening(num_frames), "mp4", kept, 16, 16)) == expected


def test_container_without_frame_count() -> None:
    """A container that states no number of frames is resampled all the same."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for time in range(9):
            frame = np.full((32, 32, 3), 10 * time, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    assert greys(read_clip(buffer.getvalue(), "mpg", 5, 16, 16)) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 32), (16, 16), (8, 12)])
def test_crop_keeps_the_centre_and_the_aspect(height: int, width: int) -> None:
    """A disc at the centre stays round and central, whatever the shape of the picture, enlarged or reduced."""
    rows, columns = np.mgrid[:height, :width]
    inside = np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2) < min(height, width) / 4
    frame = np.where(inside[..., None], 255, 0).astype(np.uint8).repeat(3, axis=2)
    clip = read_clip(encode_mp4(frame[None], 5.0), "mp4", 1, 32, 32)[0, ..., 0].astype(float)
    rows, columns = np.mgrid[:32, :32] - 15.5
    assert abs((rows * clip).sum() / clip.sum()) < 0.6
    assert abs((columns * clip).sum() / clip.sum()) < 0.6
    assert abs(np.sqrt((rows**2 * clip).sum() / (columns**2 * clip).sum()) - 1) < 0.1
    assert abs((clip > 127).mean() - np.pi / 16) < 0.05


def test_first_field_wins() -> None:
    """If several fields exist, the first in the options' order is read."""
    video = Video(Video.Options(frames=4, height=16, width=16, fields=("webm", "mp4")))
    x = video.read({"mp4": brightening(1), "webm": encode_mp4(moving_square(3), 5.0)})
    assert x is not None
    assert x.float().mean() > 60


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "field 'mp4'"),
        (lambda data: data[:64], "cut short"),
        (lambda data: b"RIFF" + data[4:], "field 'mp4'"),
    ],
)
def test_damaged_file_is_a_data_error(damage, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A file cut short or overwritten is named as such, and FFmpeg writes nothing to the terminal."""
    data = encode_mp4(np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), dtype=np.uint8), 5.0)
    with pytest.raises(DataError, match=message):
        read_clip(damage(data), "mp4", 4, 16, 16)
    assert capfd.readouterr() == ("", "")


def test_file_cut_short_is_a_data_error() -> None:
    """A container that opens but is far shorter than its structure says is not a valid clip."""
    noise = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
    for container in ("avi", "matroska"):
        data = film(noise, container=container)
        assert kept(read_clip(data, "avi", 4, 16, 16)).shape == (4, 16, 16, 3)
        with pytest.raises(DataError, match=rf"expected {len(data)} bytes.*got {len(data) // 2}.*cut short"):
            read_clip(data[: len(data) // 2], "avi", 4, 16, 16)


# What a container says about how to show its frames.

ONE = 0x10000
CORNERS = np.kron([[30, 90], [150, 220]], np.ones((32, 32))).astype(np.uint8)[..., None].repeat(3, 2)
TURNS: dict[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]] = {
    (1, 0, 0, 1): lambda x: x,
    (0, 1, -1, 0): lambda x: np.rot90(x, -1),
    (-1, 0, 0, -1): lambda x: np.rot90(x, 2),
    (0, -1, 1, 0): lambda x: np.rot90(x),
    (-1, 0, 0, 1): lambda x: x[:, ::-1],
    (1, 0, 0, -1): lambda x: x[::-1],
    (0, 1, 1, 0): lambda x: x.swapaxes(0, 1),
    (0, -1, -1, 0): lambda x: x[::-1, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", list(TURNS))
def test_display_matrix_is_honoured(matrix: tuple[int, int, int, int]) -> None:
    """All turns by 90 degrees, mirrored or not, that a phone writes into the header are applied, before the crop."""
    wide = np.concatenate([CORNERS, np.zeros_like(CORNERS[:, :16])], 1)
    data = bytearray(film([wide] * 3))
    at = data.index(b"tkhd") + 4 + 4 + 36
    a, b, c, d = (ONE * entry for entry in matrix)
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 0x40000000)
    shown = TURNS[matrix](wide)
    clip = kept(read_clip(bytes(data), "mp4", 1, shown.shape[0] // 2, shown.shape[1] // 2))[0]
    np.testing.assert_allclose(clip[8::16, 8::16].astype(int), shown[16::32, 16::32], atol=4)


@pytest.mark.parametrize("aspect", [Fraction(2, 1), Fraction(1, 2), Fraction(64, 45)])
def test_pixel_aspect_is_honoured(aspect: Fraction) -> None:
    """A disc that is stored narrow, to be shown with wide pixels, is read round."""

    def wide_pixels(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = aspect

    rows, columns = np.mgrid[:64, :64] - 31.5
    disc = np.where(np.hypot(rows, columns * float(aspect)) < 14, 255, 0).astype(np.uint8)[..., None].repeat(3, 2)
    clip = kept(read_clip(film([disc], change=wide_pixels), "mp4", 1, 32, 32))[0, ..., 0].astype(float)
    rows, columns = np.mgrid[:32, :32] - 15.5
    assert abs(np.sqrt((rows**2 * clip).sum() / (columns**2 * clip).sum()) - 1) < 0.1


def test_frames_are_spaced_in_time() -> None:
    """In a clip whose frame rate falls, each frame read is the one on screen at its moment."""
    times = [*range(0, 30, 3), 30, 60, 90, 120]
    clip = kept(read_clip(film(plain(*(2 * t for t in times)), times), "mp4", 9, 16, 16))
    expected = [2 * max(t for t in times if t <= moment) for moment in range(0, 121, 15)]
    np.testing.assert_allclose(clip.mean((1, 2, 3)), expected, atol=3)


def test_times_rounded_to_milliseconds_do_not_shift_frames() -> None:
    """Every second of 61 frames at 30 per second is kept, whichever way their times are rounded to milliseconds."""
    rounded = shown_times([round(1_000 * index / 30) for index in range(61)], 1e-3)
    assert shown_at_even_moments(rounded, 31) == list(range(0, 61, 2))


def test_time_stamps_that_restart_or_lack() -> None:
    """Swapped stamps are sorted, joined recordings continue, lone gaps are bridged; without stamps frames are even."""
    np.testing.assert_allclose(shown_times([1, 2, 4, 3, 6, 5], 0.5), np.arange(0.5, 3.5, 0.5))
    np.testing.assert_allclose(shown_times([500, 510, 520, 5, 15, None, 35], 0.1), np.arange(50, 57))
    np.testing.assert_allclose(shown_times([None, None, None], 0.1), np.arange(3))


def test_trimmed_without_encoding() -> None:
    """The edit list of a copy that starts later hides frames; the header still counts them."""
    whole = film(plain(*range(10, 210, 10)), [6 * t for t in range(20)], change=lambda s: setattr(s, "gop_size", 300))
    trimmed = remuxed(whole, "mp4", shift_seconds=-2)
    with av.open(io.BytesIO(trimmed)) as container:
        assert container.streams.video[0].frames == 20
        assert len(list(container.decode(video=0))) == 10
    np.testing.assert_allclose(kept(read_clip(trimmed, "mp4", 4, 16, 16)).mean((1, 2, 3)), [110, 140, 170, 200], atol=3)


def test_empty_chunks_are_no_loss() -> None:
    """An AVI in which most frames are "as before" declares more frames than it holds, and is sound."""
    data = film(plain(20, 80, 140, 200), [0, 1, 2, 90], container="avi", codec="mpeg4")
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.video[0].frames > 80
    np.testing.assert_allclose(kept(read_clip(data, "avi", 4, 16, 16)).mean((1, 2, 3)), [20, 140, 140, 200], atol=3)


def test_cover_art_is_not_the_video() -> None:
    """A picture attached to a film is passed over; a sound with nothing else to see lacks the modality."""
    cover = encode_png(np.full((32, 32, 3), 255, dtype=np.uint8))
    with_cover = remuxed(brightening(9), "mp4", extra=cover)
    with av.open(io.BytesIO(with_cover)) as container:
        assert any(s.disposition & Disposition.attached_pic for s in container.streams.video)
    assert greys(kept(read_clip(with_cover, "mp4", 5, 16, 16))) == [0, 2, 4, 6, 8]
    assert read_clip(remuxed(sound_track(), "mp4", extra=cover), "m4a", 4, 16, 16) is None


def test_default_stream_is_preferred() -> None:
    """The video stream that the container marks as its default is read, even if it comes second."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        streams = [out.add_stream("libx264", rate=30) for _ in range(2)]
        for stream, disposition in zip(streams, (Disposition(0), Disposition.default), strict=True):
            stream.height = stream.width = 32
            stream.pix_fmt, stream.disposition = "yuv420p", disposition
        for stream, level in zip(streams, (40, 200), strict=True):
            for frame in plain(level) * 3:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(stream.encode(None))
    np.testing.assert_allclose(kept(read_clip(buffer.getvalue(), "mkv", 4, 16, 16)), 200, atol=3)


@pytest.mark.parametrize(
    ("container", "codec", "pixels"),
    [("webm", "libvpx-vp9", "yuva420p"), ("webm", "libvpx", "yuva420p"), ("mov", "qtrle", "argb"),
     ("apng", "apng", "rgba")],
)  # fmt: skip
def test_transparency_is_white(container: str, codec: str, pixels: str) -> None:
    """What is half transparent lies on white; what is hidden does not show; a clip of nothing else is missing."""
    half = np.full((32, 32, 4), (200, 0, 0, 128), dtype=np.uint8)
    half[:, 16:] = (0, 255, 0, 0)
    options = {"container": container, "codec": codec, "pixels": pixels}
    clip = kept(read_clip(film([half] * 3, **options), "webm", 2, 32, 32)).astype(int)
    np.testing.assert_allclose(clip[:, 16, 4], [[227, 127, 127]] * 2, atol=8)
    np.testing.assert_allclose(clip[:, 16, 28], 255, atol=4)
    hidden = np.full((32, 32, 4), (200, 0, 0, 0), dtype=np.uint8)
    assert read_clip(film([hidden] * 3, **options), "webm", 2, 32, 32) is None


# What a container declares.


def test_limits_are_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many frames, and frames that are too large, are refused by messages that name the limit and its option."""
    monkeypatch.setattr("shala_video.reading._decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"at most 8 frames.*`max_frames`"):
        read_clip(brightening(9), "mp4", 4, 16, 16, max_frames=8)
    with pytest.raises(DataError, match=r"at most 1,000 pixels.*32 x 32.*`max_pixels`"):
        read_clip(brightening(9), "mp4", 4, 16, 16, max_pixels=1_000)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"at most 1,000 pixels.*`max_pixels`"):
        read_clip(encode_png(plain(9)[0]), "mp4", 4, 16, 16, max_pixels=1_000)


def test_narrow_frames_do_not_grow_without_bound() -> None:
    """A frame two pixels wide is scaled after it was cropped."""
    frames = np.zeros((1, 8_192, 2, 3), dtype=np.uint8)
    frames[:, 4_096:] = 200
    clip = kept(read_clip(encode_mp4(frames, 5.0), "mp4", 1, 256, 256))[0, ..., 0]
    assert clip[0].max() < 60
    assert clip[-1].min() > 140


def test_sound_of_a_film_alone_lacks_the_picture() -> None:
    """A container for films that holds sound alone lacks the modality, as a silent film lacks the audio modality."""
    video = Video(Video.Options(frames=4, height=16, width=16))
    assert video.read({"mp4": sound_track()}) is None
    x = video.read({"mp4": sound_track(), "mkv": remuxed(brightening(3), "matroska")})
    assert x is not None


def test_sound_without_pictures_is_a_data_error() -> None:
    """A container without a video stream says which streams it has."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(DataError, match="got one with audio"):
        read_clip(buffer.getvalue(), "mp4", 4, 16, 16)


def test_picture_is_a_clip_of_one_frame() -> None:
    """FFmpeg reads still pictures too; they are clips that do not move."""
    x = read_clip(encode_png(np.full((32, 32, 3), 50, dtype=np.uint8)), "mp4", 4, 16, 16)
    assert greys(x) == [5, 5, 5, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"frames": 6}, "multiple of 4, such as 4 or 8"), ({"height": 20}, "multiple of 8"), ({"width": 264}, "256"),
     ({"scale": 0.0}, "above 0"), ({"fields": ()}, "at least one"), ({"likelihood": "cauchy"}, "laplace")],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    """Options out of range say what was expected."""
    with pytest.raises(ValueError, match=message):
        Video.Options(**options)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 40), (64, 64), (72, 96), (128, 128), (256, 136)])
def test_networks_adapt_to_the_size(height: int, width: int) -> None:
    """Any multiples of 8 from 16 to 256 can be encoded and decoded."""
    video = Video(Video.Options(frames=4, height=height, width=width, channels=8))
    x = torch.zeros(1, *video.shape, dtype=torch.uint8)
    with torch.no_grad():
        assert video.decoder(12)(video.encoder(12)(x)).log_prob(x).isfinite().all()


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile private.mp4\n",
        "#EXTM3U\n#EXTINF:10,\nprivate.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    ],
)
def test_nothing_else_is_opened(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that name a file of this machine, or a port, do not make it read them."""
    (tmp_path / "private.mp4").write_bytes(brightening(5))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="FFmpeg can decode"):
        read_clip(text.encode(), "mp4", 2, 16, 16)


@pytest.mark.real_data
def test_damaged_real_clips() -> None:
    """Damaged copies of real films end in a clip or in a DataError that names the field."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; set SHALA_DATA")
    clips = sorted((DATA / "ucf101").glob("*.avi"), key=lambda path: path.stat().st_size)[:2]
    TestVideo().check_damage([{"avi": path.read_bytes()} for path in clips])


@pytest.mark.real_data
@pytest.mark.parametrize("path", ["ntu/S001C001P001R001A001_rgb.avi", "ucf101/v_BenchPress_g01_c01.avi"])
def test_real_video(path: str) -> None:
    """A real clip moves, and its kept frames equal those of a plain decoding of all frames."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; set SHALA_DATA")
    data = (DATA / path).read_bytes()
    clip = read_clip(data, "avi", 8, 48, 48).astype(float)
    assert np.abs(np.diff(clip, axis=0)).mean() > 0.1
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
    for kept, index in ((0, 0), (7, len(frames) - 1)):
        whole = frames[index].to_ndarray(format="rgb24").astype(float)
        height, width = whole.shape[:2]
        side = min(height, width)
        square = whole[(height - side) // 2 :, (width - side) // 2 :][:side, :side]
        blocks = square[: side // 4 * 4, : side // 4 * 4].reshape(4, side // 4, 4, side // 4, 3).mean((1, 3))
        np.testing.assert_allclose(clip[kept].reshape(4, 12, 4, 12, 3).mean((1, 3)), blocks, atol=4)


def test_training_likelihood_is_an_unbiased_estimate():
    """Averaged over the random frames of training, log_prob equals that of the whole clip."""
    torch.manual_seed(0)
    video = Video(Video.Options(frames=8, height=16, width=16, channels=8, training_frames=2))
    decoder, z = video.decoder(4), torch.randn(2, 4)
    x = torch.randint(0, 256, (2, *video.shape), dtype=torch.uint8)
    with torch.no_grad():
        whole = decoder.eval()(z).log_prob(x)
        likelihood = decoder.train()(z)
        estimates = torch.stack([likelihood.log_prob(x) for _ in range(400)])
    assert (estimates.std(0) > 0).all()
    assert ((estimates.mean(0) - whole).abs() < 4 * estimates.std(0) / 400**0.5).all()


def test_frames_of_a_clip_are_augmented_alike():
    """A still clip stays still, and its frames are those of one picture, moved and recoloured once."""
    still = torch.randint(0, 256, (4, 1, 3, 16, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    table = {"shift": 3, "crop": 0.3, "flip": True, "brightness": 0.3, "contrast": 0.3, "saturation": 0.3}
    modality = Video(frames=8, height=16, width=24, augment=table)
    augmented = modality.augment(still.expand(-1, 8, -1, -1, -1), Draws(seed=0, num_rows=4))
    assert torch.equal(augmented, augmented[:, :1].expand(-1, 8, -1, -1, -1))
    assert not torch.equal(augmented[:, :1], still)


def test_time_of_a_clip_runs_forwards_within_its_cuts():
    """Frames keep their order, start within the cut, and end within it."""
    x = torch.arange(100, dtype=torch.uint8).view(1, 100, 1, 1, 1).expand(64, -1, 3, 16, 16)
    shown = Video(frames=100, height=16, width=16, augment={"time": 0.2}).augment(x, Draws(seed=0, num_rows=64))
    times = shown[:, :, 0, 0, 0].int()
    assert (times.diff(dim=1) >= 0).all()
    assert times[:, 0].max() <= 20
    assert times[:, -1].min() >= 79
    assert len(set(times[:, 0].tolist())) > 5
