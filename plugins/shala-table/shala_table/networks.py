"""Networks and likelihood of rows of a table.

Shapes: B batch, C columns, N numeric columns, K categorical columns, V categories of all columns, F feature_dim,
    D latent_dim.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Final

import attrs
import torch
from torch import Tensor, nn

from shala_framework.plugin import initialise

STRAIGHT: Final = 5.0  # scales from the centre up to which an encoder sees a number as it is


@attrs.frozen
class Layout:
    """Which columns are numeric, and the categories of the others.

    Attributes:
        num_categories: Number of categories of each column; 0 for a numeric one.
        masked: Whether x tells which cells are known: [2, C], values and 1 for a known cell. Otherwise x is [C].
    """

    num_categories: tuple[int, ...]
    masked: bool

    @property
    def numeric(self) -> list[int]:
        """Indices of the numeric columns."""
        return [index for index, number in enumerate(self.num_categories) if not number]

    @property
    def categorical(self) -> list[int]:
        """Indices of the categorical columns."""
        return [index for index, number in enumerate(self.num_categories) if number]

    @property
    def sizes(self) -> list[int]:
        """Numbers of categories of the categorical columns."""
        return [number for number in self.num_categories if number]

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values [B, C] and which of them are known, bool [B, C], of x."""
        return (x[:, 0], x[:, 1] > 0.5) if self.masked else (x, torch.ones_like(x, dtype=torch.bool))

    def whole(self, values_BC: Tensor) -> Tensor:
        """Return x with these values, all of them known."""
        return torch.stack([values_BC, torch.ones_like(values_BC)], 1) if self.masked else values_BC


def squashed(x: Tensor) -> Tensor:
    """Keep values up to `STRAIGHT` and grow with the logarithm beyond, so that one outlier cannot swamp a feature."""
    inner = x.clamp(-STRAIGHT, STRAIGHT)
    return inner + x.sign() * (x - inner).abs().log1p()


def perceptron(inputs: int, width: int, num_layers: int, outputs: int) -> nn.Sequential:
    """Hidden layers with SiLU, then a linear layer."""
    sizes = [inputs, *[width] * num_layers]
    hidden = [module for pair in itertools.pairwise(sizes) for module in (nn.Linear(*pair), nn.SiLU())]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


class TableEncoder(nn.Module):
    """Encodes rows as features [B, F]. A missing cell is a zero, and an indicator says so.

    Args:
        layout: Kinds of the columns.
        width: Width of the hidden layers.
        num_layers: Number of hidden layers.
        feature_dim: Features.
    """

    numeric_N: Tensor

    def __init__(self, layout: Layout, width: int, num_layers: int, feature_dim: int) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("numeric_N", torch.tensor(layout.numeric, dtype=torch.int64), persistent=False)
        inputs = len(layout.numeric) + sum(layout.sizes) + (len(layout.num_categories) if layout.masked else 0)
        self.layers, self.straight = perceptron(inputs, width, num_layers, feature_dim), nn.Linear(inputs, feature_dim)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        values_BC, known_BC = self.layout.parts(x)
        inputs = [squashed(values_BC[:, self.numeric_N]).masked_fill(~known_BC[:, self.numeric_N], 0.0)]
        for column, size in zip(self.layout.categorical, self.layout.sizes, strict=True):
            one_hot_BV = nn.functional.one_hot(values_BC[:, column].long(), size).float()
            inputs.append(one_hot_BV * known_BC[:, column, None])
        if self.layout.masked:
            inputs.append(known_BC.float())
        inputs_B = torch.cat(inputs, 1)
        h_BF: Tensor = self.layers(inputs_B) + self.straight(inputs_B)
        return h_BF.float()


class ColumnScales(nn.Module):
    """A learned log-scale for each numeric column, as `LogScale` is for a whole modality."""

    GAIN, LOWEST = 10.0, -6.0

    def __init__(self, num_columns: int, initial: float = 0.5) -> None:
        super().__init__()
        self.scaled_N = nn.Parameter(torch.full((num_columns,), initial).log() / self.GAIN)

    def forward(self) -> Tensor:
        """Return the log-scales [N]."""
        return self.LOWEST + nn.functional.softplus(self.GAIN * self.scaled_N - self.LOWEST)


