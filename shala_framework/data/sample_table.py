"""The samples of one shard in a few arrays: some 50 bytes a sample, where Python's objects take ten times that.

A process knows the samples of many shards at once, because the rows of a batch come from all over a set.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import numpy as np

from shala_framework.data.shard_index import Member, ShardIndex


class SampleTable:
    """Keys of the samples of a shard, and position, size and checksum of their fields.

    Args:
        index: Content of the shard.

    Attributes:
        num_bytes: Size of the shard.
        memory: Number of bytes that the table takes, roughly.
    """

    __slots__ = ("_checksums", "_ends", "_key_ends", "_keys", "_names", "_offsets", "_sizes", "_which", "num_bytes")

    def __init__(self, index: ShardIndex) -> None:
        self.num_bytes = index.num_bytes
        every = [member for _, members in index.samples for member in members.values()]
        keys = [key.encode("utf-8", "surrogatepass") for key, _ in index.samples]
        self._names = tuple(dict.fromkeys(name for _, members in index.samples for name in members))
        numbers = {name: number for number, name in enumerate(self._names)}
        self._keys = b"".join(keys)
        self._key_ends = _array(accumulate(map(len, keys)))
        self._ends = _array(accumulate(len(members) for _, members in index.samples))
        self._which = _array(numbers[name] for _, members in index.samples for name in members)
        self._offsets = _array(member.offset for member in every)
        self._sizes = _array(member.size for member in every)
        # 0 stands for a checksum that is not known, and 1 more than it for any other.
        self._checksums = _array(0 if member.crc32 is None else member.crc32 + 1 for member in every)

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def memory(self) -> int:
        arrays = (self._key_ends, self._ends, self._which, self._offsets, self._sizes, self._checksums)
        return sum(array.nbytes for array in arrays) + len(self._keys) + 1_500  # for the objects around them

    def key(self, number: int) -> str:
        """Return the key of a sample."""
        return self._keys[_start(self._key_ends, number) : int(self._key_ends[number])].decode("utf-8", "surrogatepass")

    def members(self, number: int) -> dict[str, Member]:
        """Return the fields of a sample, in their order."""
        span = slice(_start(self._ends, number), int(self._ends[number]))
        columns = (column[span].tolist() for column in (self._which, self._offsets, self._sizes, self._checksums))
        return {
            self._names[which]: Member(offset, size, checksum - 1 if checksum else None)
            for which, offset, size, checksum in zip(*columns, strict=True)
        }

    @property
    def samples(self) -> tuple[tuple[str, dict[str, Member]], ...]:
        """The samples as `ShardIndex` has them."""
        return tuple((self.key(number), self.members(number)) for number in range(len(self)))


def _array(values: Iterator[int]) -> np.ndarray[Any, np.dtype[Any]]:
    """Return numbers of at least 0 in the smallest type that holds all of them."""
    found = np.array(list(values), dtype=np.uint64)
    return found.astype(np.min_scalar_type(int(found.max())) if len(found) else np.uint8)


def _start(ends: np.ndarray[Any, np.dtype[Any]], number: int) -> int:
    return int(ends[number - 1]) if number else 0
