"""Tables of comma-separated values: what is read, and what a damaged one says."""

import gzip
from pathlib import Path

import pytest
from shala_datasets.tables import CsvTable

from shala_framework.plugin import DataError


def rows(path: Path) -> list[dict[str, str]]:
    """Every row's cells."""
    return [row for _, row in CsvTable.open(path)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_reads_what_spreadsheets_write(tmp_path: Path, delimiter: str, suffix: str) -> None:
    """Byte-order mark, CRLF, blank rows, quoted line breaks and semicolons or tabs, gzipped or not, give one table."""
    lines = ["\ufefffile, text ", "a.jpg,äöü", "", 'b.jpg,"one\r\ntwo"']
    content = "\r\n".join(lines).replace(",", delimiter).encode()
    path = tmp_path / f"table{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    table = CsvTable.open(path)
    assert table.columns == ("file", "text")
    assert list(table) == [
        (2, {"file": "a.jpg", "text": "äöü"}),
        (5, {"file": "b.jpg", "text": "one\r\ntwo"}),
    ]


def test_absent_columns_are_named_beside_those_there(tmp_path: Path) -> None:
    """The error has the absent columns, what asks for them, all that are there, and the nearest."""
    (tmp_path / "t.csv").write_text("file,findings\n")
    expected = (
        r"t\.csv: expected a column 'finding' \(option x\), got the columns 'file', 'findings'; did you mean 'find"
    )
    with pytest.raises(DataError, match=expected):
        CsvTable.open(tmp_path / "t.csv").require(["file", "finding"], "option x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a header row"),
        (b"\n\n", "expected a header row"),
        (b"a,a\n", "expected distinct column names, got 'a' twice"),
        (b"a,b\n1,2\n1,2,3\n", r"line 3: expected 2 cells, got 3; a cell that holds ','"),
        (b'a,b\n1,"2\n', r"line 2: not readable as a table: unexpected end of data"),
        (b"a,b\n\xff\xfe,1\n", "expected text in UTF-8"),
        (b"a," + b"b" * (1 << 21), r"line 1: expected at most \d+ characters"),
        (b"a,b\n1," + b"2" * 200_000, "line 2: not readable as a table: field larger than field limit"),
    ],
)
def test_damaged_tables_name_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    """Every kind of damage is a DataError that names the file and what is wrong, gzipped or not."""
    for name, stored in (("t.csv", content), ("t.csv.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(stored)
        with pytest.raises(DataError, match=message) as error:
            rows(tmp_path / name)
        assert name in str(error.value)


def test_damaged_gzip_is_a_data_error(tmp_path: Path) -> None:
    """Cut short, with a flipped byte, no gzip at all, or absent."""
    whole = gzip.compress(b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(5000)))
    path = tmp_path / "t.csv.gz"
    damaged = [whole[: len(whole) // 2], whole[:-6], whole[:100] + b"\0\0\0\0" + whole[104:], b"a,b\n1,2\n"]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"t\.csv\.gz"):
            rows(path)
    path.unlink()
    with pytest.raises(DataError, match="cannot read the table: No such file"):
        rows(path)
