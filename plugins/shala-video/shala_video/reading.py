"""Decode a video to a clip of fixed size: what a player shows at evenly spaced moments, scaled to cover and cropped."""

import itertools
from collections.abc import Collection, Iterator
from typing import Final

import attrs
import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from shala_framework.plugin import FILM_CONTAINERS, DataError, open_film, played_stream, refuse_truncated
from shala_video.showing import UPRIGHT, show, turn_of
from shala_video.timing import shown_at_even_moments, shown_times

CONTAINERS: Final = (
    FILM_CONTAINERS + ",mpegvideo,m4v,h264,hevc,av1,obu,ivf,gif,mjpeg,apng,yuv4mpegpipe,png_pipe,jpeg_pipe,webp_pipe,"
    "bmp_pipe,tiff_pipe,wav,mp3,flac,aac"
)
FILMS: Final = frozenset(FILM_CONTAINERS.split(","))
MAX_PIXELS: Final = 2**25  # of a frame; 8K UHD has fewer
MAX_FRAMES: Final = 36_000  # 20 minutes at 30 frames a second
LARGEST_ASPECT: Final = 16  # of a stored pixel; anamorphic lenses use 2
WITH_ALPHA: Final = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders of these ignore transparency


@attrs.frozen
class _Request:
    """What to read, and from which file.

    Attributes:
        data: Bytes of the file.
        field: Name of its field, for error messages.
        num_frames: Number of moments.
        height: Height of the result.
        width: Width of the result.
        max_pixels: Largest number of pixels of a frame.
        max_frames: Largest number of frames of the file.
    """

    data: bytes
    field: str
    num_frames: int
    height: int
    width: int
    max_pixels: int
    max_frames: int

    def open(self) -> InputContainer:
        # FFmpeg decodes a frame while opening some files, so the limit must apply here already.
        return open_film(self.data, CONTAINERS, max_pixels=str(self.max_pixels))


@attrs.frozen
class _Decoded:
    """The result of one pass over a file.

    Attributes:
        stamps: Presentation times of all frames, in ticks.
        tick_seconds: Length of a tick.
        pictures: Wanted frames, by index: uint8 [height, width, 3].
        visible: Whether any pixel of them is not transparent.
    """

    stamps: list[int | None]
    tick_seconds: float
    pictures: dict[int, np.ndarray]
    visible: bool

    def wanted(self, num_frames: int) -> list[int]:
        return shown_at_even_moments(shown_times(self.stamps, self.tick_seconds), num_frames)


def read_clip(
    data: bytes,
    field: str,
    num_frames: int,
    height: int,
    width: int,
    *,
    max_pixels: int = MAX_PIXELS,
    max_frames: int = MAX_FRAMES,
) -> np.ndarray | None:
    """Decode a whole clip and keep what is shown at `num_frames` moments, evenly spaced from first to last frame.

    The moments are evenly spaced in time by the frames' own time stamps, also for variable frame rates. Frames appear
    as in a player: edit lists, display rotation (to the nearest 90 degrees), mirroring and pixel aspect are applied,
    and transparency is composited on white. Cover art and thumbnails are ignored. Of several video streams, the
    container's default is read. Frame counts and durations in headers are not trusted. Only kept frames are scaled, so
    memory does not grow with the length of the clip.

    Args:
        data: A file in one of CONTAINERS and any codec that FFmpeg knows.
        field: Name of the field, for error messages.
        num_frames: Number of frames to keep; a clip with fewer repeats some.
        height: Height of the result. The picture is scaled to cover it, and the rest is cropped.
        width: Width of the result.
        max_pixels: Largest number of pixels of a frame, checked before it is decoded.
        max_frames: Largest number of frames of the file, counted before they are decoded.

    Returns:
        uint8 array [num_frames, height, width, 3] of RGB, or None for a film with only sound, a video track without a
        frame, or only transparent pixels.

    Raises:
        DataError: The bytes are not a film, are truncated, contain a frame that cannot be decoded, or exceed the
            limits.
    """
    if not data:
        raise DataError(f"field {field!r}: expected an encoded video, got 0 bytes; was the shard written completely?")
    refuse_truncated(data, field)
    request = _Request(data, field, num_frames, height, width, max_pixels, max_frames)
    try:
        return _read(request)
    except av.error.ArgumentError as error:
        raise DataError(
            f"field {field!r}: expected a video that FFmpeg can decode, of at most {max_pixels:,} pixels a frame, got "
            f"{len(data)} bytes starting with {data[:8]!r} ({error.strerror}); if its frames are larger raise the "
            f"option `max_pixels`, else re-encode the file or leave the field out"
        ) from error
    except av.error.FFmpegError as error:
        raise DataError(
            f"field {field!r}: expected a video that FFmpeg can decode, got {len(data)} bytes starting with "
            f"{data[:8]!r} ({error.strerror}); re-encode the file or leave the field out"
        ) from error


def _read(request: _Request) -> np.ndarray | None:
    packets = _scan(request)
    if packets is None:
        return None
    decoded = _decode(request, set(packets.wanted(request.num_frames)))
    if not decoded.stamps:
        raise DataError(
            f"field {request.field!r}: expected a video, got {len(packets.stamps)} packets of which no frame can be "
            f"decoded; the file is damaged: copy it again or leave the field out"
        )
    wanted = decoded.wanted(request.num_frames)
    # Packets state when frames will be shown. If a decoder drops or adds some, another pass decodes the right ones.
    if not decoded.pictures.keys() >= set(wanted):
        decoded = _decode(request, set(wanted))
    return np.stack([decoded.pictures[index] for index in wanted]) if decoded.visible else None


