"""Seeds that depend only on where they are used, so no random state needs to be stored."""

from contextlib import AbstractContextManager
from functools import cache

_MASK = 0xFFFFFFFFFFFFFFFF


def mix_seed(*parts: int) -> int:
    """Mix several integers into one 63-bit seed. Neighbouring inputs give unrelated seeds.

    Reference: the finaliser of SplitMix64 (Steele et al. 2014).
    """
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def forked_rng() -> AbstractContextManager[None]:
    """Return a context after which torch's generators are as before: the CPU's and that of this process's device.

    torch's own default saves the generators of all devices of a machine, which warns and takes memory on each of them.
    """
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    return torch.random.fork_rng(devices=devices)


def seed_generators(seed: int) -> None:
    """Seed torch's generators of the CPU and of all accelerators.

    Without an accelerator, `torch.manual_seed` formats the stack three times, once for each kind of device that might
    start later. That takes as long as a small training step.
    """
    import torch

    if _has_accelerator():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@cache
def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()
