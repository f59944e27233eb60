"""Draw joint samples of PolyMNIST above real test rows: one column a sample, one row a modality, not selected.

python benchmarks/draw_polymnist.py SAMPLES.npz POLYMNIST.npz --out docs/polymnist.png [--columns 14]
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SCALE, GAP = 3, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("samples", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=14)
    args = parser.parse_args()
    with np.load(args.samples) as arrays:
        made = [arrays[key][: args.columns] for key in sorted(k for k in arrays.files if k.startswith("joint/"))]
    with np.load(args.data) as arrays:
        real = list(arrays["test_x"][:, : args.columns])
    lines = [np.concatenate(list(pictures), axis=1) for pictures in (*made, *real)]
    paper = np.full((GAP, lines[0].shape[1], 3), 255, np.uint8)
    sheet = Image.fromarray(np.concatenate([*lines[: len(made)], paper, *lines[len(made) :]]))
    size = (sheet.width * SCALE, sheet.height * SCALE)
    sheet.resize(size, Image.Resampling.NEAREST).save(args.out)


if __name__ == "__main__":
    main()
