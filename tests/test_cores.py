"""torch has as many threads as other programs leave it cores."""

import os

import pytest
import torch

from shala_framework.support import cores
from shala_framework.support.cores import CoreWatch, look_at_load, sharing_cores, threads_for

TICKS = os.sysconf("SC_CLK_TCK")


class Machine:
    """A machine whose processors have been idle for a time, as Linux tells it, beside clocks that stand still."""

    def __init__(self, folder, cpus):
        self.stat, self.cpus, self.time, self.own = folder / "stat", cpus, 0.0, 0.0
        self.idle(0.0)

    def idle(self, seconds):
        """Let every processor have been idle for so long, half of it waiting for a disk."""
        half = int(seconds * TICKS / 2)
        lines = ["cpu  1 1 1 1 1 1 1 1 1 1", *(f"cpu{cpu} 7 0 9 {half} {half} 0 0 5 0 0" for cpu in self.cpus)]
        self.stat.write_text("\n".join([*lines, "intr 5 5", ""]))

    def watch(self):
        return CoreWatch(self.stat, lambda: self.time, lambda: self.own)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path, sorted(os.sched_getaffinity(0)))


def test_free_cores_are_the_idle_and_the_own_ones(machine):
    """In ten seconds, each processor idles for two and this process uses seven: the rest is another program's."""
    watch = machine.watch()
    machine.time, machine.own = 10.0, 7.0
    machine.idle(2.0)
    assert watch.seconds == 10
    assert watch.free() == pytest.approx((2 * len(machine.cpus) + 7) / 10)
    assert watch.seconds == 0
    machine.time, machine.own = 20.0, 17.0  # no processor has been idle since
    assert watch.free() == pytest.approx(1.0)


@pytest.mark.parametrize("content", ["", "cpu0 x y z u v w", "cpu999999 1 2 3 4 5 6 7", None])
def test_where_the_system_does_not_say_nothing_is_known(tmp_path, content):
    """No such file, or one of another form, is no error: threads stay as they are."""
    stat = tmp_path / "stat"
    if content is not None:
        stat.write_text(content)
    time = iter((0.0, 5.0, 5.0))
    assert CoreWatch(stat, lambda: next(time)).free() is None


@pytest.mark.parametrize(
    ("free", "most", "present", "wanted"),
    [
        (2.0, 2, 2, 2), (1.3, 2, 2, 1), (1.0, 2, 1, 1), (1.6, 2, 1, 2), (0.2, 2, 2, 1), (9.0, 2, 1, 2),
        (61.0, 64, 64, 64), (50.0, 64, 64, 50), (0.0, 1, 1, 1),
    ],
)  # fmt: skip
def test_threads_are_the_free_cores_but_for_small_changes(free, most, present, wanted):
    assert threads_for(free, most, present) == wanted


@pytest.fixture
def two_threads():
    """torch with two threads, as many as it had before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def crowded(machine, monkeypatch):
    """A machine of which other programs leave one core, and this process uses it."""
    monkeypatch.setattr(cores, "CoreWatch", machine.watch)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return machine


def test_threads_follow_the_load_and_return(crowded, two_threads):
    """One thread while another program runs, two once it ends, and after the context whatever there was before it."""
    with sharing_cores():
        crowded.time, crowded.own = 4.9, 4.9
        look_at_load()
        assert torch.get_num_threads() == 2, "not before five seconds"
        crowded.time, crowded.own = 5.0, 5.0
        look_at_load()
        assert torch.get_num_threads() == 1
        crowded.time, crowded.own = 10.0, 10.0
        crowded.idle(5.0)
        look_at_load()
        assert torch.get_num_threads() == 2
        crowded.time, crowded.own = 15.0, 15.0
        look_at_load()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    look_at_load()  # outside of the context, nothing is changed
    crowded.time = 99.0
    look_at_load()
    assert torch.get_num_threads() == 2


def test_compiled_code_keeps_its_number_of_threads(crowded, two_threads):
    with sharing_cores(), cores.keeping_threads():
        crowded.time, crowded.own = 5.0, 5.0
        look_at_load()
        assert torch.get_num_threads() == 2


def test_a_number_that_the_user_sets_stays(crowded, two_threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with sharing_cores():
        crowded.time, crowded.own = 5.0, 5.0
        look_at_load()
        assert torch.get_num_threads() == 2
