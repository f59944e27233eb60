"""Images: the contract tests, and tests of every kind of picture file, three fits, and hostile files."""

import io
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from shala_image import Image, ImageAugment
from shala_image.networks import OverlappingPatches, map_sizes
from shala_image.reading import read_picture

from shala_framework.plugin import DataError, Draws, encode_png
from shala_framework.plugin.testing import ModalitySuite

DATA = Path(os.environ.get("SHALA_DATA", Path(__file__).parents[3] / "../shared/data"))
REAL = {
    "cub10/images128": "001.Black_footed_Albatross/*.jpg",
    "covid_cxr_notes/images256": "*.jpg",
}


def scene(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 [height, width, 3]: a disc on a gradient; place and colours are the index's."""
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([2 * rows, 2 * columns, rows + columns], axis=2).astype(np.uint8)
    inside = np.hypot(rows - 16 - index, columns - 20 - 3 * index) < 10
    picture[inside] = (230 - 20 * index, 30 * index, 90)
    return picture


def encode(picture: np.ndarray | PillowImage.Image, kind: str, **options: Any) -> bytes:
    """A picture file of one of Pillow's formats."""
    image = picture if isinstance(picture, PillowImage.Image) else PillowImage.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def real_files(folder: str, count: int) -> list[bytes]:
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; set SHALA_DATA")
    return [path.read_bytes() for path in sorted((DATA / folder).glob(REAL[folder]))[:count]]


class TestImage(ModalitySuite):
    """Grey digits' size, normal likelihood, a learned scale."""

    modality = Image
    options: ClassVar = {"channels": 1, "height": 28, "width": 28, "network_width": 8}
    value_range = (0, 255)
    round_trip_tolerance = 0.0
    density_options: ClassVar = {"scale": 0.05}
    augmenting: ClassVar = {
        "augment": ImageAugment(shift=3, crop=0.2, flip=True, brightness=0.2, contrast=0.2, saturation=0.2)
    }
    kind = "PNG"

    def sample_fields(self, index: int) -> dict[str, bytes]:
        return {self.kind.lower(): encode(scene(index), self.kind)}

    def test_zero_rows_do_no_harm(self) -> None:
        """Rows that lack the modality are zeros: their log_prob is finite, and its gradient times 0 is 0."""
        networks, x = self.networks(), torch.zeros_like(self.batch(2))
        log_prob_B = networks[1](networks[0](x)).log_prob(x)
        (0 * log_prob_B).sum().backward()
        assert log_prob_B.isfinite().all()
        assert not any(parameter.grad.any() for parameter in networks.parameters() if parameter.grad is not None)

    def test_pictures_depend_on_z_from_the_start(self) -> None:
        """Before any training two draws of z already decode to pictures that differ by many grey levels."""
        torch.manual_seed(1)
        with torch.no_grad():
            x = self.make().decoder(8)(torch.randn(16, 8)).mode().float()
        assert (x[:8] - x[8:]).abs().mean() > 16

    @pytest.mark.real_data
    @pytest.mark.parametrize("folder", list(REAL))
    def test_damaged_real_files(self, folder: str, capfd: pytest.CaptureFixture[str]) -> None:
        """Damaged copies of real JPEGs end in a picture or in a DataError, and no library writes to the terminal."""
        self.check_damage([{"jpg": data} for data in real_files(folder, 10)])
        assert capfd.readouterr() == ("", "")


class TestLaplaceImage(TestImage):
    """RGB that is not square and has odd sides, Laplace likelihood of fixed scale, WebP."""

    options: ClassVar = {
        "height": 33, "width": 61, "network_width": 8, "likelihood": "laplace", "scale": 0.1, "fit": "contain",
    }  # fmt: skip
    kind = "WEBP"


class TestMixtureImage(TestImage):
    """RGB in blocks of 4 x 4 pixels under a mixture of discretised logistics, JPEG."""

    options: ClassVar = {
        "height": 48, "width": 48, "network_width": 8, "likelihood": "logistic_mixture", "components": 3,
        "fit": "stretch",
    }  # fmt: skip
    kind = "JPEG"
    density_options: ClassVar = {"height": 28, "width": 28}  # of the densities' tests, which need no more
    independent_values = False  # channels share their component: see test_masses_sum_to_one_and_match_the_closed_form


# Reading: values.


@pytest.mark.parametrize("fit", ["cover", "contain", "stretch"])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_right_size_keeps_every_value(fit: str, kind: str) -> None:
    """A picture of the right size is read bit for bit, whatever the fit."""
    picture = np.random.default_rng(0).integers(0, 256, (29, 40, 3), dtype=np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(read_picture(encode(picture, kind, **options), "png", 3, 29, 40, fit), picture)


def test_16_bit_grey_is_scaled_from_its_full_range() -> None:
    """0..65535 becomes 0..255 by division by 257, to the nearest level; nothing clips at 255."""
    values = [0, 128, 129, 256, 257, 32768, 65278, 65535]
    picture = np.tile(np.array(values, dtype=np.uint16), (28, 4))
    data = encode(picture, "PNG")
    assert PillowImage.open(io.BytesIO(data)).mode.startswith("I")
    expected = [0, 0, 1, 1, 1, 128, 254, 255]
    assert read_picture(data, "png", 1, 28, 32, "cover")[0, :8, 0].tolist() == expected
    assert read_picture(data, "png", 3, 28, 32, "cover")[5, :8, 2].tolist() == expected
    transparent = encode(picture, "PNG", transparency=32768)
    assert read_picture(transparent, "png", 1, 28, 32, "cover")[0, 5, 0] == 255


def filled(mode: str, value: Any) -> PillowImage.Image:
    return PillowImage.new(mode, (28, 28), value)


def palette() -> PillowImage.Image:
    image = filled("P", 1)
    image.putpalette([0, 0, 0, 10, 200, 30, 90, 90, 90])
    return image


@pytest.mark.parametrize(("bits", "value", "expected"), [(12, 4095, 255), (12, 2048, 128), (10, 512, 128), (9, 1, 0)])
def test_fewer_bits_in_16_bit_grey_are_scaled(bits: int, value: int, expected: int) -> None:
    """With the option, values of that many bits span 0..255 in every file alike; a larger value is an error."""
    image = Image(Image.Options(channels=1, height=28, width=28, bits=bits))
    x = image.read({"png": encode(np.full((28, 28), value, dtype=np.uint16), "PNG")})
    assert x is not None
    assert (x == expected).all()
    with pytest.raises(DataError, match=rf"0 to {2**bits - 1}.*`bits`.*got {2**bits}"):
        image.read({"png": encode(np.full((28, 28), 2**bits, dtype=np.uint16), "PNG")})


def test_values_of_12_bits_are_reported() -> None:
    """Without the option, a 16-bit picture that may hold 12 bits is read as 16 with a warning; with 16, without."""
    data = encode(np.full((28, 28), 4095, dtype=np.uint16), "PNG")
    with pytest.warns(UserWarning, match=r"no value above 4095.*`bits` to 12"):
        doubtful = read_picture(data, "png", 1, 28, 28, "cover")
    assert np.array_equal(doubtful, read_picture(data, "png", 1, 28, 28, "cover", bits=16))
    black = encode(np.zeros((28, 28), dtype=np.uint16), "PNG")
    assert not np.any(read_picture(black, "png", 1, 28, 28, "cover"))


def test_several_channels_of_16_bits_cannot_have_fewer() -> None:
    """Pillow drops the lower half of 16-bit colours, so that values of 12 bits in them are an error, not black."""
    import av

    stream = av.CodecContext.create("png", "w")
    stream.height = stream.width = 28
    stream.pix_fmt, stream.time_base = "rgb48be", Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(np.full((28, 28, 3), 4095, dtype=np.uint16), format="rgb48le")
    data = b"".join(
        bytes(packet) for packet in [*stream.encode(frame.reformat(format="rgb48be")), *stream.encode(None)]
    )
    with pytest.raises(DataError, match="upper 8 bits"):
        read_picture(data, "png", 3, 28, 28, "cover", bits=12)
    with pytest.warns(UserWarning, match=r"no value above 4095.*only pictures of one channel"):
        dark = read_picture(data, "png", 3, 28, 28, "cover")
    assert np.array_equal(dark, read_picture(data, "png", 3, 28, 28, "cover", bits=16))


@pytest.mark.parametrize(
    "data",
    [
        encode(PillowImage.new("RGBA", (28, 28), (200, 10, 10, 0)), "PNG"),
        encode(PillowImage.new("RGBA", (28, 28), (200, 10, 10, 0)), "WEBP", lossless=True),
        encode(PillowImage.new("L", (28, 28), 77), "PNG", transparency=77),
        encode(np.full((28, 28), 30_000, dtype=np.uint16), "PNG", transparency=30_000),
    ],
)
def test_a_picture_of_which_nothing_is_visible_is_missing(data: bytes) -> None:
    """A wholly transparent picture lacks the modality rather than being a white one; a later field may have it."""
    image = Image(Image.Options(channels=1, height=28, width=28))
    assert image.read({"png": data}) is None
    x = image.read({"png": data, "bmp": encode(filled("L", 9), "BMP")})
    assert x is not None
    assert (x == 9).all()


@pytest.mark.parametrize(
    ("data", "colour", "grey"),
    [
        (encode(filled("1", 1), "PNG"), (255, 255, 255), 255),
        (encode(filled("L", 77), "PNG"), (77, 77, 77), 77),
        (encode(filled("L", 77), "PNG", transparency=78), (77, 77, 77), 77),
        (encode(filled("LA", (0, 128)), "PNG"), (127, 127, 127), 127),
        (encode(palette(), "PNG"), (10, 200, 30), 124),
        (encode(palette(), "PNG", transparency=b"\xff\x33"), (206, 244, 210), 229),
        (encode(palette(), "BMP"), (10, 200, 30), 124),
        (encode(filled("RGB", (9, 8, 7)), "PNG", transparency=(9, 8, 6)), (9, 8, 7), 8),
        (encode(filled("RGBA", (255, 0, 0, 51)), "PNG"), (255, 204, 204), 219),
        (encode(filled("RGBA", (255, 0, 0, 51)), "WEBP", lossless=True), (255, 204, 204), 219),
        (encode(filled("CMYK", (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0), 76),
        (encode(filled("YCbCr", (76, 85, 255)), "JPEG", quality=100), (254, 0, 0), 76),
    ],
)
def test_every_kind_of_pixel(data: bytes, colour: tuple[int, int, int], grey: int) -> None:
    """Bits, palettes, keyed and alpha transparency on white, CMYK and YCbCr have their known colour and luma."""
    np.testing.assert_allclose(read_picture(data, "png", 3, 28, 28, "cover")[14, 14].astype(int), colour, atol=2)
    np.testing.assert_allclose(read_picture(data, "png", 1, 28, 28, "cover")[14, 14].astype(int), grey, atol=2)


@pytest.mark.parametrize(
    ("mode", "key", "shown"), [("L", 77, 20), ("RGB", (9, 8, 7), (9, 8, 20)), ("I;16", 900, 65535)]
)
def test_a_transparent_colour_is_white(mode: str, key: Any, shown: Any) -> None:
    """Pixels of the colour that a PNG declares transparent become white, and no others change."""
    picture = PillowImage.new(mode, (28, 28), key)
    picture.paste(shown, (0, 0, 14, 28))
    read = read_picture(encode(picture, "PNG", transparency=key), "png", 3, 28, 28, "cover")
    assert (read[:, 14:] == 255).all()
    assert (read[:, :14] == (255 if mode == "I;16" else shown)).all()


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.T),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: stored[::-1, ::-1].T),
        (8, lambda stored: np.rot90(stored)),
        (99, lambda stored: stored),
    ],
)
def test_exif_orientation_is_honoured(orientation: int, upright) -> None:
    """What a camera stored on its side or mirrored is read upright; an unknown orientation changes nothing."""
    stored = np.random.default_rng(0).integers(0, 256, (30, 44), dtype=np.uint8)
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    expected = upright(stored)
    for data in (encode(stored, "PNG", exif=exif), encode(stored, "WEBP", exif=exif, lossless=True)):
        np.testing.assert_array_equal(read_picture(data, "jpg", 1, *expected.shape, "cover")[..., 0], expected)


