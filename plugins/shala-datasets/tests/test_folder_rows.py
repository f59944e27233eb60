"""Rows of a table as samples: cells and the files that they name, in CSV and in Parquet."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shala_datasets import Folder
from shala_datasets.cells import CellFields, text_of

from shala_framework.plugin import Account, DataError, Sample

ALL_TRAIN = {"validation_share": 0.0, "test_share": 0.0}


def read(source: Path, **options: Any) -> tuple[list[Sample], list[str]]:
    """Samples in order, and notes."""
    account = Account()
    return list(Folder(Folder.Options(**(ALL_TRAIN | options))).samples(source, account)), account.notes


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of pictures and a table that names them."""
    (tmp_path / "img").mkdir()
    for number in range(4):
        (tmp_path / f"img/{number}.JPG").write_bytes(f"picture {number}".encode())
    (tmp_path / "img/0.png").write_bytes(b"mask 0")
    (tmp_path / "rows.csv").write_text(
        "photo,mask,caption,label,price,age\n"
        "img/0.JPG,img/0.png,a red circle,red,1.50,7\n"
        "img\\1.JPG,,nan,blue,NA,8\n"
        "./img/2.JPG,NA,,,3,\n"
        "img/9.JPG,,a green one,green,4,9\n"
        ",,,red,,\n"
        "../secret.txt,,,red,,10\n"
    )
    (tmp_path.parent / "secret.txt").write_text("no part of the set")
    return tmp_path


def test_columns_of_attributes_are_labels(pictures: Path) -> None:
    """Each names its value, a blank cell is unknown, and they take the place of the column of labels."""
    options: dict[str, Any] = {"path_columns": {"photo": ""}, "label_columns": ("label", "age")}
    samples, notes = read(pictures / "rows.csv", **options)
    assert [sample.label for sample in samples] == [
        {"label": "red", "age": "7"}, {"label": "blue", "age": "8"}, None,
    ]  # fmt: skip
    assert "1 of 3 samples without label" in notes
    with pytest.raises(DataError, match=r"option label_columns\), got the columns .* did you mean 'age'"):
        read(pictures / "rows.csv", path_columns={"photo": ""}, label_columns=("agr",))
    with pytest.raises(DataError, match="one of label_column and label_columns, got 'caption' and age"):
        read(pictures / "rows.csv", path_columns={"photo": ""}, label_column="caption", label_columns=("age",))


@pytest.mark.parametrize("alone", [False, True])
def test_each_row_that_names_files_is_a_sample(pictures: Path, alone: bool) -> None:
    """Blank cells are missing fields; files that are absent or outside of the folder are left out; rows are counted."""
    options: dict[str, Any] = {
        "path_columns": {"photo": "", "mask": "mask.png"},
        "columns": {"caption": "txt", "price": "value"},
    }
    source = pictures / "rows.csv" if alone else pictures
    samples, notes = read(source, **options, **({} if alone else {"table": "rows.csv"}))
    assert [(sample.key, sample.label, sample.fields) for sample in samples] == [
        (
            "000001", "red",
            {"txt": b"a red circle", "value": b"1.50", "jpg": b"picture 0", "mask.png": b"mask 0"},
        ),
        ("000002", "blue", {"jpg": b"picture 1"}),
        ("000003", None, {"value": b"3", "jpg": b"picture 2"}),
        ("000004", "green", {"txt": b"a green one", "value": b"4"}),
    ]  # fmt: skip
    assert notes == [
        "rows.csv: cells taken as blank (option missing_cells): 'NA' (2), 'nan' (1)",
        "rows.csv: column not used: 'age'",
        "1 file left out, cannot read the file: No such file or directory: img/9.JPG",
        "2 rows left out, no value in the columns of fields: rows.csv line 6 (000005), rows.csv line 7 (000006)",
        "1 file left out, outside the folder of the set: rows.csv line 7 (../secret.txt)",
        "1 of 4 samples without jpg",
        "3 of 4 samples without mask.png",
        "2 of 4 samples without txt",
        "1 of 4 samples without value",
        "1 of 4 samples without label",
    ]


