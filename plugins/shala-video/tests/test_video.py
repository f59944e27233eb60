"""Video: the contract of a modality, and what is its own: resampling, cropping and damaged files."""

import io
import os
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest
import torch
from shala_video import Video
from shala_video.reading import read_clip

from shala_framework import DataError, encode_mp4, encode_png
from shala_framework.testing import ModalitySuite

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


class TestVideo(ModalitySuite):
    modality = Video
    options: ClassVar = {"frames": 8, "height": 16, "width": 24, "channels": 16}
    value_range = (0, 255)
    density_options: ClassVar = {"scale": 0.05}

    def sample_fields(self, index: int) -> dict[str, bytes]:
        return {"mp4": encode_mp4(moving_square(index), 10.0)}


class TestLaplaceVideo(TestVideo):
    """Another likelihood of fixed scale, and maps whose lowest side is odd."""

    options: ClassVar = {"frames": 4, "height": 40, "width": 24, "channels": 8, "likelihood": "laplace", "scale": 0.1}


@pytest.mark.parametrize(
    ("num_frames", "kept", "expected"),
    [(9, 5, [0, 2, 4, 6, 8]), (3, 6, [0, 0, 1, 1, 2, 2]), (1, 4, [0, 0, 0, 0]), (7, 7, list(range(7)))],
)
def test_frames_are_evenly_spaced(num_frames: int, kept: int, expected: list[int]) -> None:
    """The first and the last frame are kept, and a short clip repeats the nearest ones."""
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
    """Of several fields the first in the options' order is read."""
    video = Video(Video.Options(frames=4, height=16, width=16, fields=("webm", "mp4")))
    x = video.read({"mp4": brightening(1), "webm": encode_mp4(moving_square(3), 5.0)})
    assert x is not None
    assert x.float().mean() > 60


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "field 'mp4'"),
        (lambda data: data[:64], "FFmpeg"),
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
    """A container that can still be opened, but holds far fewer frames than it declares, is no valid clip."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for frame in np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    data = buffer.getvalue()
    assert read_clip(data, "avi", 4, 16, 16).shape == (4, 16, 16, 3)
    with pytest.raises(DataError, match=r"expected 20 video frames.*cut short"):
        read_clip(data[: len(data) // 2], "avi", 4, 16, 16)


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
    """Averaged over the frames that training happens to paint, log_prob is that of the whole clip."""
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
