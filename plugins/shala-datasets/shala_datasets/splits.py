"""Dividing samples, or whole groups of them, into parts: the same division on every machine and at every time."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def check_share(_: Any, __: Any, share: float) -> None:
    """Validator of an option: accept numbers in [0, 1)."""
    if not 0 <= share < 1:
        raise ValueError(f"expected a number from 0 to less than 1, got {share!r}")


def held_out(groups: Iterable[T], share: float, kind: str) -> frozenset[T]:
    """The groups to hold out: the first ones in the order of a stable hash.

    Args:
        groups: Subjects, say, or recordings, each of which stays on one side; told apart by their text.
        share: Share of them to hold out, in [0, 1); above 0 at least one group is, but never the only one.
        kind: What they are groups of; another kind gives another order.
    """
    if share == 0:
        return frozenset()
    ranked = sorted(groups, key=lambda group: hashlib.sha256(f"shala {kind} {group}".encode()).digest())
    return frozenset(ranked[: min(len(ranked) - 1, max(1, round(share * len(ranked))))])


def split_by_hash(name: str, validation_share: float, test_share: float) -> str:
    """The split of one sample or group by a hash of its name alone, so that others that come or go do not move it.

    Args:
        name: Any text, unpaired surrogates of odd file names included.
        validation_share: Share of names that go to "validation", in expectation.
        test_share: Share of names that go to "test", in expectation.
    """
    place = _place(name)
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"


def divide_by_hash(names: Iterable[str], validation_share: float, test_share: float) -> dict[str, str]:
    """`split_by_hash` of each name, but that no split with a share stays empty where there are enough names.

    An empty split gets the name whose hash is nearest to its own, from a split that has two.

    Args:
        names: Of samples or groups; the same one may come again.
        validation_share: Share of names that go to "validation", in expectation.
        test_share: Share of names that go to "test", in expectation.
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
    """A number in [0, 1) that the name alone decides."""
    digest = hashlib.sha256(f"shala split {name}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
