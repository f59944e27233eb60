"""A folder of files as samples: pairing, keys, tables, splits, and messages that say what to do."""

import json
import os
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from shala_datasets import Folder

from shala_framework.plugin import Account, DataError, Sample

DATA = Path(os.environ.get("SHALA_DATA", Path(__file__).parents[3] / "../shared/data")).resolve()
REAL = DATA / "covid_cxr_notes"


def write(root: Path, *names: str) -> Path:
    """Files whose content is their name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def read(root: Path, **options: object) -> tuple[dict[str, Sample], list[str]]:
    """Samples by key, and notes."""
    dataset = Folder(Folder.Options(**options))  # type: ignore[arg-type]
    account = Account()
    return {sample.key: sample for sample in dataset.samples(root, account)}, account.notes


def all_train(root: Path, **options: object) -> tuple[dict[str, Sample], list[str]]:
    """The same without a split."""
    return read(root, validation_share=0.0, test_share=0.0, **options)


def fields(samples: dict[str, Sample]) -> dict[str, str]:
    """Each sample's fields in one string."""
    return {key: " ".join(sorted(sample.fields)) for key, sample in samples.items()}


def test_files_that_share_a_stem_are_one_sample(tmp_path: Path) -> None:
    """Extensions in lower case name the fields, folders belong to the stem, and content is the file's."""
    write(tmp_path, "a/1.jpg", "a/1.TXT", "a/1.seg.png", "b/1.jpg", "2.wav", "2.jpg", "a/3.txt")
    samples, notes = all_train(tmp_path)
    assert fields(samples) == {"2": "jpg wav", "a_1": "jpg seg.png txt", "a_3": "txt", "b_1": "jpg"}
    assert samples["a_1"].fields["txt"] == b"a/1.TXT"
    assert {sample.split for sample in samples.values()} == {"train"}
    assert notes == [
        "1 of 4 samples without jpg: a/3",
        "3 of 4 samples without seg.png: 2, a/3, b/1",
        "2 of 4 samples without txt: 2, b/1",
        "3 of 4 samples without wav: a/1, a/3, b/1",
        "fields with a dot: seg.png; unless they are meant, pack again with --set 'stem_ends_at=last dot'",
    ]
    by_last_dot, _ = all_train(tmp_path, stem_ends_at="last dot")
    assert fields(by_last_dot)["a_1-seg"] == "png"


def test_keys_are_safe_unique_and_fit_a_tar_header(tmp_path: Path) -> None:
    """For any names, keys are distinct, safe and short; a plain name is kept."""
    names = [
        "a/b.txt",
        "a_b.txt",
        "ä.txt",
        "ö.txt",
        "a b.txt",
        f"{'x' * 90}.txt",
        f"{'x' * 91}.txt",
        "c/" * 30 + "d.txt",
    ]
    write(tmp_path, *names, os.fsdecode(b"caf\xe9.txt").encode(errors="surrogateescape").decode(errors="replace"))
    (tmp_path / os.fsdecode(b"\xff.txt")).write_bytes(b"odd bytes")
    samples, _ = read(tmp_path)
    assert len(samples) == len(names) + 2
    assert all(len(key.encode()) <= 80 and key.replace("-", "_").isidentifier() for key in samples)
    assert samples["a_b"].fields["txt"] == b"a/b.txt"


def test_files_that_cannot_be_used_are_noted(tmp_path: Path) -> None:
    """Hidden, without extension, with an extension that is none, twice, empty, no plain file: each with its reason."""
    write(
        tmp_path,
        "1.jpg",
        "1.txt",
        "1.JPG",
        ".git/config.txt",
        ".DS_Store",
        "README",
        "scan 3. of 4",
        "2.txt",
        "v1.0 (copy).jpg",
    )
    (tmp_path / "2.jpg").touch()
    os.mkfifo(tmp_path / "2.wav")
    samples, notes = all_train(tmp_path)
    assert fields(samples) == {"1": "jpg txt", "2": "txt"}
    assert samples["1"].fields["jpg"] == b"1.JPG"
    assert notes == [
        "2 files left out, hidden file: .DS_Store, .git/config.txt",
        "1 file left out, same stem and extension twice: 1.jpg (used: 1.JPG)",
        "1 file left out, no extension, which would name its field: README",
        "1 file left out, the extension is not up to 16 letters and digits: scan 3. of 4",
        "1 file left out, the extension is not up to 16 letters and digits (for names with dots in them pack "
        "again with --set 'stem_ends_at=last dot'): v1.0 (copy).jpg",
        "1 file left out, empty file: 2.jpg",
        "1 file left out, cannot read the file: expected a regular file: 2.wav",
        "1 of 2 samples without jpg: 2",
    ]


