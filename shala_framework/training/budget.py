"""Turn a time budget into numbers of steps: measure a step of each stage, and count how many fit.

The measured steps are undone, so that training equals that of a spec with these numbers of steps.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from statistics import median
from typing import Any, TypeVar

import attrs
import torch

from shala_framework.spec.schema import Stage, Train
from shala_framework.support.cores import glance_at_load
from shala_framework.support.distributed.processes import barrier, largest
from shala_framework.support.errors import Problem, SpecError
from shala_framework.support.seeds import forked_rng
from shala_framework.training.compiling import uncompiled
from shala_framework.training.graphs import Steps, can_capture
from shala_framework.training.loop import closed_after
from shala_framework.training.optimizers import make_optimizers
from shala_framework.training.parallel import shared_loss
from shala_framework.training.trainable import Trainable

LEAST_TIMED_STEPS, MOST_TIMED_STEPS = 3, 20
TIMED_SHARE = 0.01  # largest share of the budget that the timed steps of a stage may take
VALIDATION_SHARE = 0.1  # largest share of a stage's time for its validations, of which there is at least one

Batch = TypeVar("Batch")
AnyStage = TypeVar("AnyStage", bound=Stage)


@attrs.frozen(kw_only=True)
class StageCost:
    """What a stage costs on this machine.

    Attributes:
        step_seconds: Seconds of one step.
        validation_seconds: Seconds of one validation.
    """

    step_seconds: float
    validation_seconds: float = 0.0


def measure_stage(
    stage: Trainable[Batch],
    settings: Stage,
    batches: Callable[[int], Iterator[Batch]],
    *,
    matrix_dtype: torch.dtype,
    seconds: float,
) -> StageCost:
    """Time some steps of a stage, and undo them. All processes must call this together.

    Args:
        stage: The stage. Its module, random state and extra state are restored afterwards.
        settings: Batch size, optimiser and schedule.
        batches: Makes the batches from a step on, as for `train`.
        matrix_dtype: Number format in which the optimiser multiplies matrices.
        seconds: Time for the timed steps.
    """
    module = stage.module
    weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
    extra = {name: value.detach().clone() for name, value in stage.extra_state().items()}
    cost = _timed(stage, settings, batches, matrix_dtype, seconds)
    gc.collect()  # it ends the exchange of gradients, whose hooks on the parameters live as long as it does
    module.load_state_dict(weights)
    stage.load_extra_state(extra)
    return cost


def _timed(
    stage: Trainable[Batch],
    settings: Stage,
    batches: Callable[[int], Iterator[Batch]],
    matrix_dtype: torch.dtype,
    seconds: float,
) -> StageCost:
    """Take some steps and validations, and return what each takes."""
    module = stage.module
    device = next(module.parameters()).device
    captured = can_capture(stage, settings)
    optimizers = make_optimizers(module, settings, matrix_dtype=matrix_dtype, capturable=captured, beta_1=stage.beta_1)
    steps = Steps(stage, settings, optimizers, shared_loss(stage, device), captured=captured)
    module.train()
    glance_at_load()
    with forked_rng(), closed_after(partial(batches, 0)) as drawn:
        first = next(drawn)
        barrier()  # each process starts to read at its own pace
        stream = chain([first], drawn)

        def timed(step: int) -> float:
            start = time.perf_counter()
            steps.take(next(stream), step)
            _wait(device)
            return time.perf_counter() - start

        for step in range(steps.num_untimed):  # these set up memory and kernels
            timed(step)
        times = [timed(steps.num_untimed + n) for n in range(LEAST_TIMED_STEPS)]
        more = int(seconds / largest(median(times))) - len(times)
        times += [timed(steps.num_untimed + n) for n in range(min(more, MOST_TIMED_STEPS))]
        for _ in range(2 if device.type == "cuda" else 1):  # the first one on a GPU sets up memory and kernels
            start = time.perf_counter()
            with uncompiled():
                stage.validate()
            _wait(device)
            validation_seconds = time.perf_counter() - start
    return StageCost(
        step_seconds=largest(median(times)),  # a short load by other programs would raise the mean
        validation_seconds=largest(validation_seconds),
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def steps_within(
    seconds: float, stages: Mapping[str, Stage], costs: Mapping[str, StageCost], *, minutes: float
) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many steps of each stage fit into a time, and how many validations.

    Args:
        seconds: Time for all stages together.
        stages: Settings by name; `time_share` divides the time among them.
        costs: Cost of each stage.
        minutes: The time in the spec, for the error message.

    Returns:
        Numbers of steps by stage, and of validations: as many as the settings have, unless they take too much time.

    Raises:
        SpecError: The time is too short for one step of some stage. The message says what a step takes.
    """
    total = sum(stage.time_share for stage in stages.values())
    found, validations, lacking = {}, {}, []
    for name, stage in stages.items():
        cost, share = costs[name], seconds * stage.time_share / total
        validations[name] = -(-stage.steps // stage.save_every_steps)
        if cost.validation_seconds > 0:
            most = int(VALIDATION_SHARE * share / cost.validation_seconds)
            validations[name] = max(1, min(validations[name], most))
        validating = validations[name] * cost.validation_seconds
        found[name] = int((share - validating) / cost.step_seconds)
        if found[name] < 1:
            lacking.append((cost.step_seconds + validating) * total / stage.time_share - seconds)
    if lacking:
        each = ", ".join(
            f"a step of {name} takes {costs[name].step_seconds:.3g} s and a validation "
            f"{costs[name].validation_seconds:.3g} s"
            for name in stages
        )
        least = minutes + max(lacking) / 60
        raise SpecError(
            [
                Problem(
                    path="train.minutes",
                    message=f"expected time for at least one step of each stage, got {minutes:g} minutes",
                    hint=f"on this machine {each}; set it to more than {least:.2g}",
                )
            ]
        )
    return found, validations


def resized(settings: AnyStage, steps: int, validations: int | None = None) -> AnyStage:
    """Return a stage's settings for another number of steps, with warm-ups, intervals and half-life scaled alike.

    A stage with 0 steps keeps 0.

    Args:
        settings: The settings.
        steps: Number of steps.
        validations: Number of validations, each after equally many steps; None keeps their number.
    """
    if not settings.steps:
        return settings
    changes: dict[str, Any] = {"steps": steps}
    for field in attrs.fields(type(settings)):
        if field.metadata.get("scales_with_steps"):
            value = getattr(settings, field.name)
            scaled = value * steps / settings.steps
            least = 0 if value == 0 else 1
            changes[field.name] = (
                max(float(least), scaled) if isinstance(value, float) else max(least, math.ceil(scaled))
            )
    if validations is not None:
        changes["save_every_steps"] = -(-steps // validations)
    return attrs.evolve(settings, **changes)


def stages_of(settings: Train) -> dict[str, Stage]:
    """Return the settings of every stage by name, in the order of training."""
    return {"autoencoder": settings.autoencoder, "prior": settings.prior, "refiner": settings.refiner}
