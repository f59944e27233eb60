"""Decode a picture to 8-bit pixels of a fixed size: upright, opaque, grey or RGB, and scaled by one of three rules."""

import io
import struct
import warnings
import zlib
from typing import Final, Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from shala_framework.plugin import DataError

Fit = Literal["cover", "contain", "stretch"]

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")
PNG: Final = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS: Final = 2**26  # 8192 x 8192; a file of a few kB can declare far more, and decoding would allocate it
MOST_PIXELS: Final = 2 * 89_478_485  # above it, Pillow itself refuses
MAX_SIDE: Final = 2**16  # a row must stay small too: a few bytes make some decoders fill whole rows
DOUBTFUL: Final = 2**12 - 1
WHITE: Final = (255, 255, 255, 255)
TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation to the operation that sets the picture upright
SIDEWAYS: Final = frozenset(TURNS[orientation] for orientation in (5, 6, 7, 8))  # those that swap height and width


def read_picture(
    data: bytes,
    field: str,
    channels: int,
    height: int,
    width: int,
    fit: Fit,
    *,
    bits: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray | None:
    """Decode a picture and bring it to a fixed size.

    The bytes determine the format, not the field's name. EXIF orientation is applied, transparency is composited on
    white, 16-bit grey is scaled from 0..2 ** bits - 1 to 0..255, CMYK and palettes become RGB, colour profiles are
    ignored, and only the first frame of an animation is read. A picture of the right size that is neither turned nor
    transparent keeps its values.

    Args:
        data: A JPEG, PNG, WebP or BMP file.
        field: Name of the field, for error messages.
        channels: 1 for grey (ITU-R 601 luma), 3 for RGB.
        height: Height of the result in pixels.
        width: Width of the result in pixels.
        fit: "cover" scales the picture to cover height x width, keeps its aspect and crops around the centre. "contain"
            scales it to fit inside and pads with black. "stretch" scales both sides separately.
        bits: Number of bits of the values in 16-bit files. None means 16, with a warning if all values of a picture fit
            into 12 bits, because a 12-bit picture would then appear nearly black.
        max_pixels: Largest number of pixels, checked before decoding.

    Returns:
        uint8 array [height, width, channels], or None if every pixel is transparent.

    Raises:
        DataError: The bytes are not such a file, are damaged or truncated, declare more than `max_pixels`, or hold a
            value of more than `bits` bits.
    """
    if not data:
        raise DataError(f"field {field!r}: expected an encoded picture, got 0 bytes; was the shard written completely?")
    try:
        # Pillow warns about damaged metadata, which is unused, and about large pictures, which are refused.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decoded = _decode(data, field, channels, 2 * max(height, width), bits, max_pixels)
            if decoded is None:
                return None
            picture, extent, turn, doubtful = decoded
            x = np.array(_place(picture, extent, turn, height, width, fit)).reshape(height, width, channels)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"field {field!r}: expected at most {max_pixels} pixels ({error}); scale it down") from error
    # Pillow's parsers raise various exceptions: OSError, SyntaxError, ValueError, IndexError, struct.error, ...
    except Exception as error:
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else f"{error}"
        raise DataError(
            f"field {field!r}: expected a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture that Pillow can decode, "
            f"got {len(data)} bytes starting with {data[:8]!r} ({reason or type(error).__name__}); "
            f"copy the file again, re-encode it or leave the field out"
        ) from error
    if doubtful:
        warnings.warn(
            f"field {field!r}: a 16-bit picture has no value above {DOUBTFUL}, as if its values had 12 bits; it is "
            f"read as 16 bits, nearly black; set the option `bits` to 12, or to 16 if that is right; only pictures of "
            f"one channel can have 12",
            stacklevel=2,
        )
    return x


