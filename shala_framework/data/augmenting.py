"""Augment the training rows of stage 1 by what their modalities declare."""

import zlib
from collections.abc import Mapping

import attrs
import torch

from shala_framework.data.rows import Rows
from shala_framework.plugin.augmenting import Draws
from shala_framework.plugin.modality import Modality, augments
from shala_framework.support.distributed import processes
from shala_framework.support.errors import PluginError
from shala_framework.support.seeds import mix_seed

_PURPOSE = zlib.crc32(b"augmentation")  # other draws from the same seed are unrelated


def augmented_rows(
    rows: Rows, modalities: Mapping[str, Modality], *, seed: int, step: int, device: torch.device
) -> Rows:
    """Return the rows of a training step as its modalities vary them; the given rows stay as they are.

    Raw and prepared shards, rows in memory and rows from Python all hold the result of `Modality.read`, so they are
    augmented alike. Draws depend on seed, step, modality and place in the batch alone.

    Args:
        rows: This process's rows of the step.
        modalities: Modalities by name.
        seed: Seed of the run.
        step: Number of the step.
        device: Device on which rows are augmented, where training needs them.

    Raises:
        PluginError: A plugin changes the shape or the type of x.
    """
    chosen = {name: modality for name, modality in modalities.items() if augments(modality)}
    if not chosen:
        return rows
    rows = rows.to(device)
    varied, corrupted = dict(rows.x), dict(rows.corrupted)
    for name, modality in chosen.items():
        draws = Draws(
            seed=mix_seed(seed, _PURPOSE, step, zlib.crc32(name.encode())),
            num_rows=len(rows),
            rank=processes.rank(),
            world_size=processes.world_size(),
            device=device,
        )
        before = rows.x[name]
        varied[name] = modality.augment(before, draws)
        seen = modality.corrupt(varied[name], draws)
        for what, after in (("augment", varied[name]), ("corrupt", seen)):
            if after.shape != before.shape or after.dtype != before.dtype:
                raise PluginError(
                    f"modality {name!r}: expected {before.dtype} {tuple(before.shape)} of its plugin's {what}(), got "
                    f"{after.dtype} {tuple(after.shape)}"
                )
        if seen is not varied[name]:
            corrupted[name] = seen
    return attrs.evolve(rows, x=varied, corrupted=corrupted)