def test_what_describes_the_set_or_a_system_left_is_no_sample(tmp_path: Path) -> None:
    """READMEs, licences, Thumbs.db and the like are counted and named; a picture of a licence is a sample."""
    left = ["README.md", "LICENSE.txt", "a/Thumbs.db", "a/desktop.ini", "README-zh.md", "__MACOSX/a/1.jpg", "a/._1.jpg"]
    write(tmp_path, "a/1.jpg", "a/1.txt", "a/license.jpg", "a/license.txt", *left)
    dataset = Folder(Folder.Options(validation_share=0.0, test_share=0.0))
    account = Account()
    samples = {sample.key: sample for sample in dataset.samples(tmp_path, account)}
    assert fields(samples) == {"a_1": "jpg txt", "a_license": "jpg txt"}
    assert sorted(name for _, name in account.left_out) == sorted(left)
    assert "3 files left out, describes the set by its name, not a sample: LICENSE.txt, README-zh.md, README.md" in (
        account.notes
    )


@pytest.mark.parametrize(
    ("layout", "options"),
    [("{split}/{label}/{n}", {}), ("{label}/{split}/{n}", {}), ("set/{split}/{label}/{n}", {}),
     ("images/{split}/{label}/{n}", {"split_from_folder": "yes"})],
)  # fmt: skip
def test_folders_called_train_val_and_test_divide_the_set(tmp_path: Path, layout: str, options: dict[str, str]) -> None:
    """What lies in them is in their split and nowhere else, and no class is called train; the rest is left out."""
    names = {"train": "train", "val": "validation", "test": "test"}
    for split in names:
        places = (layout.format(split=split, label=label, n=n) for label in ("cat", "dog") for n in range(9))
        write(tmp_path, *(f"{place}.jpg" for place in places))
    write(tmp_path, "other/1.jpg")
    dataset = Folder(Folder.Options(label_from_folder=True, **options))  # type: ignore[arg-type]
    account = Account()
    samples = list(dataset.samples(tmp_path, account))
    assert Counter(sample.split for sample in samples) == dict.fromkeys(names.values(), 18)
    for sample in samples:
        written = next(iter(sample.fields.values())).decode().split("/")
        assert sample.split == next(names[part] for part in written if part in names)
        assert sample.label in ("cat", "dog")
        assert sample.label in written
    assert ("in none of the folders that define splits", "other/1") in account.left_out
    write(tmp_path, "train/x.jpg", "test/x.jpg")
    account = Account()
    direct = {sample.key: sample for sample in dataset.samples(tmp_path, account)}["train_x"]
    assert (direct.split, direct.label) == ("train", None)
    assert any(note.startswith("split by the folders called train, val or test") for note in account.notes)
    by_hash = Folder(Folder.Options(split_from_folder="no"))
    assert len(list(by_hash.samples(tmp_path, Account()))) == 57


def test_classes_called_like_splits_are_classes(tmp_path: Path) -> None:
    """Among other folders, one called train divides nothing, unless it is asked to."""
    write(tmp_path, "car/1.jpg", "bus/1.jpg", "train/1.jpg", "train/2.jpg")
    samples, _ = all_train(tmp_path, label_from_folder=True)
    assert Counter(sample.label for sample in samples.values()) == {"car": 1, "bus": 1, "train": 2}
    samples, notes = read(tmp_path, split_from_folder="yes")
    assert {sample.split for sample in samples.values()} == {"train"}
    assert "none of 2 samples is in test" in notes
    with pytest.raises(DataError, match='expected folders called train, val or test with split_from_folder = "yes"'):
        read(tmp_path / "car", split_from_folder="yes")


def test_split_folders_and_names_that_come_again(tmp_path: Path) -> None:
    """Files that pair by name alone pair within their split; what no split has belongs to the one that has the name."""
    write(
        tmp_path,
        "images/train/1.jpg",
        "images/test/1.jpg",
        "images/test/2.jpg",
        "texts/train/1.txt",
        "texts/test/1.txt",
    )
    write(tmp_path, "sounds/2.wav", "sounds/1.wav")
    samples, notes = read(tmp_path, ignore_folders=True)
    assert fields(samples) == {"2": "jpg wav", "test_1": "jpg txt", "train_1": "jpg txt"}
    assert {key: sample.split for key, sample in samples.items()} == {"2": "test", "test_1": "test", "train_1": "train"}
    assert "1 sample left out, in none of the folders that define splits: 1" in notes


