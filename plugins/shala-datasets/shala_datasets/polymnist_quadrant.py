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

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from shala_datasets.polymnist import PolyMNIST, drawn_samples, ink_of
from shala_framework.plugin import Account, Dataset, Sample, between

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
_INK_OF_FOUR = 63  # mean of four pixels, beyond which they count as ink, so that thin strokes stay


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
        for drawn in drawn_samples(options, source, account, options.side):
            quadrant = int(drawn.rng.integers(len(QUADRANTS)))
            fields = drawn.compose(partial(inked, quadrant=quadrant, side=options.side), {"quadrant": quadrant})
            fields |= {"digit.txt": WORDS[drawn.digit].encode(), "quadrant.txt": QUADRANTS[quadrant].encode()}
            names = {"digit": str(drawn.digit), "quadrant": QUADRANTS[quadrant]}
            one = names.get(options.label, " ".join(names.values()))
            label = names if options.label == "attributes" else one
            yield Sample(key=drawn.key, split=drawn.split, fields=fields, label=label)


def inked(image: NDArray[np.uint8], *, quadrant: int, side: int) -> NDArray[np.bool_]:
    """Where a view has the ink of a digit [28, 28] in a quadrant: bool [side, side], whose digit 32 halves."""
    if side >= 2 * len(image):
        ink = ink_of(image)
    else:
        ink = image.reshape(len(image) // 2, 2, -1, 2).mean((1, 3)) > _INK_OF_FOUR
    margin = (side // 2 - len(ink)) // 2
    first, second = (margin + part * (side // 2) for part in divmod(quadrant, 2))
    where = np.zeros((side, side), np.bool_)
    where[first : first + len(ink), second : second + len(ink)] = ink
    return where
