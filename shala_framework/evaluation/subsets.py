"""Which subsets of the modalities are given, so that every modality is given and generated equally often."""

from collections.abc import Iterator, Sequence


def cyclic_subsets(names: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """Windows of `size` neighbours on a circle of the names: as many as there are names, each in the names' order.

    All subsets would be 2^M. A window of all names is one subset.

    Raises:
        ValueError: Unless 1 <= size <= number of names.
    """
    count = len(names)
    if not 1 <= size <= count:
        raise ValueError(f"expected a size from 1 to {count}, got {size}")
    for start in range(count if size < count else 1):
        yield tuple(names[i] for i in sorted((start + j) % count for j in range(size)))