def test_a_table_with_splits_comes_before_folders(tmp_path: Path) -> None:
    """A note reports samples for which the two disagree."""
    write(tmp_path, "train/1.jpg", "test/2.jpg")
    (tmp_path / "t.csv").write_text("file,split\ntrain/1.jpg,test\ntest/2.jpg,test\n")
    samples, notes = read(tmp_path, table="t.csv")
    assert {sample.split for sample in samples.values()} == {"test"}
    assert "1 sample in another split than the folder's, by the table: train/1" in notes


def test_samples_of_one_field_get_advice(tmp_path: Path) -> None:
    """One field alone, stems that never meet, and folders that would pair by name each have a note that says so."""
    _, notes = all_train(write(tmp_path / "one", "1.jpg", "2.jpg"))
    assert notes == [
        "every sample has the one field jpg (2); expected files that share a name within a sample, such as "
        "0001.jpg and 0001.txt"
    ]
    _, notes = all_train(write(tmp_path / "two", "1.jpg", "2.txt"))
    assert notes[0].startswith("no two files share a stem: jpg (1), txt (1); expected files that share a name")
    parallel = write(tmp_path / "three", "images/1.jpg", "reports/1.txt")
    _, notes = all_train(parallel)
    assert notes == [
        "no two files share a stem: jpg (1), txt (1); set ignore_folders = true to pair files of one name in different "
        "folders"
    ]
    samples, notes = all_train(parallel, ignore_folders=True)
    assert fields(samples) == {"1": "jpg txt"}
    assert not notes


def test_table_gives_label_split_and_text(tmp_path: Path) -> None:
    """Rows find samples by stem, path, or last part; blank cells are missing; every row and sample is accounted for."""
    write(tmp_path, "a/1.jpg", "a/2.jpg", "a/2.txt", "b/3.jpg", "b/1.jpg", "b/4.jpg", "b/5.jpg")
    (tmp_path / "t.csv").write_text(
        "file,label,split,finding,advice\n"
        "a/1,cat,train,one,two\n"
        "C:\\data\\2.jpg,dog,VAL,three,\n"
        "./b/3.jpg, ,test,,\n"
        "1.jpg,cat,train,,\n"
        "b/9.jpg,cat,train,,\n"
        "b/4,cat,train,,\n"
        "b/4.jpg,cat,train,,\n"
        "b/4.jpg,dog,train,,\n"
        ",dog,train,,\n"
    )
    samples, notes = read(tmp_path, table="t.csv", text_columns=("finding", "advice"))
    assert {key: (s.split, s.label, s.fields.get("txt")) for key, s in samples.items()} == {
        "a_1": ("train", "cat", b"one\ntwo"),
        "a_2": ("validation", "dog", b"three"),
        "b_3": ("test", None, None),
        "b_4": ("train", "cat", None),
    }
    assert notes == [
        "1 row left out, several samples have that name: write its path: t.csv line 5 (1.jpg)",
        "1 row left out, no file has that name: t.csv line 6 (b/9.jpg)",
        "1 row left out, a second, different row for the same sample: t.csv line 9 (b/4.jpg)",
        "1 row left out, blank 'file': t.csv line 10 ()",
        "2 samples left out, no row in t.csv, which has column 'split': b/1, b/5",
        "2 of 4 samples without txt: b/3, b/4",
        "1 of 4 samples without label",
        "1 txt file not used: the table has the text",
    ]


def test_cells_without_a_value_are_blank(tmp_path: Path) -> None:
    """What pandas and R write for a missing value gives no label, text or patient; a note counts such cells."""
    cells = ("nan", "NaN", "NA", "N/A", "n/a", "null", "NULL", "", " ")
    write(tmp_path, *(f"{n}.jpg" for n in range(len(cells) + 1)))
    rows = "".join(f"{n}.jpg,{cell},{cell},{cell}\n" for n, cell in enumerate((*cells, "Nan bread")))
    (tmp_path / "t.csv").write_text(f"file,label,patient,text\n{rows}")
    options = {"table": "t.csv", "group_column": "patient", "text_columns": ("text",)}
    samples, notes = all_train(tmp_path, **options)
    assert [sample.label for sample in samples.values()] == [None] * len(cells) + ["Nan bread"]
    assert [sample.fields.get("txt") for sample in samples.values()] == [None] * len(cells) + [b"Nan bread"]
    assert any(note.startswith("9 samples with blank 'patient', split one by one") for note in notes)
    assert any(
        note.startswith("t.csv: cells taken as blank (option missing_cells): 'N/A' (3), 'NA' (3)") for note in notes
    )
    countries, _ = all_train(tmp_path, **options, missing_cells=("nan",))
    assert countries["2"].label == "NA"


