"""Processes that make the batches of a stream by turns; one that is killed is an error within a second.

Every worker has a connection of its own, of which this process keeps one end alone. So the end of a worker, however it
comes, ends what waits for it, and the end of this process ends its workers.
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

from shala_framework.support.errors import ShalaError
from shala_framework.support.urls import pipes_permitted, set_pipes_permitted

Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)
AHEAD = 2  # batches that each worker has ready beside the one that it works on
PATIENCE_SECONDS = 2.0  # that a worker is given to end by itself


class WorkerError(ShalaError):
    """A process that reads or prepares data has died."""


class Stream(Protocol[Batch_co]):
    """Batches that several readers can make by turns."""

    def read(self, index: int, count: int) -> Iterator[Batch_co]:
        """The batches of one reader of so many, of which the first has the first batch."""
        ...


def work(stream: Stream[Batch], num_workers: int) -> Iterator[Batch]:
    """Batches of a stream in order, made by worker processes, which start at once.

    Args:
        stream: Source of the batches; every worker gets a copy.
        num_workers: Number of processes, at least 1.

    Raises:
        ShalaError: What the stream raises, in the words of the worker that met it.
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
        # Before multiprocessing's own end, which would wait for workers that ignore its signal.
        self.close = Finalize(self, _end, (self.processes, self.connections), exitpriority=100)
        for index in range(count):
            mine, theirs = context.Pipe()
            arguments = (stream, index, count, seed, pipes_permitted(), theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.connections.append(mine)

    def batches(self) -> Iterator[Any]:
        try:
            for connection in self.connections:
                for _ in range(AHEAD):
                    self._ask(connection)
            while True:
                for index, connection in enumerate(self.connections):
                    kind, value = self._receive(index)
                    if kind == "end":  # of several readers by turns, the first that is through is the last batch's next
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
        with suppress(OSError):  # it is gone, which the next attempt to receive finds
            connection.send(None)

    def _receive(self, index: int) -> tuple[str, Any]:
        process, connection = self.processes[index], self.connections[index]
        try:
            found: tuple[str, Any] = connection.recv()  # ends with the process: nobody else has the other end
            return found
        except (
            EOFError,
            OSError,
            RuntimeError,
        ) as error:  # the last two where tensors came from a process that is gone
            process.join(PATIENCE_SECONDS)
            if process.exitcode is None:
                raise
            raise WorkerError(
                f"worker {index + 1} of {len(self.processes)} that reads the data {describe_exit(process.exitcode)}; "
                "lower data.num_workers if memory is short, and repeat the command to resume"
            ) from error


def describe_exit(code: int) -> str:
    """How a process ended, by its exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    why = ", as the system does when memory is short" if -code == signal.SIGKILL else ""
    return f"was killed by {name} (exit code {code}){why}"


def _end(processes: list[BaseProcess], connections: list[Connection]) -> None:
    """End all workers: each sees that its connection is closed, and one that does not is killed."""
    for connection in connections:
        connection.close()
    for process in processes:
        process.join(PATIENCE_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(stream: Stream[Any], index: int, count: int, seed: int, permitted: bool, connection: Connection) -> None:
    """What a worker does."""
    # Terminals, schedulers and torchrun signal all processes of a group, and the training process saves its state
    # first: it needs the step under way, and so its workers.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    set_pipes_permitted(permitted)
    torch.set_num_threads(1)
    torch.manual_seed(seed + index)
    try:
        try:
            for batch in stream.read(index, count):
                connection.recv()
                connection.send(("batch", batch))
            last: tuple[str, Any] = ("end", None)
        except ShalaError as error:
            last = ("error", error)
        except (EOFError, ConnectionError):
            return
        except Exception:
            last = ("traceback", traceback.format_exc())
        connection.send(last)
        while True:
            connection.recv()  # tensors that are on their way live in this process, so it stays until the other is done
    except (EOFError, ConnectionError):
        return