def _scan(request: _Request) -> _Decoded | None:
    """Find when the frames are shown, as far as packets state it without decoding; None if there is no picture."""
    with request.open() as container:
        stream = played_stream(container.streams.video)
        if stream is None:
            _check_for_sound(container, request.field)
            return None
        _check_size(stream, request)
        stamps: list[int | None] = []
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                stamps.append(packet.pts if packet.pts is not None else packet.dts)
                if len(stamps) > request.max_frames:
                    raise _too_many(request)
        if not stamps:
            # Some writers create a track and never put a frame into it; a truncated file looks different.
            if stream.frames or stream.duration or container.duration or not _is_film(container):
                raise DataError(
                    f"field {request.field!r}: expected a video, got a video track without a frame; the file is cut "
                    f"short: copy it again or leave the field out"
                )
            return None
        return _Decoded(stamps, float(stream.time_base or 1), {}, visible=True)


def _is_film(container: InputContainer) -> bool:
    return not FILMS.isdisjoint(container.format.name.split(","))


def _check_for_sound(container: InputContainer, field: str) -> None:
    """Accept a film with sound but no picture. Any other file without a picture is an error."""
    if _is_film(container) and any(stream.codec_context for stream in container.streams.audio):
        return
    kinds = sorted({"cover art" if stream.type == "video" else stream.type for stream in container.streams})
    raise DataError(
        f"field {field!r}: expected a file with a video stream, got one with {', '.join(kinds) or 'no stream at all'}"
    )


def _check_size(stream: av.VideoStream, request: _Request) -> None:
    if stream.codec_context is None:
        raise DataError(
            f"field {request.field!r}: expected a video codec that FFmpeg knows, got a stream of an unknown one"
        )
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > request.max_pixels:
        raise DataError(
            f"field {request.field!r}: expected frames of at most {request.max_pixels:,} pixels, got a header that "
            f"declares {width} x {height}; scale the video down, or raise the option `max_pixels`"
        )


def _too_many(request: _Request) -> DataError:
    return DataError(
        f"field {request.field!r}: expected at most {request.max_frames:,} frames, got more; cut the video into clips, "
        f"or raise the option `max_frames`"
    )


def _decode(request: _Request, wanted: Collection[int]) -> _Decoded:
    """Decode all frames and keep the wanted ones."""
    stamps: list[int | None] = []
    pictures: dict[int, np.ndarray] = {}
    any_visible = False
    turn, rotation = UPRIGHT, None
    scaler = VideoReformatter()
    with request.open() as container:
        stream = played_stream(container.streams.video)
        assert stream is not None
        aspect = _pixel_aspect(stream, request.field)
        for index, frame in enumerate(_frames(container, stream, request)):
            stamps.append(frame.pts)
            if index >= request.max_frames:
                raise _too_many(request)
            if index in wanted:
                if frame.rotation != rotation:
                    turn, rotation = turn_of(frame), frame.rotation
                pictures[index], visible = show(frame, turn, aspect, request.height, request.width, scaler)
                any_visible = any_visible or visible
        return _Decoded(stamps, float(stream.time_base or 1), pictures, any_visible)


def _frames(container: InputContainer, stream: av.VideoStream, request: _Request) -> Iterator[av.VideoFrame]:
    decoder = _alpha_decoder(stream, request.field) or stream.codec_context
    decoder.options = {"max_pixels": str(request.max_pixels)}
    # Loader processes already divide the cores among them.
    decoder.thread_count = 1
    if decoder is stream.codec_context:
        return container.decode(stream)
    packets = (packet for packet in container.demux(stream) if packet.size)
    return (frame for packet in itertools.chain(packets, [None]) for frame in decoder.decode(packet))


def _alpha_decoder(stream: av.VideoStream, field: str) -> av.VideoCodecContext | None:
    """Return the decoder that a WebM stream with transparency needs, or None for the usual one."""
    name = WITH_ALPHA.get(stream.codec_context.name)
    metadata = {key.lower(): value for key, value in stream.metadata.items()}
    if name is None or metadata.get("alpha_mode") != "1":
        return None
    try:
        decoder = av.CodecContext.create(name, "r")
    except av.codec.codec.UnknownCodecError as error:
        raise DataError(
            f"field {field!r}: expected an FFmpeg with {name}, which reads this video's transparency, got one without; "
            f"install PyAV from its wheel, or re-encode the video"
        ) from error
    assert isinstance(decoder, av.VideoCodecContext)
    return decoder


def _pixel_aspect(stream: av.VideoStream, field: str) -> float:
    """Return the ratio of a stored pixel's width to its height, or 1 if the file does not state it."""
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 1 / LARGEST_ASPECT <= aspect <= LARGEST_ASPECT:
        raise DataError(
            f"field {field!r}: expected pixels at most {LARGEST_ASPECT} times as wide as high or as high as wide, got "
            f"an aspect of {stream.sample_aspect_ratio}; the file is damaged: re-encode it or leave the field out"
        )
    return aspect
