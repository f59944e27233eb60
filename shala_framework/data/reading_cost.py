"""What it costs to decode the samples of a streamed set, for a word to the user before a long run."""

import time
from collections.abc import Callable, Mapping

import torch

from shala_framework.data.indexed_shards import IndexedShards
from shala_framework.data.order import spread_positions
from shala_framework.data.rows import decode
from shala_framework.plugin.modality import Modality
from shala_framework.support.errors import DataError
from shala_framework.support.machine import available_cores

MOST_SAMPLES = 4
MOST_SECONDS = 2.0
CHEAP_SECONDS = 0.02  # of a sample, of which nothing is said


def decoding_seconds(
    shards: IndexedShards, modalities: Mapping[str, Modality], clock: Callable[[], float] = time.thread_time
) -> float:
    """Return the processor seconds that decoding a sample takes, averaged over a few; 0 if none can be decoded.

    Args:
        shards: Shards of the set.
        modalities: Modalities by name.
        clock: Processor time of this thread.
    """
    total, count = 0.0, 0
    fields = frozenset().union(*(modality.fields for modality in modalities.values()))
    with torch.random.fork_rng(devices=[]):  # reading may draw
        for position in spread_positions(len(shards), MOST_SAMPLES):
            try:
                raw = shards.read(*shards.locate(position), fields)
                begun = clock()
                decode(raw, modalities)
            except DataError:
                continue  # training says so, or the sample is prepared
            total, count = total + clock() - begun, count + 1
            if total > MOST_SECONDS:
                break
    return total / max(1, count)


def describe_cost(seconds: float, num_samples: int, num_readers: int) -> str | None:
    """Say how long an epoch takes to decode, and what to do; None if decoding is cheap.

    Args:
        seconds: Processor seconds of a sample.
        num_samples: Number of samples of an epoch.
        num_readers: Number of processes that decode at the same time, each with a core.
    """
    if seconds < CHEAP_SECONDS:
        return None
    rate = num_readers / seconds
    hours = num_samples / rate / 3600
    epoch = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    readers = f"{num_readers} processes" if num_readers > 1 else "one process"
    return (
        f"decoding a sample takes {seconds:.2g} s of a processor, so that {readers} read at most {rate:.3g} samples a "
        f"second, an epoch in {epoch}; `shala pack ... --for SPEC` stores what the modalities read, so that training "
        "decodes nothing"
    )


def cost_of_reading(
    shards: IndexedShards, modalities: Mapping[str, Modality], num_workers: int, world_size: int
) -> str | None:
    """Measure what decoding costs, and say it; None if it is cheap."""
    readers = min(max(1, num_workers), max(1, available_cores() // world_size)) * world_size
    return describe_cost(decoding_seconds(shards, modalities), len(shards), readers)