def test_columns_become_fields_beside_files(pictures: Path) -> None:
    """Rows that find samples by a file's name add fields; the other columns together are one object."""
    samples, notes = read(pictures, table="rows.csv", key_column="photo", columns={"caption": "txt", "*": "table.json"})
    found = {sample.key: sample for sample in samples}
    assert set(found["img_0"].fields) == {"jpg", "png", "txt", "table.json"}
    assert json.loads(found["img_0"].fields["table.json"]) == {"mask": "img/0.png", "price": "1.50", "age": "7"}
    assert json.loads(found["img_1"].fields["table.json"]) == {"age": "8"}
    assert "txt" not in found["img_1"].fields
    assert not any("fields with a dot" in note for note in notes)
    _, notes = read(pictures, table="rows.csv", key_column="photo", columns={"caption": "txt"})
    assert "rows.csv: columns not used: 'mask', 'price', 'age'" in notes, "label is a column that is read by default"


def test_a_table_alone_is_packed_as_rows(tmp_path: Path) -> None:
    """Without any other file, rows are samples; their names, splits and groups come from columns; vectors are whole."""
    (tmp_path / "rows.tsv").write_text(
        "key\tx\ty\tnote\tsplit\tpatient\n"
        "a\t1\t2.5\tone\ttrain\tp\n"
        "b\t1\t\ttwo\tval\tq\n"
        "a\t3\t4\tthree\ttrain\tp\n"
        "\t3\t4\tthree\ttrain\tp\n"
    )
    (tmp_path / "README.md").write_text("hello")
    samples, notes = read(tmp_path / "rows.tsv", columns={"x": "v.npy", "y": "v.npy", "note": "txt"})
    assert [(sample.key, sample.split, sorted(sample.fields)) for sample in samples] == [
        ("a", "train", ["txt", "v.npy"]),
        ("b", "validation", ["txt"]),
    ]
    assert np.load(io.BytesIO(samples[0].fields["v.npy"])).tolist() == [1.0, 2.5]
    assert "1 row left out, a second row of the same name: rows.tsv line 4 (a)" in notes
    assert "1 row left out, blank 'key': rows.tsv line 5 ()" in notes
    (tmp_path / "README.md").unlink()
    alone, _ = read(tmp_path, table="rows.tsv", columns={"note": "txt"})
    assert [sample.fields for sample in alone] == [{"txt": b"one"}, {"txt": b"two"}]
    with pytest.raises(DataError, match=r"got one table; to pack its rows, name what its columns become, .*rows\.tsv"):
        read(tmp_path)


def test_rows_are_divided_by_hash_and_group(tmp_path: Path) -> None:
    """Rows of one group are in one split, and every split with a share has some."""
    lines = [f"{patient},{scan}" for patient in range(40) for scan in range(3)]
    (tmp_path / "rows.csv").write_text("patient,note\n" + "\n".join(lines))
    options = {"columns": {"note": "txt", "patient": "p"}, "group_column": "patient"}
    samples, _ = read(tmp_path / "rows.csv", **options, validation_share=0.2, test_share=0.2)
    splits = Counter((sample.fields["p"], sample.split) for sample in samples)
    assert set(splits.values()) == {3}
    assert {split for _, split in splits} == {"train", "validation", "test"}


def test_wrong_tables_say_what_to_set(pictures: Path) -> None:
    """No columns for fields, unknown columns, two files for one field, and options that need folders."""
    rows = pictures / "rows.csv"

    def refused(message: str, **options: Any) -> None:
        with pytest.raises(DataError, match=message):
            read(rows, **options)

    refused(r"rows\.csv: expected columns that become fields, got none; set columns .* the columns are 'photo'")
    refused(r"expected a column 'capton' \(option columns\), .* did you mean 'caption'", columns={"capton": "txt"})
    refused(r"expected a column 'foto' \(option path_columns\)", path_columns={"foto": ""})
    refused("expected no option table where a table is packed", table="rows.csv", columns={"caption": "txt"})
    refused("expected no option label_from_folder where each row", label_from_folder=True, columns={"caption": "txt"})
    refused(
        r"line 2: column 'caption': expected a number for a vector, got 'a red circle'", columns={"caption": "v.npy"}
    )
    rows.write_text("a,b\nimg/0.JPG,img/1.JPG\n")
    refused(
        r"line 2: expected one column for the field 'jpg', got 'b' and column 'a'; name",
        path_columns={"a": "", "b": ""},
    )
    other = pictures / "img/0.png"
    with pytest.raises(DataError, match="expected a folder, or a table in"):
        read(other)


