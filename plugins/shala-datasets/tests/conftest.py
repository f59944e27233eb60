"""A miniature of the folder that `polymnist` and `digits` read."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SPEAKERS = ("ann", "bob")


def idx(array: np.ndarray) -> bytes:
    """An IDX file of bytes."""
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture
def miniature(tmp_path: Path) -> Path:
    """400 + 40 digits, two backgrounds and three more, 2 x 10 x 10 recordings, 400 + 40 trajectories: all noise."""
    rng = np.random.default_rng(0)
    source = tmp_path / "source"
    for folder in ("mnist", "polymnist_backgrounds", "fsdd/recordings", "pendigits"):
        (source / folder).mkdir(parents=True)
    for part, number in (("train", 400), ("t10k", 40)):
        labels = np.arange(number) % 10
        images = rng.integers(0, 256, (number, 28, 28))
        (source / f"mnist/{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), mtime=0))
        (source / f"mnist/{part}-labels-idx1-ubyte").write_bytes(idx(labels))
        points = np.concatenate([rng.integers(0, 101, (number, 16)), labels[:, None]], axis=1)
        lines = "".join(",".join(f"{value:3d}" for value in row) + "\n" for row in points)
        (source / "pendigits" / {"train": "pendigits.tra", "t10k": "pendigits.tes"}[part]).write_text(lines)
    for number, size in enumerate(((28, 28), (40, 30), (29, 64), (64, 64), (33, 28)), 1):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(buffer, "JPEG")
        (source / f"polymnist_backgrounds/{number}.jpg").write_bytes(buffer.getvalue())
    for speaker in SPEAKERS:
        for digit in range(10):
            for number in range(10):
                name = f"{digit}_{speaker}_{number}.wav"
                (source / "fsdd/recordings" / name).write_bytes(b"RIFF" + name.encode())
    return source
