"""The contract of a modality, the specifics of this one, and a run together with another modality."""

import csv
import io
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from shala_inertial import Inertial
from shala_inertial.recording import write_recording

from shala_framework.plugin import DataError
from shala_framework.plugin.testing import ModalitySuite

HERE = Path(__file__).parent.parent


def recording(times: np.ndarray, header: str = "time,ax,ay,note") -> bytes:
    """Return a CSV file in which ax is the time and ay its negative."""
    return "\n".join([header, *(f"{t:.6f},{t:.6f},{-t:.6f},x" for t in times)]).encode()


class TestInertial(ModalitySuite):
    modality = Inertial
    options: ClassVar = {"channels": ("ax", "ay"), "seconds": 1.0, "rate_hz": 10.0, "width": 16}

    def sample_fields(self, index: int) -> dict[str, bytes]:
        time = np.arange(30) / 20
        values = np.stack([np.sin(5 * time + index), 9.8 + np.cos(3 * time) * index], axis=1)
        return {"csv": write_recording(values.astype(np.float32), 20.0, "time", ["ax", "ay"])}

    def test_the_middle_is_resampled_by_uneven_times(self) -> None:
        times = np.array([0.0, 0.1, 0.7, 1.0, 1.5, 2.6, 3.0])
        x = self.make().read({"csv": recording(times)})
        assert x is not None
        expected = 1.5 + (torch.arange(10.0) - 4.5) / 10
        torch.testing.assert_close(x, torch.stack([expected, -expected], 1))

    def test_ends_of_a_short_recording_stand(self) -> None:
        x = self.make().read({"csv": recording(np.array([2.0, 2.2]))})
        assert x is not None
        torch.testing.assert_close(x[:, 0], (2.1 + (torch.arange(10.0) - 4.5) / 10).clamp(2.0, 2.2))

    def test_what_is_written_is_a_recording(self) -> None:
        modality = self.make()
        x = self.batch(1)[0]
        rows = list(csv.reader(io.StringIO(modality.write(x)["csv"].decode())))
        assert rows[0] == ["time", "ax", "ay"]
        assert [float(row[0]) for row in rows[1:]] == pytest.approx([step / 10 for step in range(10)])
        again = modality.read(modality.write(x))
        assert again is not None
        torch.testing.assert_close(again, x, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (recording(np.arange(3.0), "time,ax,a_y,note"), "line 1: expected a column 'ay' (did you mean 'a_y'?)"),
            (recording(np.array([0.0, 2.0, 1.0])), "expected increasing times in column 'time', got 1 after 2"),
            (b"time,ax,ay\n0,1,2\n\n1,,2\n", "line 4, column 'ax': expected a number up to 1e+09, got ''"),
            (b"time,ax,ay\n0,1,2\n1,1,nan\n", "line 3, column 'ay': expected a number up to 1e+09, got 'nan'"),
            (b"time,ax,ay\n0,1,2\n", "expected two rows or more below the header, got 1"),
            (b"\xff\xfe\x00", "expected CSV in UTF-8"),
            (b"", "line 1: expected a column 'time'"),
        ],
    )
    def test_what_is_wrong_with_a_file_is_said(self, data: bytes, message: str) -> None:
        with pytest.raises(DataError) as caught:
            self.make().read({"csv": data})
        assert message in str(caught.value)

    @pytest.mark.parametrize("options", [{"channels": ["ax", "ax"]}, {"seconds": 0.1, "rate_hz": 20.0}])
    def test_options_that_make_no_signal_are_refused(self, options: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="expected"):
            self.make(**options)


def test_the_tutorial_trains_and_words_steer_what_is_sampled(tmp_path: Path) -> None:
    """The README's commands run, with fewer steps: recordings sampled from "run" move more than those from "rest"."""

    def call(*line: str) -> None:
        done = subprocess.run(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout

    here = Path(sys.executable).parent
    call(sys.executable, str(HERE / "make_recordings.py"), "recordings", "--count", "240")
    call(str(here / "shala"), "pack", "folder", "recordings", "shards/wrist")
    small = ["autoencoder.steps=200", "autoencoder.batch_size=32", "prior.steps=500"]
    sets = [text for key in small for text in ("--set", f"train.{key}")]
    call(str(here / "shala-run"), str(HERE / "wrist.toml"), *sets, "--set", "evaluate.at_end=false")
    moved = {}
    for activity in ("rest", "run"):
        (tmp_path / f"{activity}.txt").write_text(activity)
        given = ["--given", f"activity={activity}.txt", "--num", "8", "--out", activity]
        call(str(here / "shala"), "sample", "runs/wrist", *given)
        files = list((tmp_path / activity).rglob("*wrist*.csv"))
        assert len(files) == 8
        values = [np.loadtxt(file, delimiter=",", skiprows=1)[:, 1:] for file in files]
        moved[activity] = np.mean([value[:, :3].std(0).mean() for value in values])
    assert moved["run"] > 4 * moved["rest"], moved