def test_group_column_keeps_a_group_on_one_side(tmp_path: Path) -> None:
    """No patient is in two splits, and the samples of one move together; without the column they are divided."""
    names = [f"{patient:02d}-{scan}" for patient in range(60) for scan in range(4)]
    write(tmp_path, *(f"{name}.jpg" for name in names))
    (tmp_path / "t.csv").write_text("key,patient\n" + "".join(f"{name},{name[:2]}\n" for name in names))

    def divided(**options: object) -> tuple[int, Counter[str]]:
        samples, _ = read(tmp_path, table="t.csv", **options)
        splits: dict[str, set[str]] = defaultdict(set)
        for key, sample in samples.items():
            splits[key[:2]].add(sample.split)
        return sum(len(of) > 1 for of in splits.values()), Counter(sample.split for sample in samples.values())

    grouped, by_split = divided(group_column="patient", validation_share=0.2, test_share=0.2)
    assert grouped == 0
    assert all(number % 4 == 0 and number >= 16 for number in by_split.values())
    assert len(by_split) == 3
    assert divided(validation_share=0.2, test_share=0.2)[0] > 20
    (tmp_path / "t.csv").write_text("key,patient\n00-0,7\n00-1,\n")
    samples, notes = read(tmp_path, table="t.csv", group_column="patient")
    assert list(samples) == ["00-0", "00-1"]
    assert "1 sample with blank 'patient', split one by one: 00-1" in notes
    assert any(note.startswith("238 samples left out, no row in t.csv, which has column 'patient'") for note in notes)


def test_samples_without_a_row_stay_where_the_split_allows(tmp_path: Path) -> None:
    """A table of labels for some of the samples leaves the others in, unlabelled, and says so."""
    write(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "t.csv").write_text("file;label\n1.jpg;cat\n")
    samples, notes = all_train(tmp_path, table="t.csv")
    assert [sample.label for sample in samples.values()] == ["cat", None]
    assert "1 sample without a row in t.csv: 2" in notes


def test_labels_come_from_folders_and_cls_files(tmp_path: Path) -> None:
    """A cls file is the label and no field; else the folder is; a file at the root or a damaged cls has none."""
    write(tmp_path, "cats/1.jpg", "cats/2.jpg", "dogs/1.jpg", "3.jpg", "4.jpg")
    (tmp_path / "cats/2.cls").write_bytes("Löwe\n".encode())
    (tmp_path / "4.cls").write_bytes(b"\xff\xfe\xfd")
    samples, notes = all_train(tmp_path, label_from_folder=True)
    assert {key: sample.label for key, sample in samples.items()} == {
        "3": None, "4": None, "cats_1": "cats", "cats_2": "Löwe", "dogs_1": "dogs",
    }  # fmt: skip
    assert set(fields(samples).values()) == {"jpg"}
    assert "2 of 5 samples without label" in notes
    assert "1 file left out, label is not text in UTF-8: 4.cls" in notes
    assert {sample.label for sample in all_train(tmp_path)[0].values()} == {None, "Löwe"}


