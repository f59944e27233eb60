"""Digits in five modalities: a picture, a spoken word, a pen's trajectory, the written word, and a drawn film.

The five were not recorded together. A sample pairs instances of one digit from three collections, so its modalities
share only the class. Only trajectory and film show the same instance: the film is drawn from the trajectory.

    png   a picture of MNIST (28 x 28, grey)
    wav   a recording of the Free Spoken Digit Dataset (8 kHz, mono), unchanged
    npy   a trajectory of the UCI collection "pendigits": float32 [8 points, 1 joint, (x, y)] in [-1, 1]
    txt   the digit's English word
    mp4   the pen that draws the trajectory: 16 frames of 32 x 32 pixels in one second; rendered
    json  which instances they are

Reference: LeCun et al. 1998 (MNIST); Jackson et al. 2018 (Free Spoken Digit Dataset); Alimoglu and Alpaydin 1996.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from shala_datasets import mnist, pen
from shala_datasets.archives import files_in
from shala_datasets.draws import SPLITS, draw
from shala_datasets.files import check_folder, printable
from shala_datasets.mnist import MNISTDigits, read_mnist
from shala_datasets.pen import Writings, read_pendigits
from shala_datasets.splits import held_out
from shala_framework.plugin import Account, DataError, Dataset, Sample, at_least, encode_mp4, encode_png

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LAYOUT = (
    f"{mnist.LAYOUT}, fsdd/ with <digit>_<speaker>_<number>.wav files or a tar archive of them "
    f"(github.com/Jakobovski/free-spoken-digit-dataset), and {pen.LAYOUT}"
)
NUM_FRAMES, FRAME_SIDE = 16, 32
_FRAMES_PER_SECOND = 16
_VALIDATION_SHARE = 0.1  # of the pen's training rows
_TEST_RECORDINGS, _VALIDATION_RECORDINGS = range(5), range(5, 8)
_RECORDING = re.compile(r"([0-9])_[A-Za-z]+_([0-9]+)\.wav")
_MNIST, _FSDD, _PENDIGITS, _INK = range(4)
_FOLDERS = ("mnist", "fsdd", "pendigits")


@attrs.frozen(kw_only=True, eq=False)
class _Collections:
    """The instances of one split.

    Attributes:
        digits: Pictures of MNIST.
        recordings: Names of recordings of each digit.
        writings: Rows of the pendigits file.
        rows: For each digit, the rows that belong to the split.
    """

    digits: MNISTDigits
    recordings: Mapping[int, list[str]]
    writings: Writings
    rows: Mapping[int, list[int]]

    def of_class(self, label: int) -> dict[int, Sequence[Any]]:
        """Return the instances of one digit in each collection."""
        return {
            _MNIST: self.digits.of_class(label).tolist(),
            _FSDD: self.recordings.get(label, []),
            _PENDIGITS: self.rows.get(label, []),
        }


class Digits(Dataset):
    """Digits in five modalities: samples with the fields png, wav, npy, txt, mp4 and json."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of the data set.

        Test samples use MNIST's and the pen's test files and recordings 0 to 4 of each speaker and digit. Validation
        samples use a tenth of the training files and recordings 5 to 7. Training samples use the rest. Instances are
        drawn without repetition until a collection is used up, then again in another order.

        Attributes:
            train: Number of training samples; the ten digits take turns.
            validation: Number of validation samples.
            test: Number of test samples.
            seed: Seed of the pairing and the pen's colours.
        """

        train: int = attrs.field(default=6_000, validator=at_least(0, at_most=100_000_000))
        validation: int = attrs.field(default=500, validator=at_least(0, at_most=100_000_000))
        test: int = attrs.field(default=500, validator=at_least(0, at_most=100_000_000))
        seed: int = attrs.field(default=0, validator=at_least(0, at_most=2**63 - 1))

    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield the samples of "train", "validation" and "test".

        Args:
            source: Folder that contains mnist/, fsdd/ and pendigits/.
            account: Receives notes and what is left out.

        Raises:
            DataError: A collection is missing, a file is invalid, or a digit has no instance.
        """
        account.note("mp4 is rendered: it shows a pen that draws the trajectory in npy")
        source = check_folder(source, LAYOUT)
        recordings = self._read_recordings(source / "fsdd", account)
        for split, collections in _divide(source, recordings).items():
            yield from self._split(split, collections, recordings, account)

    def _read_recordings(self, folder: Path, account: Account) -> dict[str, bytes]:
        """Read the recordings by name. Other files are noted."""
        recordings = {}
        for name, content in files_in(check_folder(folder, LAYOUT), ".wav", account):
            if not _RECORDING.fullmatch(name):
                account.leave_out("name is not <digit>_<speaker>_<number>.wav", name)
            elif content[:4] != b"RIFF":
                account.leave_out("no wav file", name)
            else:
                recordings[name] = content
        return recordings

    def _split(
        self, split: str, collections: _Collections, recordings: Mapping[str, bytes], account: Account
    ) -> Iterator[Sample]:
        seed, split_number, num_samples = self.options.seed, SPLITS.index(split), getattr(self.options, split)
        each = -(-num_samples // 10)
        drawn = {}
        for label in range(min(10, num_samples)):
            for kind, pool in collections.of_class(label).items():
                drawn[kind, label] = [pool[i] for i in draw(len(pool), each, seed, kind, split_number, label)]
        inks = np.random.default_rng((seed, _INK, split_number)).integers(len(pen.INKS), size=num_samples)
        for index in (index for index in range(num_samples) if account.wanted(f"{split}_{index:06d}")):
            turn, label = divmod(index, 10)
            picture, recording, row = (drawn[kind, label][turn] for kind in (_MNIST, _FSDD, _PENDIGITS))
            points_TC = collections.writings.points_NTC[row]
            frames = pen.film(points_TC, pen.INKS[inks[index]], NUM_FRAMES, FRAME_SIDE)
            facts = {"mnist": int(collections.digits.numbers[picture]), "fsdd": recording, "pendigits": int(row)}
            fields = {
                "json": json.dumps(facts).encode(),
                "mp4": encode_mp4(frames, _FRAMES_PER_SECOND),
                "npy": pen.trajectory_npy(points_TC),
                "png": encode_png(collections.digits.images[picture]),
                "txt": WORDS[label].encode(),
                "wav": recordings[recording],
            }
            yield Sample(key=f"{split}_{index:06d}", split=split, fields=fields, label=str(label))


def _divide(source: Path, recordings: Mapping[str, bytes]) -> dict[str, _Collections]:
    """Return the instances of each split.

    Raises:
        DataError: A collection is missing or damaged, or lacks a digit in some split.
    """
    digits = read_mnist(source / "mnist")
    training, test = (read_pendigits(source / "pendigits" / f"pendigits.{part}") for part in ("tra", "tes"))
    held = held_out(range(len(training.labels)), _VALIDATION_SHARE, "pendigits row")
    names: dict[str, dict[int, list[str]]] = {split: defaultdict(list) for split in SPLITS}
    for name in sorted(recordings):
        label, number = map(int, name.removesuffix(".wav").split("_")[::2])
        part = "test" if number in _TEST_RECORDINGS else "validation" if number in _VALIDATION_RECORDINGS else "train"
        names[part][label].append(name)
    rows: dict[str, dict[int, list[int]]] = {split: defaultdict(list) for split in SPLITS}
    for row, label in enumerate(training.labels.tolist()):
        rows["validation" if row in held else "train"][label].append(row)
    for row, label in enumerate(test.labels.tolist()):
        rows["test"][label].append(row)
    collections = {
        split: _Collections(
            digits=digits[split],
            recordings=names[split],
            writings=test if split == "test" else training,
            rows=rows[split],
        )
        for split in SPLITS
    }
    problems = [
        f"{_FOLDERS[kind]}/ has no {WORDS[label]} for {split}"
        for split, each in collections.items()
        for label in range(10)
        for kind, pool in each.of_class(label).items()
        if not pool
    ]
    if problems:
        more = f"\nand {len(problems) - 10} more" if len(problems) > 10 else ""
        raise DataError("\n".join([f"{printable(source)}: expected every digit in every split", *problems[:10]]) + more)
    return collections
