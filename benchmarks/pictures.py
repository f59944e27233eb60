"""PolyMNIST for the benchmarks: arrays of pictures, and a modality with prescribed layers.

Encoder and decoder have the layers and widths of every system compared on this benchmark, so that the comparison is of
fusion and training. Some layers have their channels last, which is faster on a CPU. Shapes: N rows, B
batch, F feature_dim, D latent_dim.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shala_framework.plugin import (
    Likelihood,
    LogScale,
    Modality,
    Normal,
    Pixels,
    Preview,
    RefinerUNet,
    group_norm,
    pixels_to_unit,
)

SIDE, FEATURE_DIM = 28, 256


class Encoder(nn.Module):
    """Maps uint8 [B, 3, 28, 28] to features: three strided convolutions (24, 48, 64 channels) and a layer of 256."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Sequential(nn.Conv2d(3, 24, 4, 2, 1), nn.SiLU(), nn.Conv2d(24, 48, 4, 2, 1))
        self.small = nn.Sequential(
            *(group_norm(48), nn.SiLU()),
            *(nn.Conv2d(48, 64, 3, 2, 1), group_norm(64), nn.SiLU()),
            *(nn.Flatten(), nn.Linear(1024, FEATURE_DIM), nn.SiLU()),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BCHW = self.large(pixels_to_unit(x_BCHW).contiguous(memory_format=torch.channels_last))
        h_BF: Tensor = self.small(h_BCHW.contiguous())
        return h_BF


class Decoder(nn.Module):
    """Maps latents to a Gaussian over pixels of learned scale: a linear layer and three transposed convolutions."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.smallest = nn.Sequential(
            nn.Linear(latent_dim, 1024), nn.Unflatten(1, (64, 4, 4)), group_norm(64), nn.SiLU()
        )
        self.small = nn.ConvTranspose2d(64, 48, 3, 2, 1)
        self.large = nn.Sequential(
            *(group_norm(48), nn.SiLU()),
            *(nn.ConvTranspose2d(48, 24, 4, 2, 1), group_norm(24), nn.SiLU()),
            nn.ConvTranspose2d(24, 3, 4, 2, 1),
        )
        self.log_scale = LogScale()

    def forward(self, z_BD: Tensor) -> Likelihood:
        return Pixels(Normal(self.mean(z_BD).float(), self.log_scale()))

    def mean(self, z_BD: Tensor) -> Tensor:
        """Return the mean of the pixels, [B, 3, 28, 28]."""
        h_BCHW = self.small(self.smallest(z_BD).contiguous(memory_format=torch.channels_last))
        x_BCHW: Tensor = self.large(h_BCHW.contiguous())
        return x_BCHW


class Picture(Modality):
    """One of the five modalities: an 8-bit colour picture of 28 x 28."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Size of the network of stage 3: see RefinerUNet.

        Attributes:
            width: Channels of the highest map.
            num_blocks: Blocks of each level.
            attention: Whether places of the lowest map attend to each other.
        """

        width: int = 32
        num_blocks: tuple[int, ...] = (1, 3)
        attention: bool = False

    options: Options

    shape, dtype, fields = (3, SIDE, SIDE), torch.uint8, ("png",)

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        raise NotImplementedError("arrays are read as they are")

    def write(self, x: Tensor) -> dict[str, bytes]:
        raise NotImplementedError("arrays are written as they are")

    def preview(self, x: Tensor) -> Preview:
        return Preview(frames=x.permute(1, 2, 0).numpy()[None])

    def encoder(self, feature_dim: int) -> nn.Module:
        assert feature_dim == FEATURE_DIM
        return Encoder()

    def decoder(self, latent_dim: int) -> nn.Module:
        return Decoder(latent_dim)

    def refiner(self, latent_dim: int) -> nn.Module:
        size = attrs.asdict(self.options)
        return RefinerUNet(3, latent_dim, sides=(SIDE, SIDE), **size)


def modalities(count: int, kind: type[Picture] = Picture, **options: Any) -> dict[str, Picture]:
    """Return a number of picture modalities of one kind, m0, m1, ..., with Picture's options."""
    return {f"m{i}": kind(Picture.Options(**options)) for i in range(count)}


def load_pictures(path: Path, split: str) -> dict[str, Tensor]:
    """Return uint8 [N, 3, 28, 28] of each modality, from the arrays of the benchmark's data set."""
    with np.load(path) as arrays:
        x = torch.from_numpy(arrays[f"{split}_x"]).permute(0, 1, 4, 2, 3)
    return {f"m{i}": of_modality.contiguous() for i, of_modality in enumerate(x)}


def given_subsets(count: int, sizes: Sequence[int] = (1, 2, 4)) -> Iterator[tuple[int, ...]]:
    """Return the subsets that are scored: windows on a circle of the modalities."""
    for size in sizes:
        for start in range(count):
            yield tuple(sorted((start + j) % count for j in range(size)))


def write_samples(
    path: Path,
    count: int,
    joint: Callable[[], Mapping[str, Tensor]],
    conditional: Callable[[tuple[int, ...]], Mapping[str, Tensor]],
) -> None:
    """Write the samples for the judge.

    Args:
        path: The npz file.
        count: Number of modalities.
        joint: Joint samples, uint8 [K, 3, 28, 28] of each modality.
        conditional: The same for each test row given a subset of its modalities.
    """
    arrays: dict[str, NDArray[np.uint8]] = {}
    for name, x in joint().items():
        arrays[f"joint/{name[1:]}"] = _pixels_last(x)
    for given in given_subsets(count):
        generated = conditional(given)
        for i in range(count):
            if i not in given:
                arrays[f"given/{','.join(map(str, given))}/{i}"] = _pixels_last(generated[f"m{i}"])
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _pixels_last(x: Tensor) -> NDArray[np.uint8]:
    return x.permute(0, 2, 3, 1).contiguous().numpy()
