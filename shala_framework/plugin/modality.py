"""The contract between the core and a modality plugin: Modality, Likelihood and Preview.

Shapes: B batch, F feature_dim, D latent_dim; an ellipsis is whatever shape the modality's options fix.
"""

import abc
from collections.abc import Container, Iterable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from shala_framework.support.structuring import InvalidValueError, structure


@runtime_checkable
class Likelihood(Protocol):
    """p(x | z) for a batch of latents: what a decoder returns.

    Attributes:
        is_bound: True where log_prob is a lower bound, as it is for a generative decoder.
    """

    @property
    def is_bound(self) -> bool: ...

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-likelihood of x [B, ...] in nats, summed over all of x: float tensor [B]."""
        ...

    def mode(self) -> Tensor:
        """Most likely x [B, ...], in the dtype and range of `Modality.read`."""
        ...

    def sample(self, generator: Any = None) -> Tensor:
        """A draw of x [B, ...], in the dtype and range of `Modality.read`; generator is a torch.Generator."""
        ...


@runtime_checkable
class Relaxed(Protocol):
    """A likelihood whose most likely x has a differentiable form that the modality's encoder takes as well.

    Where a likelihood has it, stage 1 can ask that what is decoded be recognised.
    """

    def relaxed(self) -> Tensor:
        """`mode` before it is rounded or clamped: float [B, ...], with gradients."""
        ...


@attrs.frozen(kw_only=True, eq=False)
class Preview:
    """What a person is shown of one x: a picture (one frame), a clip, a sound, a text, or several at once.

    Attributes:
        frames: uint8 array [T, H, W, 3] of RGB, T = 1 for a picture; None where there is nothing to see.
        frames_per_second: Playback rate of frames.
        sound: float32 array [N] in [-1, 1], mono; None where there is nothing to hear.
        sample_rate_hz: Rate of sound.
        text: Text to read; None where there is none.
    """

    frames: np.ndarray | None = None
    frames_per_second: float = 1.0
    sound: np.ndarray | None = None
    sample_rate_hz: int = 16_000
    text: str | None = None


class Modality(abc.ABC):
    """One kind of signal: how it is read and written, encoded and decoded.

    A plugin's class is final, declares a frozen attrs class `Options`, and is made once for each
    `[modality.<name>]` table that names it.

    Attributes:
        Options: Frozen attrs class of the options.
        dtype: Of the tensors that `read` returns (uint8 saves memory); the encoder and the likelihood of the
            same plugin take them as they are.
        network_options: Names of the options that change neither what `read` gives nor what `fit` learns: those of the
            networks, the likelihood and of drawing. Prepared shards serve whatever their values are.
    """

    Options: ClassVar[type[Any]]
    dtype: ClassVar[torch.dtype] = torch.float32
    network_options: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, options: Any = None, /, **values: Any) -> None:
        """Take the options.

        Args:
            options: An instance of `Options`, as the core passes it.
            **values: Options by name in place of it, as in `Image(height=64, width=64)`.

        Raises:
            ValueError: A value has another type or range than its option, or there is no such option.
            TypeError: Both are given.
        """
        if options is not None and values:
            raise TypeError(f"expected an Options object or options by name, got both: {sorted(values)}")
        try:
            self.options = structure(values, self.Options) if options is None else options
        except InvalidValueError as error:
            raise ValueError(f"{type(self).__name__}: {error}") from None

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one x, without the batch."""

    @property
    @abc.abstractmethod
    def fields(self) -> tuple[str, ...]:
        """Names of the sample fields that `read` looks at; the loader keeps no other."""

    def first_field(self, sample: Container[str]) -> str | None:
        """The first of `fields` that a sample has; None where it has none of them."""
        return next((name for name in self.fields if name in sample), None)

    @abc.abstractmethod
    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        """Decode one sample's fields.

        Args:
            sample: Field name (a file extension such as "mp4") to original bytes.

        Returns:
            x of `shape`, or None where this sample lacks the modality: it has none of the fields, or they say nothing,
            such as a skeleton file in which nobody is tracked. The core tells the two apart, and counts the second.

        Raises:
            DataError: A field is there but cannot be decoded.
        """

    def blank_reason(self) -> str:
        """Why `read` gives None for a sample that has one of the fields, such as "nobody is tracked"."""
        return "nothing is in it"

    @abc.abstractmethod
    def write(self, x: Tensor) -> dict[str, bytes]:
        """Encode one x of `shape` as files that a person can open: extension to bytes."""

    @abc.abstractmethod
    def encoder(self, feature_dim: int) -> nn.Module:
        """A module from x [B, ...] to a feature h, float [B, feature_dim]."""

    @abc.abstractmethod
    def decoder(self, latent_dim: int) -> nn.Module:
        """A module from z, float [B, latent_dim], to a Likelihood of x."""

    def refiner(self, latent_dim: int) -> nn.Module | None:
        """The network of stage 3, which learns the detail that the decoder's mean leaves out; None for no refinement.

        The core supplies the diffusion around it: its loss, its sampler and its likelihood. The decoder's likelihood
        has to be `Refinable`.

        Args:
            latent_dim: Dimensions of z.

        Returns:
            A module called with a noisy residual u, float [B, ...] in the shape of x and of about unit variance; the
            decoder's mean, float [B, ...] in the space that the likelihood names; z, standardised, float [B,
            latent_dim]; and the noise level, float [B]. It returns float [B, ...]. `RefinerUNet` is one.
        """
        return None

    @abc.abstractmethod
    def preview(self, x: Tensor) -> Preview:
        """What a person is shown of one x of `shape`."""

    def fit(self, samples: Iterable[Mapping[str, bytes]]) -> None:  # noqa: B027  (optional hook: nothing to learn)
        """Learn what reading needs (a vocabulary, a feature scale) from the training samples.

        Args:
            samples: As for `read`. Each is decoded as it comes, before the next is taken, so that an error can be laid
                to its sample; after one, `fit` may be called again with the other samples.

        Raises:
            DataError: A field is there but cannot be decoded, or there is too little to learn from.
        """

    def state(self) -> dict[str, Any]:
        """What `fit` learned, as JSON values; it travels in the checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned.

        Raises:
            ValueError: The state is not one that this modality writes.
        """
        if state:
            raise ValueError(f"expected an empty state, got keys {sorted(state)}")


def needs_fit(modality: Modality) -> bool:
    """Whether a modality learns anything from training samples."""
    return type(modality).fit is not Modality.fit
