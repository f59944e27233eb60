"""Divide samples, or whole groups of them, into splits that are the same on every machine and at any time."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def check_share(_: Any, __: Any, share: float) -> None:
    """Validator: accept numbers in [0, 1)."""
    if not 0 <= share < 1:
        raise ValueError(f"expected a number from 0 to less than 1, got {share!r}")


def held_out(groups: Iterable[T], share: float, kind: str) -> frozenset[T]:
    """Return the groups to hold out: the first ones in the order of a stable hash.

    Args:
        groups: Groups, such as subjects or recordings, each of which stays in one split. Their text identifies them.
        share: Share of them to hold out, in [0, 1). Above 0, at least one group is held out, but never the only one.
        kind: Kind of group; other kinds give other orders.
    """
    if share == 0:
        return frozenset()
    ranked = sorted(groups, key=lambda group: hashlib.sha256(f"shala {kind} {group}".encode()).digest())
    return frozenset(ranked[: min(len(ranked) - 1, max(1, round(share * len(ranked))))])


def split_by_hash(name: str, validation_share: float, test_share: float) -> str:
    """Return the split of a sample or group from a hash of its name, so adding or removing others does not move it.

    Args:
        name: Any text, including unpaired surrogates of unusual file names.
        validation_share: Expected share of names in "validation".
        test_share: Expected share of names in "test".
    """
    place = _place(name)
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"


def divide_by_hash(names: Iterable[str], validation_share: float, test_share: float) -> dict[str, str]:
    """Return `split_by_hash` of each name, but leave no split with a share empty if there are enough names.

    An empty split gets the name with the nearest hash from a split that has at least two.

    Args:
        names: Names of samples or groups; they may repeat.
        validation_share: Expected share of names in "validation".
        test_share: Expected share of names in "test".
    """
    splits = {name: split_by_hash(name, validation_share, test_share) for name in names}
    held_out_share = test_share + validation_share
    places = {"test": (0.0, test_share), "validation": (test_share, held_out_share), "train": (held_out_share, 1.0)}
    for split, (low, high) in places.items():
        numbers = Counter(splits.values())
        movable = [name for name in splits if numbers[splits[name]] > 1]
        if high > low and not numbers[split] and movable:
            distances = {name: max(low - _place(name), _place(name) - high) for name in movable}
            splits[min(movable, key=lambda name: (distances[name], name))] = split
    return splits


def _place(name: str) -> float:
    """Return a number in [0, 1) that depends only on the name."""
    digest = hashlib.sha256(f"shala split {name}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
