"""Read and write numeric arrays as .npy files, safely for any bytes."""

import io
import math
import tokenize
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shala_framework.support.errors import DataError

MOST_AXES = 32  # limit that every version of NumPy supports
MOST_ALONG = 2**31  # elements along one axis; the product is checked against the file
MOST_SHOWN = 8  # axes of a shape in a message
MOST_TEXT = 200  # characters of NumPy's own message, which may quote the whole header

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def decode_npy(data: bytes, field: str) -> NDArray[Any]:
    """Decode a .npy array of numbers. Never unpickle, and never allocate more than the file's size.

    Args:
        data: Bytes of the file.
        field: Name of the field, for error messages.

    Returns:
        A read-only array of integers or floats, with the file's own type and shape.

    Raises:
        DataError: The file is not such an array, or is cut short.

    Example:
        >>> decode_npy(encode_npy(np.array([1.5, 2.0])), "npy")
        array([1.5, 2. ])
    """
    buffer = io.BytesIO(data)
    try:
        shape, fortran_order, dtype = _HEADERS[np.lib.format.read_magic(buffer)](buffer)
    except (ValueError, KeyError, EOFError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError) as error:
        raise DataError(
            f"field {field!r}: expected a .npy file, got {len(data)} bytes starting with {data[:8]!r} "
            f"({str(error)[:MOST_TEXT]}); write it with numpy.save"
        ) from error
    rest = data[buffer.tell() :]
    bounded = len(shape) <= MOST_AXES and all(type(size) is int and 0 <= size <= MOST_ALONG for size in shape)
    sound = dtype.kind in "fiu" and bounded
    if not sound or math.prod(shape) * dtype.itemsize != len(rest):
        declared = f"{list(shape[:MOST_SHOWN])}{' ...' if len(shape) > MOST_SHOWN else ''}"
        raise DataError(
            f"field {field!r}: expected an array of numbers as long as its header says, got dtype {dtype} and shape "
            f"{declared} in {len(rest)} bytes; save complete, plain arrays of numbers"
        )
    if 0 in shape:
        return _without_elements(shape, dtype, field)
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran_order else "C")


def _without_elements(shape: tuple[int, ...], dtype: np.dtype[Any], field: str) -> NDArray[Any]:
    """Return an array with an axis of length 0. NumPy rejects some of these because of the other axes' lengths."""
    try:
        array = np.empty(shape, dtype)
    except ValueError as error:
        raise DataError(f"field {field!r}: expected an array of numbers, got shape {list(shape)} ({error})") from error
    array.flags.writeable = False
    return array


def encode_npy(array: NDArray[Any]) -> bytes:
    """Encode an array of numbers as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
