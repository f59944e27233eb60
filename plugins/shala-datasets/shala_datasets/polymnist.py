"""PolyMNIST: five pictures of one digit in different handwritings, each on crops of its own background.

A picture is a 28 x 28 crop, at a random position, of its modality's background. Its colours are inverted where an MNIST
digit of the sample's class has ink. The modalities share only the class. The pictures are generated here from MNIST and
the backgrounds, so results are comparable only for equal backgrounds.

Reference: Sutter et al. 2021, "Generalized multimodal ELBO".
"""

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shala_datasets.draws import SPLITS, draw
from shala_datasets.files import check_folder, printable, read
from shala_datasets.mnist import LAYOUT as MNIST_LAYOUT
from shala_datasets.mnist import VALIDATION_SHARE, MNISTDigits, read_mnist
from shala_framework.plugin import Account, DataError, Dataset, Sample, at_least, between, encode_png

LAYOUT = f"{MNIST_LAYOUT}, and polymnist_backgrounds/ with 1.jpg to 5.jpg (github.com/thomassutter/MoPoE)"
_SIDE = 28
_INK = 127  # pixels of a digit brighter than this count as ink
_LARGEST_BACKGROUND = 1 << 26  # pixels; a small file may declare, and unpack to, far more
_CLASS_STREAM, _SAMPLE_STREAM = 0, 1


class PolyMNIST(Dataset):
    """PolyMNIST, generated here: samples with the fields m0.png to m4.png and json (which digits and crops)."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Number and properties of the samples.

        Attributes:
            train: Number of training samples. Their classes are as frequent as among the training digits.
            validation: Number of validation samples, from a tenth of the training digits, which training samples then
                do not show. With 0, training samples may show all of them.
            test: Number of test samples, from MNIST's test digits.
            seed: Seed of every random draw.
            num_modalities: Number of modalities, the first of the five.
        """

        train: int = attrs.field(default=60_000, validator=at_least(0, at_most=100_000_000))
        validation: int = attrs.field(default=2_000, validator=at_least(0, at_most=100_000_000))
        test: int = attrs.field(default=10_000, validator=at_least(0, at_most=100_000_000))
        seed: int = attrs.field(default=0, validator=at_least(0, at_most=2**63 - 1))
        num_modalities: int = attrs.field(default=5, validator=between(1, 5))

    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield the samples of "train", "validation" and "test". Each depends only on seed, split and its number.

        Args:
            source: Folder that contains mnist/ and polymnist_backgrounds/.
            account: Receives notes and what is left out.

        Raises:
            DataError: A file is missing or invalid.
        """
        for drawn in drawn_samples(self.options, source, account, _SIDE):
            fields = drawn.compose(ink_of)
            yield Sample(key=drawn.key, split=drawn.split, fields=fields, label=str(drawn.digit))


@attrs.frozen(kw_only=True, eq=False)
class DrawnSample:
    """A sample before its pictures are made.

    Attributes:
        key: Its key.
        split: "train", "validation" or "test".
        digit: Its class.
        digits: MNIST's digits of the split.
        rows: Those of its class.
        backgrounds: uint8 RGB array [H, W, 3] of each modality.
        side: Height and width of a picture.
        rng: Generator that chooses digits and crops.
    """

    key: str
    split: str
    digit: int
    digits: MNISTDigits
    rows: NDArray[np.intp]
    backgrounds: Sequence[NDArray[np.uint8]]
    side: int
    rng: np.random.Generator

    def compose(
        self, inverted: Callable[[NDArray[np.uint8]], NDArray[np.bool_]], facts: Mapping[str, object] | None = None
    ) -> dict[str, bytes]:
        """Generate the pictures, and the json of which digits and crops they show.

        Args:
            inverted: Returns where the colours of a picture are inverted, bool [side, side], for a digit, uint8 [28,
                28]. Each modality shows another digit of the class if there are enough.
            facts: Further values of the json.
        """
        chosen = self.rng.choice(self.rows, len(self.backgrounds), replace=len(self.rows) < len(self.backgrounds))
        fields, corners = {}, []
        for number, (row, background) in enumerate(zip(chosen, self.backgrounds, strict=True)):
            top, left = (int(self.rng.integers(length - self.side + 1)) for length in background.shape[:2])
            picture = background[top : top + self.side, left : left + self.side].copy()
            where = inverted(self.digits.images[row])
            picture[where] = 255 - picture[where]
            fields[f"m{number}.png"] = encode_png(picture)
            corners.append([top, left])
        shown = {"digits": self.digits.numbers[chosen].tolist(), "corners": corners, **(facts or {})}
        return fields | {"json": json.dumps(shown).encode()}


def drawn_samples(
    options: PolyMNIST.Options, source: Path | None, account: Account, side: int
) -> Iterator[DrawnSample]:
    """Draw the samples of each split that are wanted.

    Raises:
        DataError: A file is missing or invalid.
    """
    source = check_folder(source, LAYOUT)
    backgrounds = [
        read_background(source / "polymnist_backgrounds" / f"{number}.jpg", side)
        for number in range(1, options.num_modalities + 1)
    ]
    digits = read_mnist(source / "mnist", VALIDATION_SHARE if options.validation else 0.0)
    for split_number, split in enumerate(SPLITS):
        rows = [digits[split].of_class(label) for label in range(10)]
        num_samples = getattr(options, split)
        drawn = draw(len(digits[split].labels), num_samples, options.seed, _CLASS_STREAM, split_number)
        for index, digit in enumerate(digits[split].labels[drawn].tolist()):
            key = f"{split}_{index:06d}"
            if account.wanted(key):
                rng = np.random.default_rng((options.seed, _SAMPLE_STREAM, split_number, index))
                yield DrawnSample(
                    key=key,
                    split=split,
                    digit=digit,
                    digits=digits[split],
                    rows=rows[digit],
                    backgrounds=backgrounds,
                    side=side,
                    rng=rng,
                )


def ink_of(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a digit has ink: bool [28, 28]."""
    ink: NDArray[np.bool_] = image > _INK
    return ink


def read_background(path: Path, side: int = _SIDE) -> NDArray[np.uint8]:
    """Read a background as a uint8 RGB array [H, W, 3].

    Args:
        path: Path of the picture.
        side: Height and width of a crop.

    Raises:
        DataError: The file is missing, not a picture, truncated, smaller than a crop, or larger than any camera's
            picture.
    """
    data = read(path)
    try:
        with warnings.catch_warnings(action="error"), Image.open(io.BytesIO(data)) as image:
            if min(image.size) < side or image.width * image.height > _LARGEST_BACKGROUND:
                raise DataError(
                    f"{printable(path)}: expected a picture of at least {side} x {side} and at most "
                    f"{_LARGEST_BACKGROUND} pixels, got {image.width} x {image.height}"
                )
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Warning, Image.DecompressionBombError) as error:
        raise DataError(f"{printable(path)}: not a readable picture: {error}; download it again") from error