class TableDecoder(nn.Module):
    """Decodes latents [B, D] as a likelihood of rows.

    Args:
        layout: Kinds of the columns.
        width: Width of the hidden layers.
        num_layers: Number of hidden layers.
        latent_dim: Dimensions of z.
        heavy_tails: Whether numbers have a Student-t distribution, with learned degrees of freedom for each column.
    """

    numeric_N: Tensor

    def __init__(self, layout: Layout, width: int, num_layers: int, latent_dim: int, *, heavy_tails: bool) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("numeric_N", torch.tensor(layout.numeric, dtype=torch.int64), persistent=False)
        num_numeric = len(layout.numeric)
        outputs = num_numeric + sum(layout.sizes)
        self.layers, self.straight = perceptron(latent_dim, width, num_layers, outputs), nn.Linear(latent_dim, outputs)
        self.log_scale = ColumnScales(num_numeric) if num_numeric else None
        self.degrees_N = nn.Parameter(torch.zeros(num_numeric)) if heavy_tails and num_numeric else None
        initialise(self)
        with torch.no_grad():
            for module in (self.layers[-1], self.straight):
                assert isinstance(module, nn.Linear)
                module.weight.mul_(0.3)

    def forward(self, z_BD: Tensor) -> "TableLikelihood":
        outputs = (self.layers(z_BD) + self.straight(z_BD)).float()
        mean_BN, logits_BV = outputs.split([len(self.layout.numeric), sum(self.layout.sizes)], 1)
        log_scale_N = self.log_scale() if self.log_scale is not None else mean_BN[0]
        # Between 1 and 100, 5 at first: from Cauchy's tails to those of a Gaussian.
        degrees_N = None if self.degrees_N is None else 1 + 99 * torch.sigmoid(10 * self.degrees_N - 3.168)
        return TableLikelihood(self.layout, self.numeric_N, mean_BN, log_scale_N, logits_BV, degrees_N)


class TableLikelihood:
    """p(x | z) of rows: known cells are independent given z, and missing ones do not contribute.

    Draws and the mode have every cell.

    Args:
        layout: Kinds of the columns.
        numeric_N: Indices of the numeric columns, on the device of the others.
        mean_BN: Location of each numeric cell, standardised.
        log_scale_N: Log-scale of each numeric column.
        logits_BV: Unnormalised log-probabilities of all categories, column after column.
        degrees_N: Degrees of freedom of Student-t distributions; None for Gaussians.
    """

    is_bound = False

    def __init__(
        self,
        layout: Layout,
        numeric_N: Tensor,
        mean_BN: Tensor,
        log_scale_N: Tensor,
        logits_BV: Tensor,
        degrees_N: Tensor | None,
    ) -> None:
        self.layout, self.numeric_N = layout, numeric_N
        self.mean_BN, self.log_scale_N, self.degrees_N = mean_BN, log_scale_N, degrees_N
        self.log_probs = [logits_BV.log_softmax(1) for logits_BV in logits_BV.split(layout.sizes, 1)]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density and probability of the known cells of x, whose numbers are standardised, in nats: [B]."""
        values_BC, known_BC = self.layout.parts(x)
        log_prob_BN = self._numbers(values_BC[:, self.numeric_N]).masked_fill(~known_BC[:, self.numeric_N], 0.0)
        log_prob_B = log_prob_BN.sum(1)
        for column, log_probs_BV in zip(self.layout.categorical, self.log_probs, strict=True):
            of_cell_B = log_probs_BV.gather(1, values_BC[:, column, None].long())[:, 0]
            log_prob_B = log_prob_B + of_cell_B.masked_fill(~known_BC[:, column], 0.0)
        return log_prob_B

    def _numbers(self, values_BN: Tensor) -> Tensor:
        gap_BN = (values_BN - self.mean_BN) * torch.exp(-self.log_scale_N)
        if self.degrees_N is None:
            return -0.5 * gap_BN.square() - self.log_scale_N - 0.5 * math.log(2 * math.pi)
        half_N = 0.5 * (self.degrees_N + 1)
        constant_N = torch.lgamma(half_N) - torch.lgamma(0.5 * self.degrees_N) - 0.5 * (torch.pi * self.degrees_N).log()
        return constant_N - self.log_scale_N - half_N * torch.log1p(gap_BN.square() / self.degrees_N)

    def mode(self) -> Tensor:
        return self._assembled(self.mean_BN, [log_probs_BV.argmax(1) for log_probs_BV in self.log_probs])

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        values_BN = self.mean_BN + torch.exp(self.log_scale_N) * self._noise(generator)
        drawn = [torch.multinomial(log_probs_BV.exp(), 1, generator=generator)[:, 0] for log_probs_BV in self.log_probs]
        return self._assembled(values_BN, drawn)

    def _noise(self, generator: torch.Generator | None) -> Tensor:
        shape, device = self.mean_BN.shape, self.mean_BN.device
        if self.degrees_N is None:
            return torch.randn(shape, generator=generator, device=device)
        # Bailey 1994, "Polar generation of random variates with the t-distribution": valid for any degrees of freedom.
        radius_BN = 1 - torch.rand(shape, generator=generator, device=device)
        angle_BN = 2 * torch.pi * torch.rand(shape, generator=generator, device=device)
        squared_BN = self.degrees_N * torch.expm1(-2 / self.degrees_N * radius_BN.log())
        return squared_BN.sqrt() * angle_BN.cos()

    def _assembled(self, values_BN: Tensor, categories: Sequence[Tensor]) -> Tensor:
        values_BC = values_BN.new_empty(values_BN.shape[0], len(self.layout.num_categories))
        values_BC[:, self.numeric_N] = values_BN
        for column, drawn_B in zip(self.layout.categorical, categories, strict=True):
            values_BC[:, column] = drawn_B.to(values_BC.dtype)
        return self.layout.whole(values_BC)
