"""JSON files and checksums: every changed byte is detected, every shape is checked, and errors name the place."""

import json
import random

import pytest

from shala_framework.support.checksums import ZEROS, add_checksum, checksum_of, verify_checksum, verify_file
from shala_framework.support.errors import DataError
from shala_framework.support.json_files import dump_json, dump_line, parse_json, parse_lines, read_json

SHAPE = {"rows": [int], "name": str, "tables": {str: {"x": float}}}
CONTENT = {"rows": [1, 2], "name": "n", "tables": {"a": {"x": 1}, "b": {"x": 0.5}}}


@pytest.mark.parametrize("indent", [None, 2])
def test_what_was_written_is_read_and_no_flipped_bit_passes(indent):
    """Every bit of the file matters, including the layout and the checksum itself."""
    content = dump_json(CONTENT, indent=indent)
    assert parse_json(content, SHAPE) == CONTENT
    assert json.loads(content)["checksum"] == checksum_of(content)
    for place in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match=r"."):
            parse_json(bytes(damaged), SHAPE)
    for end in range(len(content)):
        with pytest.raises(ValueError, match=r"."):
            parse_json(content[:end], SHAPE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff\xff{}", "codec can't decode"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5_000, "4300 digits"),
        (b"[1]", "no checksum"),
        (dump_json({**CONTENT, "rows": 3}), "expected a list at rows, got 3"),
        (dump_json({**CONTENT, "rows": [1, True]}), r"expected int at rows\[1\], got True"),
        (dump_json({**CONTENT, "tables": {"a": {}}}), r"expected the keys \['x'\] at tables.a, got none .* 'x'"),
        (dump_json({"rows": []}), r"expected the keys \['name', 'rows', 'tables'\]"),
    ],
)
def test_what_is_wrong_is_reported(tmp_path, content, message):
    """For any content of a file, there is one error with file, place and advice."""
    path = tmp_path / "f.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"f\.json is damaged: .*{message}.*; do this"):
        read_json(path, SHAPE, error=DataError, advice="do this")


def test_files_of_earlier_versions_are_read_only_where_allowed():
    """They have no checksum and no other keys than their version, so a damaged name of the checksum is detected."""
    old = json.dumps(CONTENT).encode()
    assert parse_json(old, SHAPE, earlier=SHAPE) == CONTENT
    damaged = dump_json(CONTENT).replace(b'"checksum"', b'"chacksum"')
    with pytest.raises(ValueError, match="got also"):
        parse_json(damaged, SHAPE, earlier=SHAPE)


def test_damaged_lines_are_left_out_and_counted():
    """Of truncated, changed or foreign lines, only the valid ones are returned."""
    lines = [dump_line({"stage": "a", "step": n, "loss": 0.5 + n}).encode() for n in range(4)]
    lines[1] = lines[1].replace(b"1.5", b"1.4")
    content = b"".join(lines) + b"[1]\nnull\n\0\0\n" + lines[3][:20]
    entries, damaged = parse_lines(content, {"stage": str, "step": int})
    assert [entry["step"] for entry in entries] == [0, 2, 3]
    assert damaged == 5
    assert parse_lines(dump_line({}).encode(), {}) == ([{}], 0)
    assert parse_lines(content, {}, "another run")[0] == []


def test_a_checksum_is_that_of_any_file_with_the_field(tmp_path):
    """Files are read in pieces of any length; files without the field are errors."""
    rng = random.Random(0)
    path = tmp_path / "f"
    for length in (0, 1, 2**20 - 40, 3 * 2**20):
        content = add_checksum(f'{{"checksum": "{ZEROS}"}}'.encode() + rng.randbytes(length))
        verify_checksum(content)
        path.write_bytes(content)
        verify_file(path)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match="checksum"):
            verify_file(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="no checksum"):
        verify_file(path)
