"""CUB-200-2011: pictures of birds, each with ten captions.

Pictures and lists come from CUB-200-2011. The captions were collected later; each image has a text file with one
caption per line.

Reference: Wah et al. 2011, "The Caltech-UCSD Birds-200-2011 dataset"; Reed et al. 2016, "Learning deep representations
of fine-grained visual descriptions".
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import attrs

from shala_datasets.files import check_folder, count, lines_of, listed, printable, read, read_or_leave_out
from shala_datasets.splits import check_share, held_out
from shala_framework.plugin import Account, DataError, Dataset, Sample, between

LISTS = ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt")
IMAGE_FOLDERS = ("images", "images128")
TEXT_FOLDERS = ("text", "text_c10")
LAYOUT = (
    f"{', '.join(LISTS)}, images/<class>/<image>.jpg (vision.caltech.edu/datasets/cub_200_2011) and "
    "text/<class>/<image>.txt with one caption per line (github.com/reedscot/cvpr2016), directly or in one subfolder"
)


class CUB(Dataset):
    """CUB as samples with the fields jpg and txt, one per caption. An image without captions is one sample."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of the data set.

        Attributes:
            captions: Number of captions of an image that are used, each as a sample with that image.
            validation_share: Share of the official training images that are held out for validation, with all their
                captions.
        """

        captions: int = attrs.field(default=10, validator=between(1, 10))
        validation_share: float = attrs.field(default=0.05, validator=check_share)

    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield the samples in order of image and caption, with keys such as "00001-02".

        Args:
            source: Folder that contains the lists, images and captions, or a folder with them.
            account: Receives notes and what is left out.

        Raises:
            DataError: A list or all images or captions are missing, or a list is damaged.
        """
        root = _root(check_folder(source, LAYOUT))
        images, text = _folder(root, IMAGE_FOLDERS), _folder(root, TEXT_FOLDERS)
        fewer = 0
        for image in _read_lists(root, self.options.validation_share):
            jpg = read_or_leave_out(images / image.place, root, account)
            lines = read_or_leave_out(text / image.place.with_suffix(".txt"), root, account)
            captions = _captions(lines)[: self.options.captions]
            fewer += 0 < len(captions) < self.options.captions
            picture = {} if jpg is None else {"jpg": jpg}
            samples = [(number, picture | {"txt": caption.encode()}) for number, caption in enumerate(captions, 1)]
            if picture and not captions:
                samples = [(0, picture)]
            for number, fields in samples:
                key = f"{image.number:05d}-{number:02d}"
                yield Sample(key=key, split=image.split, fields=fields, label=image.label)
        if fewer:
            account.note(f"{count(fewer, 'image')} with fewer than {count(self.options.captions, 'caption')}")


@attrs.frozen
class _Image:
    """Entries of the lists for an image. Its path is relative to the folder of images."""

    number: int
    place: Path
    label: str
    split: str


def _read_lists(root: Path, validation_share: float) -> list[_Image]:
    """Return the images in order of their numbers.

    Raises:
        DataError: A list cannot be read, lacks an entry or has an invalid entry.
    """
    paths, classes, class_numbers, training = (_read_list(root / name) for name in LISTS)
    flags = {number: _entry(root, LISTS[3], training, number, ("0", "1")) for number in paths}
    held = held_out((number for number, flag in flags.items() if flag == "1"), validation_share, "cub image")
    choices = tuple(map(str, classes))
    return [
        _Image(
            number,
            _relative(root / LISTS[0], path),
            classes[int(_entry(root, LISTS[2], class_numbers, number, choices))],
            "test" if flags[number] == "0" else "validation" if number in held else "train",
        )
        for number, path in sorted(paths.items())
    ]


def _root(source: Path) -> Path:
    """Return the folder that contains the lists: source, or the only subfolder that does."""
    folders = [source, *(path for path in listed(source) if path.is_dir())]
    found = [folder for folder in folders if all((folder / name).is_file() for name in LISTS)]
    if len(found) != 1:
        names = f": {', '.join(printable(folder.name) for folder in found)}" if found else ""
        raise DataError(f"{printable(source)}: expected {LAYOUT}; got {len(found)} folders with those lists{names}")
    return found[0]


def _folder(root: Path, names: tuple[str, ...]) -> Path:
    found = next((root / name for name in names if (root / name).is_dir()), None)
    if found is None:
        raise DataError(f"{printable(root)}: expected a folder {' or '.join(names)}, got none; the layout is {LAYOUT}")
    return found


def _read_list(path: Path) -> dict[int, str]:
    """Read the lines "<number> <entry>" of a list."""
    entries: dict[int, str] = {}
    for line_number, line in enumerate(lines_of(read(path)), 1):
        number, _, entry = line.strip().partition(" ")
        if not (number.isascii() and number.isdigit() and len(number) < 9 and entry) or int(number) in entries:
            raise DataError(
                f"{printable(path)}, line {line_number}: expected a new number, a blank and an entry, got {line[:60]!r}"
            )
        entries[int(number)] = entry
    if not entries:
        raise DataError(f"{printable(path)}: expected a line for each entry, got an empty file")
    return entries


def _entry(root: Path, name: str, entries: dict[int, str], number: int, choices: tuple[str, ...]) -> str:
    """Return the entry of a list for an image."""
    entry = entries.get(number)
    if entry not in choices:
        expected = f"{choices[0]} to {choices[-1]}" if len(choices) > 2 else " or ".join(choices)
        got = "no line" if entry is None else repr(entry[:60])
        raise DataError(f"{printable(root / name)}: expected {expected} for image {number}, got {got}")
    return entry


def _relative(path: Path, name: str) -> Path:
    """Return an image's path within the folder of images, never outside it."""
    parts = PurePosixPath(name).parts
    if len(parts) != 2 or ".." in parts or "\0" in name:
        raise DataError(f"{printable(path)}: expected names <class>/<image>.jpg, got {name[:60]!r}")
    return Path(*parts)


def _captions(data: bytes | None) -> list[str]:
    """Return the lines that are not blank. In some of them, a replacement for a lost character separates words."""
    lines = [] if data is None else lines_of(data)
    captions = (" ".join(re.sub("\N{REPLACEMENT CHARACTER}+", " ", line).split()) for line in lines)
    return [caption for caption in captions if caption]
