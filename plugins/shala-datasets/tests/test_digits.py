"""Five modalities of a digit: each field is what its collection holds, the film shows the trajectory, splits differ."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from shala_datasets import Digits
from shala_datasets.draws import SPLITS, draw
from shala_datasets.mnist import read_idx
from shala_datasets.pen import INKS, PAPER, film, read_pendigits, to_pixels

from shala_framework.plugin import Account, DataError, Sample
from shala_framework.plugin.testing import damage

FIELDS = ["json", "mp4", "npy", "png", "txt", "wav"]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def make(source: Path, **options: int) -> list[Sample]:
    """All samples."""
    return list(Digits(Digits.Options(**options)).samples(source, Account()))  # type: ignore[arg-type]


def frames_of(clip: bytes) -> np.ndarray:
    """All frames, uint8 RGB [F, H, W, 3]."""
    with av.open(io.BytesIO(clip), "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def instances(samples: list[Sample], split: str) -> dict[str, list[str | int]]:
    """What json says of a split's samples, by collection."""
    facts = [json.loads(sample.fields["json"]) for sample in samples if sample.split == split]
    return {name: [fact[name] for fact in facts] for name in ("mnist", "fsdd", "pendigits")}


def test_samples_are_complete_and_balanced(miniature: Path) -> None:
    """Every sample has all fields, its word is its label's, the digits come in turn, and keys are unique."""
    samples = make(miniature, train=25, validation=10, test=3)
    assert Counter(sample.split for sample in samples) == {"train": 25, "validation": 10, "test": 3}
    assert [sample.label for sample in samples] == [str(i % 10) for n in (25, 10, 3) for i in range(n)]
    assert [sample.fields["txt"].decode() for sample in samples] == [WORDS[int(s.label or "")] for s in samples]
    assert all(sorted(sample.fields) == FIELDS for sample in samples)
    assert len({sample.key for sample in samples}) == 38


def test_same_options_give_the_same_bytes(miniature: Path) -> None:
    """Two passes agree, from a folder and from an archive; fewer samples are the first of more; seeds differ."""
    dataset = Digits(Digits.Options(train=12, validation=2, test=2))
    first = list(dataset.samples(miniature, Account()))
    assert first == list(dataset.samples(miniature, Account()))
    assert make(miniature, train=5, validation=2, test=0) == first[:5] + first[12:14]
    assert all(a.fields["wav"] + a.fields["npy"] != b.fields["wav"] + b.fields["npy"] for a, b in zip(
        first, make(miniature, train=12, validation=2, test=2, seed=1), strict=True
    ))  # fmt: skip
    recordings = miniature / "fsdd/recordings"
    with tarfile.open(miniature / "fsdd/all.tar.xz", "w:xz") as tar:
        tar.add(recordings, "recordings")
    for path in recordings.iterdir():
        path.unlink()
    assert first == list(dataset.samples(miniature, Account()))


@pytest.mark.parametrize("num_instances", [1, 3, 8])
def test_drawing_repeats_only_when_all_have_come(num_instances: int) -> None:
    """Every stretch of as many draws as instances holds each once, in orders that differ between passes and seeds."""
    drawn = draw(num_instances, 5 * num_instances, 7)
    assert np.array_equal(np.sort(drawn.reshape(5, -1)), np.tile(np.arange(num_instances), (5, 1)))
    assert np.array_equal(draw(num_instances, 4, 7), np.concatenate([drawn, drawn])[:4])
    if num_instances == 8:
        assert len(np.unique(drawn.reshape(5, -1), axis=0)) == 5
        assert not np.array_equal(drawn, draw(8, 40, 8))


