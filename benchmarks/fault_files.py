"""Small media files of every kind that a modality reads, and ways to damage bytes."""

import io
import json
import random
import re
import struct
import tarfile
import wave
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1)
NUMBERS = (
    *("0", "-1", "1", "2", "1e400", "-1e308", "1e-320", "nan", "inf", "-inf", "NaN", "Infinity", "true", "null", ""),
    *("9" * 20, "9" * 400, "0x10", "1_0", "1,5", "1e5", "3.5", "[]", '"x"', "\u0661", "-0", "300000", "x"),
)
Shard = list[tuple[str, dict[str, bytes]]]
SAMPLES: Shard = [(f"k{i}", {"a": f"{i} a".encode() * 90, "txt": f"caption {i}".encode()}) for i in range(4)]
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:e-?\d+)?")
STRUCTURE = (b"[", b"]", b"{", b"}", b",", b"\n", b" ", b"\0", b"\xff", b"\xe2\x80", b"\xef\xbb\xbf", b"\r")


def sound_files() -> dict[str, list[tuple[str, bytes]]]:
    """Return some fields with their bytes for each kind of file."""
    return {
        "jpg": [("jpg", data) for data in _jpgs()],
        "png": [("png", data) for data in _pngs()],
        "png of 16 bits": [("png", _encoded(Image.fromarray(_grey16()), "PNG"))],
        "mp4": [("mp4", _film("mp4", "libx264", "aac")), ("mp4", _film("mp4", "mpeg4", ""))],
        "avi": [("avi", _film("avi", "mpeg4", "pcm_s16le")), ("avi", _film("avi", "mjpeg", ""))],
        "wav": [("wav", _wav(1)), ("wav", _wav(2))],
        "flac": [("flac", _sound("flac", "flac"))],
        "skeleton": [("skeleton", _ntu(1)), ("skeleton", _ntu(2))],
        "npy": [("npy", _npy(_waving())), ("npy", _npy(_waving()[:, None].astype(np.float32)))],
        "json": [("skeleton.json", json.dumps(_waving().round(3).tolist()).encode())],
        "txt": [("txt", text.encode()) for text in TEXTS],
    }


TEXTS = (
    "A small brown bird with a yellow belly and a short beak.\n",
    "FINDINGS:  The lungs are clear.\n\n IMPRESSION:  No pneumonia, 37.5 \N{DEGREE SIGN}C.\n",
    "\ufeffgr\u00f6\u00dfe \u6f22\u5b57 \N{GRINNING FACE}\r\nsecond line\u2028third",
)


def _scene() -> np.ndarray:
    rows, columns = np.mgrid[:40, :56]
    return np.stack([4 * rows, 4 * columns, rows + 2 * columns], axis=2).astype(np.uint8)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _jpgs() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated
    picture = Image.fromarray(_scene())
    return [
        _encoded(picture, "JPEG", exif=exif),
        _encoded(picture, "JPEG", progressive=True),
        _encoded(picture.convert("CMYK"), "JPEG"),
    ]


def _pngs() -> list[bytes]:
    picture = Image.fromarray(_scene())
    transparent = picture.copy()
    transparent.putalpha(picture.convert("L"))
    return [_encoded(picture, "PNG"), _encoded(picture.quantize(16), "PNG"), _encoded(transparent, "PNG")]


def _grey16() -> np.ndarray:
    return (np.arange(40 * 56).reshape(40, 56) * 29).astype(np.uint16)


