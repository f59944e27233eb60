"""The training loop that all stages share.

Every step seeds torch's global generator from (seed, stage, step), and each batch depends only on the step number.
Therefore a state file needs no random state, and a resumed stage takes exactly the steps of an uninterrupted one.
"""

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from shala_framework.spec.schema import Stage
from shala_framework.support.checkpoint import part, prefixed
from shala_framework.support.cores import glance_at_load, look_at_load
from shala_framework.support.distributed.processes import (
    any_process,
    barrier,
    is_lost_process,
    mean_of,
    rank,
    undivided_rows,
)
from shala_framework.support.distributed.sharded_layers import has_sharded_layers
from shala_framework.support.distributed.sharded_tensors import full_tensor, shard_like
from shala_framework.support.errors import CheckpointError, ShalaError
from shala_framework.support.progress import Reporter, Silent
from shala_framework.support.seeds import forked_rng, mix_seed, seed_generators
from shala_framework.training.compiling import uncompiled
from shala_framework.training.graphs import Steps, can_capture
from shala_framework.training.metrics import MetricsFile, weighted
from shala_framework.training.optimizers import make_optimizers
from shala_framework.training.parallel import shared_loss
from shala_framework.training.rate_watch import RateWatch
from shala_framework.training.states import StateFiles
from shala_framework.training.stopping import Interrupted, stop_request
from shala_framework.training.trainable import Trainable

Batch = TypeVar("Batch")
READING = 1  # tells the seed of what reading a batch draws from that of its step


class TrainingError(ShalaError):
    """Training cannot continue."""


def train(
    stage: Trainable[Batch],
    settings: Stage,
    batches: Callable[[int], Iterator[Batch]],
    *,
    seed: int,
    matrix_dtype: torch.dtype,
    state_file: Path | None = None,
    fingerprint: str = "",
    metrics: MetricsFile | None = None,
    reporter: Reporter | None = None,
    planned_seconds: float | None = None,
    settled: Callable[[], bool] = lambda: False,
) -> None:
    """Train one stage to its last step, and resume from its state file if there is one.

    Args:
        stage: The stage to train; its module ends with the last step's weights.
        settings: Steps, batch size, optimiser, intervals.
        batches: Makes the endless batches from a given step on.
        seed: Seed of all random draws in the loop.
        matrix_dtype: Number format in which the optimiser multiplies matrices.
        state_file: File for the state, written at intervals, at the end and when interrupted; None saves nothing.
        fingerprint: Identifies the run; a state of another run is refused.
        metrics: Receives figures; None keeps none.
        reporter: Receives progress.
        planned_seconds: Seconds that a step took when the number of steps was chosen for a time.
        settled: Called after each validation; returning True ends the stage before its last step.

    Raises:
        TrainingError: The loss is no longer finite.
        Interrupted: The user asked to stop; the state is saved.
        CheckpointError: The state file is damaged or belongs to another spec.
    """
    module = stage.module
    sharded = has_sharded_layers(module)
    captured = can_capture(stage, settings)
    optimizers = make_optimizers(module, settings, matrix_dtype=matrix_dtype, capturable=captured, beta_1=stage.beta_1)
    start, window, num_lines, measured = 0, _Window(), 0, True
    metrics, reporter = metrics or MetricsFile(None), reporter or Silent()
    states = StateFiles(state_file, fingerprint) if state_file is not None else None
    if states is not None and states.exist():
        tensors, description = states.read(reporter.warn)
        start, window = _restore(stage, optimizers, tensors, description)
        num_lines, measured = int(description["metrics_lines"]), bool(description["measured"])
    metrics.rewind(stage.name, start, num_lines)
    glance_at_load()
    reporter.begin(stage.name, settings.steps, "step", start)
    stage_seed = mix_seed(seed, zlib.crc32(stage.name.encode()))
    device = next(module.parameters()).device
    clock, watch, saved_at = _Clock(), RateWatch(planned_seconds), time.monotonic()
    module.train()
    steps = Steps(stage, settings, optimizers, shared_loss(stage, device), captured=captured, note=reporter.note)
    rest = _Rest(start)
    remaining = partial(batches, start) if start < settings.steps else partial(iter, ())

    def measure(step: int) -> bool:
        """Validate after a step, and return whether the stage ends there."""
        seed_generators(mix_seed(stage_seed, step))
        _validate(stage, step, sharded, clock, metrics, reporter)
        rest.measured = True
        return _ends(settled)

    def save(step: int) -> None:
        """Write the state after a step."""
        if states is None:
            return
        with clock.stopped():
            _check_finite(stage.name, step, window.mean())
            tensors, description = _state(stage, optimizers, rest, window)
            if rank() == 0:
                states.write(tensors, {**description, "metrics_lines": metrics.num_lines[stage.name]})
            barrier()

    with (
        forked_rng(),
        stop_request() as request,
        closed_after(remaining) as batches_left,
        _saving_where_lost(stage, optimizers, states, rest, metrics),
    ):
        stream = _Ahead(batches_left)
        stream.fetch(mix_seed(stage_seed, start, READING))
        stream.check()
        barrier()  # each process starts to read at its own pace
        if measured:
            ended = _ends(settled)
        else:  # it was stopped between a step and its validation, which is done now
            ended = measure(start)
            save(start)
        for step in range(start, start if ended else settings.steps):
            look_at_load()
            seed_generators(mix_seed(stage_seed, step))
            window.add(steps.take(stream.batch, step, rest.begin_change))
            done = rest.step = step + 1
            if done % settings.log_every_steps == 0 or done == settings.steps:
                figures = window.mean()
                _check_finite(stage.name, done, figures)
                rate = clock.rate(done - start)
                metrics.write(stage.name, done, {**figures, "steps_per_second": rate})
                slowed = watch.see(rate)
                if slowed:
                    reporter.warn(f"stage {stage.name}: {slowed}")
                reporter.advance(done, figures)
                window = _Window()
            else:
                reporter.advance(done)
            due = done % settings.save_every_steps == 0 or done == settings.steps
            late = time.monotonic() - saved_at > 60 * settings.save_every_minutes
            if done < settings.steps:
                stream.fetch(mix_seed(stage_seed, done, READING))
            asked, late, failed = any_process((bool(request.signal_number), late, stream.failed))
            stopping = asked or failed
            rest.measured = not due
            if due and not stopping:  # before saving, because the state includes it; a resumed run makes up for it
                ended = measure(done)
            if due or late or stopping:
                save(done)
                saved_at = time.monotonic()
            if done == settings.steps:  # a stop may have been requested during the last validation
                (stopping,) = any_process((bool(request.signal_number),))
            if stopping:
                barrier()  # no process leaves before the state is written
                if failed and not asked:
                    if states is not None:
                        reporter.warn(f"the state after step {done} of stage {stage.name} is saved")
                    stream.check()
                    raise TrainingError("another process could not read its data, as its message says")
                kept = "the same command resumes there" if states is not None else "nothing was saved"
                reporter.warn(f"stopped after step {done} of stage {stage.name}; {kept}")
                raise Interrupted(request.signal_number)
            if ended:
                break
    reporter.finish()


