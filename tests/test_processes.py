"""Exchanges between processes: what ends a wait for another one, and which waits may be long."""

import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long

LOST = """\
import datetime, os, signal, sys, time
from pathlib import Path
import torch
from shala_framework.support.distributed import processes

signal_name, seconds = sys.argv[1], float(sys.argv[2])
processes.TIMEOUT = datetime.timedelta(seconds=seconds)
Path("ready" + os.environ["RANK"]).touch()
while not (Path("ready0").exists() and Path("ready1").exists()):  # imports take long on a busy machine
    time.sleep(0.02)
processes.join(torch.device("cpu"))
first = processes.rank() == 0
try:
    with processes.naming_lost_process():
        with processes.first_before_others():
            time.sleep(1.2 * seconds if first and signal_name == "SIGSTOP" else 0)
        assert processes.any_process([first, False]) == [True, False]
        assert processes.largest(float(processes.rank())) == 1.0
        assert processes.mean_of({"a": torch.tensor(float(processes.rank()))})["a"] == 0.5
        assert processes.bytes_from(b"01"[: processes.rank() + 1], 1) == b"01"
        print("exchanged", flush=True)
        if not first:
            os.kill(os.getpid(), getattr(signal, signal_name))
        processes.largest(0.0)
except processes.ProcessError as error:
    print(error)
finally:
    processes.leave()
"""
@pytest.fixture
def pair(tmp_path, command_environment):
    """Start a script in two processes that form a group; kill those that still run at the end."""
    started = []

    def start(script, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (tmp_path / "pair.py").write_text(script)
        for rank in range(2):
            group = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            started.append(
                subprocess.Popen(
                    [sys.executable, "pair.py", *arguments],
                    cwd=tmp_path, env=command_environment | group | place, text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
        return started

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("signal_name", "seconds", "says"),
    [("SIGKILL", 600, "lost another one"), ("SIGSTOP", 6, "hangs or cannot be reached")],
)
def test_a_process_that_ends_or_hangs_ends_the_others(pair, signal_name, seconds, says):
    """One that ends is noticed at once, one that hangs after the timeout, although barriers wait for longer."""
    first, _ = pair(LOST, signal_name, str(seconds))
    output, _ = first.communicate(timeout=300)
    assert output.startswith("exchanged\nprocess 0 of 2 "), output
    assert says in output
