"""Rows that one process reads for all, because reading them in every process would decode them as often."""

import json
from collections.abc import Callable

from shala_framework.data.rows import Rows
from shala_framework.support.distributed import processes


def read_by_first(read: Callable[[], Rows]) -> Rows:
    """Return rows that the first process reads and passes to the others. All processes must call this.

    Args:
        read: Reads the rows.
    """
    if processes.world_size() == 1:
        return read()
    rows = read() if processes.rank() == 0 else None
    tensors = None if rows is None else {**{f"x {name}": x for name, x in rows.x.items()}, "presence": rows.presence}
    tensors = processes.tensors_from(tensors, 0)
    names = json.dumps([] if rows is None else [rows.keys, rows.labels])
    keys, labels = json.loads(processes.bytes_from(names.encode(), 0))
    presence = tensors.pop("presence")
    x = {name.removeprefix("x "): value for name, value in tensors.items()}
    return rows or Rows(x=x, presence=presence, keys=tuple(keys), labels=tuple(labels))
