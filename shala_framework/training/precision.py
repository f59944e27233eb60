"""Which number format the products of training run in: bfloat16 where this device is faster with it, else float32.

A capability flag alone does not decide: a virtual machine or an environment variable can hide units that the processor
reports. On a processor without such units bfloat16 is emulated and can be a hundred times slower than float32.
"""

import math
import time
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Literal

import attrs
import torch

from shala_framework.support.errors import Problem, SpecError

PrecisionName = Literal["float32", "bfloat16"]
LEAST_SPEEDUP = 1.1  # of bfloat16 products; below it the loss of digits buys nothing
TIMED_SECONDS = 0.1  # in both formats together
LEAST_TURNS, MOST_TURNS = 3, 200
SIDES = {"cpu": 256, "cuda": 4096}  # of the square matrices that are multiplied
OLDEST_CUDA = 8  # compute capability with bfloat16 units


@attrs.frozen(kw_only=True)
class Precision:
    """The format that a run computes in.

    Attributes:
        name: "float32" or "bfloat16".
        reason: Why it was chosen, for the log.
        speedup: Seconds of a float32 product over those of a bfloat16 one on this device; None where not measured.
    """

    name: PrecisionName = "float32"
    reason: str = ""
    speedup: float | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The format as torch names it."""
        return torch.bfloat16 if self.name == "bfloat16" else torch.float32

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """A context in which layers compute in this format; parameters stay in float32."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.name == "bfloat16")


FLOAT32 = Precision(name="float32")


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether the device reports bfloat16 units: CUDA from compute capability 8, AVX-512-BF16, AMX or Arm's BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= OLDEST_CUDA
    try:
        found = torch.cpu.get_capabilities()
    except (AttributeError, RuntimeError):  # before torch 2.10
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16", "sve_bf16"))


@lru_cache(maxsize=8)
def bfloat16_speedup(device: torch.device) -> float:
    """Seconds of a float32 matrix product over those of a bfloat16 one, measured once for each device.

    The two take turns, each by its fastest call and on a CPU in one thread, so that other work on the machine, whose
    threads these would wait for, does not decide.
    """
    side = SIDES[device.type]
    matrix = torch.randn(side, side, device=device, generator=torch.Generator(device).manual_seed(0))
    matrices = (matrix, matrix.to(torch.bfloat16))
    fastest = [math.inf, math.inf]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for operand in matrices:  # the first call of each sets things up
            _seconds_of_product(operand)
        start = time.perf_counter()
        for turn in range(1, MOST_TURNS + 1):
            for number, operand in enumerate(matrices):
                fastest[number] = min(fastest[number], _seconds_of_product(operand))
            if turn >= LEAST_TURNS and time.perf_counter() - start > TIMED_SECONDS:
                break
    finally:
        torch.set_num_threads(threads)
    return fastest[0] / fastest[1]


def _seconds_of_product(matrix: torch.Tensor) -> float:
    start = time.perf_counter()
    matrix @ matrix
    if matrix.is_cuda:
        torch.cuda.synchronize(matrix.device)
    return time.perf_counter() - start


def choose_precision(asked: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """The format for a device.

    Args:
        asked: `train.precision`; "auto" measures where the device has units for bfloat16.
        device: That computes.

    Raises:
        SpecError: "bfloat16" on a CUDA device that has no units for it.
    """
    if asked == "float32":
        return Precision(name="float32", reason="as the spec says")
    check_precision(asked, device)
    units = has_bfloat16_units(device)
    if asked == "auto" and not units:
        return Precision(name="float32", reason="this device has no units for bfloat16")
    speedup = bfloat16_speedup(device)
    products = f"products in bfloat16 take {1 / speedup:.3g} times as long as in float32"
    if asked == "bfloat16":
        return Precision(name="bfloat16", reason=f"as the spec says; {products}", speedup=speedup)
    return Precision(name="bfloat16" if speedup >= LEAST_SPEEDUP else "float32", reason=products, speedup=speedup)


def check_precision(asked: str, device: torch.device) -> None:
    """Check that a device can compute in the format that was asked for.

    Raises:
        SpecError: "bfloat16" on a CUDA device that has no units for it.
    """
    if asked == "bfloat16" and device.type == "cuda" and not has_bfloat16_units(device):
        major, minor = torch.cuda.get_device_capability(device)
        message = f"expected a CUDA device of compute capability {OLDEST_CUDA} or more, got {major}.{minor}"
        raise SpecError([Problem(path="train.precision", message=message, hint='set "auto" or "float32"')])


def doubt_precision(precision: Precision) -> str:
    """A sentence for a run whose spec insists on a slower format; empty otherwise."""
    if precision.name != "bfloat16" or precision.speedup is None or precision.speedup >= 1:
        return ""
    return (
        f'train.precision is "bfloat16", and this device takes {1 / precision.speedup:.0f} times as long for a matrix '
        'product in it as in float32; set train.precision = "auto"'
    )
