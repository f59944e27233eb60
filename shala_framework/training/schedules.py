"""Schedules of the learning rate: a linear warm-up, then what the stage's `schedule` names.

Each schedule depends on the step as a share of all steps, so it keeps its form when train.minutes sets their number.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

from shala_framework.spec.schema import Stage


def learning_rate_factor(settings: Stage, step: int) -> float:
    """Return the learning rate of a step as a share of its peak; step counts from 0."""
    warmup = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    return warmup * SCHEDULES[settings.schedule](settings, step)


def _progress(settings: Stage, step: int) -> float:
    """Return the share of the steps after the warm-up that are done."""
    remaining = max(1, settings.steps - settings.warmup_steps)
    return min(1.0, max(0.0, (step - settings.warmup_steps) / remaining))


def _cosine(settings: Stage, step: int) -> float:
    """Half a period of a cosine, from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * _progress(settings, step)))


def _linear(settings: Stage, step: int) -> float:
    return 1 - _progress(settings, step)


def _constant(_settings: Stage, _step: int) -> float:
    return 1.0


def _trapezoid(settings: Stage, step: int) -> float:
    """1, and at the end a straight line to 0: warm-up, stable, decay.

    Reference: Hu et al. 2024 (MiniCPM), arXiv 2404.06395.
    """
    return min(1.0, (settings.steps - step) / settings.decay_steps)


def _inverse_sqrt(settings: Stage, step: int) -> float:
    """1 until a reference step t, then sqrt(t / step), for weights that a moving average makes settle.

    Reference: Karras et al. 2024 (EDM2), arXiv 2312.02696.
    """
    reference = max(settings.steps - settings.decay_steps, settings.warmup_steps, 1.0)
    return math.sqrt(reference / max(step, reference))


SCHEDULES: Final[Mapping[str, Callable[[Stage, int], float]]] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "trapezoid": _trapezoid,
    "inverse-sqrt": _inverse_sqrt,
}