def test_broken_exif_leaves_the_picture() -> None:
    """A sound picture whose EXIF cannot be parsed is read as stored."""
    picture = np.full((28, 28), 90, dtype=np.uint8)
    for broken in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"):
        assert (read_picture(encode(picture, "JPEG", exif=broken), "jpg", 1, 28, 28, "cover") == 90).all()


# Reading: size.


@pytest.mark.parametrize(("height", "width"), [(90, 190), (190, 90), (400, 400), (29, 36), (1000, 640)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_cover_keeps_the_centre_and_the_aspect(height: int, width: int, kind: str) -> None:
    """A disc at the centre stays round and central, enlarged or reduced, also in a JPEG decoded at reduced size."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2)
    disc = (255 * (min(height, width) / 4 - distance + 0.5).clip(0, 1)).astype(np.uint8)
    picture = read_picture(encode(disc, kind), "png", 1, 40, 40, "cover")[..., 0].astype(float)
    rows, columns = np.mgrid[:40, :40] - 19.5
    assert abs((rows * picture).sum() / picture.sum()) < 0.15
    assert abs((columns * picture).sum() / picture.sum()) < 0.15
    assert abs(np.sqrt((rows**2 * picture).sum() / (columns**2 * picture).sum()) - 1) < 0.02
    assert abs((picture > 127).mean() - np.pi / 16) < 0.02


@pytest.mark.parametrize(("height", "width"), [(50, 200), (200, 50), (1, 3000), (7, 7)])
def test_contain_shows_the_whole_picture(height: int, width: int) -> None:
    """Nothing is cut off: the inner picture has the source's aspect, is central, and the rest is black."""
    white = np.full((height, width, 3), 255, dtype=np.uint8)
    picture = read_picture(encode(white, "PNG"), "png", 3, 32, 64, "contain")
    inner = np.argwhere(picture[..., 0] > 0)
    (top, left), (bottom, right) = inner.min(0), inner.max(0) + 1
    scale = min(32 / height, 64 / width)
    assert (bottom - top, right - left) == (max(1, round(height * scale)), round(width * scale))
    assert abs(top - (32 - bottom)) <= 1
    assert abs(left - (64 - right)) <= 1
    assert (picture[top:bottom, left:right] == 255).all()
    assert picture.sum() == 255 * 3 * (bottom - top) * (right - left)


def test_stretch_maps_corners_to_corners() -> None:
    """Each quarter of the source becomes a quarter of the result, whatever the aspect."""
    quarters = np.kron(np.array([[10, 80], [150, 220]], dtype=np.uint8), np.ones((20, 90), dtype=np.uint8))
    picture = read_picture(encode(quarters, "PNG"), "png", 1, 64, 32, "stretch")[..., 0]
    assert picture[[16, 16, 48, 48], [8, 24, 8, 24]].tolist() == [10, 80, 150, 220]


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
@pytest.mark.parametrize("fit", ["cover", "contain", "stretch"])
def test_extreme_aspects_are_read(size: tuple[int, int], fit: str) -> None:
    """A picture one pixel wide has a result as well."""
    data = encode(PillowImage.new("L", size, 200), "PNG")
    picture = read_picture(data, "png", 1, 28, 256, fit)
    assert picture.max() == 200


@pytest.mark.parametrize("size", [(700, 500), (333, 1210)])
def test_reduced_jpeg_decoding_is_not_seen(size: tuple[int, int]) -> None:
    """Decoding a large JPEG at reduced size gives nearly the same as reducing the decoded picture."""
    rng = np.random.default_rng(0)
    noise = PillowImage.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).resize(size)
    data = encode(noise, "JPEG", quality=95)
    reduced = read_picture(data, "jpg", 3, 32, 48, "stretch").astype(float)
    whole = read_picture(encode(PillowImage.open(io.BytesIO(data)), "PNG"), "png", 3, 32, 48, "stretch").astype(float)
    assert np.abs(reduced - whole).mean() < 1.5


def test_first_field_wins() -> None:
    """If several fields exist, the first in the options' order is read, and its bytes determine the format."""
    image = Image(Image.Options(channels=1, height=28, width=28, fields=("png", "jpg")))
    x = image.read({"jpg": encode(filled("L", 10), "JPEG"), "png": encode(filled("L", 200), "BMP")})
    assert x is not None
    assert (x == 200).all()


# Reading: damage.


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("side", [32, 256])
def test_file_cut_short_is_a_data_error(kind: str, share: float, side: int) -> None:
    """A file without its last tenth is refused instead of shown with a grey rest, at full or reduced size."""
    data = encode(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8), kind)
    assert read_picture(data, "png", 3, 28, 28, "cover").shape == (28, 28, 3)
    with pytest.raises(DataError, match=r"field 'webp'.*copy the file again"):
        read_picture(data[: int(share * len(data))], "webp", 3, 28, 28, "cover")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16"])
