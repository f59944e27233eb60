"""The processes that train one model together, as started by torchrun. A single process is rank 0 of 1.

Rank r of W has rows r, r + W, r + 2 W, ... of every step's batch. Random draws for a row do not depend on the number of
processes: each process draws for all rows and keeps its own, so a step is the same for any W.

Shapes: B rows of this process, W processes.
"""

import gc
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from shala_framework.support.errors import ShalaError

# A process that ends is noticed at once, as its connections close. One that hangs, or whose machine is gone, keeps its
# connections: others give up waiting for it after this time. It is more than the five minutes for which a process
# itself waits for a server.
TIMEOUT = timedelta(minutes=15)
# At barriers: the first process may generate data, fit or validate while the others wait, and each process reads its
# share of the data at its own pace.
PATIENCE = timedelta(hours=12)

HOST, PATIENT = "host", "patient"
_groups: dict[str, Any] = {}  # HOST exchanges numbers in main memory, PATIENT has PATIENCE; both are gloo's


def join(device: torch.device) -> torch.device:
    """Join the process group if torchrun started this process. Return this process's own device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device.type == "cuda" else device
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if not dist.is_initialized():
        # If it is first imported after init_process_group (as by DistributedDataParallel), its default arguments keep
        # the group, and so gloo's threads, to the end of the process.
        import_module("torch.distributed.nn.functional")

        on_cuda = own.type == "cuda"
        # Told its device, NCCL connects at once, so that a process without connection is an error here and not later.
        dist.init_process_group("nccl" if on_cuda else "gloo", timeout=TIMEOUT, device_id=own if on_cuda else None)
    if not _groups:
        for name, timeout in ((HOST, TIMEOUT), (PATIENT, PATIENCE)):
            _groups[name] = dist.new_group(backend="gloo", timeout=timeout)
    return own


def leave() -> None:
    """Leave the process group. Has no effect in a single process.

    A thread of gloo that frees an operation's tensors after the interpreter has begun to shut down aborts the process.
    Such threads end with the last reference to the group. The meshes of sharded layers keep it; for these, wait until
    the threads have freed their last tensors.
    """
    if not dist.is_initialized():
        return
    with_threads = bool(_groups) or dist.get_backend() == "gloo"
    _groups.clear()
    dist.destroy_process_group()
    gc.collect()
    if with_threads:
        time.sleep(0.2)


def starts_as_first() -> bool:
    """Whether torchrun started this process as the first one, or did not start it. Only that one prints."""
    return os.environ.get("RANK", "0") == "0"


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for the other processes, for hours if need be: each may do long work of its own before.

    Work that a process does alone, or at its own pace, is followed by a barrier, because other exchanges wait for
    minutes only.
    """
    if world_size() > 1:
        dist.barrier(group=_groups[PATIENT])


class ProcessError(ShalaError):
    """Another process of the run has ended or no longer answers."""


def is_lost_process(error: RuntimeError) -> bool:
    """Return whether an error means that processes can no longer communicate."""
    return dist.is_initialized() and (isinstance(error, dist.DistError) or "gloo" in str(error))


@contextmanager
def naming_lost_process() -> Iterator[None]:
    """Replace errors of lost communication by one that says another process has ended or no longer answers.

    Raises:
        ProcessError: It has.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        reason, number = str(error).strip().splitlines()[0], f"process {rank()} of {world_size()}"
        if "timed out" in reason.lower():
            raise ProcessError(
                f"{number} waited in vain for another one, which hangs or cannot be reached ({reason}): exchanges wait "
                f"for {TIMEOUT.total_seconds() / 60:g} minutes. Look for a stopped process, an unreadable disk or a "
                "lost machine, and repeat the command to resume from the last saved state"
            ) from error
        raise ProcessError(
            f"{number} lost another one, which failed or was killed from outside ({reason}); "
            "its own message or the launcher's report says why. Repeat the command to resume from the last saved state"
        ) from error


@contextmanager
def first_before_others() -> Iterator[None]:
    """A context that the first process enters alone. The others enter it afterwards and find its results."""
    if rank() != 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def any_process(flags: Sequence[bool]) -> list[bool]:
    """Return which flags are set in any process. All processes must call this.

    They are exchanged in main memory, so that a step's flags do not wait for the device.
    """
    if world_size() == 1:
        return list(flags)
    found = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_groups[HOST])
    return [bool(flag) for flag in found.tolist()]


def mean_of(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Average each number, a tensor [], over processes. All must have the same names in the same order."""
    if world_size() == 1 or not values:
        return dict(values)
    stacked = torch.stack([value.float() for value in values.values()])
    dist.all_reduce(stacked)
    return dict(zip(values, stacked / world_size(), strict=True))


