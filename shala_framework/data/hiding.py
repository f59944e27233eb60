"""Hide modalities of training rows, for the curve of a method over the share of missing data.

Which modalities a row lacks depends on its key alone, so that they are missing for good, unlike with dropout.

Shapes: B rows, M modalities.
"""

import hashlib

import attrs
import numpy as np
import torch
from torch import Tensor

from shala_framework.data.rows import Rows


def hide_modalities(rows: Rows, share: float, seed: int) -> Rows:
    """Remove each modality of each row with this probability, but never the last one of a row.

    Args:
        rows: Rows of a training set, or of a batch of it.
        share: Probability.
        seed: Seed of the choice, which else depends on the key of a row alone.
    """
    if not share:
        return rows
    kept_BM = _kept(rows, share, seed)
    x = {
        name: torch.where(kept_BM[:, i].view(-1, *[1] * (value.dim() - 1)), value, torch.zeros_like(value))
        for i, (name, value) in enumerate(rows.x.items())
    }
    return attrs.evolve(rows, x=x, presence=kept_BM)


def _kept(rows: Rows, share: float, seed: int) -> Tensor:
    """Return which modalities remain: bool [B, M]."""
    size = 4 * rows.presence.shape[1]
    drawn = b"".join(hashlib.shake_128(f"{seed} {key}".encode()).digest(size) for key in rows.keys)
    uniform_BM = torch.from_numpy(np.frombuffer(drawn, "<u4").reshape(len(rows), -1) / 2**32).to(rows.presence.device)
    # The present modality of the largest number stays whatever the share.
    present_BM = uniform_BM.masked_fill(~rows.presence, -1.0)
    last_BM = present_BM == present_BM.amax(1, keepdim=True)
    return rows.presence & ((uniform_BM >= share) | last_BM)