def _ends(settled: Callable[[], bool]) -> bool:
    """Return whether a stage ends before its last step. The process that validates decides for all."""
    (ended,) = any_process((settled(),))
    return ended


def _validate(
    stage: Trainable[Batch], done: int, sharded: bool, clock: "_Clock", metrics: MetricsFile, reporter: Reporter
) -> None:
    """Measure the stage on held-out rows and report it. With sharded layers, all processes must take part."""
    with clock.stopped():
        with uncompiled(), undivided_rows():
            held_out = stage.validate() if rank() == 0 or sharded else {}
        barrier()
        stage.module.train()
    if held_out:
        metrics.write(stage.name, done, {f"validation_{name}": value for name, value in held_out.items()})
        figures = "  ".join(f"{name} {value:.4g}" for name, value in held_out.items())
        reporter.note(f"{stage.name}, held-out rows after step {done}: {figures}")


@contextmanager
def closed_after(begin: Callable[[], Iterator[Batch]]) -> Iterator[Iterator[Batch]]:
    """Draw batches within a context, and stop the worker processes that make them when it ends, also after an error."""
    stream = begin()
    try:
        yield stream
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()


class _Ahead:
    """Fetches the next batch. An error is kept until all processes know of it and the state is saved."""

    def __init__(self, stream: Iterator[Any]) -> None:
        self.stream = stream
        self.batch: Any = None
        self.error: ShalaError | None = None

    def fetch(self, seed: int) -> None:
        """Get the next batch, if there is one. Reading may draw from torch's generator."""
        seed_generators(seed)
        try:
            self.batch = next(self.stream, self.batch)
        except ShalaError as error:
            self.error = error

    @property
    def failed(self) -> bool:
        """Whether reading the batch failed."""
        return self.error is not None

    def check(self) -> None:
        """Raise the error, if reading the batch failed."""
        if self.error is not None:
            raise self.error


class _Rest:
    """The position of a stage between two steps.

    Attributes:
        step: Number of steps taken; None while weights change.
        measured: Whether the validation that is due after this step has been made.
    """

    def __init__(self, step: int) -> None:
        self.step: int | None = step
        self.measured = True

    def begin_change(self) -> None:
        """Mark that the weights are about to change."""
        self.step = None


