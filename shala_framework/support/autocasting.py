"""Leave a reduced number format for computations that need float32."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Compute in the format of the operands for the duration of a context."""
    if device.type == "meta":  # it has no number formats of its own
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