def test_a_flipped_bit_of_a_png_is_an_error_or_changes_nothing(mode: str) -> None:
    """Pillow passes over the checksums of the chunks that hold pixels, and showed other pixels."""
    grey = PillowImage.fromarray((np.arange(24 * 32).reshape(24, 32) * 85).astype(np.uint16))
    data = encode(grey if mode == "I;16" else PillowImage.fromarray(scene(1, 24, 32)).convert(mode), "PNG")
    whole, refused = read_picture(data, "png", 3, 28, 28, "cover"), 0
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        try:
            x = read_picture(bytes(damaged), "png", 3, 28, 28, "cover")
        except DataError:
            refused += 1
            continue
        np.testing.assert_array_equal(x, whole)
    assert refused > 0.8 * len(data)


def test_other_formats_are_named() -> None:
    """A format that is not read, though Pillow could, is refused with the list of those that are."""
    with pytest.raises(DataError, match=r"JPEG, PNG, WEBP or BMP.*b'GIF89a.*no known format"):
        read_picture(encode(filled("L", 3), "GIF", comment=b"x"), "png", 1, 28, 28, "cover")


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG of 16 x 16 whose header declares another size."""
    data = encode(filled("L", 3).resize((16, 16)), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 4 :]


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header declares another size, its checksum right."""
    from zlib import crc32

    data = encode(filled("L", 3), "PNG")
    header = data[12:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + data[24:29]
    return data[:12] + header + crc32(header).to_bytes(4, "big") + data[33:]


def bmp_of(width: int, height: int) -> bytes:
    """A BMP of run-length coding whose header declares another size, and which skips 255 rows at once."""
    header = b"BM" + bytes(8) + (54 + 1024).to_bytes(4, "little") + (40).to_bytes(4, "little")
    header += width.to_bytes(4, "little") + height.to_bytes(4, "little") + b"\1\0\x08\0\1\0\0\0" + bytes(20)
    return header + bytes(1024) + b"\0\2\0\xff" * 8


def webp_of(width: int, height: int) -> bytes:
    """A WebP whose extended header declares another canvas."""
    still = encode(filled("RGB", (1, 2, 3)), "WEBP")[12:]
    canvas = b"VP8X\x0a\0\0\0\0\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + canvas + still
    return b"RIFF" + len(body).to_bytes(4, "little") + body


BOMBS = [
    *(make(60_000, 60_000) for make in (jpeg_of, png_of, bmp_of)),
    *(make(10_000, 7_000) for make in (jpeg_of, png_of, bmp_of, webp_of)),
    png_of(2**31 - 1, 1),
    png_of(2**17, 2),
    bmp_of(2**26, 1),
    bmp_of(1, 2**26),
    webp_of(16_000, 16_000),
]


@pytest.mark.parametrize("index", range(len(BOMBS)))
def test_declared_sizes_are_not_believed(index: int) -> None:
    """A small file that declares a huge picture is refused by a message that tells the limit."""
    with pytest.raises(DataError, match=r"field 'png'.*(67108864 pixels|copy the file again)"):
        read_picture(BOMBS[index], "png", 3, 64, 64, "cover")


def test_limit_of_pixels_is_an_option() -> None:
    """The limit, and how to raise it, are in the message."""
    data = encode(PillowImage.new("L", (100, 100)), "PNG")
    options = {"channels": 1, "height": 28, "width": 28}
    with pytest.raises(DataError, match=r"at most 9999 pixels.*100 x 100.*`max_pixels`"):
        Image(Image.Options(**options, max_pixels=9_999)).read({"png": data})
    assert Image(Image.Options(**options, max_pixels=10_000)).read({"png": data}) is not None


def test_bombs_allocate_nothing() -> None:
    """Refusing all of those files takes a process no more than 64 MB beyond what reading a small picture took."""
    resource = pytest.importorskip("resource")
    assert resource
    program = """if True:
        import ast, resource, sys
        from shala_framework.plugin import DataError
        from shala_image.reading import read_picture
        small, *bombs = ast.literal_eval(sys.stdin.read())
        read_picture(small, "png", 3, 64, 64, "cover")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused = 0
        for bomb in bombs:
            try:
                read_picture(bomb, "png", 3, 64, 64, "cover")
            except DataError:
                refused += 1
        print(refused, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    files = repr([encode(scene(0), "WEBP"), *BOMBS])
    done = subprocess.run([sys.executable, "-c", program], input=files, capture_output=True, text=True, check=True)
    refused, growth = (int(word) for word in done.stdout.split())
    assert refused == len(BOMBS)
    assert growth < 64 * 1024 * (1 if sys.platform != "darwin" else 1024)
    assert done.stderr == ""


@pytest.mark.real_data
@pytest.mark.parametrize("folder", list(REAL))
def test_real_pictures(folder: str) -> None:
    """Real JPEGs are read as a plain decoding, cropped and averaged in blocks, says; cut in half they are refused."""
    for data in real_files(folder, 5):
        picture = read_picture(data, "jpg", 3, 32, 32, "cover").astype(float)
        whole = np.asarray(PillowImage.open(io.BytesIO(data)).convert("RGB")).astype(float)
        side = min(whole.shape[:2])
        top, left = (whole.shape[0] - side) // 2, (whole.shape[1] - side) // 2
        square = whole[top : top + side // 4 * 4, left : left + side // 4 * 4]
        blocks = square.reshape(4, side // 4, 4, side // 4, 3).mean((1, 3))
        np.testing.assert_allclose(picture.reshape(4, 8, 4, 8, 3).mean((1, 3)), blocks, atol=6)
        with pytest.raises(DataError, match="truncated"):
            read_picture(data[: len(data) // 2], "jpg", 3, 32, 32, "cover")


# Options and networks.


@pytest.mark.parametrize(
    ("options", "message"),
    [({"channels": 2}, "1, 3"), ({"height": 27}, "from 28 to 256"), ({"width": 257}, "from 28 to 256"),
     ({"fit": "crop"}, "contain"), ({"fields": ()}, "at least one"), ({"fields": ("",)}, "at least one"),
     ({"network_width": 12}, "multiple of 8"), ({"likelihood": "cauchy"}, "laplace"), ({"scale": 0.0}, "above 0"),
     ({"components": 0}, "from 1"), ({"likelihood": "logistic_mixture", "scale": 0.1}, "leave `scale` out")],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    """Options out of range say what was expected."""
    with pytest.raises(ValueError, match=message):
        Image.Options(**options)


@pytest.mark.parametrize(
    ("height", "width"), [(28, 28), (29, 31), (28, 256), (47, 48), (53, 48), (64, 64), (101, 37), (128, 96), (256, 255)]
)
def test_networks_adapt_to_the_size(height: int, width: int) -> None:
    """Any size from 28 to 256 can be encoded and decoded, square or not, odd or even; the lowest map stays small."""
    image = Image(Image.Options(height=height, width=width, network_width=8))
    x = torch.zeros(1, *image.shape, dtype=torch.uint8)
    with torch.no_grad():
        likelihood = image.decoder(12)(image.encoder(12)(x))
    assert likelihood.log_prob(x).isfinite().all()
    assert likelihood.mode().shape == x.shape
    assert max(map_sizes(height, width)[-1]) <= 16
    assert min(map_sizes(height, width)[-1]) >= 2


@pytest.mark.parametrize("block", [2, 4])
def test_patches_leave_no_seams(block: int) -> None:
    """Patches of a constant add up to a constant inside the border, and a map doubles in size by the block's side."""
    patches = OverlappingPatches(3, 2, block)
    torch.nn.init.ones_(patches.weight)
    with torch.no_grad():
        x = patches(torch.ones(1, 3, 5, 6))
    assert x.shape == (1, 2, 5 * block, 6 * block)
    torch.testing.assert_close(x[..., block:-block, block:-block], torch.full((1, 2, 3 * block, 4 * block), 3.0))


def test_preview_and_files_agree() -> None:
    """A grey picture is previewed as RGB with equal channels and written as a grey PNG; an RGB picture is unchanged."""
    for channels in (1, 3):
        image = Image(Image.Options(channels=channels, height=28, width=30))
        x = torch.randint(0, 256, image.shape, dtype=torch.uint8)
        frames = image.preview(x).frames
        assert frames is not None
        assert frames.shape == (1, 28, 30, 3)
        np.testing.assert_array_equal(frames[0].transpose(2, 0, 1), x.expand(3, -1, -1))
        written = PillowImage.open(io.BytesIO(image.write(x)["png"]))
        assert written.mode == {1: "L", 3: "RGB"}[channels]
        assert image.write(x)["png"] == encode_png(frames[0, ..., 0] if channels == 1 else frames[0])


def grid_pictures(count: int) -> torch.Tensor:
    """Pictures uint8 [B, 3, 40, 56] of one bright pixel in the middle, on grey."""
    x = torch.full((count, 3, 40, 56), 100, dtype=torch.uint8)
    x[:, :, 20, 28] = 200
    return x


def test_a_picture_moves_by_at_most_the_shift():
    """The bright pixel is found anywhere within the shift, on either axis, and the edge fills the gap."""
    modality = Image(height=40, width=56, augment={"shift": 2})
    moved = modality.augment(grid_pictures(200), Draws(seed=0, num_rows=200))
    _, rows, columns = (moved[:, 0] == 200).nonzero(as_tuple=True)
    assert len(rows) == 200
    assert set(rows.tolist()) == {18, 19, 20, 21, 22}
    assert set(columns.tolist()) == {26, 27, 28, 29, 30}
    assert int(moved.min()) == 100


def test_a_flip_mirrors_half_of_the_pictures():
    x = grid_pictures(200)
    x[..., 0] = 7
    flipped = Image(height=40, width=56, augment={"flip": True}).augment(x, Draws(seed=0, num_rows=200))
    mirrored = (flipped[:, 0, 0, -1] == 7).sum().item()
    assert 70 < mirrored < 130
    assert mirrored + (flipped[:, 0, 0, 0] == 7).sum().item() == 200


def test_a_crop_keeps_a_plain_picture_and_enlarges_what_it_shows():
    """A crop of half the side magnifies by up to two; a picture of one colour stays exactly that."""
    modality = Image(height=40, width=56, augment={"crop": 0.5})
    plain = torch.full((8, 3, 40, 56), 33, dtype=torch.uint8)
    assert torch.equal(modality.augment(plain, Draws(seed=0, num_rows=8)), plain)
    x = torch.zeros(100, 3, 40, 56, dtype=torch.uint8)
    x[..., 15:25, 23:33] = 255
    areas = modality.augment(x, Draws(seed=0, num_rows=100))[:, 0].float().sum((1, 2)) / 255 / 100
    assert 1.0 <= areas.min() < 1.2
    assert 3.0 < areas.max() <= 4.2


def test_colours_change_within_their_factors():
    """Brightness scales, contrast keeps the mean, saturation 1 can reach grey; each row has its own factor."""
    x = torch.randint(60, 120, (64, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def changed(**table):
        return Image(height=32, width=32, augment=table).augment(x, Draws(seed=1, num_rows=64)).float()

    ratio = changed(brightness=0.3).mean((1, 2, 3)) / x.float().mean((1, 2, 3))
    assert 0.7 <= ratio.min() < 0.8
    assert 1.2 < ratio.max() <= 1.3
    torch.testing.assert_close(changed(contrast=0.5).mean((1, 2, 3)), x.float().mean((1, 2, 3)), atol=0.2, rtol=0)
    spread = changed(contrast=0.5).std((1, 2, 3)) / x.float().std((1, 2, 3))
    assert 0.5 <= spread.min() + 0.01 < 0.6
    chroma = (changed(saturation=1.0)[:, 0] - changed(saturation=1.0)[:, 2]).abs().mean((1, 2))
    assert chroma.min() < 0.2 * chroma.max()


def test_pictures_that_lose_much_of_their_area_are_counted() -> None:
    """By the header and the orientation, for "cover" alone, and above 30 % alone."""
    wide = picture_bytes(200, 100)
    cut = Image(height=64, width=64).cut_off({"png": wide})
    assert cut is not None
    assert cut.amount == pytest.approx(50)
    assert cut.excess == "lose more than 30% of their area"
    assert Image(height=64, width=64, fit="contain").cut_off({"png": wide}) is None
    assert Image(height=32, width=64).cut_off({"png": wide}) is None
    assert Image(height=64, width=64).cut_off({"png": picture_bytes(140, 100)}) is None
    assert Image(height=64, width=64).cut_off({"png": b"no picture"}) is None


def picture_bytes(columns: int, rows: int) -> bytes:
    return encode_png(np.zeros((rows, columns, 3), np.uint8))
