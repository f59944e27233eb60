"""How well streamed batches of the shipped specs are mixed, simulated on sets that are sorted by their groups.

    python benchmarks/batch_mixing.py [--remote] [--shuffled] [--window N] [--batches 400]

A group is what neighbouring samples share: a class of UCF101 or of birds, the setup, camera and person of NTU, or a
patient's folder of MIMIC-CXR. For every spec that streams: the groups that a batch meets, the share of a batch's groups
that the batch before had too, and both for batches drawn uniformly. --remote takes the window of shards behind URLs,
--shuffled a set packed by `shala pack --shuffle`, and --window any other, such as the 256 that specs had.
"""

import argparse
from itertools import pairwise
from pathlib import Path
from statistics import mean

import torch
from scripts import markdown

from shala_framework.data.order import SampleOrder, default_window
from shala_framework.spec import read_spec

SPECS = Path(__file__).parent.parent / "specs"
SHARD_SAMPLES = 500
SETS = {  # training samples and groups of the sets that the specs stream
    "ntu_rgb_skeleton": (63_026, 530),
    "ucf101_video_audio": (9_537, 101),
    "mimic_cxr": (222_758, 9_000),
    "cub_image_caption": (5_994, 200),
}


def mixing(
    num_samples: int, num_groups: int, batch_size: int, *, window: int, interleave: int, shuffled: bool, batches: int
) -> tuple[float, float]:
    """Return the groups in a batch, and the share of them that the batch before had, over the first batches.

    Args:
        num_samples: Number of samples of the set.
        num_groups: Number of groups, which follow one another in the set.
        batch_size: Number of rows of a batch.
        window: Number of samples that are shuffled together.
        interleave: Number of segments that are read in turn.
        shuffled: Whether samples were permuted across shards when they were packed.
        batches: Number of batches.
    """
    group_N = torch.arange(num_samples) * num_groups // num_samples
    if shuffled:
        group_N = group_N[torch.randperm(num_samples, generator=torch.Generator().manual_seed(1))]
    counts = [len(part) for part in group_N.split(SHARD_SAMPLES)]
    order = SampleOrder(counts, seed=0, interleave=interleave, window=window)
    met: list[set[int]] = []
    for batch in range(min(batches, num_samples // batch_size)):
        places = [order[position] for position in range(batch * batch_size, (batch + 1) * batch_size)]
        met.append({int(group_N[shard * SHARD_SAMPLES + number]) for shard, number in places})
    shared = [len(now & then) / len(now) for then, now in pairwise(met)]
    return mean(map(len, met)), mean(shared)


def uniform(num_groups: int, batch_size: int) -> tuple[float, float]:
    """Return the same two figures of batches drawn uniformly from groups of one size."""
    share = 1 - (1 - 1 / num_groups) ** batch_size
    return num_groups * share, share


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--remote", action="store_true", help="take the window of shards behind URLs")
    parser.add_argument("--shuffled", action="store_true", help="permute samples across shards")
    parser.add_argument("--window", type=int, default=0, help="samples shuffled together; 0 takes the spec's")
    parser.add_argument("--batches", type=int, default=400)
    args = parser.parse_args()
    lines = [["", "window", "groups in a batch", "uniform", "shared with the batch before", "uniform"]]
    for name, (num_samples, num_groups) in SETS.items():
        spec = read_spec(SPECS / f"{name}.toml", use_stand_in=False).spec
        window = args.window or spec.data.shuffle_buffer or default_window(remote=args.remote)
        batch_size = spec.train.autoencoder.batch_size
        groups, shared = mixing(
            num_samples,
            num_groups,
            batch_size,
            window=window,
            interleave=spec.data.interleave,
            shuffled=args.shuffled,
            batches=args.batches,
        )
        expected = uniform(num_groups, batch_size)
        line = [f"{groups:.1f}", f"{expected[0]:.1f}", f"{shared:.3f}", f"{expected[1]:.3f}"]
        lines.append([name, f"{min(window, num_samples):,}", *line])
    print(markdown(lines))


if __name__ == "__main__":
    main()
