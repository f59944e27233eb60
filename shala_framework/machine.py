"""What figures of speed and training were measured on."""

import platform
from pathlib import Path

import torch


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
