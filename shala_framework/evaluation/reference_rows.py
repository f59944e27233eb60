"""Training rows that no judge is trained on, from which the distances of real data are measured.

A judge separates rows that it was trained on from others in its features, so distances between the two are larger and
would flatter any samples compared with them.
"""

import hashlib
from collections import Counter

import torch
from torch import Tensor

from shala_framework.data.labels import label_attributes
from shala_framework.data.rows import Rows

SHARE = 4  # one row in this many is kept from the judges
MOST_ROWS = 1_000


def split_reference(rows: Rows, groups_N: Tensor | None, *, seed: int = 0) -> tuple[Rows, Rows]:
    """Divide training rows into those for judges and those for reference: a quarter of them, at most 1,000.

    Whole groups go to one side, so that judges know no person of the reference. Judges keep at least half of the rows
    of each class, or of each value of each attribute.

    Args:
        rows: Training rows.
        groups_N: Number of each row's group; None if every row is a group of its own.
        seed: Seed of the choice, which depends only on it and on the rows.

    Returns:
        Rows for judges and rows for reference, each in the order of `rows`; the latter may be empty.
    """
    groups_N = torch.arange(len(rows)) if groups_N is None else groups_N
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups_N.tolist()):
        members.setdefault(group, []).append(row)
    values = [tuple(label_attributes(label).items()) for label in rows.labels]
    left = Counter(value for found in values for value in found)
    least = {value: -(-count // 2) for value, count in left.items()}
    wanted = min(len(rows) // SHARE, MOST_ROWS)
    chosen: list[int] = []
    for group in sorted(members, key=lambda group: _rank(group, seed)):
        lost = Counter(value for row in members[group] for value in values[row])
        fits = len(chosen) + len(members[group]) <= wanted
        if fits and all(left[value] - count >= least[value] for value, count in lost.items()):
            chosen += members[group]
            left -= lost
    is_reference_N = torch.zeros(len(rows), dtype=torch.bool)
    is_reference_N[chosen] = True
    judges, reference = (torch.nonzero(side)[:, 0] for side in (~is_reference_N, is_reference_N))
    return rows.take(judges), rows.take(reference)


def _rank(group: int, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {group}".encode()).digest()
