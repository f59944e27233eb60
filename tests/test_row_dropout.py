"""Masks of dropout belong to rows: results do not depend on how many processes share a batch."""

import shutil

import pytest
import torch

from shala_framework.plugin import RowDropout
from shala_framework.prior import DiffusionPrior
from shala_framework.support.distributed import processes
from shala_framework.training.compiling import compiled


def in_processes(monkeypatch, count, compute, *values):
    """Return what processes compute of their rows, in the order of all rows."""
    parts = []
    for number in range(count):
        monkeypatch.setattr(processes, "world_size", lambda: count)
        monkeypatch.setattr(processes, "rank", lambda number=number: number)
        torch.manual_seed(5)
        parts.append(compute(*(value[number::count] for value in values)))
    return torch.stack(parts, 1).flatten(0, 1)


def test_masks_are_of_the_rate_and_keep_the_mean():
    """A share of the values is 0 in training, the others are larger, and nothing happens in evaluation or at rate 0."""
    torch.manual_seed(0)
    x = torch.rand(400, 50) + 1
    dropout = RowDropout(0.3)
    found = dropout(x)
    kept = found != 0
    assert kept.float().mean() == pytest.approx(0.7, abs=0.01)
    torch.testing.assert_close(found[kept], x[kept] / 0.7)
    assert dropout.eval()(x) is x
    assert RowDropout(0.0)(x) is x


def test_a_row_has_the_same_mask_in_any_number_of_processes(monkeypatch):
    """Two or three processes mask their rows as one does all of them, and not alike."""
    x = torch.ones(12, 40)
    alone, two, three = (in_processes(monkeypatch, count, RowDropout(0.5), x) for count in (1, 2, 3))
    assert torch.equal(two, alone)
    assert torch.equal(three, alone)
    assert not torch.equal(two[0::2], two[1::2])


def dropping_prior():
    """Stage 2 with dropout, whose output depends on its blocks."""
    torch.manual_seed(0)
    prior = DiffusionPrior(latent_dim=4, num_modalities=2, feature_dim=3, hidden_dim=16, dropout=0.4)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return prior


def losses(prior, z, h, presence):
    settings = {"unconditional_share": 0.2, "log_sigma_mean": -0.4, "log_sigma_std": 1.0}
    return prior.losses(z, list(h.unbind(1)), presence, **settings)["denoising"]


def test_the_loss_of_stage_2_with_dropout_does_not_depend_on_processes(monkeypatch):
    """Each row's denoising loss is the same whether one or two processes compute the batch."""
    prior = dropping_prior()
    batch = torch.randn(8, 4), torch.randn(8, 2, 3), torch.ones(8, 2, dtype=torch.bool)
    alone, two = (in_processes(monkeypatch, count, lambda *rows: losses(prior, *rows), *batch) for count in (1, 2))
    torch.testing.assert_close(two, alone)


def test_hidden_words_do_not_depend_on_processes(monkeypatch):
    """Each text has the same log-likelihood in training, also where one process has only short texts."""
    text = pytest.importorskip("shala_text.decoder", reason="needs texts")
    torch.manual_seed(0)
    decoder = text.TextDecoder(9, 12, 16, 2, 2, 4, word_dropout=0.5).train()
    x = torch.randint(2, 9, (8, 12))
    x[1::2, 5:] = text.PAD
    x[0::2, 11] = x[1::2, 4] = text.END
    batch = torch.randn(8, 4), x
    alone, two = (
        in_processes(monkeypatch, count, lambda z, x: decoder(z).log_prob(x).detach(), *batch) for count in (1, 2)
    )
    torch.testing.assert_close(two, alone)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_dropout_is_compiled_with_its_network():
    """A compiled network draws new masks in each call, and has no graph break."""
    prior = dropping_prior()
    batch = torch.randn(8, 4), torch.randn(8, 2, 3), torch.ones(8, 2, dtype=torch.bool)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with compiled([prior.network], torch.device("cpu")):
        found = []
        for _ in range(2):
            torch.manual_seed(1)
            found.append([losses(prior, *batch).detach() for _ in range(2)])
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][0], found[0][1]), "other draws"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert not torch._dynamo.utils.counters["graph_break"]
