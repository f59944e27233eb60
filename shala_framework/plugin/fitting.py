"""What a modality's `fit` computes of each training sample, which worker processes can do."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

X = TypeVar("X")


def read_each(
    read: Callable[[Mapping[str, bytes]], X], samples: Iterable[Mapping[str, bytes]], enough: int | None = None
) -> Iterator[X]:
    """Apply a function to each sample that `Modality.fit` gets; in worker processes if that takes long.

        def fit(self, samples):
            self._standardise.fit(read_each(self.read, samples, 2_000), self.fields, 2_000)

    Args:
        read: The function, usually the modality's own `read`. Other processes get a copy of it, and so of the modality
            as it is before it is fitted.
        samples: The argument of `fit`, or any other samples.
        enough: Number of results that will be asked for. If there are more samples, in shards with an index, they come
            from all over the set, which may be sorted by class; otherwise in order.

    Raises:
        DataError: The function raised it. The core then names the sample.
    """
    in_workers: Any = getattr(samples, "read_each", None)
    return map(read, samples) if in_workers is None else in_workers(read, enough)