def test_the_film_only_adds_ink_and_ends_with_the_whole_stroke() -> None:
    """The pen sets down on the first point; ink never goes; at the end it lies on every point of every line."""
    rng = np.random.default_rng(0)
    for ink in INKS:
        points = rng.integers(0, 101, (8, 2))
        frames = film(points, ink, 16, 32)
        cover = (PAPER - frames.astype(int)).sum(axis=-1)
        assert (np.diff(cover, axis=0) >= 0).all()
        assert all(np.diff(cover.sum(axis=(1, 2))) >= 0)
        full = sum(PAPER - value for value in ink)
        column, row = to_pixels(points, 32)[0].astype(int)
        assert cover[0, row, column] > 0.5 * full
        assert cover[0].sum() < 8 * full
        along = (
            np.linspace(0, 1, 20)[:, None, None] * np.diff(to_pixels(points, 32), axis=0) + to_pixels(points, 32)[:-1]
        )
        columns, rows = np.moveaxis(along.astype(int), -1, 0)
        assert cover[-1, rows, columns].min() > 0.5 * full
        assert not cover[:, [0, -1]].any()
        assert not cover[:, :, [0, -1]].any()


def test_a_pen_that_stays_is_a_dot() -> None:
    """Eight equal points, as in no file but in range, are drawn without a warning."""
    frames = film(np.full((8, 2), 50), INKS[0], 4, 32)
    assert np.array_equal(frames[0], frames[-1])
    assert (frames[0] < PAPER).any()


@pytest.mark.parametrize(
    "line",
    ["1,2,3", ",".join(["1"] * 18), ",".join(["101"] * 16 + ["1"]), ",".join(["1"] * 16 + ["10"]), "a," * 17, ""],
)
def test_wrong_lines_of_trajectories_are_refused(tmp_path: Path, line: str) -> None:
    """Too few or many numbers, others than 0 to 100 or 0 to 9, and a blank line are errors with the line's number."""
    path = tmp_path / "pendigits.tra"
    path.write_text(",".join(["7"] * 17) + f"\n{line}\n" + ",".join(["7"] * 17) + "\n")
    with pytest.raises(DataError, match=r"pendigits\.tra, line 2: expected 8 points"):
        read_pendigits(path)


def _cut_images(source: Path) -> None:
    path = source / "mnist/train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])


def _no_recordings(source: Path) -> None:
    for path in (source / "fsdd/recordings").iterdir():
        path.unlink()


def _no_test_sevens(source: Path) -> None:
    for path in (source / "fsdd/recordings").glob("7_*_[0-4].wav"):
        path.write_bytes(b"no wav")


def _no_trajectories(source: Path) -> None:
    (source / "pendigits/pendigits.tes").unlink()


def _no_folder(source: Path) -> None:
    (source / "fsdd").rename(source / "other")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_cut_images, r"train-images-idx3-ubyte\.gz: not a readable IDX file"),
        (_no_recordings, r"fsdd: expected files \*\.wav or one archive of them"),
        (_no_test_sevens, r"source: expected every digit in every split\nfsdd/ has no seven for test$"),
        (_no_trajectories, r"pendigits\.tes: cannot read the file"),
        (_no_folder, r"fsdd: expected a folder with mnist/ .*free-spoken-digit-dataset.*archive\.ics\.uci\.edu"),
    ],
)
def test_damaged_collections_are_refused(miniature: Path, spoil: Callable[[Path], None], message: str) -> None:
    """A cut file, an absent collection, and one that lacks a digit for some split."""
    spoil(miniature)
    with pytest.raises(DataError, match=message):
        make(miniature, train=1)


def test_odd_recordings_are_noted(miniature: Path) -> None:
    """Files with other names or contents are left out with the reason; the notes say that the film is rendered."""
    folder = miniature / "fsdd/recordings"
    for name, content in (
        ("x_ann_1.wav", b"RIFF"),
        ("1_ann_1.WAV", b"RIFF"),
        ("9_ann_9.wav", b"ID3"),
        ("readme", b"a"),
    ):
        (folder / name).write_bytes(content)
    dataset = Digits(Digits.Options(train=1, validation=0, test=0))
    account = Account()
    assert len(list(dataset.samples(miniature, account))) == 1
    assert account.notes == [
        "mp4 is rendered: it shows a pen that draws the trajectory in npy",
        "2 files left out, name is not <digit>_<speaker>_<number>.wav: 1_ann_1.WAV, x_ann_1.wav",
        "1 file left out, no wav file: 9_ann_9.wav",
    ]


