"""What a process knows of the samples of shards, in little memory."""

import pickle

import pytest

from shala_framework.data.sample_table import SampleTable
from shala_framework.data.shard_index import Member, ShardIndex


@pytest.mark.parametrize(
    "samples",
    [
        (),
        (("é\udcff", {}), ("b", {"png": Member(512, 0), "cls": Member(1 << 40, 7, 0)}), ("c", {"cls": Member(9, 1)})),
        (("a", {"x": Member(512, 300, 2**32 - 1), "a": Member(0, 1, 5)}), ("b", {"a": Member(1, 2, 3)})),
    ],
)
def test_a_table_has_what_the_index_says(samples):
    """Keys, order of fields, large offsets, and checksums of 0 or unknown, also in another process."""
    table = pickle.loads(pickle.dumps(SampleTable(ShardIndex(1 << 41, samples))))
    assert table.samples == samples
    assert (table.num_bytes, len(table)) == (1 << 41, len(samples))


def test_a_sample_takes_few_bytes():
    """Two fields and a key of ten characters take at most 60 bytes; as objects, they took 744."""
    samples = tuple(
        (f"{n:010d}", {"jpg": Member(2_048 * n + 512, 900, 77 * n), "cls": Member(2_048 * n + 1_536, 2, n)})
        for n in range(1_000)
    )
    assert SampleTable(ShardIndex(1 << 31, samples)).memory <= 60 * len(samples)
