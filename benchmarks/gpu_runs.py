"""A whole run and a benchmark on a GPU: parts of gpu_check.py."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpu_common import HERE, SPECS, Check
from polymnist_judges import score, train_judges


def run(check: Check) -> None:
    """Kill, resume, sample and evaluate a shortened run of the first command's spec."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        count, minutes = (600, 0.5) if check.is_gpu else (48, 1.0)
        changes = {
            "train.device": check.device.type,
            "data.stand_in.options.train": count,
            "data.stand_in.options.validation": max(16, count // 8),
            "data.stand_in.options.test": max(16, count // 8),
            "train.minutes": minutes,
            "train.autoencoder.save_every_steps": 50 if check.is_gpu else 5,
        }
        settings = [f"--set={key}={value}" for key, value in changes.items()]
        line = [sys.executable, "-c", "from shala_framework.cli.main import main; main()"]
        command = [*line, "run", str(SPECS / "ntu_rgb_skeleton.toml"), "--out", str(out), *settings]
        start = time.perf_counter()
        killed = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        state = out / "state" / "autoencoder.safetensors"
        while killed.poll() is None and not state.exists():
            time.sleep(0.2)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        check.say("seconds until the first state, then killed", time.perf_counter() - start)
        for name, arguments in {
            "resumed": command[len(line) :],
            "shala sample": ["sample", str(out), "--num", "4", "--out", f"{folder}/samples"],
            "shala evaluate": ["evaluate", str(out)],
        }.items():
            start = time.perf_counter()
            done = subprocess.run([*line, *arguments], capture_output=True, text=True, check=False)
            said = f"exit {done.returncode} after {time.perf_counter() - start:.1f} s"
            check.say(name, said if done.returncode == 0 else f"{said}: {(done.stderr or done.stdout)[-600:]}")
            if name == "resumed":
                check.say("lines of the resumed run", done.stderr.strip().splitlines()[-25:])
        metrics = (out / "metrics.jsonl").read_text().splitlines()
        check.say("phases", json.loads(metrics[-1]).get("seconds", {}) if metrics else {})


def polymnist(check: Check) -> None:
    """Train for a minute, and score by judges that are trained here on the device."""
    assert check.polymnist is not None
    assert check.judge_data is not None
    seconds = 60.0 if check.is_gpu else 10.0
    with tempfile.TemporaryDirectory() as folder:
        samples, judges = Path(folder) / "samples.npz", Path(folder) / "judges.pt"
        line = [sys.executable, str(HERE / "polymnist.py"), str(check.polymnist), "--out", str(samples)]
        line += ["--seconds", str(seconds), "--device", check.device.type, "--threads", str(os.cpu_count())]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        check.say("training", (done.stdout if done.returncode == 0 else done.stderr)[-1500:].strip())
        check.say("accuracies of the judges", train_judges(check.judge_data, judges, check.device.type))
        if done.returncode == 0:
            check.say("scores", score(check.polymnist, judges, samples))
