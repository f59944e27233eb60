"""The order in which training sees the samples of shards whose lengths are known.

An epoch permutes the shards, places their samples end to end on a circle and cuts the circle, starting at a random
place, into `interleave` segments of equal length. Each segment shuffles its samples within windows. Position p of the
epoch is then sample p // interleave of segment p % interleave.

Consecutive positions therefore come from all over the set. A process that takes every W-th position reads only the
shards of its own segments. Any position can be computed without the earlier ones, so a run can resume at any step, with
any number of processes that divides `interleave`, without cost and with the same order. A set that fits into one window
is shuffled as a whole.
"""

import bisect
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shala_framework.support.seeds import mix_seed

LOCAL_WINDOW = 1_000_000
REMOTE_WINDOW = 4_096


def spread_positions(total: int, count: int, seed: int = 0) -> list[int]:
    """Ascending numbers below total: one at a random place in each of `count` equal parts, or all if there are fewer.

    They are spread over the whole set, whose samples may be sorted by class. Random places avoid a fixed stride, which
    would pick few classes where classes take turns.

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


def default_window(*, remote: bool) -> int:
    """Return how many samples an order shuffles together if a spec does not say.

    A window is a permutation only, so on a disk it may be the whole set, up to a million samples. Behind URLs it stays
    small, so that few shards are read at a time; sets packed with `shala pack --shuffle` need no more.

    Args:
        remote: Whether shards are behind URLs.
    """
    return REMOTE_WINDOW if remote else LOCAL_WINDOW


class SampleOrder:
    """An endless order of samples in which each epoch has every sample exactly once.

    Args:
        counts: Number of samples of each shard.
        seed: Seed of every permutation.
        interleave: Number of segments that the order takes samples from in turn.
        window: Number of samples that are shuffled together, over all segments.

    Raises:
        ValueError: There is no sample, or interleave or window is not positive.

    Example:
        >>> order = SampleOrder([2, 3], seed=0, interleave=1, window=100)
        >>> sorted(order[position] for position in range(5))  # an epoch, as (shard, number within it)
        [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    """

    def __init__(self, counts: Sequence[int], *, seed: int, interleave: int, window: int) -> None:
        if sum(counts) < 1:
            raise ValueError(f"expected at least one sample, got {len(counts)} shards without any")
        if interleave < 1 or window < 1:
            raise ValueError(f"expected positive interleave and window, got {interleave} and {window}")
        self.counts, self.seed = list(counts), seed
        self.num_samples = sum(counts)
        self.interleave = interleave if self.num_samples > window else 1
        self.segment_window = -(-window // self.interleave)
        self._epoch = -1
        self._shards: list[int] = []
        self._ends: list[int] = []
        self._cut = 0
        # Segment to the number and order of its last window.
        self._windows: dict[int, tuple[int, np.ndarray[Any, np.dtype[np.int32]]]] = {}

    @property
    def positions_ahead(self) -> int:
        """Number of positions until every segment has shards that it does not read now: a window and a shard."""
        return (self.segment_window + -(-self.num_samples // len(self.counts))) * self.interleave

    def __getitem__(self, position: int) -> tuple[int, int]:
        """Return shard and number within it of the sample at a position, counted from the start of the first epoch."""
        epoch, position = divmod(position, self.num_samples)
        if epoch != self._epoch:
            self._begin(epoch)
        place, segment = divmod(position, self.interleave)
        start = segment * (self.num_samples // self.interleave) + min(segment, self.num_samples % self.interleave)
        return self._locate((self._cut + start + self._shuffled(segment, place)) % self.num_samples)

    def _begin(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
        self._epoch, self._windows = epoch, {}
        self._shards = torch.randperm(len(self.counts), generator=generator).tolist()
        self._cut = int(torch.randint(self.num_samples, (), generator=generator))
        self._ends = list(accumulate(self.counts[shard] for shard in self._shards))

    def _locate(self, place: int) -> tuple[int, int]:
        """Return shard and number within it of a place on the epoch's circle."""
        i = bisect.bisect_right(self._ends, place)
        return self._shards[i], place - (self._ends[i - 1] if i else 0)

    def _shuffled(self, segment: int, place: int) -> int:
        """Map a place of the shuffled segment to the sample's place before shuffling."""
        number, offset = divmod(place, self.segment_window)
        kept = self._windows.get(segment)
        if kept is None or kept[0] != number:
            length = self.num_samples // self.interleave + (segment < self.num_samples % self.interleave)
            size = min(self.segment_window, length - number * self.segment_window)
            seed = mix_seed(mix_seed(mix_seed(self.seed, self._epoch), segment), number)
            order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).to(torch.int32).numpy()
            kept = self._windows[segment] = (number, order)
        return number * self.segment_window + int(kept[1][offset])


