"""A modality of two floats, and a data set of it. They show that the core needs no real modality."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from shala_framework.plugin import (
    Account,
    DataError,
    Dataset,
    Draws,
    LogScale,
    Modality,
    Normal,
    Preview,
    Sample,
    at_least,
    between,
    hookimpl,
    not_empty,
    read_each,
)


@attrs.frozen(kw_only=True)
class TwoFloatsOptions:
    """Options.

    Attributes:
        field: Sample field that holds a JSON array of two numbers.
        width: Channels of the networks.
    """

    field: str = attrs.field(default="a", validator=not_empty)
    width: int = attrs.field(default=32, validator=at_least(1, at_most=4_096))


class Decoder(nn.Module):
    def __init__(self, latent_dim: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(latent_dim, width), nn.SiLU(), nn.Linear(width, 2))
        self.log_scale = LogScale()

    def forward(self, z: Tensor) -> Normal:
        return Normal(self.net(z), self.log_scale())


class TwoFloats(Modality):
    """Two floats, with their training mean subtracted."""

    Options = TwoFloatsOptions
    network_options = frozenset({"width"})

    def __init__(self, options: TwoFloatsOptions | None = None, /, **values) -> None:
        super().__init__(options, **values)
        self.mean = [0.0, 0.0]

    @property
    def shape(self) -> tuple[int, ...]:
        return (2,)

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.options.field,)

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        values = self._values(sample)
        return None if values is None else torch.tensor(values) - torch.tensor(self.mean)

    def _values(self, sample: Mapping[str, bytes]) -> list[float] | None:
        if self.options.field not in sample:
            return None
        try:
            values: list[float] = json.loads(sample[self.options.field])
        except ValueError as error:
            raise DataError(f"field {self.options.field!r}: expected a JSON array, got {error}") from error
        return values

    def write(self, x: Tensor) -> dict[str, bytes]:
        return {"json": json.dumps((x + torch.tensor(self.mean)).tolist()).encode()}

    def fit(self, samples: Iterable[Mapping[str, bytes]]) -> None:
        values = [values for sample in samples if (values := self._values(sample)) is not None]
        self.mean = torch.tensor(values).mean(0).tolist() if values else [0.0, 0.0]

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.mean = list(state["mean"])

    def encoder(self, feature_dim: int) -> nn.Module:
        return nn.Sequential(nn.Linear(2, self.options.width), nn.SiLU(), nn.Linear(self.options.width, feature_dim))

    def decoder(self, latent_dim: int) -> nn.Module:
        return Decoder(latent_dim, self.options.width)

    def preview(self, x: Tensor) -> Preview:
        return Preview(frames=np.zeros((1, 16, 16, 3), np.uint8), text=str(x.tolist()))


@attrs.frozen(kw_only=True)
class MadeOptions:
    train: int = attrs.field(default=256, validator=at_least(1, at_most=1_000_000))
    validation: int = attrs.field(default=16, validator=at_least(0, at_most=1_000_000))
    test: int = attrs.field(default=0, validator=at_least(0, at_most=1_000_000))
    missing: float = attrs.field(default=0.0, validator=between(0, 1))
    attributes: bool = False


class Made(Dataset):
    """Points near a circle (field a) and the same points turned by a quarter (field b)."""

    Options = MadeOptions
    synthetic = True
    needs_source = False

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        generator = np.random.default_rng(0)
        for split in ("train", "validation", "test"):
            for n in range(getattr(self.options, split)):
                angle = generator.uniform(0, 2 * math.pi)
                a = [3 + math.cos(angle), math.sin(angle)]
                fields = {"a": json.dumps(a).encode(), "b": json.dumps([-a[1], a[0] - 3]).encode()}
                if generator.random() < self.options.missing:
                    del fields["b"]
                side = "left" if a[0] < 3 else "right"
                both = {"side": side, "height": "below" if a[1] < 0 else "above"}
                label = both if self.options.attributes else side
                yield Sample(key=f"{split}_{n:04d}", split=split, fields=fields, label=label)


class TypedFloats(TwoFloats):
    """TwoFloats that a person can type as two numbers, the second of which is read with a precision of 0.1."""

    def typed(self, text: str) -> dict[str, bytes]:
        return {self.options.field: f"[{text}]".encode()}

    def preview(self, x: Tensor) -> Preview:
        first, second = (x + torch.tensor(self.mean)).tolist()
        return Preview(text=f"{first:g}, {second:.1f}")


class ConvolutionEncoder(nn.Module):
    """Two floats as a signal with one channel."""

    def __init__(self, feature_dim):
        super().__init__()
        self.convolution, self.out = nn.Conv1d(1, 4, 1), nn.Linear(8, feature_dim)

    def forward(self, x):
        return self.out(self.convolution(x[:, None]).flatten(1))


class ConvolvedFloats(TwoFloats):
    """TwoFloats with a convolutional encoder, which has maps for the texture term."""

    def encoder(self, feature_dim):
        return ConvolutionEncoder(feature_dim)


class VariedFloats(ConvolvedFloats):
    """TwoFloats that training moves up by 1,000 and a random step, of which encoders see a copy moved by 5,000 more."""

    def augment(self, x: Tensor, draws: Draws) -> Tensor:
        return x + 1_000 + draws.integers(0, 9, 2)

    def corrupt(self, x: Tensor, draws: Draws) -> Tensor:
        return x + 5_000 + 10 * draws.uniform(0, 1, 2)


class KnownFloats(TwoFloats):
    """TwoFloats that reads only first numbers which it has seen in training, as a table reads categories."""

    def fit(self, samples: Iterable[Mapping[str, bytes]]) -> None:
        self.known = sorted({values[0] for sample in samples if (values := self._values(sample)) is not None})

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        values = self._values(sample)
        if values is not None and values[0] not in self.known:
            raise DataError(f"field {self.options.field!r}: expected a known number, got {values[0]}")
        return None if values is None else torch.tensor(values)

    def state(self) -> dict[str, Any]:
        return {"known": self.known}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.known = list(state["known"])


class ReadFloats(TwoFloats):
    """TwoFloats that learns from what `read` makes of each sample, in worker processes where there are some."""

    def fit(self, samples: Iterable[Mapping[str, bytes]]) -> None:
        found = [x for x in read_each(self.read, samples) if x is not None]
        self.mean = torch.stack(found).mean(0).tolist()


class FloatsRefiner(nn.Module):
    """A perceptron over residual, mean, latent and noise level."""

    def __init__(self, latent_dim: int, width: int = 64) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Linear(2 + 2 + latent_dim + 1, width), nn.SiLU()), *(nn.Linear(width, width), nn.SiLU()),
            nn.Linear(width, 2),
        )  # fmt: skip

    def forward(self, noisy: Tensor, mean: Tensor, z: Tensor, c_noise: Tensor) -> Tensor:
        return self.net(torch.cat([noisy, mean, z, c_noise[:, None]], dim=1))


class RefinedFloats(TwoFloats):
    """TwoFloats with a network for stage 3."""

    def refiner(self, latent_dim: int) -> nn.Module:
        return FloatsRefiner(latent_dim)


class CorrelatedFloats(ConvolvedFloats, RefinedFloats):
    """RefinedFloats whose residuals stage 3 filters by their covariance, with maps for its texture term."""

    correlated_residuals = True


@hookimpl
def shala_register_modalities(register: Any) -> None:
    register("correlated-floats", CorrelatedFloats)
    register("refined-floats", RefinedFloats)
    register("two-floats", TwoFloats)
    register("typed-floats", TypedFloats)
    register("convolved-floats", ConvolvedFloats)
    register("varied-floats", VariedFloats)
    register("known-floats", KnownFloats)


@hookimpl
def shala_register_datasets(register: Any) -> None:
    register("two-floats-made", Made)
