"""Groups of dependent rows, such as the recordings of one person, found from the rows' keys.

Shapes: N rows.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor


def row_groups(keys: Sequence[str], pattern: str | None) -> Tensor | None:
    """Return the number of each row's group: int64 [N]; None if every row is a group of its own.

    Args:
        keys: Keys of the rows.
        pattern: Regular expression. Rows form a group if it finds the same text in their keys. If it has groups in
            parentheses, only their text counts. A row in whose key it finds no text is a group of its own.

    Example:
        >>> row_groups(["S001P003", "S002P003", "S001P004"], "P[0-9]+").tolist()
        [0, 0, 1]
    """
    if pattern is None:
        return None
    numbers: dict[object, int] = {}
    found = []
    for place, key in enumerate(keys):
        match = re.search(pattern, key)
        texts = () if match is None else match.groups() or (match.group(),)
        name = texts if any(texts) else place
        found.append(numbers.setdefault(name, len(numbers)))
    return torch.tensor(found, dtype=torch.int64)
