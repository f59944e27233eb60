"""Steps as a CUDA graph, as far as they can be tested without a CUDA device."""

from contextlib import nullcontext

import attrs
import pytest
import torch
from two_floats import TwoFloats, TwoFloatsOptions

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.data.latent_store import LatentStore
from shala_framework.data.rows import Rows
from shala_framework.prior import DiffusionPrior
from shala_framework.spec import structure
from shala_framework.spec.schema import AutoencoderStage, Posterior, Prior, PriorStage
from shala_framework.training import graphs
from shala_framework.training.graphs import Steps, can_capture
from shala_framework.training.optimizers import Muon, make_optimizers
from shala_framework.training.parallel import shared_loss
from shala_framework.training.prior_stage import PriorTraining
from shala_framework.training.stages import AutoencoderTraining
from shala_framework.training.steps import change_weights, set_rate, take_step

CPU = torch.device("cpu")


def rows(count=8):
    x = {name: torch.randn(count, 2, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("ab")}
    return Rows(x=x, presence=torch.ones(count, 2, dtype=torch.bool), keys=("k",) * count, labels=(None,) * count)


def stage_1(**settings):
    torch.manual_seed(0)
    table = structure({"latent_dim": 4, "feature_dim": 8, "hidden_dim": 16}, Posterior)
    modalities = {name: TwoFloats(TwoFloatsOptions(field=name)) for name in "ab"}
    settings = structure({"steps": 20, "warmup_steps": 3, "kl_warmup_steps": 7, **settings}, AutoencoderStage)
    return AutoencoderTraining(Autoencoder(modalities, table), settings, CPU), settings


class ReplayedGraph:
    """Stands in for a captured step: a replay computes it, with the step's number and the rates as tensors."""

    def __init__(self, stage, settings, optimizers, step_loss, batch):
        self.batch, self.step = batch, torch.zeros((), dtype=torch.float64)
        self.parts = stage, settings, optimizers, step_loss

    def replay(self, step):
        self.step.fill_(step)
        stage, settings, optimizers, step_loss = self.parts
        return change_weights(stage, settings, optimizers, step_loss, self.batch, self.step)


@pytest.fixture
def replayed(monkeypatch):
    monkeypatch.setattr(graphs, "_Graph", ReplayedGraph)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(graphs, "_waiting_is_an_error", nullcontext)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda _: None)


def trained(steps_of):
    stage, settings = stage_1()
    optimizers = make_optimizers(stage.module, settings, matrix_dtype=torch.float32)
    take = steps_of(stage, settings, optimizers)
    terms = []
    for number in range(12):
        torch.manual_seed(number)
        terms.append(take(rows(), number))
    return terms, [p.detach().clone() for p in stage.module.parameters()]


def as_tensors(optimizers, settings):
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(settings.learning_rate)
    return optimizers


def test_replayed_steps_are_those_taken_one_by_one(replayed):
    """Schedules that a graph reads from tensors have the same values as in the loop."""

    def plainly(stage, settings, optimizers):
        loss = shared_loss(stage, CPU)
        return lambda batch, number: take_step(stage, settings, optimizers, loss, batch, number)

    def as_graph(stage, settings, optimizers):
        optimizers = as_tensors([o for o in optimizers if isinstance(o, Muon)], settings) + [
            o for o in optimizers if not isinstance(o, Muon)
        ]
        steps = Steps(stage, settings, optimizers, shared_loss(stage, CPU), captured=True)
        return steps.take

    (terms, weights), (graph_terms, graph_weights) = trained(plainly), trained(as_graph)
    for mine, theirs in zip(graph_terms, terms, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(graph_weights, weights, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_step_that_waits_is_taken_again_without_a_graph(replayed, monkeypatch):
    stage, settings = stage_1()
    optimizers = make_optimizers(stage.module, settings, matrix_dtype=torch.float32)
    notes, calls = [], []
    plain = shared_loss(stage, CPU)

    def waits_once(batch, step, parts):
        calls.append(step)
        if len(calls) == Steps.WARM_UP:
            raise RuntimeError("called a synchronizing CUDA operation")
        return plain(batch, step, parts)

    steps = Steps(stage, settings, optimizers, waits_once, captured=True, note=notes.append)
    for number in range(5):
        torch.manual_seed(number)
        assert steps.take(rows(), number)["loss"].isfinite()
    assert calls == [0, 1, 2, 2, 3, 4]
    assert notes == ["stage autoencoder: its steps are launched kernel by kernel (it waits for the device)"]


def test_another_error_is_not_taken_for_waiting(replayed):
    stage, settings = stage_1()

    def fails(batch, step, parts):
        raise RuntimeError("shapes do not match")

    steps = Steps(stage, settings, [], fails, captured=True)
    steps._num_taken = Steps.WARM_UP - 1
    with pytest.raises(RuntimeError, match="shapes do not match"):
        steps.take(rows(), 0)


def test_a_batch_of_another_size_is_not_put_into_the_graph(replayed):
    stage, settings = stage_1()
    optimizers = make_optimizers(stage.module, settings, matrix_dtype=torch.float32)
    steps = Steps(stage, settings, optimizers, shared_loss(stage, CPU), captured=True)
    for number in range(5):
        steps.take(rows(), number)
    held = steps._graph.batch.x["a"].clone()
    steps.take(rows(3), 5)
    assert torch.equal(steps._graph.batch.x["a"], held)


def test_what_a_graph_reads_is_not_the_callers(replayed):
    """No stage's placed copy shares memory with the original batch."""
    stage, _ = stage_1()
    batch = rows()
    copied = stage.placed(batch, copy=True)
    batch.x["a"].zero_()
    assert copied.x["a"].abs().sum() > 0
    store = LatentStore(torch.randn(6, 4), torch.zeros(6, 4), torch.randn(6, 2, 8), torch.ones(6, 2, dtype=torch.bool))
    prior = DiffusionPrior(latent_dim=4, num_modalities=2, feature_dim=8)
    second = PriorTraining(prior, structure({}, Prior), structure({}, PriorStage), store)
    index = torch.arange(4)
    kept = second.placed(index, copy=True)
    assert second.refill(kept, index + 1)
    assert kept.tolist() == [1, 2, 3, 4]
    assert index.tolist() == [0, 1, 2, 3]
    assert not second.refill(kept, torch.arange(3))


def test_rates_are_set_in_place_where_they_are_tensors():
    stage, settings = stage_1()
    optimizers = as_tensors(make_optimizers(stage.module, settings, matrix_dtype=torch.float32), settings)
    held = [group["lr"] for o in optimizers for group in o.param_groups]
    set_rate(optimizers, settings, 0)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    assert all(rate is group["lr"] for rate, group in zip(held, groups, strict=True))
    assert {round(float(rate), 9) for rate in held} == {round(settings.learning_rate / 4, 9)}


def test_nothing_is_captured_on_a_cpu():
    stage, settings = stage_1()
    assert not can_capture(stage, settings)
    assert not can_capture(stage, attrs.evolve(settings, micro_batches=2))
