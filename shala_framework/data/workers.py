"""Worker processes that compute the batches of a stream in turn. A killed worker becomes an error within a second.

Every worker has its own connection, and only this process holds the other end. Whenever a worker ends, whatever waits
for it ends too, and when this process ends, its workers end.
"""

import signal
import traceback
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, Protocol, TypeVar

import torch
import torch.multiprocessing

from shala_framework.data.batch_passing import Receiver, Sender
from shala_framework.support.errors import ShalaError
from shala_framework.support.urls import pipes_permitted, set_pipes_permitted

Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)
AHEAD = 2  # finished batches that each worker holds besides the one in progress
PATIENCE_SECONDS = 2.0  # time for a worker to end by itself


class WorkerError(ShalaError):
    """A process that reads or prepares data has died."""


class Stream(Protocol[Batch_co]):
    """Batches that several readers can compute in turn."""

    def read(self, index: int, count: int) -> Iterator[Batch_co]:
        """Yield the batches of one of `count` readers. Reader 0 has the first batch."""
        ...


def work(stream: Stream[Batch], num_workers: int) -> Iterator[Batch]:
    """Yield the batches of a stream in order. Worker processes compute them and start at once.

    Args:
        stream: Source of the batches; every worker gets a copy.
        num_workers: Number of processes, at least 1.

    Raises:
        ShalaError: The stream raised it in a worker.
        WorkerError: A worker was killed.
    """
    workers = _Workers(stream, num_workers)
    return workers.batches()


class _Workers:
    def __init__(self, stream: Stream[Any], count: int) -> None:
        context = torch.multiprocessing.get_context("spawn")
        seed = int(torch.empty((), dtype=torch.int64).random_())
        self.processes: list[BaseProcess] = []
        self.connections: list[Connection] = []
        self.receivers: list[Receiver] = []
        # Runs before multiprocessing's own cleanup, which would wait for workers that ignore its signal.
        self.close = Finalize(self, _end, (self.processes, self.connections), exitpriority=100)
        for index in range(count):
            mine, theirs = context.Pipe()
            arguments = (stream, index, count, seed, pipes_permitted(), theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.connections.append(mine)
            self.receivers.append(Receiver(mine))

    def batches(self) -> Iterator[Any]:
        try:
            for connection in self.connections:
                for _ in range(AHEAD):
                    self._ask(connection)
            while True:
                for index, connection in enumerate(self.connections):
                    kind, value = self._receive(index)
                    if kind == "end":  # the first reader that finishes is the one after the reader of the last batch
                        return
                    if kind == "error":
                        raise value
                    if kind == "traceback":
                        raise RuntimeError(f"a worker failed:\n{value}")
                    self._ask(connection)
                    yield value
        finally:
            self.close()

    @staticmethod
    def _ask(connection: Connection) -> None:
        with suppress(OSError):  # the worker is gone; the next attempt to receive will notice
            connection.send(None)

    def _receive(self, index: int) -> tuple[str, Any]:
        process = self.processes[index]
        try:
            return self.receivers[index].receive()  # ends with the process, the only holder of the other end
        except (
            EOFError,
            OSError,
            RuntimeError,
        ) as error:  # the last two for tensors from a process that is gone
            process.join(PATIENCE_SECONDS)
            if process.exitcode is None:
                raise
            raise WorkerError(
                f"worker {index + 1} of {len(self.processes)} that reads the data {describe_exit(process.exitcode)}; "
                "lower data.num_workers if memory is short, and repeat the command to resume"
            ) from error


def describe_exit(code: int) -> str:
    """Describe how a process ended, from its exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    why = ", which the system does when memory runs out" if -code == signal.SIGKILL else ""
    return f"was killed by {name} (exit code {code}){why}"


def _end(processes: list[BaseProcess], connections: list[Connection]) -> None:
    """End all workers: each notices that its connection is closed, and any that do not are killed."""
    for connection in connections:
        connection.close()
    for process in processes:
        process.join(PATIENCE_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(stream: Stream[Any], index: int, count: int, seed: int, permitted: bool, connection: Connection) -> None:
    """Run in a worker process."""
    # Terminals, schedulers and torchrun signal all processes of a group. The training process first saves its state,
    # for which it needs the current step and therefore its workers.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    set_pipes_permitted(permitted)
    torch.set_num_threads(1)
    torch.manual_seed(seed + index)
    try:
        try:
            sender = Sender(connection, AHEAD)
            for batch in stream.read(index, count):
                connection.recv()
                sender.send(batch)
            last: tuple[str, Any] = ("end", None)
        except ShalaError as error:
            last = ("error", error)
        except (EOFError, ConnectionError):
            return
        except Exception:
            last = ("traceback", traceback.format_exc())
        connection.send(last)
        while True:
            connection.recv()  # tensors on their way may live in this process, so it waits for the other one
    except (EOFError, ConnectionError):
        return
