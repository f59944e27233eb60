"""The order of samples over epochs, segments and processes."""

from collections import Counter

import pytest

from shala_framework.data.order import SampleOrder


@pytest.mark.parametrize("counts", [[1], [7], [5, 0, 3, 11], [1] * 13, [100, 1]])
@pytest.mark.parametrize("interleave", [1, 4, 8])
def test_every_epoch_has_every_sample_once_and_no_position_needs_another(counts, interleave):
    """For any counts, an epoch's positions cover the set, from any start."""
    order = SampleOrder(counts, seed=3, interleave=interleave, window=6)
    everything = Counter((shard, i) for shard, count in enumerate(counts) for i in range(count))
    n = order.num_samples
    epochs = [[order[p] for p in range(e * n, (e + 1) * n)] for e in range(3)]
    assert all(Counter(epoch) == everything for epoch in epochs)
    late = SampleOrder(counts, seed=3, interleave=interleave, window=6)
    assert [late[p] for p in reversed(range(2 * n, 3 * n))] == epochs[2][::-1]  # no position depends on earlier ones
    if n > 6:
        assert epochs[0] != epochs[1]


def test_a_process_reads_few_shards_and_neighbours_come_from_all_over():
    """With 8 segments, each of 4 processes reads a quarter of 64 shards, and one batch meets 8."""
    order = SampleOrder([25] * 64, seed=0, interleave=8, window=200)
    first = [order[p] for p in range(order.num_samples)]
    for rank in range(4):
        met = {shard for shard, _ in first[rank::4]}
        assert 16 <= len(met) <= 22
    assert len({shard for shard, _ in first[:16]}) >= 8
