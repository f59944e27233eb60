"""Simulate recordings of a sensor at a wrist, in a logger's format: NAME.csv, and NAME.txt with the activity.

    python make_recordings.py OUT [--count 2000] [--seed 0]

The forearm is a rigid pendulum that swings about the elbow by the angle a sin(2 pi f t + p). The sensor at its end
measures gravity rotated by the angle, the tangential and the centripetal acceleration, and the angular velocity. Its
axes are rotated a little for each wearer, its clock is uneven, and it is noisy. Amplitude a and frequency f depend
on the activity. This is a demonstration, not data.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

ACTIVITIES = {"rest": (0.01, 0.2), "walk": (0.4, 0.9), "run": (0.9, 1.4), "wave": (0.6, 2.2)}  # radians, hertz
LENGTH, GRAVITY = 0.26, 9.81  # metres, m/s^2


def simulate(activity: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Times [N] in seconds, and [N, 6]: acceleration in m/s^2 and angular velocity in rad/s."""
    amplitude, frequency = (mean * rng.lognormal(0, 0.12) for mean in ACTIVITIES[activity])
    times = np.cumsum(rng.uniform(0.8, 1.2, rng.integers(130, 260)) / 50)
    phase = 2 * np.pi * (frequency * times + rng.uniform())
    angle = amplitude * np.sin(phase)
    rate = amplitude * 2 * np.pi * frequency * np.cos(phase)
    change = -angle * (2 * np.pi * frequency) ** 2
    zero = np.zeros_like(times)
    felt = np.stack(
        [GRAVITY * np.sin(angle) + LENGTH * change, zero, GRAVITY * np.cos(angle) + LENGTH * rate**2], axis=1
    )
    turned = np.stack([zero, rate, zero], axis=1)
    worn, _ = np.linalg.qr(np.eye(3) + 0.15 * rng.standard_normal((3, 3)))
    worn *= np.sign(np.diag(worn))
    values = np.concatenate([felt @ worn, turned @ worn], axis=1)
    return times, values + rng.standard_normal(values.shape) * 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    for index in range(args.count):
        activity = rng.choice(list(ACTIVITIES))
        times, values = simulate(activity, rng)
        with (args.out / f"{index:04d}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["time", "ax", "ay", "az", "gx", "gy", "gz"])
            writer.writerows([f"{number:.4f}" for number in row] for row in np.column_stack([times, values]))
        (args.out / f"{index:04d}.txt").write_text(f"{activity}\n")
        (args.out / f"{index:04d}.cls").write_text(activity)


if __name__ == "__main__":
    main()
