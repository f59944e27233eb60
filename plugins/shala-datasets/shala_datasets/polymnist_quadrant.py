"""PolyMNIST-Quadrant: views of one digit in one quadrant of each picture, with both as words.

A view is a crop of its own background, at a random position. Its colours are inverted where an MNIST digit of the
sample's class has ink; the digit lies in one of four quadrants, which all views of a sample share. Digit and quadrant
are independent, and each is a modality of its own as a word: the digit leaves the quadrant open, and the quadrant the
digit. Handwriting and background are other ones in each view.

MUNITE (Yeo and Sung 2026) evaluates on a set of that name, with three views of 64 pixels. Its files and code were not
at hand. Here the backgrounds are those of the folder, the digit fills a quadrant but for a margin, and quadrants are
drawn with equal chances. Its classifiers are others too, so its figures can only be compared roughly with those of a
run on this set.

Reference: Sutter et al. 2021, "Generalized multimodal ELBO", for PolyMNIST.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from shala_datasets.draws import SPLITS, draw
from shala_datasets.files import check_folder
from shala_datasets.mnist import VALIDATION_SHARE, MNISTDigits, read_mnist
from shala_datasets.polymnist import LAYOUT, PolyMNIST, read_background
from shala_framework.plugin import Account, Dataset, Sample, between, encode_png

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
_INK = 127  # pixels of a digit brighter than this count as ink
_INK_OF_FOUR = 63  # the same of the mean of four pixels, so that thin strokes stay
_DIGIT = 28
_CLASS_STREAM, _SAMPLE_STREAM = 0, 1


class PolyMNISTQuadrant(Dataset):
    """Views of a digit in a quadrant, generated: the fields m0.png, ..., digit.txt, quadrant.txt and json."""

    @attrs.frozen(kw_only=True)
    class Options(PolyMNIST.Options):
        """Number and properties of the samples.

        Attributes:
            num_modalities: Number of views, on the first of the five backgrounds.
            side: Height and width of a view in pixels. At 32 the digits are halved.
            label: What the label of a sample names: "attributes" has digit and quadrant as two attributes, which judges
                tell apart; the others have one class, of which "both" has 40, such as "3 top left".
        """

        num_modalities: int = attrs.field(default=3, validator=between(1, 5))
        side: Literal[64, 32] = 64
        label: Literal["attributes", "both", "digit", "quadrant"] = "attributes"

    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield the samples of "train", "validation" and "test". Each depends only on seed, split and its number.

        Args:
            source: Folder that contains mnist/ and polymnist_backgrounds/.
            account: Receives notes and what is left out.

        Raises:
            DataError: A file is missing or invalid.
        """
        options = self.options
        source = check_folder(source, LAYOUT)
        backgrounds = [
            read_background(source / "polymnist_backgrounds" / f"{number}.jpg", options.side)
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
                    quadrant = int(rng.integers(len(QUADRANTS)))
                    fields = compose(digits[split], rows[digit], backgrounds, quadrant, options.side, rng)
                    fields |= {"digit.txt": WORDS[digit].encode(), "quadrant.txt": QUADRANTS[quadrant].encode()}
                    names = {"digit": str(digit), "quadrant": QUADRANTS[quadrant]}
                    one = names.get(options.label, " ".join(names.values()))
                    label = names if options.label == "attributes" else one
                    yield Sample(key=key, split=split, fields=fields, label=label)


def compose(
    digits: MNISTDigits,
    rows: NDArray[np.intp],
    backgrounds: list[NDArray[np.uint8]],
    quadrant: int,
    side: int,
    rng: np.random.Generator,
) -> dict[str, bytes]:
    """Generate one sample's views, and the json of which digits and crops they show.

    Args:
        digits: Digits to choose from.
        rows: Rows of the sample's digit. Each view shows a different one if there are enough.
        backgrounds: uint8 RGB array [H, W, 3] of each view.
        quadrant: Place in QUADRANTS.
        side: Height and width of a view.
        rng: Generator that chooses digits and crops.
    """
    chosen = rng.choice(rows, len(backgrounds), replace=len(rows) < len(backgrounds))
    fields, corners = {}, []
    for number, (row, background) in enumerate(zip(chosen, backgrounds, strict=True)):
        height, width = background.shape[:2]
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        picture = background[top : top + side, left : left + side].copy()
        ink = ink_of(digits.images[row], side)
        margin = (side // 2 - len(ink)) // 2
        first, second = (margin + part * (side // 2) for part in divmod(quadrant, 2))
        place = picture[first : first + len(ink), second : second + len(ink)]
        place[ink] = 255 - place[ink]
        fields[f"m{number}.png"] = encode_png(picture)
        corners.append([top, left])
    facts = {"digits": digits.numbers[chosen].tolist(), "corners": corners, "quadrant": quadrant}
    return fields | {"json": json.dumps(facts).encode()}


def ink_of(image: NDArray[np.uint8], side: int) -> NDArray[np.bool_]:
    """Where a digit has ink: bool [28, 28] for views of 64 pixels, [14, 14] for those of 32."""
    if side >= 2 * _DIGIT:
        ink: NDArray[np.bool_] = image > _INK
        return ink
    halved: NDArray[np.bool_] = image.reshape(_DIGIT // 2, 2, _DIGIT // 2, 2).mean((1, 3)) > _INK_OF_FOUR
    return halved
