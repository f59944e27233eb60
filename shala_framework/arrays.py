"""Numeric arrays as .npy files: what plugins read signals from, safely whatever the bytes, and write them to."""

import io
import math
import tokenize
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shala_framework.errors import DataError

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def decode_npy(data: bytes, field: str) -> NDArray[Any]:
    """A .npy array of numbers; never one that would be unpickled, nor one larger than the file.

    Args:
        data: The file.
        field: Name of its field, for errors.

    Returns:
        A read-only array of integers or floats, in the file's own type and shape.

    Raises:
        DataError: It is not such a file, or is cut short.

    Example:
        >>> decode_npy(encode_npy(np.array([1.5, 2.0])), "npy")
        array([1.5, 2. ])
    """
    buffer = io.BytesIO(data)
    try:
        shape, fortran_order, dtype = _HEADERS[np.lib.format.read_magic(buffer)](buffer)
    except (ValueError, KeyError, EOFError, SyntaxError, tokenize.TokenError, MemoryError) as error:
        raise DataError(
            f"field {field!r}: expected a .npy file, got {len(data)} bytes starting with {data[:8]!r} ({error}); "
            f"write it with numpy.save"
        ) from error
    rest = data[buffer.tell() :]
    if dtype.kind not in "fiu" or math.prod(shape) * dtype.itemsize != len(rest):
        raise DataError(
            f"field {field!r}: expected an array of numbers as long as its header says, got dtype {dtype} and shape "
            f"{list(shape)} in {len(rest)} bytes; save plain arrays of numbers, whole"
        )
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran_order else "C")


def encode_npy(array: NDArray[Any]) -> bytes:
    """An array of numbers as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
