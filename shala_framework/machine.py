"""The machine: the device that computes, and how figures name what they were measured on."""

import platform
from pathlib import Path

import torch

from shala_framework.errors import Problem, SpecError


def describe_machine(device: torch.device | None = None) -> str:
    """Processor or CUDA device, threads and torch's version, such as "AMD EPYC, 2 threads, torch 2.14.1"."""
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
    """The device of train.device: "auto" is CUDA where there is one.

    Raises:
        SpecError: CUDA was asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise SpecError([Problem(path="train.device", message="expected a CUDA device, found none", hint='set "auto"')])
    return torch.device(name)
