"""Run many small trials in a child process, so that a crash, a hang or too little memory does not end them."""

import json
import os
import resource
import select
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from fault_trials import Trial

Begin = Callable[[str], None]
"""Told the kind of a trial before it starts."""


def in_child(
    count: int, trial: Callable[[int, Begin], Trial], *, patience: float, memory: int = 3 << 30
) -> Iterator[Trial]:
    """Run trials by their numbers. Each must first report its kind.

    Args:
        count: Number of trials.
        trial: Runs one. An exception counts as a traceback, including MemoryError.
        patience: Seconds after which a trial counts as hanging.
        memory: Bytes of address space for trials, beyond that of this process.
    """
    number = 0
    while number < count:
        source, sink = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(source)
            _work(sink, number, count, trial, memory)
        os.close(sink)
        kind = "before a trial"
        how = ""
        with open(source, "rb", buffering=0) as pipe:
            rest = b""
            while not how:
                if not select.select([pipe], [], [], patience)[0]:
                    how = "hang"
                    break
                piece = pipe.read(1 << 16)
                if not piece:
                    break
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    said = json.loads(line)
                    kind = said["kind"]
                    if "outcome" in said:
                        number += 1
                        yield Trial(kind, said["outcome"], said["detail"])
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        if number < count:
            ended = os.waitstatus_to_exitcode(status)
            yield Trial(kind, how or "traceback", f"number {number}: {how or f'the process ended with {ended}'}")
            number += 1


def _work(sink: int, start: int, count: int, trial: Callable[[int, Begin], Trial], memory: int) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + memory, resource.RLIM_INFINITY))
    kind = ""

    def say(**said: str) -> None:
        os.write(sink, json.dumps(said).encode() + b"\n")

    def begin(name: str) -> None:
        nonlocal kind
        kind = name
        say(kind=name)

    for number in range(start, count):
        try:
            done = trial(number, begin)
        except BaseException:
            done = Trial(kind, "traceback", traceback.format_exc()[-1500:])
        detail = f"number {number}: {done.detail}" if done.detail else ""
        say(kind=done.kind, outcome=done.outcome, detail=detail[:3000])
    os._exit(0)
