"""Damage files, for tests of reading."""

import numpy as np


def damage(data: bytes, generator: np.random.Generator) -> bytes:
    """Return a damaged copy: cut, flipped bits, a stretch lost, repeated or overwritten, another type, or empty."""
    kind = int(generator.integers(7))
    start, end = sorted(int(i) for i in generator.integers(0, max(1, len(data)), 2))
    if kind == 0:
        return data[:end]
    if kind == 1:
        flipped = bytearray(data)
        for i in generator.integers(0, max(1, len(data)), int(generator.integers(1, 20))).tolist():
            flipped[i : i + 1] = bytes([flipped[i] ^ (1 << int(generator.integers(8)))]) if data else b""
        return bytes(flipped)
    if kind == 2:
        return data[:start] + data[end:]
    if kind == 3:
        return data[:end] + data[start:]
    if kind == 4:
        return data[:start] + generator.bytes(end - start) + data[end:]
    if kind == 5:
        return [b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WAVE", b"{}", b"\xff\xfe\0", b"0 " * 50][int(generator.integers(5))]
    return b""