def sum_of(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add each tensor over processes, in float64. All must have the same names and shapes in the same order."""
    exact = {name: value.double() for name, value in values.items()}
    if world_size() == 1 or not exact:
        return exact
    together = torch.cat([value.flatten() for value in exact.values()])
    dist.all_reduce(together)
    parts = together.split([value.numel() for value in exact.values()])
    return {name: part.view_as(value) for (name, value), part in zip(exact.items(), parts, strict=True)}


def copied_from_first(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first process's tensors, in every process; all have the same names and shapes in the same order."""
    if world_size() == 1:
        return dict(values)
    copies = {name: value.clone() for name, value in values.items()}
    for value in copies.values():
        dist.broadcast(value, 0)
    return copies


def bytes_from(content: bytes, source: int) -> bytes:
    """Return the bytes that one process passes, for which the others wait like at a barrier. All must call this.

    Args:
        content: The bytes, in that process; ignored in the others.
        source: Number of the process.
    """
    if world_size() == 1:
        return content
    group, mine = _groups[PATIENT], rank() == source
    length = torch.tensor(len(content))
    dist.broadcast(length, source, group=group)
    data = (
        torch.frombuffer(bytearray(content), dtype=torch.uint8) if mine else torch.empty(int(length), dtype=torch.uint8)
    )
    if len(data):
        dist.broadcast(data, source, group=group)
    return data.numpy().tobytes()


def tensors_from(tensors: Mapping[str, Tensor] | None, source: int) -> dict[str, Tensor]:
    """Return the tensors that one process passes, in main memory, for which the others wait. All must call this.

    Args:
        tensors: The tensors by name, in that process; ignored in the others.
        source: Number of the process.
    """
    mine = {name: value.detach().cpu().contiguous() for name, value in (tensors or {}).items()}
    if world_size() == 1:
        return mine
    header = json.dumps([[name, str(value.dtype), list(value.shape)] for name, value in mine.items()])
    found = {}
    for name, dtype, shape in json.loads(bytes_from(header.encode(), source)):
        own = mine[name] if rank() == source else torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
        if own.numel():
            dist.broadcast(own.view(-1).view(torch.uint8), source, group=_groups[PATIENT])
        found[name] = own
    return found


def largest_share(count: int) -> float:
    """Return the largest share of so many equal parts that a process has if processes take them in turn."""
    return -(-count // world_size()) / max(1, count)


_undivided: list[bool] = []  # an entry for each `undivided_rows` around


@contextmanager
def undivided_rows() -> Iterator[None]:
    """A context in which this process's rows are all rows, as in a validation, and draws for them are those of one."""
    _undivided.append(True)
    try:
        yield
    finally:
        _undivided.pop()


def rows_randn(num_rows: int, *shape: int, device: torch.device) -> Tensor:
    """Draw normal values [B, ...] for this process's rows."""
    return _for_rows(torch.randn, num_rows, *shape, device=device)


def rows_rand(num_rows: int, *shape: int, device: torch.device) -> Tensor:
    """Draw uniform values from [0, 1) for this process's rows."""
    return _for_rows(torch.rand, num_rows, *shape, device=device)


def _for_rows(draw: Callable[..., Tensor], num_rows: int, *shape: int, device: torch.device) -> Tensor:
    size = 1 if _undivided else world_size()
    if size == 1:
        return draw(num_rows, *shape, device=device)
    return draw(num_rows * size, *shape, device=device)[rank() :: size]


class _Gather(torch.autograd.Function):
    """Gathers the rows of all processes. Each process then computes the same loss of all rows.

    The backward pass needs no communication: each process has the complete gradient of its own rows. The gradient is
    multiplied by W, because gradients of parameters are averaged over processes, and the other processes contribute
    nothing for these rows.
    """

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts, 1).flatten(0, 1)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return world_size() * gradient[rank() :: world_size()]


def gather_rows(x: Tensor) -> Tensor:
    """Return the rows of all processes [W * B, ...] in the batch's order, given this process's rows [B, ...].

    All processes must compute the same from them; gradients are then those of a single process.
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


def largest(value: float) -> float:
    """Return the largest of all processes' values, exchanged in main memory. All processes must call this."""
    if world_size() == 1:
        return value
    found = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_groups[HOST])
    return float(found)
