"""The contract between the core and a modality plugin: Modality, Likelihood and Preview.

Shapes: B batch, F feature_dim, D latent_dim. An ellipsis stands for the shape that the modality's options define.
"""

import abc
from collections.abc import Container, Iterable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from shala_framework.plugin.augmenting import Draws
from shala_framework.support.structuring import InvalidValueError, structure


@runtime_checkable
class Likelihood(Protocol):
    """p(x | z) for a batch of latents, as returned by a decoder.

    Attributes:
        is_bound: True if log_prob is a lower bound, as for a generative decoder.
    """

    @property
    def is_bound(self) -> bool: ...

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-likelihood of x [B, ...] in nats, summed over all values of x: float tensor [B]."""
        ...

    def mode(self) -> Tensor:
        """Most likely x [B, ...], with the dtype and range of `Modality.read`."""
        ...

    def sample(self, generator: Any = None) -> Tensor:
        """Draw x [B, ...], with the dtype and range of `Modality.read`; generator is a torch.Generator."""
        ...


@runtime_checkable
class Relaxed(Protocol):
    """A likelihood whose mode has a differentiable form that the modality's encoder also accepts.

    Stage 1 uses it for the recognition and texture terms, which encode the decoded x again.
    """

    def relaxed(self) -> Tensor:
        """Return `mode` before rounding and clamping: float [B, ...], with gradients."""
        ...


@runtime_checkable
class Divisible(Protocol):
    """A likelihood that computes its values when they are asked for, such as clips that take long to decode.

    The recognition and texture terms ask it for the share of rows that they look at.
    """

    def first_rows(self, num_rows: int) -> Likelihood:
        """Return the likelihood of the first rows alone."""
        ...


@attrs.frozen(kw_only=True, eq=False)
class Preview:
    """Preview of one x for a person: a picture (one frame), a clip, a sound, a text, or several of these.

    Attributes:
        frames: uint8 array [T, H, W, 3] of RGB, T = 1 for a picture; None if there is nothing to see.
        frames_per_second: Playback rate of frames.
        sound: Mono float32 array [N] in [-1, 1]; None if there is nothing to hear.
        sample_rate_hz: Sample rate of sound.
        text: Text to read, or None.
    """

    frames: np.ndarray | None = None
    frames_per_second: float = 1.0
    sound: np.ndarray | None = None
    sample_rate_hz: int = 16_000
    text: str | None = None


@attrs.frozen(kw_only=True)
class CutOff:
    """What `read` leaves out of one sample because it exceeds a limit, for a sentence about many samples.

    "29 of 60 samples have more than max_tokens = 12 tokens (median 150); the rest is cut off" has these parts:

    Attributes:
        excess: The limit that the sample exceeds, as in "have more than max_tokens = 12 tokens". It is the same for all
            samples of a modality.
        amount: How much this sample has.
        unit: Unit of the amount, with its space, such as " s".
        consequence: What happens to the sample, as in "the rest is cut off", and how to keep more.
    """

    excess: str
    amount: float
    unit: str = ""
    consequence: str


class Modality(abc.ABC):
    """One kind of signal: reads, writes, encodes and decodes it.

    A plugin's class is final and declares a frozen attrs class `Options`. The core creates one instance for each
    `[modality.<name>]` table that names the plugin.

    Attributes:
        Options: Frozen attrs class of the options.
        dtype: Dtype of the tensors that `read` returns. uint8 saves memory. The encoder and the likelihood of the same
            plugin take these tensors unchanged.
        network_options: Names of the options that affect neither the result of `read` nor what `fit` learns, such as
            those of networks, likelihood and drawing. Prepared shards stay valid when these options change.
        refiner_options: Names of the options on which only the network of stage 3 depends; `--from` takes
            the other stages of a run in which they differ.
        correlated_residuals: Whether what the decoder's mean leaves out is correlated along the axes of x, as motion is
            from frame to frame. Stage 3 then measures the second moments of each axis and removes noise by them before
            its network does. An axis may have at most 4,096 values, whose square a checkpoint then holds.
    """

    Options: ClassVar[type[Any]]
    dtype: ClassVar[torch.dtype] = torch.float32
    network_options: ClassVar[frozenset[str]] = frozenset()
    refiner_options: ClassVar[frozenset[str]] = frozenset()
    correlated_residuals: ClassVar[bool] = False

    def __init__(self, options: Any = None, /, **values: Any) -> None:
        """Set the options.

        Args:
            options: An instance of `Options`, as the core passes it.
            **values: Options by name instead, as in `Image(height=64, width=64)`.

        Raises:
            ValueError: A value has a wrong type or range, or an option does not exist.
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
        """Shape of one x, without the batch dimension."""

    @property
    def limits(self) -> tuple[float, float] | None:
        """Lowest and highest value of x that the networks take, such as the first and the last token; None for any."""
        return None

    @property
    @abc.abstractmethod
    def fields(self) -> tuple[str, ...]:
        """Names of the sample fields that `read` uses. The loader discards all others."""

    def first_field(self, sample: Container[str]) -> str | None:
        """Return the first of `fields` that a sample has, or None."""
        return next((name for name in self.fields if name in sample), None)

    @abc.abstractmethod
    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        """Decode the fields of one sample.

        Args:
            sample: Field name (a file extension such as "mp4") to original bytes.

        Returns:
            x of `shape`, or None if the sample lacks the modality. It lacks it if it has none of the fields, or if they
            are empty of signal, such as a skeleton file without a tracked person. The core distinguishes the two and
            counts the second.

        Raises:
            DataError: A field is present but cannot be decoded.
        """

    def augment(self, x: Tensor, draws: Draws) -> Tensor:
        """Vary training rows of stage 1, such as by moving pictures a little; the default leaves them as they are.

        Encoder and likelihood both take the result, so it should look like data: the model learns to generate it.
        Nothing else sees it: not validation, evaluation, `fit`, prepared shards, stages 2 and 3, or samples.

        Args:
            x: Rows [B, ...] as `read` returns them, zeros in rows that lack the modality. They must not be changed in
                place.
            draws: All randomness comes from here.

        Returns:
            Rows with the shape, dtype and range of x. A row depends on its own x and its own draws alone.
        """
        return x

    def corrupt(self, x: Tensor, draws: Draws) -> Tensor:
        """Damage what the encoder sees of training rows of stage 1, such as by masks; the default leaves it as it is.

        The likelihood still takes the undamaged x, so that the model does not learn to generate the damage. Arguments
        and result are those of `augment`, which is called before.
        """
        return x

    def blank_reason(self) -> str:
        """Say why `read` returns None for a sample that has one of the fields, such as "nobody is tracked"."""
        return "nothing is in it"

    def cut_off(self, sample: Mapping[str, bytes]) -> CutOff | None:
        """Say what `read` leaves out of a sample that it reads, such as the end of a long text; None for nothing.

        `shala check` and the start of a run count such samples. It should be as quick as `read`, or quicker.

        Args:
            sample: Fields as for `read`.
        """
        return None

    def typed(self, text: str) -> dict[str, bytes] | None:
        """Return the fields of a sample for what a person typed, as `read` takes them; None if that makes no sense.

        A modality that returns fields can be given as text: `shala sample RUN --given caption="a red circle"`, a text
        box of the explore page, and a str in Python.

        Args:
            text: The text as it was typed. `read` may still refuse the fields with a DataError.
        """
        return None

    def count_values(self, x: Tensor) -> Tensor:
        """Count the values of each x that `log_prob` scores: int64 [B].

        The default counts all of them. Override it if x has padding or unknown parts that do not contribute. Stage 1
        weights modalities by the mean count of the training rows, and evaluations divide by a row's own.

        Args:
            x: Batch of x [B, ...].
        """
        return torch.full((len(x),), x[0].numel() if len(x) else 0, device=x.device)

    @property
    def hidden_share(self) -> float:
        """Share of the known parts of x, such as cells, that training hides from the encoder; 0, the default, is none.

        With a share above 0, `hide` is needed. Stage 1 then encodes each row with that share of its parts hidden, and
        stage 2 also learns what is given by rows with any share of them hidden.
        """
        return 0.0

    def hide(self, x: Tensor, share_B: Tensor, uniform: Tensor) -> Tensor:
        """Return x with some of its known parts marked as missing, as `read` would mark them.

        Args:
            x: Batch of x [B, ...].
            share_B: Probability with which each known part of a row is hidden; at least one is left in every row.
            uniform: Draws from [0, 1) in the shape of x, which alone decide.
        """
        raise NotImplementedError(f"{type(self).__name__} has a hidden_share and therefore needs hide()")

    @abc.abstractmethod
    def write(self, x: Tensor) -> dict[str, bytes]:
        """Encode one x of `shape` as files that a person can open: file extension to bytes."""

    @abc.abstractmethod
    def encoder(self, feature_dim: int) -> nn.Module:
        """Return a module that maps x [B, ...] to a feature h, float [B, feature_dim]."""

    @abc.abstractmethod
    def decoder(self, latent_dim: int) -> nn.Module:
        """Return a module that maps z, float [B, latent_dim], to a Likelihood of x."""

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
        """Return a preview of one x of `shape`."""

    def fit(self, samples: Iterable[Mapping[str, bytes]]) -> None:  # noqa: B027  (optional hook: nothing to learn)
        """Learn what `read` needs, such as a vocabulary or a feature scale, from the training samples.

        Args:
            samples: Samples as for `read`. Decode each one before taking the next, so that the core can name the sample
                that causes an error; `read_each` does so in worker processes. After an error, the core may call `fit`
                again with the remaining samples.

        Raises:
            DataError: A field is present but cannot be decoded, or there is too little data to learn from.
        """

    def doubts(self) -> list[str]:
        """Say what is doubtful about what `fit` has just learned, such as a column that names rows, a sentence each."""
        return []

    def state(self) -> dict[str, Any]:
        """Return what `fit` learned as JSON values, which are saved with the model."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`.

        Raises:
            ValueError: This modality did not write the state.
        """
        if state:
            raise ValueError(f"expected an empty state, got keys {sorted(state)}")


def counts_values(modality: Modality) -> bool:
    """Whether the number of values that are scored may differ among the x of a modality."""
    return type(modality).count_values is not Modality.count_values


def needs_fit(modality: Modality) -> bool:
    """Whether a modality learns anything from training samples."""
    return type(modality).fit is not Modality.fit


def augments(modality: Modality) -> bool:
    """Whether a modality can vary or damage training rows; its options may still leave them as they are."""
    return type(modality).augment is not Modality.augment or type(modality).corrupt is not Modality.corrupt
