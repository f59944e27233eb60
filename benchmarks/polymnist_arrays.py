"""Build the arrays of PolyMNIST that the benchmarks read, from MNIST and a folder of backgrounds.

    python benchmarks/polymnist_arrays.py RAW POLYMNIST.npz [--train 20000] [--test 2000] [--seed 0]

RAW holds mnist/ with the four files of MNIST, plain or gzipped, and polymnist_backgrounds/ with one picture for each
modality, in the order of their names: the five of github.com/thomassutter/MoPoE, or any others. POLYMNIST.npz has uint8
train_x and test_x [M, N, 28, 28, 3], and int64 train_y and test_y [N].

The benchmarks use three sets: POLYMNIST.npz itself (the defaults), JUDGE_DATA.npz on which judges are trained (--train
60000 --seed 100), and UNSEEN.npz, whose test rows are the reference of real rows (--seed 1). Figures compare for equal
backgrounds alone. Unlike `shala pack polymnist`, which draws each sample by itself, this script draws all rows of one
modality after the other, from one generator.

Reference: Sutter et al. 2021, "Generalized multimodal ELBO".
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pictures import SIDE
from shala_datasets.mnist import MNISTDigits, read_mnist
from shala_datasets.polymnist import ink_of, read_background


def backgrounds(folder: Path) -> list[NDArray[np.uint8]]:
    """Return the pictures of a folder as uint8 RGB arrays [H, W, 3]."""
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not files:
        raise SystemExit(f"{folder}: expected a folder of jpg or png pictures, one for each modality")
    return [read_background(path) for path in files]


def compose(
    digits: MNISTDigits, classes: NDArray[np.int64], background: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return one modality, uint8 [N, 28, 28, 3]: a digit of each class that inverts a random crop of the background."""
    members = [digits.of_class(label) for label in range(10)]
    x = np.empty((len(classes), SIDE, SIDE, 3), np.uint8)
    for crop, label in zip(x, classes, strict=True):
        ink = ink_of(digits.images[rng.choice(members[label])])
        top, left = (int(rng.integers(0, max(1, length - SIDE))) for length in background.shape[:2])
        crop[:] = background[top : top + SIDE, left : left + SIDE]
        crop[ink] = 255 - crop[ink]
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("raw", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--test", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, digits = np.random.default_rng(args.seed), read_mnist(args.raw / "mnist", 0.0)
    pictures = backgrounds(args.raw / "polymnist_backgrounds")
    arrays: dict[str, NDArray[np.uint8] | NDArray[np.int64]] = {}
    for split, count in (("train", args.train), ("test", args.test)):
        classes = rng.permutation(digits[split].labels.astype(np.int64))[:count]
        arrays[f"{split}_x"] = np.stack([compose(digits[split], classes, picture, rng) for picture in pictures])
        arrays[f"{split}_y"] = classes
    np.savez(args.out, **arrays)  # type: ignore[arg-type]
    print(", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()))


if __name__ == "__main__":
    main()
