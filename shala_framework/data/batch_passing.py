"""Pass batches from a worker to the process that started it, in shared memory that is used again and again.

torch's own way opens a connection for every tensor, which the worker answers by a thread beside the one that decodes:
tens of milliseconds for a batch of a few tensors. Here a batch is one message, and its tensors are copied once on
either side. Systems without anonymous files in memory use torch's way.
"""

import io
import mmap
import os
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler, recv_handle, send_handle
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes


class _Pickler(ForkingPickler):
    """Writes a batch like multiprocessing does, except for plain tensors, which it lists."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []
        self.num_bytes = 0

    def reducer_override(self, value: Any) -> Any:
        plain = type(value) is Tensor and value.layout == torch.strided and value.device.type == "cpu"
        if not plain or value.requires_grad or value.is_quantized:
            return NotImplemented
        self.tensors.append(value)
        begin = -(-self.num_bytes // ALIGNMENT) * ALIGNMENT
        self.num_bytes = begin + value.numel() * value.element_size()
        return _tensor_at, (begin, self.num_bytes - begin, value.dtype, tuple(value.shape))


_receiving = threading.local()  # has the memory of the batch that this thread receives


def _tensor_at(begin: int, size: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of the batch that is being received."""
    memory: Tensor = _receiving.memory
    return memory[begin : begin + size].view(dtype).view(shape)


class Sender:
    """The worker's end.

    Args:
        connection: Connection to the other process.
        num_slots: Number of batches that may be on their way.
    """

    def __init__(self, connection: Connection, num_slots: int) -> None:
        self.connection = connection
        self.slots: list[mmap.mmap | None] = [None] * num_slots
        self.number = 0

    def send(self, batch: Any) -> None:
        """Send a batch; the one `num_slots` before has been received."""
        if not hasattr(os, "memfd_create"):
            self.connection.send(("batch", batch))
            return
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(batch)
        slot, self.number = self.number % len(self.slots), self.number + 1
        memory, handle = self.slots[slot], None
        if memory is None or len(memory) < pickler.num_bytes:
            size = max(pickler.num_bytes, 1)
            handle = os.memfd_create("batch")
            os.ftruncate(handle, size)
            memory = self.slots[slot] = mmap.mmap(handle, size)
        _write(memory, pickler.tensors)
        self.connection.send(("packed", (slot, pickler.num_bytes, handle is not None, file.getvalue())))
        if handle is not None:
            send_handle(self.connection, handle, os.getppid())
            os.close(handle)


def _write(memory: mmap.mmap, tensors: Sequence[Tensor]) -> None:
    """Copy tensors into memory, at the places that `_Pickler` gave them."""
    target = torch.frombuffer(memory, dtype=torch.uint8)
    end = 0
    for value in tensors:
        begin = -(-end // ALIGNMENT) * ALIGNMENT
        end = begin + value.numel() * value.element_size()
        if value.numel():
            target[begin:end].view(value.dtype).view(value.shape).copy_(value)


class Receiver:
    """The end of the process that started a worker.

    Args:
        connection: Connection to the worker.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.slots: dict[int, mmap.mmap] = {}

    def receive(self) -> tuple[str, Any]:
        """Return the kind and the value of the next message; a batch is in memory of this process alone."""
        kind, value = self.connection.recv()
        if kind != "packed":
            return kind, value
        slot, num_bytes, fresh, content = value
        if fresh:
            handle = recv_handle(self.connection)
            self.slots[slot] = mmap.mmap(handle, os.fstat(handle).st_size)
            os.close(handle)
        own = torch.empty(num_bytes, dtype=torch.uint8)
        own.copy_(torch.frombuffer(self.slots[slot], dtype=torch.uint8, count=num_bytes) if num_bytes else own)
        _receiving.memory = own
        try:
            return "batch", ForkingPickler.loads(content)
        finally:
            del _receiving.memory