@contextmanager
def _saving_where_lost(
    stage: Trainable[Any],
    optimizers: Sequence[torch.optim.Optimizer],
    states: StateFiles | None,
    rest: _Rest,
    metrics: MetricsFile,
) -> Iterator[None]:
    """Save the state if another process is lost, without the sums since the last line, which need all processes."""
    try:
        yield
    except RuntimeError as error:
        has_all_weights = rank() == 0 and not has_sharded_layers(stage.module)
        if is_lost_process(error) and has_all_weights and states is not None and rest.step is not None:
            tensors, description = _state(stage, optimizers, rest, _Window())
            states.write(tensors, {**description, "metrics_lines": metrics.num_lines[stage.name]})
        raise


class _Window:
    """Sums of the logged terms since the last line of metrics. They stay on the device until `mean`."""

    def __init__(self, totals: dict[str, Tensor] | None = None, count: int = 0) -> None:
        self.totals, self.count = totals or {}, count

    def add(self, terms: Mapping[str, Tensor]) -> None:
        self.count += 1
        for name, value in terms.items():
            self.totals[name] = self.totals[name] + value if name in self.totals else value

    def mean(self) -> dict[str, float]:
        """Return means over the window's steps and all processes; empty if there was no step."""
        return weighted({name: float(value) / self.count for name, value in mean_of(self.totals).items()})


class _Clock:
    """Measures the rate of steps since the last call, without the time for saving and validating."""

    def __init__(self) -> None:
        self.last, self.done, self.pause = time.perf_counter(), 0, 0.0

    def rate(self, done: int) -> float:
        now = time.perf_counter()
        rate = (done - self.done) / max(1e-9, now - self.last - self.pause)
        self.last, self.done, self.pause = now, done, 0.0
        return rate

    @contextmanager
    def stopped(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.pause += time.perf_counter() - start


def _check_finite(stage: str, step: int, figures: Mapping[str, float]) -> None:
    bad = {name: value for name, value in figures.items() if not math.isfinite(value)}
    if bad:
        raise TrainingError(
            f"stage {stage}: not finite by step {step}: {bad}; lower train.{stage}.learning_rate, "
            "or check the data for values far out of range"
        )


def _state(
    stage: Trainable[Any], optimizers: Sequence[torch.optim.Optimizer], rest: _Rest, window: _Window
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    names = {id(p): name for name, p in stage.module.named_parameters()}
    moments = {
        f"{names[id(p)]}.{moment}": _full_in_first(value)
        for optimizer in optimizers
        for p, state in optimizer.state.items()
        for moment, value in state.items()
    }
    weights = {name: _full_in_first(value) for name, value in stage.module.state_dict().items()}
    tensors = {
        **prefixed(weights, "module"),
        **prefixed(moments, "optimizer"),
        **prefixed({name: _full_in_first(value) for name, value in stage.extra_state().items()}, "extra"),
        **prefixed(mean_of(window.totals), "window"),
    }
    return tensors, {
        "stage": stage.name,
        "step": rest.step,
        "measured": rest.measured,
        "window_steps": window.count,
    }


def _full_in_first(value: Tensor) -> Tensor:
    """Return the full tensor. A sharded one is gathered in the first process's main memory, not on a device."""
    full = full_tensor(value)
    if full is value:
        return value
    return full.cpu() if rank() == 0 else full.new_empty(0)


def _check_names(stage: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise CheckpointError if an undamaged state has other names or shapes than this version's networks."""
    shapes = [n for n in found if isinstance(expected.get(n), Tensor) and expected[n].shape != found[n].shape]
    wrong = sorted({*(found.keys() ^ expected.keys()), *shapes})
    if wrong:
        raise CheckpointError(
            f"stage {stage}: another version of the framework or its plugins wrote the saved state, as {wrong[0]!r} "
            "shows; install that version, or remove the run's state/ to train again"
        )


def _restore(
    stage: Trainable[Any],
    optimizers: Sequence[torch.optim.Optimizer],
    tensors: Mapping[str, Tensor],
    description: Mapping[str, Any],
) -> tuple[int, _Window]:
    current = stage.module.state_dict()
    weights = part(tensors, "module")
    _check_names(stage.name, weights, current)
    stage.module.load_state_dict({n: shard_like(v, current[n]) for n, v in weights.items()})
    stage.load_extra_state(part(tensors, "extra"))
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in part(tensors, "optimizer").items():
        name, _, moment = key.rpartition(".")
        states.setdefault(name, {})[moment] = value
    names = {id(p): name for name, p in stage.module.named_parameters()}
    _check_names(stage.name, states, dict.fromkeys(states.keys() & set(names.values())))
    for optimizer in optimizers:
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            for moment, value in states.get(names[id(p)], {}).items():
                own = value.to(p.device)
                optimizer.state[p][moment] = shard_like(own, p) if own.shape == p.shape else own
    device = next(stage.module.parameters()).device
    totals = {name: value.to(device) for name, value in part(tensors, "window").items()}
    return int(description["step"]), _Window(totals, int(description["window_steps"]))