def _film(container: str, codec: str, sound: str) -> bytes:
    """Make a second of video at 12 frames a second, with sound if a codec is named."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=12)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        audio = out.add_stream(sound, rate=8_000, layout="mono") if sound else None
        for index in range(12):
            picture = np.full((32, 32, 3), 20 * index, np.uint8)
            picture[8:16, index : index + 8] = (230, 40, 20)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 12)
            out.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        out.mux(stream.encode(None))
        if audio is not None:
            _add_sound(out, audio)
    return buffer.getvalue()


def _add_sound(out: Any, stream: Any) -> None:
    kind = stream.codec_context.format.name
    for start in range(0, 8_000, 1_000):
        tone = 0.5 * np.sin(np.arange(start, start + 1_000) / 5)
        values = tone.astype(np.float32) if kind.startswith("flt") else np.round(tone * 32_767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(values[None], format=kind, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8_000, start, Fraction(1, 8_000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def _sound(container: str, codec: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=8_000, layout="mono")
        _add_sound(out, stream)
    return buffer.getvalue()


def _wav(channels: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(8_000)
        tone = np.round(16_000 * np.sin(np.arange(8_000) / 5)).astype("<i2")
        file.writeframes(np.repeat(tone[:, None], channels, axis=1).tobytes())
    return buffer.getvalue()


def _waving() -> np.ndarray:
    """Make float [T, J, 3]: a swinging chain of four joints."""
    time, along = np.linspace(0, 6, 12)[:, None], np.arange(4)[None]
    sway = 0.2 * along * np.sin(time)
    return np.stack([sway + 0.1, np.broadcast_to(0.3 * along, sway.shape), sway * 0.5 + 3.0], axis=2)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _ntu(bodies: int) -> bytes:
    lines = ["12"]
    for pose in _waving():
        lines.append(str(bodies))
        for body in range(bodies):
            lines += [f"{72057594037944734 + body} 0 1 1 1 1 0 0.02 0.05 2", "4"]
            lines += [f"{x + body:.7g} {y:.7g} {z:.7g} 277.4 191.8 1036.2 519.1 0 0 0 0 2" for x, y, z in pose]
    return ("\r\n".join(lines) + "\r\n").encode()


def tar(samples: Shard, form: int = tarfile.GNU_FORMAT) -> bytes:
    """Write a shard."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as file:
        for key, fields in samples:
            for field, content in fields.items():
                info = tarfile.TarInfo(f"{key}.{field}")
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


# Damage: functions of a random generator, bytes and those of another file, to bytes.


def flipped(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Flip one bit."""
    found = bytearray(data)
    found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def cut(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Cut off the end."""
    return data[: rng.randrange(len(data))]


def changed(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Set some bytes, mostly near the start, where headers are."""
    found = bytearray(data)
    for _ in range(rng.randint(2, 12)):
        place = rng.randrange(min(len(found), 200)) if rng.random() < 0.5 else rng.randrange(len(found))
        found[place] = rng.choice([0, 255, rng.randrange(256)])
    return bytes(found)


def repeated(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Repeat a piece once or many times, anywhere."""
    start, place = rng.randrange(len(data)), rng.randrange(len(data))
    piece = data[start : start + rng.choice([1, 8, 100, 1_000])] * rng.choice([1, 1, 2, 50])
    return data[:place] + piece + data[place:]


def without_a_piece(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Drop some bytes or set them to zero."""
    start, size = rng.randrange(len(data)), rng.choice([1, 4, 64, 1_000])
    middle = bytes(len(data[start : start + size])) if rng.random() < 0.5 else b""
    return data[:start] + middle + data[start + size :]


def spliced(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Join the start of one file to the end of another, or insert one into the other."""
    place, begin = rng.randrange(len(data)), rng.randrange(len(other))
    if rng.random() < 0.5:
        return data[:place] + other[begin:]
    return data[:place] + other[begin : begin + 500] + data[place:]


def lying(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Write extreme numbers in places that may hold a size, a count or a coordinate."""
    found = bytearray(data)
    numbers = list(NUMBER.finditer(data))
    if numbers and rng.random() < (0.9 if max(data) < 128 or data[1:6] == b"NUMPY" else 0.1):
        match = rng.choice(numbers[:12]) if rng.random() < 0.5 else rng.choice(numbers)
        new = rng.choice(NUMBERS).encode() if rng.random() < 0.8 else rng.choice(STRUCTURE)
        return data[: match.start()] + new + data[match.end() :]
    for _ in range(rng.randint(1, 2)):
        form = rng.choice([">H", "<H", ">I", "<I", ">Q", "<Q"])
        size = struct.calcsize(form)
        near = min(len(found), 300) if rng.random() < 0.6 else len(found)
        place = rng.randrange(max(1, near - size))
        value = rng.choice([*EXTREMES, rng.getrandbits(32), len(found), len(found) + 1]) % (1 << 8 * size)
        found[place : place + size] = struct.pack(form, value)
    return bytes(found)


DAMAGE: dict[str, Callable[[random.Random, bytes, bytes], bytes]] = {
    "flipped": flipped,
    "cut": cut,
    "changed": changed,
    "repeated": repeated,
    "without a piece": without_a_piece,
    "spliced": spliced,
    "lying": lying,
}
