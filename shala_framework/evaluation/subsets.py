"""Choose subsets of given modalities such that every modality is given and generated equally often."""

from collections.abc import Iterator, Sequence


def cyclic_subsets(names: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """Yield windows of `size` neighbours on a circle of the names: one for each name, in the names' order.

    There are 2^M subsets, too many to measure all. The window of all names is one subset.

    Raises:
        ValueError: Unless 1 <= size <= number of names.
    """
    count = len(names)
    if not 1 <= size <= count:
        raise ValueError(f"expected a size from 1 to {count}, got {size}")
    for start in range(count if size < count else 1):
        yield tuple(names[i] for i in sorted((start + j) % count for j in range(size)))