def test_typed_cells_are_written_as_text_or_left_out() -> None:
    """Numbers, truth values and dates have one form; None and NaN have none; lists and bytes are no text."""
    assert [text_of(value) for value in (None, float("nan"), " NA ", "", 3, 2.5, True, b"caf\xc3\xa9", " x ")] == [
        *("", "", "", "", "3", "2.5", "True", "caf\u00e9", "x"),
    ]
    for value in ([1], {"a": 1}, b"\xff"):
        with pytest.raises(DataError, match="expected text"):
            text_of(value)
    row = {"age": 3, "weight": float("nan"), "sex": "f", "sizes": [1, 2.5], "file": {"bytes": b"PNG", "path": "a.png"}}
    fields = CellFields({"age": "t.json", "weight": "t.json", "sex": "t.json", "sizes": "s.npy", "file": "png"}).read(
        row
    )
    assert json.loads(fields["t.json"]) == {"age": 3, "sex": "f"}
    assert np.load(io.BytesIO(fields["s.npy"])).tolist() == [1.0, 2.5]
    assert fields["png"] == b"PNG"


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the file, the package and another way."""
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(
        DataError, match=r"rows\.parquet: Parquet needs pyarrow: `pip install pyarrow`, or save the table"
    ):
        read(tmp_path / "rows.parquet", columns={"a": "txt"})


def test_parquet_gives_what_the_same_csv_gives(pictures: Path) -> None:
    """The same samples from both, with typed cells, embedded files, and damage that is an error."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "photo": ["img/0.JPG", "img/1.JPG", None],
        "caption": ["a red circle", "nan", "three"],
        "price": [1, None, 3],
        "label": ["red", None, "blue"],
    }
    parquet.write_table(arrow.table(columns), pictures / "rows.parquet")
    lines = ["photo,caption,price,label", "img/0.JPG,a red circle,1,red", "img/1.JPG,nan,,", ",three,3,blue"]
    (pictures / "rows.csv").write_text("\n".join(lines))
    options: dict[str, Any] = {"path_columns": {"photo": ""}, "columns": {"caption": "txt", "price": "value"}}
    typed, notes = read(pictures / "rows.parquet", **options)
    assert typed == read(pictures / "rows.csv", **options)[0]
    assert len(typed) == 3
    assert "rows.parquet: cells taken as blank (option missing_cells): 'nan' (1)" in notes
    embedded = {"photo": [{"bytes": b"JPEG", "path": "x/7.JPG"}, {"bytes": None, "path": "img/1.JPG"}, None]}
    parquet.write_table(arrow.table(embedded | {"sizes": [[1, 2], [3, 4], [5, 6]]}), pictures / "rows.parquet")
    samples, _ = read(pictures / "rows.parquet", path_columns={"photo": ""}, columns={"sizes": "s.npy"})
    assert [sample.fields.get("jpg") for sample in samples] == [b"JPEG", b"picture 1", None]
    assert np.load(io.BytesIO(samples[2].fields["s.npy"])).tolist() == [5.0, 6.0]
    whole = (pictures / "rows.parquet").read_bytes()
    for damaged in (whole[:-20], b"", b"PAR1" + bytes(100), whole[:40] + bytes(20) + whole[60:]):
        (pictures / "rows.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match=r"rows\.parquet"):
            read(pictures / "rows.parquet", path_columns={"photo": ""})
