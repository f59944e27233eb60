"""What a modality's `fit` computes of each training sample, which worker processes can do."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

X = TypeVar("X")


def read_each(read: Callable[[Mapping[str, bytes]], X], samples: Iterable[Mapping[str, bytes]]) -> Iterator[X]:
    """Apply a function to each sample that `Modality.fit` gets, in order; in worker processes if that takes long.

        def fit(self, samples):
            self._standardise.fit(read_each(self.read, samples), self.fields)

    Args:
        read: The function, usually the modality's own `read`. Other processes get a copy of it, and so of the modality
            as it is before it is fitted.
        samples: The argument of `fit`, or any other samples.

    Raises:
        DataError: The function raised it. The core then names the sample.
    """
    in_workers: Any = getattr(samples, "read_each", None)
    return map(read, samples) if in_workers is None else in_workers(read)