def test_damaged_trajectories_end_in_rows_or_an_error(miniature: Path) -> None:
    """100 damaged copies raise nothing but DataError."""
    generator, path = np.random.default_rng(0), miniature / "pendigits/pendigits.tes"
    whole = path.read_bytes()
    for _ in range(100):
        path.write_bytes(damage(whole, generator))
        try:
            points = read_pendigits(path).points_NTC
        except DataError:
            continue
        assert 0 <= points.min() <= points.max() <= 100


@pytest.fixture(scope="module")
def real_samples(real_data: Path) -> tuple[Path, list[Sample]]:
    """Samples of the real collections."""
    return real_data, make(real_data, train=100, validation=60, test=100)


@pytest.mark.real_data
def test_real_fields_are_the_instances_that_json_names(real_samples: tuple[Path, list[Sample]]) -> None:
    """Pictures are MNIST's, recordings the archive's bytes, trajectories the file's rows, all of the label's class."""
    source, samples = real_samples
    samples = samples[::9]
    files = {}
    for part, name in (("train", "tra"), ("t10k", "tes")):
        images, labels = (
            read_idx(source / f"mnist/{part}-{kind}-ubyte.gz", dims)
            for kind, dims in (("images-idx3", 3), ("labels-idx1", 1))
        )
        rows = np.loadtxt(source / f"pendigits/pendigits.{name}", delimiter=",", dtype=int)
        files[name] = images, labels, rows
    wanted = {json.loads(sample.fields["json"])["fsdd"] for sample in samples}
    with tarfile.open(source / "fsdd/fsdd_recordings.tar.xz") as tar:
        recordings = {
            name: tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar
            if (name := member.name.rpartition("/")[2]) in wanted
        }
    for sample in samples:
        images, labels, rows = files["tes" if sample.split == "test" else "tra"]
        facts = json.loads(sample.fields["json"])
        with Image.open(io.BytesIO(sample.fields["png"])) as image:
            assert np.array_equal(np.asarray(image), images[facts["mnist"]])
        assert sample.fields["wav"] == recordings[facts["fsdd"]]
        trajectory = np.load(io.BytesIO(sample.fields["npy"]))
        assert (trajectory.shape, trajectory.dtype) == ((8, 1, 2), np.float32)
        assert np.allclose(trajectory[:, 0], rows[facts["pendigits"], :16].reshape(8, 2) / 50 - 1)
        classes = {str(labels[facts["mnist"]]), facts["fsdd"][0], str(rows[facts["pendigits"], 16])}
        assert classes == {sample.label}


@pytest.mark.real_data
def test_real_films_end_on_the_trajectory(real_samples: tuple[Path, list[Sample]]) -> None:
    """After encoding too, the last frame has ink at all eight points, the first at one end only, on white paper."""
    for sample in real_samples[1][::37]:
        frames = frames_of(sample.fields["mp4"]).astype(int)
        assert frames.shape == (16, 32, 32, 3)
        points = np.load(io.BytesIO(sample.fields["npy"]))[:, 0]
        columns, rows = to_pixels(np.round((points + 1) * 50).astype(int), 32).astype(int).T
        darkness = 255 - frames.mean(axis=-1)
        assert darkness[-1, rows, columns].min() > 60
        assert (darkness[0] > 40).sum() < 12 < (darkness[-1] > 40).sum()
        assert np.median(darkness[-1]) < 6


@pytest.mark.real_data
def test_real_splits_share_no_instance(real_samples: tuple[Path, list[Sample]]) -> None:
    """Train and validation take different instances of the training files; recordings are split by their number."""
    samples = real_samples[1]
    train, validation, test = (instances(samples, split) for split in SPLITS)
    for name in ("mnist", "fsdd", "pendigits"):
        assert set(train[name]).isdisjoint(validation[name])
    numbers = [{int(str(name)[:-4].split("_")[2]) for name in part["fsdd"]} for part in (train, validation, test)]
    assert numbers[1] == {5, 6, 7}
    assert numbers[2] == {0, 1, 2, 3, 4}
    assert min(numbers[0]) >= 8
    for part in (train, test):  # nothing comes again before all have come
        assert [len(set(names)) for names in part.values()] == [100, 100, 100]
