"""The order in which training sees the samples of shards whose lengths are known.

An epoch permutes the shards, lays their samples end to end on a circle and cuts it, at a random place, into lanes of
equal length. Position p of the epoch is the sample p // lanes of lane p % lanes, once each lane has shuffled its
samples within windows. Neighbours in the order so come from all over the set, a process that takes every W-th position
reads its own lanes' shards alone, and any position can be computed without those before it: taking up an order at any
step, in any number of processes that divides the lanes, costs nothing and changes nothing. A set that fits into a
window is shuffled as a whole.
"""

import bisect
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch

from shala_framework.support.seeds import mix_seed


def spread_positions(total: int, count: int, seed: int = 0) -> list[int]:
    """At most so many of the numbers below a total, rising, one at a random place in each of as many equal parts.

    So they lie all over a set, whose samples may be sorted by class, and keep no step with classes that take turns.

    Example:
        >>> spread_positions(3, 5)
        [0, 1, 2]
        >>> [position // 25 for position in spread_positions(100, 4)]
        [0, 1, 2, 3]
    """
    count = min(count, total)
    ends = [number * total // max(1, count) for number in range(count + 1)]
    generator = torch.Generator().manual_seed(seed)
    return [int(torch.randint(low, high, (), generator=generator)) for low, high in pairwise(ends)]


class SampleOrder:
    """An endless order of samples, each epoch all of them exactly once.

    Args:
        counts: Samples of each shard.
        seed: Of every permutation.
        lanes: Parts that are read side by side.
        window: Samples that are shuffled with one another, over all lanes.

    Raises:
        ValueError: There is no sample, or lanes or window are not positive.

    Example:
        >>> order = SampleOrder([2, 3], seed=0, lanes=1, window=100)
        >>> sorted(order[position] for position in range(5))  # an epoch, as (shard, number within it)
        [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    """

    def __init__(self, counts: Sequence[int], *, seed: int, lanes: int, window: int) -> None:
        if sum(counts) < 1:
            raise ValueError(f"expected at least one sample, got {len(counts)} shards without any")
        if lanes < 1 or window < 1:
            raise ValueError(f"expected positive lanes and window, got {lanes} and {window}")
        self.counts, self.seed = list(counts), seed
        self.num_samples = sum(counts)
        self.lanes = lanes if self.num_samples > window else 1
        self.lane_window = -(-window // self.lanes)
        self._epoch = -1
        self._shards: list[int] = []
        self._ends: list[int] = []
        self._cut = 0
        self._windows: dict[int, tuple[int, list[int]]] = {}  # lane to the last window's number and order

    def __getitem__(self, position: int) -> tuple[int, int]:
        """Shard and number within it of the sample at a position, counted from the start of the first epoch."""
        epoch, position = divmod(position, self.num_samples)
        if epoch != self._epoch:
            self._begin(epoch)
        place, lane = divmod(position, self.lanes)
        start = lane * (self.num_samples // self.lanes) + min(lane, self.num_samples % self.lanes)
        return self._locate((self._cut + start + self._shuffled(lane, place)) % self.num_samples)

    def _begin(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
        self._epoch, self._windows = epoch, {}
        self._shards = torch.randperm(len(self.counts), generator=generator).tolist()
        self._cut = int(torch.randint(self.num_samples, (), generator=generator))
        self._ends = list(accumulate(self.counts[shard] for shard in self._shards))

    def _locate(self, place: int) -> tuple[int, int]:
        """Shard and number within it of a place on the epoch's circle."""
        i = bisect.bisect_right(self._ends, place)
        return self._shards[i], place - (self._ends[i - 1] if i else 0)

    def _shuffled(self, lane: int, place: int) -> int:
        """Where in its lane the sample is that a lane's place shows."""
        number, offset = divmod(place, self.lane_window)
        kept = self._windows.get(lane)
        if kept is None or kept[0] != number:
            length = self.num_samples // self.lanes + (lane < self.num_samples % self.lanes)
            size = min(self.lane_window, length - number * self.lane_window)
            seed = mix_seed(mix_seed(mix_seed(self.seed, self._epoch), lane), number)
            order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
            kept = self._windows[lane] = (number, order)
        return number * self.lane_window + kept[1][offset]
