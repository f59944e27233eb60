"""Arrays as .npy files: headers are compared with the file before anything is allocated."""

import struct

import numpy as np
import pytest

from shala_framework.plugin import DataError, decode_npy, encode_npy


def declaring(shape: str, dtype: str = "'<f4'", body: bytes = bytes(8)) -> bytes:
    """Return a .npy file with this header."""
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (4, 5, 6)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back(shape: tuple[int, ...], order: str) -> None:
    """Numbers of any shape and memory order are read as written, and cannot be changed in place."""
    array = np.asarray(np.random.default_rng(0).normal(size=shape), order=order)  # type: ignore[call-overload]
    read = decode_npy(encode_npy(array), "npy")
    np.testing.assert_array_equal(read, array)
    assert read.shape == shape
    assert not read.flags.writeable


HOSTILE = {
    "object": declaring("(2,)", "'|O'"),
    "record": declaring("(2,)", "[('a', '<f4')]"),
    "text": declaring("(2,)", "'<U1'"),
    "nested dtype": declaring("(2,)", "'(1000000000,)f4'"),
    "giant": declaring("(1000000000000,)"),
    "giant and empty": declaring(f"(0, {'9' * 30})", body=b""),
    "many giant axes and empty": declaring(f"(0, {'2147483648, ' * 3})", body=b""),
    "thousands of digits": declaring(f"({'9' * 5000},)"),
    "negative": declaring("(-2, -1)"),
    "truth": declaring("(True, 2)"),
    "fraction": declaring("(2.0,)"),
    "hundred axes": declaring(f"({'1, ' * 100})", body=bytes(4)),
    "deep": declaring("(" * 300 + "2" + ",)" * 300),
    "many signs": declaring("(" + "-" * 3000 + "1,)"),
    "cut": encode_npy(np.zeros(4))[:-1],
    "long": encode_npy(np.zeros(4)) + b"\0",
}


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_what_a_header_declares_is_bounded(kind: str) -> None:
    """A header that does not match its file gives a short error that names the field, without allocating anything."""
    with pytest.raises(DataError, match=r"field 'a\.npy'") as caught:
        decode_npy(HOSTILE[kind], "a.npy")
    assert len(str(caught.value)) < 600