def test_wrong_tables_and_folders_are_errors_with_the_cure(tmp_path: Path) -> None:
    """Absent tables and columns name what is there; wrong splits name the line; an empty folder says what to put in."""

    def refused(message: str, **options: object) -> None:
        with pytest.raises(DataError, match=message):
            read(tmp_path, **options)

    refused("expected files that share a name within a sample, such as 0001.jpg and 0001.txt, got no such file")
    write(tmp_path, "1.jpg")
    refused(r"x\.csv: expected the table that option table names, got no such file; the folder has no", table="x.csv")
    (tmp_path / "t.csv").write_text("name,note\n1.jpg,a\n")
    refused(r"x\.csv: expected the table .*; the folder has t\.csv", table="x.csv")
    refused(
        r"a column 'key' \(or \"file\", or another one .*key_column .*got the columns 'name', 'note'", table="t.csv"
    )
    table = {"table": "t.csv", "key_column": "name"}
    for option, column in (("label_column", "notes"), ("group_column", "nota"), ("text_columns", ("note", "nose"))):
        refused(rf"\(option {option}\), got the columns 'name', 'note'; did you mean", **table, **{option: column})
    (tmp_path / "t.csv").write_text("name,split\n1.jpg,tset\n")
    refused(r"t\.csv, line 2: expected a split, train, .*, got 'tset'", **table)
    (tmp_path / "t.csv").write_text("name\nother.jpg\n")
    refused(r"expected names of files in column 'name', such as 1\.jpg, got none\n1 row left out", **table)
    (tmp_path / "1.jpg").write_bytes(b"")
    refused(r"got no sample\n1 file.*\n1 file left out, empty file: 1\.jpg\n1 sample left out, no readable file other")
    _, notes = all_train(write(tmp_path, "2.jpg", "2.wav"))
    assert "1 file left out, is it a table? then set table to its path: t.csv" in notes


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """Shares that leave no training set, labels from folders that are ignored, and columns of no table."""
    with pytest.raises(ValueError, match="below 1 together, got 1"):
        Folder.Options(validation_share=0.5, test_share=0.5)
    with pytest.raises(ValueError, match="expected only one of ignore_folders and label_from_folder, got both"):
        Folder.Options(ignore_folders=True, label_from_folder=True)
    with pytest.raises(ValueError, match="of columns, such as \"txt\", got 'Big Text'"):
        Folder.Options(columns={"notes": "Big Text"})
    with pytest.raises(ValueError, match="in one of columns and path_columns, got 'notes' in both"):
        Folder.Options(columns={"notes": "txt"}, path_columns={"notes": ""})
    write(tmp_path, "1.jpg")
    for options in ({"text_columns": ("notes",)}, {"columns": {"notes": "txt"}}, {"path_columns": {"notes": ""}}):
        with pytest.raises(DataError, match=f"expected a table for {next(iter(options))}, got none"):
            read(tmp_path, **options)


@pytest.mark.parametrize("number", [3, 4, 12])
def test_every_split_that_is_asked_for_gets_a_sample(tmp_path: Path, number: int) -> None:
    """This also holds for a few samples whose hashes may all fall into one split."""
    for folder in "abcdefgh":
        write(tmp_path / folder, *(f"{folder}{n}.{kind}" for n in range(number) for kind in ("jpg", "txt")))
        samples, notes = read(tmp_path / folder)
        assert {sample.split for sample in samples.values()} == {"train", "validation", "test"}
        assert not notes
        assert {sample.split for sample in all_train(tmp_path / folder)[0].values()} == {"train"}


def test_a_split_that_stays_empty_is_noted(tmp_path: Path) -> None:
    """Few samples may leave validation or test empty, which a user should know before training."""
    _, notes = read(write(tmp_path, "1.jpg", "1.txt"), validation_share=0.3, test_share=0.3)
    assert len([note for note in notes if note.startswith("none of 1 sample is in")]) == 2


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real X-rays and notes at {REAL}")
def test_real_xrays_and_notes_through_options_alone() -> None:
    """648 X-rays, 537 with notes, divided by patient, with names full of dots; what does not fit is counted."""
    options = {
        "stem_ends_at": "last dot", "table": "pairs.csv", "key_column": "image", "label_column": "finding",
        "group_column": "patientid", "text_columns": ("clinical_notes",),
    }  # fmt: skip
    samples, notes = read(REAL, **options)
    assert Counter(fields(samples).values()) == {"jpg txt": 537, "jpg": 111}
    assert all(sample.fields["jpg"][:2] == b"\xff\xd8" for sample in samples.values())
    assert min(Counter(sample.split for sample in samples.values()).values()) >= 40
    assert samples["images256_auntminnie-a-2020_01_28_23_51_6665_2020_01_28_Vietnam_coronavirus"].label == "COVID-19"
    assert notes[0].startswith("5 rows left out, a second, different row for the same sample")
    assert notes[1].startswith("pairs.csv: columns not used: ")
    assert notes[2].startswith("111 of 648 samples without txt: images256/")
    assert len(notes) == 3
    again, _ = read(REAL, **options)
    assert json.dumps(list(again)) == json.dumps(list(samples))


def test_keys_keep_letters_of_every_script(tmp_path):
    """Composed and decomposed forms of a letter give one key, and a long key stays below the limit of tar headers."""
    write(
        tmp_path,
        "кот.png",
        "кот.txt",
        "日本 1.png",
        "u\u0308.png",
        "हिन्दी.png",
        "ж" * 60 + "1.png",
        "ж" * 60 + "2.png",
        "🙂.png",
    )
    samples, _ = all_train(tmp_path)
    assert {"кот", "日本-1", "\u00fc", "हिन्दी", "-"} < samples.keys()
    assert fields(samples)["кот"] == "png txt"
    long = [key for key in samples if key.startswith("жж")]
    assert len(long) == 2
    assert max(len(key.encode()) for key in samples) <= 80