def weighted_rows(weights_N: Tensor, seed: int) -> Tensor:
    """Choose N of N rows, each about as often as its weight says, in ascending order.

    A row of weight w is chosen floor(w) or ceil(w) times, so that over many seeds its mean is w.

    Args:
        weights_N: Weight of each row, float64, with a sum of N.
        seed: Seed of the choice.

    Returns:
        int64 tensor [N] of row numbers.

    Example:
        >>> weighted_rows(torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64), seed=0).tolist()
        [0, 0, 1]
    """
    count = len(weights_N)
    generator = torch.Generator().manual_seed(seed)
    # Systematic sampling of rows in random order, because a fixed order may have a period, such as of classes.
    order = torch.randperm(count, generator=generator)
    ends = weights_N[order].cumsum(0).div(weights_N.sum() / count)
    ends[-1] = count
    marks = torch.arange(count, dtype=torch.float64) + torch.rand((), generator=generator, dtype=torch.float64)
    places = torch.searchsorted(ends, marks, right=True).clamp_max(count - 1)
    return order[places].sort().values


class WeightedOrder:
    """An endless order of samples in which an epoch has each sample about as often as its weight says.

    An epoch has as many positions as there are samples: those that `weighted_rows` chooses for it, in the order of a
    `SampleOrder`. It can therefore be computed at any position, like that.

    Args:
        counts: Number of samples of each shard.
        weights_N: Weight of each sample of all shards, float64, with a sum of N.
        seed: Seed of every choice and permutation.
        interleave: As for `SampleOrder`.
        window: As for `SampleOrder`.

    Attributes:
        positions_ahead: As for `SampleOrder`.
    """

    def __init__(self, counts: Sequence[int], weights_N: Tensor, *, seed: int, interleave: int, window: int) -> None:
        self.counts, self.weights_N, self.seed = list(counts), weights_N, seed
        self.interleave, self.window = interleave, window
        self.num_samples = sum(counts)
        self._starts = torch.tensor([0, *accumulate(counts)])
        self._epoch = -1
        self.positions_ahead = SampleOrder(counts, seed=seed, interleave=interleave, window=window).positions_ahead

    def __getitem__(self, position: int) -> tuple[int, int]:
        """Return shard and number within it of the sample at a position, counted from the start of the first epoch."""
        epoch = position // self.num_samples
        if epoch != self._epoch:
            self._begin(epoch)
        shard, number = self._order[position]
        return shard, int(self._rows[self._chosen[shard] + number] - self._starts[shard])

    def _begin(self, epoch: int) -> None:
        self._epoch = epoch
        self._rows = weighted_rows(self.weights_N, mix_seed(self.seed, epoch, 1))
        chosen = torch.searchsorted(self._rows, self._starts).tolist()  # places where each shard's rows begin
        self._chosen = chosen
        counts = [end - start for start, end in pairwise(chosen)]
        self._order = SampleOrder(counts, seed=self.seed, interleave=self.interleave, window=self.window)
