"""Encoded picture to 8-bit pixels of fixed size: upright, opaque, in grey or RGB, and scaled by one of three rules."""

import io
import warnings
from typing import Final, Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from shala_framework import DataError

Fit = Literal["cover", "contain", "stretch"]

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")
MAX_PIXELS: Final = 2**26  # 8192 x 8192; a file of a few kB can declare far more, and decoding would allocate it
MAX_SIDE: Final = 2**16  # a row must stay small as well: some decoders fill whole rows at the word of a few bytes
WHITE: Final = (255, 255, 255, 255)
TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation to what sets the picture upright
SIDEWAYS: Final = frozenset(TURNS[orientation] for orientation in (5, 6, 7, 8))  # those that swap height and width


def read_picture(data: bytes, field: str, channels: int, height: int, width: int, fit: Fit) -> np.ndarray:
    """Decode a picture and bring it to a fixed size.

    The format is told from the bytes, not from the field's name. EXIF orientation is honoured, transparency is
    composited on white, 16-bit grey is scaled from 0..65535 to 0..255, CMYK and palettes become RGB, colour profiles
    are ignored, and of an animation the first frame is read. A picture that has the right size and is neither turned
    nor transparent keeps its values.

    Args:
        data: A JPEG, PNG, WebP or BMP file.
        field: Name of the field, for messages.
        channels: 1 for grey (luma as of ITU-R 601), 3 for RGB.
        height: Height of the result in pixels.
        width: Width of the result in pixels.
        fit: "cover" scales the picture, keeping its aspect, to cover height x width and crops at the centre; "contain"
            scales it to fit inside and pads with black; "stretch" scales each side on its own.

    Returns:
        uint8 array [height, width, channels].

    Raises:
        DataError: The bytes are no such file, are damaged or cut short, or declare more than 2 ** 26 pixels.
    """
    if not data:
        raise DataError(f"field {field!r}: expected an encoded picture, got 0 bytes; was the shard written completely?")
    try:
        # Pillow warns of damaged metadata, which is not used, and of large pictures, which are refused.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture, extent, turn = _decode(data, field, channels, 2 * max(height, width))
            return np.array(_place(picture, extent, turn, height, width, fit)).reshape(height, width, channels)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"field {field!r}: expected at most {MAX_PIXELS} pixels ({error}); scale it down") from error
    # Its parsers raise whatever they stumble over: OSError, SyntaxError, ValueError, IndexError, struct.error, ...
    except Exception as error:
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else f"{error}"
        raise DataError(
            f"field {field!r}: expected a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture that Pillow can decode, "
            f"got {len(data)} bytes starting with {data[:8]!r} ({reason or type(error).__name__}); "
            f"copy the file again, re-encode it or leave the field out"
        ) from error


def _decode(
    data: bytes, field: str, channels: int, enough: int
) -> tuple[Image.Image, tuple[float, float], Image.Transpose | None]:
    """The picture as it is stored, in mode L or RGB, its width and height, and what sets it upright.

    A JPEG is decoded at a reduced size of at least `enough` a side; width and height are then fractions, as the last
    column and row may cover less than a pixel.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        columns, rows = image.size
        if not (0 < columns <= MAX_SIDE and 0 < rows <= MAX_SIDE and columns * rows <= MAX_PIXELS):
            raise DataError(
                f"field {field!r}: expected at most {MAX_PIXELS} pixels and {MAX_SIDE} a side, "
                f"got a header that declares {columns} x {rows}; scale it down, or copy the file again if it is damaged"
            )
        reduced = image.draft(None, (enough, enough))
        image.load()
        picture = _opaque(image).convert("L" if channels == 1 else "RGB")
        extent = image.size if reduced is None else reduced[1][2:]
        return picture, extent, TURNS.get(_orientation(image))


def _opaque(image: Image.Image) -> Image.Image:
    """The picture with 8 bits a channel and without transparency, which becomes white."""
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey 0..65535 (Pillow's modes I;16 and, in older versions, I), whose own conversion to 8 bits clips at 255."""
    grey = np.asarray(image).astype(np.int32)
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey[grey == transparent] = 65535
    return Image.fromarray(((grey.clip(0, 65535) + 128) // 257).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1, which is upright, also where the metadata cannot be parsed."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Its parser raises much the same as those of pictures; sound pictures with broken metadata are common.
    except Exception:
        return 1


def _place(
    picture: Image.Image,
    extent: tuple[float, float],
    turn: Image.Transpose | None,
    height: int,
    width: int,
    fit: Fit,
) -> Image.Image:
    """The picture scaled, set upright and, where it is smaller than height x width, padded with black."""
    columns, rows = extent
    across, down = (height, width) if turn in SIDEWAYS else (width, height)
    box = (0.0, 0.0, columns, rows)
    if fit == "contain":
        scale = min(across / columns, down / rows)
        across, down = max(1, round(columns * scale)), max(1, round(rows * scale))
    elif fit == "cover":
        # The crop is given in fractions of source pixels, so that it is central to less than a pixel of the result.
        scale = max(across / columns, down / rows)
        left, top = max(0.0, columns - across / scale) / 2, max(0.0, rows - down / scale) / 2
        box = (left, top, columns - left, rows - top)
    scaled = picture.resize((across, down), Image.Resampling.BICUBIC, box)
    upright = scaled if turn is None else scaled.transpose(turn)
    if upright.size == (width, height):
        return upright
    padded = Image.new(upright.mode, (width, height))
    padded.paste(upright, ((width - upright.width) // 2, (height - upright.height) // 2))
    return padded
