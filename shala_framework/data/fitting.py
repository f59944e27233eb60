"""Samples for fitting a modality, with a record of the one that is being read."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar


class _HasFields(Protocol):
    @property
    def fields(self) -> Mapping[str, bytes]: ...


_Sample = TypeVar("_Sample", bound=_HasFields)


class Watched(Generic[_Sample]):
    """Yields the fields of each sample for `Modality.fit`, so that an error can be attributed to a sample, or to none.

    Args:
        samples: Raw samples.
        on_sample: Called with the number of samples handed out so far.

    Attributes:
        current: The sample that is being read; None before the first, while the next is fetched, and after the last.
        ended: Whether every sample has been yielded and read.
    """

    def __init__(self, samples: Iterable[_Sample], on_sample: Callable[[int], None] = lambda _: None) -> None:
        self.samples, self.on_sample = samples, on_sample
        self.current: _Sample | None = None
        self.ended = False

    def __iter__(self) -> Iterator[Mapping[str, bytes]]:
        for number, sample in enumerate(self.samples, 1):
            self.current = sample
            self.on_sample(number)
            yield sample.fields
            self.current = None
        self.ended = True
