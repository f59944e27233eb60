"""Number format of training: bfloat16 if this device multiplies matrices faster with it, else float32.

A capability flag alone does not decide, because a virtual machine or an environment variable can hide or feign units.
A processor without such units emulates bfloat16, which can be a hundred times slower than float32.
"""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Literal

import attrs
import torch

from shala_framework.support.errors import Problem, SpecError

PrecisionName = Literal["float32", "bfloat16"]
LEAST_SPEEDUP = 1.1  # least speedup by bfloat16 that is worth its loss of digits
TIMED_SECONDS = 0.1  # for both formats together
LEAST_TURNS, MOST_TURNS = 3, 200
SIDES = {"cpu": 256, "cuda": 4096}  # sides of the square matrices that are multiplied
OLDEST_CUDA = 8  # compute capability with bfloat16 units


@attrs.frozen(kw_only=True)
class Precision:
    """Number format in which a run computes.

    Attributes:
        name: "float32" or "bfloat16".
        reason: Reason for the choice, for the log.
        speedup: Time of a float32 product divided by that of a bfloat16 one on this device; None if not measured.
    """

    name: PrecisionName = "float32"
    reason: str = ""
    speedup: float | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The format as a torch dtype."""
        return torch.bfloat16 if self.name == "bfloat16" else torch.float32

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """Make layers compute in this format for the duration of a context. Parameters stay in float32."""
        if device.type == "meta":  # it has no number formats of its own
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16, enabled=self.name == "bfloat16")


FLOAT32 = Precision(name="float32")


def has_bfloat16_units(device: torch.device) -> bool:
    """Return whether the device reports bfloat16 units: CUDA from compute capability 8, AVX-512-BF16, AMX or Arm."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= OLDEST_CUDA
    try:
        found = torch.cpu.get_capabilities()
    except (AttributeError, RuntimeError):  # before torch 2.10
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16", "sve_bf16"))


@lru_cache(maxsize=8)
def bfloat16_speedup(device: torch.device) -> float:
    """Return the time of a float32 matrix product divided by that of a bfloat16 one, measured once for each device.

    The two formats take turns, each is rated by its fastest call, and a CPU uses one thread, so that other programs on
    the machine do not affect the result.
    """
    side = SIDES[device.type]
    matrix = torch.randn(side, side, device=device, generator=torch.Generator(device).manual_seed(0))
    matrices = (matrix, matrix.to(torch.bfloat16))
    fastest = [math.inf, math.inf]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for operand in matrices:  # the first call of each does the setup
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
    """Choose the format for a device.

    Args:
        asked: `train.precision`; "auto" measures both formats if the device has units for bfloat16.
        device: Device of the computation.

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
    """Check that a device can compute in the requested format.

    Raises:
        SpecError: "bfloat16" on a CUDA device that has no units for it.
    """
    if asked == "bfloat16" and device.type == "cuda" and not has_bfloat16_units(device):
        major, minor = torch.cuda.get_device_capability(device)
        message = f"expected a CUDA device of compute capability {OLDEST_CUDA} or more, got {major}.{minor}"
        raise SpecError([Problem(path="train.precision", message=message, hint='set "auto" or "float32"')])


def doubt_precision(precision: Precision) -> str:
    """Return a warning if the spec insists on the slower format, else an empty string."""
    if precision.name != "bfloat16" or precision.speedup is None or precision.speedup >= 1:
        return ""
    return (
        f'train.precision is "bfloat16", and this device takes {1 / precision.speedup:.0f} times as long for a matrix '
        'product in it as in float32; set train.precision = "auto"'
    )
