"""CUB: one sample a caption, splits by image, and what is absent is noted."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from shala_datasets import CUB

from shala_framework.plugin import Account, DataError, Sample

CLASSES = ("001.Robin", "002.Wren")
NUM_IMAGES = 40


def make(source: Path, **options: float) -> tuple[list[Sample], list[str]]:
    """All samples, and the notes."""
    dataset = CUB(CUB.Options(**options))  # type: ignore[arg-type]
    account = Account()
    return list(dataset.samples(source, account)), account.notes


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """40 images of two classes, every fourth a test image, with ten captions each; the lists know of more images."""
    root = tmp_path / "source" / "CUB_200_2011"
    images = {number: f"{CLASSES[number % 2]}/bird_{number}.jpg" for number in range(1, NUM_IMAGES + 1)}
    for number, path in images.items():
        for folder, name, content in (
            ("images", path, f"picture {number}"),
            ("text", f"{path[:-4]}.txt", "".join(f"caption {i}  of\t{number}.\n" for i in range(1, 11))),
        ):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (root / folder / name).write_text(content)
    (root / "images.txt").write_text("".join(f"{number} {path}\n" for number, path in reversed(images.items())))
    (root / "classes.txt").write_text("1 001.Robin\n2 002.Wren\n")
    (root / "image_class_labels.txt").write_text("".join(f"{n} {n % 2 + 1}\n" for n in range(1, 60)))
    (root / "train_test_split.txt").write_text("".join(f"{n} {int(n % 4 > 0)}\n" for n in range(1, 60)))
    return root


def test_one_sample_a_caption(birds: Path) -> None:
    """Keys count image and caption, in order; picture, caption and class belong together; blanks are single."""
    samples, notes = make(birds.parent)
    assert [sample.key for sample in samples] == [f"{n:05d}-{i:02d}" for n in range(1, 41) for i in range(1, 11)]
    assert not notes
    for sample in samples:
        number, caption = map(int, sample.key.split("-"))
        assert sample.fields == {"jpg": f"picture {number}".encode(), "txt": f"caption {caption} of {number}.".encode()}
        assert sample.label == CLASSES[number % 2]
    assert make(birds)[0] == samples
    assert make(birds, captions=2)[0] == [sample for sample in samples if sample.key[-2:] in ("01", "02")]


def test_splits_are_the_official_ones_less_validation_images(birds: Path) -> None:
    """Test images are those with 0; the asked share of the others is for validation, each with all its captions."""
    splits: dict[str, set[str]] = {"train": set(), "validation": set(), "test": set()}
    for sample in make(birds, validation_share=0.2)[0]:
        splits[sample.split].add(sample.key[:5])
    assert splits["test"] == {f"{number:05d}" for number in range(4, 41, 4)}
    assert [len(images) for images in splits.values()] == [24, 6, 10]
    assert len(set.union(*splits.values())) == NUM_IMAGES
    assert not any(sample.split == "validation" for sample in make(birds, validation_share=0.0)[0])


def test_what_is_absent_is_noted(birds: Path) -> None:
    """An image without a picture has captions, one without captions a picture; one without both has no sample."""
    for name in ("images/002.Wren/bird_1.jpg", "text/001.Robin/bird_2.txt", "images/002.Wren/bird_3.jpg"):
        (birds / name).unlink()
    (birds / "text/002.Wren/bird_3.txt").write_bytes(b"")
    (birds / "text/001.Robin/bird_4.txt").write_bytes(b"one\xef\xbf\xbd\xef\xbf\xbdbird\n\n \xff\ntwo\n")
    samples, notes = make(birds)
    fields = {sample.key: sample.fields for sample in samples if sample.key < "00005"}
    assert list(fields) == [*(f"00001-{i:02d}" for i in range(1, 11)), "00002-00", "00004-01", "00004-02"]
    assert fields["00001-01"] == {"txt": b"caption 1 of 1."}
    assert fields["00002-00"] == {"jpg": b"picture 2"}
    assert [fields[f"00004-0{i}"]["txt"] for i in (1, 2)] == [b"one bird", b"two"]
    assert notes == [
        "3 files left out, cannot read the file: No such file or directory: images/002.Wren/bird_1.jpg, "
        "text/001.Robin/bird_2.txt, images/002.Wren/bird_3.jpg",
        "1 file left out, empty file: text/002.Wren/bird_3.txt",
        "1 image with fewer than 10 captions",
    ]


def _replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return spoil


def _remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).rename(root / "elsewhere")


def _second(root: Path) -> None:
    (root.parent / "again").mkdir()
    for name in ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt"):
        (root.parent / "again" / name).write_text("1 a\n")


def test_only_line_ends_end_a_caption(birds: Path) -> None:
    """LF and CRLF do; form feeds, U+2028 and what else `str.splitlines` knows stay within one."""
    path = next((birds / "text").rglob("*.txt"))
    odd = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
    path.write_bytes("".join(f"a bird{c}with wings\r\n" for c in odd).encode())
    samples, _ = make(birds.parent)
    captions = [sample.fields["txt"] for sample in samples if path.stem in ("bird_" + sample.key[:5].lstrip("0"),)]
    assert captions == [b"a bird with wings"] * len(odd)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_remove("classes.txt"), "expected images.txt, classes.txt, .* got 0 folders with those lists"),
        (_second, "got 2 folders with those lists: CUB_200_2011, again"),
        (_remove("images"), "expected a folder images or images128, got none"),
        (_remove("text"), "expected a folder text or text_c10, got none"),
        (_replace("classes.txt", "2 002.Wren\n", ""), r"class_labels\.txt: expected 1 for image 1, got '2'"),
        (_replace("classes.txt", "2 0", "1 0"), r"classes\.txt, line 2: expected a new number"),
        (_replace("train_test_split.txt", "\n7 1", "\n7 yes"), r"split\.txt: expected 0 or 1 for image 7, got 'yes'"),
        (_replace("image_class_labels.txt", "\n7 2", "\n7 two"), r"class_labels\.txt: expected .* image 7, got 'two'"),
        (_replace("train_test_split.txt", "\n7 1", ""), "expected 0 or 1 for image 7, got no line"),
        (_replace("image_class_labels.txt", "\n7 2", "\n\n7 2"), r"labels\.txt, line 7: expected a new number"),
        (_replace("images.txt", "002.Wren/bird_7.jpg", "../secret.jpg"), r"images\.txt: expected names <class>/"),
        (_replace("images.txt", "002.Wren/bird_7.jpg", "/etc/passwd"), r"images\.txt: expected names <class>/"),
        (_replace("images.txt", "002.Wren/bird_7.jpg", "a/b\0.jpg"), r"images\.txt: expected names <class>/"),
    ],
)
def test_damaged_lists_are_refused(birds: Path, spoil: Callable[[Path], None], message: str) -> None:
    """Absent and doubled entries, odd flags, and names that lead out of the folder are errors with the list's name."""
    spoil(birds)
    with pytest.raises(DataError, match=message):
        make(birds.parent)


@pytest.mark.real_data
def test_real_birds(real_data: Path) -> None:
    """543 images of ten classes with ten captions each, 300 of them official training images."""
    samples, notes = make(real_data, validation_share=0.1)
    assert not notes
    assert Counter(sample.split for sample in samples) == {"train": 2700, "validation": 300, "test": 2430}
    assert len({sample.label for sample in samples}) == 10
    captions = [sample.fields["txt"].decode() for sample in samples]
    assert not any("\N{REPLACEMENT CHARACTER}" in caption for caption in captions)
    assert min(map(len, captions)) > 10
    first = samples[0]
    assert (first.key, first.label) == ("00001-01", "001.Black_footed_Albatross")
    with Image.open(io.BytesIO(first.fields["jpg"])) as image:
        assert min(image.size) == 128
