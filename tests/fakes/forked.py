"""Processes that form a group as those of torchrun do, forked from one that has imported torch already.

Each process that starts afresh imports torch for seconds, which is most of what a short run takes.
"""

import gc
import multiprocessing
import os
import runpy
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

LEAST_VALUES = 32  # of a layer that is sharded
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([
    *("shala_framework.cli.run", "shala_framework.report.page", "shala_framework.run.evaluation"),
    *("sklearn.cluster", "torch._dynamo", "torch.distributed.nn.functional"),
])  # fmt: skip


class ForkedGroup:
    """Processes that call one function, each with the environment that torchrun would give it."""

    def __init__(self, count: int, call: Callable[..., Any], *arguments: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.outputs = [Path(f"output_{port}_{rank}.txt").absolute() for rank in range(count)]
        self.processes = []
        for rank, path in enumerate(self.outputs):
            group = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            process = _context.Process(target=_begin, args=({**os.environ, **group, **place}, path, call, arguments))
            process.start()
            self.processes.append(process)

    def wait(self, timeout: float, *, failing: bool = False) -> str:
        """Wait until all have ended, and return what they have written.

        Args:
            timeout: Most seconds to wait.
            failing: Whether they are to end with an error. Else, the first error ends all.
        """
        deadline = time.monotonic() + timeout
        while running := [process.sentinel for process in self.processes if process.exitcode is None]:
            assert connection.wait(running, deadline - time.monotonic()), f"after {timeout} s: {self.written()}"
            assert failing or not any(self.exit_codes), self.written()
        assert failing == any(self.exit_codes), self.written()
        return self.written()

    def written(self) -> str:
        """Return what the processes have written so far, one after the other."""
        return "".join(path.read_text() for path in self.outputs if path.exists())

    @property
    def exit_codes(self) -> list[int | None]:
        return [process.exitcode for process in self.processes]

    def terminate(self) -> None:
        for process in self.processes:
            process.terminate()

    def kill(self) -> None:
        for process in self.processes:
            if process.exitcode is None:
                process.kill()
                process.join()


def _begin(environment: dict[str, str], output: Path, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    call(*arguments)


def run_script(path: Path, arguments: Sequence[str]) -> None:
    """Run a file as `python PATH ARGUMENT ...` does."""
    sys.argv = [str(path), *arguments]
    runpy.run_path(str(path), run_name="__main__")


def train_with_small_layers_sharded(arguments: list[str]) -> None:
    """Run `shala-run`. If it shards, it shards layers of the size that tests have."""
    from shala_framework.cli.main import main_run
    from shala_framework.support.distributed import sharded_layers

    sharded_layers.LEAST_VALUES = LEAST_VALUES
    main_run(arguments)


def train_and_tell_of_timed_steps(arguments: list[str]) -> None:
    """Run `shala-run`, and print how each stage was timed: steps that exchange gradients, and what is left of that."""
    from torch.nn.parallel import DistributedDataParallel

    from shala_framework.cli.main import main_run
    from shala_framework.run import training

    measure, forward, exchanging = training.measure_stage, DistributedDataParallel.forward, []

    def counted(module: Any, *inputs: Any, **named: Any) -> Any:
        exchanging.append(module.require_backward_grad_sync)
        return forward(module, *inputs, **named)

    def told(stage: Any, *inputs: Any, **named: Any) -> Any:
        exchanging.clear()
        cost = measure(stage, *inputs, **named)
        left = sum(type(thing) is DistributedDataParallel for thing in gc.get_objects())
        print(f"timed {stage.name}: {sum(exchanging)} exchanges, {left} left", flush=True)
        return cost

    DistributedDataParallel.forward = counted  # type: ignore[method-assign]
    training.measure_stage = told
    main_run(arguments)
