"""The machine: its device, its cores, and its description for measurements."""

import math
import os
import platform
from pathlib import Path

import torch
from torch import Tensor

from shala_framework.support.errors import Problem, SpecError


def available_cores(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of cores that this process may use: its affinity, or the quota of its control group if smaller.

    Args:
        cgroups: Folder in which the system describes control groups.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return max(1, min(cores, math.ceil(quota)) if quota is not None else cores)


def _quota(cgroups: Path) -> float | None:
    """Return the cores' worth of time that the control group (version 2 or 1) grants; None without a limit."""
    try:
        granted, _, period = (cgroups / "cpu.max").read_text().strip().partition(" ")
        return None if granted == "max" else int(granted) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        granted, period = ((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(granted) / int(period) if int(granted) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def limit_threads() -> int:
    """Limit torch's threads to this process's cores, and return the number of threads.

    torch counts the cores of the machine, which may be more than those of a container or a cluster job.
    OMP_NUM_THREADS, which torchrun also sets, remains a limit.
    """
    allowed = available_cores()
    if torch.get_num_threads() > allowed:
        torch.set_num_threads(allowed)
    return torch.get_num_threads()


def describe_machine(device: torch.device | None = None) -> str:
    """Describe processor or CUDA device, threads and torch's version, such as "AMD EPYC, 2 threads, torch 2.14.1"."""
    if device is not None and device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}"


def resolve_device(name: str) -> torch.device:
    """Return the device of train.device; "auto" is CUDA if available. Limit torch's threads to this process's cores.

    Raises:
        SpecError: CUDA is requested but not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise SpecError([Problem(path="train.device", message="expected a CUDA device, found none", hint='set "auto"')])
    limit_threads()
    return torch.device(name)


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to a device. To CUDA, use pinned memory, so the processor does not wait for the copy."""
    if device.type == "cuda" and not value.is_cuda:
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)