def cropped_share(data: bytes, height: int, width: int) -> float:
    """Return the share of a picture's area that "cover" crops to height x width, from its header; 0 if it has none."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            columns, rows = image.size
            if TURNS.get(_orientation(image)) in SIDEWAYS:
                columns, rows = rows, columns
    except Exception:  # as many kinds as above; `read_picture` reports them
        return 0.0
    aspect = (columns * height) / (rows * width)
    return 1 - min(aspect, 1 / aspect)


def _decode(
    data: bytes, field: str, channels: int, enough: int, bits: int | None, max_pixels: int
) -> tuple[Image.Image, tuple[float, float], Image.Transpose | None, bool] | None:
    """Return the stored picture in mode L or RGB, its width and height, what sets it upright, and a doubt.

    The doubt is whether the values have fewer bits than assumed. The whole result is None if nothing is visible. A JPEG
    is decoded at a reduced size of at least `enough` pixels a side. Width and height are then fractions, because the
    last column and row may cover less than a pixel.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        columns, rows = image.size
        if not (0 < columns <= MAX_SIDE and 0 < rows <= MAX_SIDE and columns * rows <= max_pixels):
            raise DataError(
                f"field {field!r}: expected at most {max_pixels} pixels and {MAX_SIDE} a side, got a header that "
                f"declares {columns} x {rows}; scale it down, raise the option `max_pixels`, or copy the file again if "
                f"it is damaged"
            )
        reduced = image.draft(None, (enough, enough))
        if data.startswith(PNG):
            _check_sums(data, field)
        image.load()
        doubtful = False
        if image.mode.startswith("I"):
            grey, largest = _from_16_bits(image, field, bits or 16)
            doubtful = bits is None and 0 < largest <= DOUBTFUL
            opaque = None if largest < 0 else grey
        else:
            if bits not in (None, 16) and _has_16_bit_channels(data):
                raise DataError(
                    f"field {field!r}: expected 16-bit grey with option `bits` = {bits}, got a PNG with several "
                    f"channels of 16 bits, of which Pillow keeps the upper 8 bits only; store it as 16-bit grey or as "
                    f"8 bits a channel"
                )
            opaque = _opaque(image)
            doubtful = bits is None and _has_16_bit_channels(data) and 0 < _brightest(image) <= DOUBTFUL >> 8
        if opaque is None:
            return None
        picture = opaque.convert("L" if channels == 1 else "RGB")
        extent = image.size if reduced is None else reduced[1][2:]
        return picture, extent, TURNS.get(_orientation(image)), doubtful


def _brightest(image: Image.Image) -> int:
    """Return the largest value of the colour channels, 0 to 255."""
    colours = [image.getchannel(band) for band in image.getbands() if band != "A"]
    return max(int(channel.getextrema()[1]) for channel in colours)  # type: ignore[arg-type]


def _check_sums(data: bytes, field: str) -> None:
    """Check the checksums of a PNG's chunks that hold pixels, which Pillow does not verify.

    Raises:
        DataError: A checksum does not match.
    """
    position = len(PNG)
    view = memoryview(data)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        # Names of optional chunks begin with a lower-case letter. Pillow reports truncated chunks.
        if kind[:1].isupper() and end + 4 <= len(data):
            if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
                raise DataError(
                    f"field {field!r}: expected a PNG whose chunks match their checksums, got a mismatch in chunk "
                    f"{kind!r} at byte {position}; the file is damaged: copy it again or leave the field out"
                )
            if kind == b"IEND":
                return
        position = end + 4


def _has_16_bit_channels(data: bytes) -> bool:
    """Return whether the data are a PNG with 16-bit samples."""
    return data.startswith(PNG) and data[24:25] == b"\x10"


def _opaque(image: Image.Image) -> Image.Image | None:
    """Replace transparency by white; return None if no pixel is visible."""
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    middle = rgba.getpixel((image.width // 2, image.height // 2))  # usually avoids a scan of all pixels
    if isinstance(middle, tuple) and not middle[3] and not rgba.getchannel("A").getextrema()[1]:
        return None
    return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), rgba)


def _from_16_bits(image: Image.Image, field: str, bits: int) -> tuple[Image.Image, int]:
    """Convert grey 0..2 ** bits - 1 (modes I;16 and, in older Pillow, I) to 8 bits; Pillow itself clips at 255.

    Returns:
        The picture in mode L, and its largest visible value, -1 if every pixel is transparent.
    """
    stored = np.asarray(image)
    grey = stored.astype(np.int32)
    highest = 2**bits - 1
    transparent = image.info.get("transparency")
    if transparent is not None:
        hidden = grey == transparent
        grey[hidden] = -1
    largest = int((stored if transparent is None else grey).max())
    if largest > highest:
        raise DataError(
            f"field {field!r}: expected values of {bits} bits, 0 to {highest}, as the option `bits` says, got "
            f"{largest}; set `bits` to what all files of this field have"
        )
    if transparent is not None:
        grey[hidden] = highest
    if bits == 16:  # equivalent to the other branch, in fewer passes
        grey += 128
        grey //= 257
    else:
        grey *= 510
        grey += highest
        grey //= 2 * highest
    return Image.fromarray(grey.clip(0).astype(np.uint8)), largest


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation 1..8, or 1 (upright) if the metadata cannot be parsed."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    # The metadata parser raises about as many kinds; valid pictures with broken metadata are common.
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
    """Scale the picture, set it upright and, if it is smaller than height x width, pad it with black."""
    columns, rows = extent
    across, down = (height, width) if turn in SIDEWAYS else (width, height)
    box = (0.0, 0.0, columns, rows)
    if fit == "contain":
        scale = min(across / columns, down / rows)
        across, down = max(1, round(columns * scale)), max(1, round(rows * scale))
    elif fit == "cover":
        # The crop is in fractions of source pixels, so it is centred to less than a pixel of the result.
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
