"""One process at a time uses a folder: the lock ends with its process, and a removed folder is noticed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from shala_framework.run.experiment import Experiment
from shala_framework.spec import read_spec
from shala_framework.support import locking
from shala_framework.support.errors import CheckpointError
from shala_framework.support.locking import LOCK_FILE, FolderLock, file_lock
from shala_framework.support.progress import Silent

pytestmark = pytest.mark.long

HOLDER = """\
import sys, time
from pathlib import Path
from shala_framework.support.locking import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path, command_environment):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], env=command_environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_is_one_processs_until_it_ends_however_it_ends(tmp_path, holder):
    """The refusal names the holder. After kill -9 the next process gets the lock at once and leaves no file behind."""
    with pytest.raises(CheckpointError, match=rf"is in use by process {holder.pid} on "):
        FolderLock(tmp_path).__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    begun = time.monotonic()
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert time.monotonic() - begun < 5
    assert not (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize("alive", [True, False])
def test_another_machines_lock_holds_while_it_is_touched(tmp_path, monkeypatch, alive):
    """If locks do not work over the network, a file is locked while it is touched, and abandoned otherwise."""
    monkeypatch.setattr(locking, "SILENT_SECONDS", 1.0)
    path = tmp_path / LOCK_FILE
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    toucher = threading.Timer(0.4, os.utime, (path,))
    if alive:
        toucher.start()
        with pytest.raises(CheckpointError, match="in use by process 1 on elsewhere"):
            FolderLock(tmp_path).__enter__()
        toucher.join()
    else:
        with FolderLock(tmp_path):
            pass


def test_without_locks_of_the_system_the_process_is_looked_for(tmp_path, monkeypatch):
    """On a file system without locks, a living process of this machine holds the folder, and an ended one does not."""

    def no_locks(*_):
        raise OSError(locking.errno.ENOLCK, "no locks")

    monkeypatch.setattr(locking.fcntl, "flock", no_locks)
    path = tmp_path / LOCK_FILE
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getppid()}))
    with pytest.raises(CheckpointError, match=f"in use by process {os.getppid()}"):
        FolderLock(tmp_path).__enter__()
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1}))
    with FolderLock(tmp_path):
        pass


def test_a_second_run_in_a_folder_is_refused(two_spec, tmp_path, holder):
    """The second run is refused before it writes anything."""
    with pytest.raises(CheckpointError, match="is in use by process"):
        Experiment(read_spec(two_spec), tmp_path).run()
    assert not (tmp_path / "spec.json").exists()


class Removing(Silent):
    """Removes a folder after a given number of units of a task."""

    def __init__(self, folder: Path, task: str, unit: int) -> None:
        self.folder, self.task, self.unit, self.title = folder, task, unit, ""

    def begin(self, title, total, unit="step", done=0):
        self.title = title

    def advance(self, done, terms=None):
        if self.title == self.task and done == self.unit:
            shutil.rmtree(self.folder)


@pytest.mark.parametrize(("task", "unit"), [("autoencoder", 33), ("latents", 200), ("prior", 25), ("joint samples", 1)])
def test_a_folder_that_is_removed_ends_the_run(two_spec, task, unit):
    """The run ends with a message in any phase, and does not recreate the folder."""
    folder = Path("r")
    with pytest.raises(CheckpointError, match="r was removed or replaced while this process worked in it"):
        Experiment(read_spec(two_spec), folder, Removing(folder, task, unit)).run()
    assert not folder.exists()


def test_a_file_lock_excludes_threads_and_leaves_no_file(tmp_path):
    """One holder at a time, also when the file is removed while others wait for it; who need not wait is told."""
    path, inside, most = tmp_path / "x.lock", [0], [0]

    def work():
        for _ in range(20):
            with file_lock(path) as held:
                assert held
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0005)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    with file_lock(path), file_lock(path, wait=False) as held:
        assert not held
    assert not path.exists()
