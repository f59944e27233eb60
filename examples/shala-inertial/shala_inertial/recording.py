"""Recordings of a sensor in a logger's format: CSV with a header, a column of seconds and one for each channel."""

import csv
import difflib
import io
import math
from collections.abc import Iterator, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from shala_framework.plugin import DataError

LARGEST = 1e9  # larger values come from flipped bits


@attrs.frozen(eq=False)
class Recording:
    """Values [N, C] at times [N] in seconds, which increase but need not be evenly spaced."""

    times: NDArray[np.float64]
    values: NDArray[np.float64]

    def window(self, steps: int, rate_hz: float) -> NDArray[np.float64]:
        """Return the middle part at an even rate: [steps, C], interpolated linearly; end values continue."""
        middle = (self.times[0] + self.times[-1]) / 2
        wanted = middle + (np.arange(steps) - (steps - 1) / 2) / rate_hz
        return np.stack([np.interp(wanted, self.times, channel) for channel in self.values.T], axis=1)


def read_recording(data: bytes, field: str, time: str, channels: Sequence[str]) -> Recording:
    """Read a CSV file.

    Args:
        data: Content of the file.
        field: Name of the field, for errors.
        time: Name of the column of seconds.
        channels: Names of the columns to read, in this order; other columns are ignored.

    Raises:
        DataError: The file is not of this form; the message has the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"field {field!r}: expected CSV in UTF-8, got bytes that are none: {error.reason}") from error
    rows = _rows(text, field)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    places = [_place(header, name, field) for name in (time, *channels)]
    numbers = [[_number(row, place, header, line, field) for place in places] for line, row in rows]
    if len(numbers) < 2:
        raise DataError(f"field {field!r}: expected two rows or more below the header, got {len(numbers)}")
    table = np.array(numbers)
    late = np.flatnonzero(np.diff(table[:, 0]) <= 0)
    if len(late):
        before, after = table[late[0] : late[0] + 2, 0]
        raise DataError(
            f"field {field!r}: expected increasing times in column {time!r}, got {after:g} after {before:g}; "
            "sort the rows"
        )
    return Recording(table[:, 0], table[:, 1:])


def write_recording(values: NDArray[np.float32], rate_hz: float, time: str, channels: Sequence[str]) -> bytes:
    """Return the CSV file of values [T, C] at an even rate, from 0 seconds. `read_recording` reads the same floats."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([time, *channels])
    for step, row in enumerate(values.tolist()):
        writer.writerow([repr(step / rate_hz), *(f"{value:.9g}" for value in row)])
    return buffer.getvalue().encode()


def _rows(text: str, field: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the non-empty lines with their numbers."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        yield from ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
    except csv.Error as error:
        raise DataError(f"field {field!r}, line {reader.line_num}: expected CSV: {error}") from error


def _place(header: list[str], name: str, field: str) -> int:
    if name in header:
        return header.index(name)
    close = difflib.get_close_matches(name, header, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise DataError(
        f"field {field!r}, line 1: expected a column {name!r}{hint}, got {header[:12]}; "
        "name the file's columns in the options `time` and `channels`"
    )


def _number(row: list[str], place: int, header: list[str], line: int, field: str) -> float:
    text = row[place].strip() if place < len(row) else ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST:
        raise DataError(
            f"field {field!r}, line {line}, column {header[place]!r}: expected a number up to {LARGEST:g}, got "
            f"{text[:40]!r}; fill gaps before packing"
        )
    return value
