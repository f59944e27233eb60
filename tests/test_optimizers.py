"""Muon matches its definition, and every parameter has exactly one optimiser."""

import pytest
import torch
from torch import nn

from shala_framework.spec.schema import AutoencoderStage
from shala_framework.training.optimizers import Muon, make_optimizers, orthogonalise


class Mixed(nn.Module):
    """A module with every kind of parameter that a plugin may have."""

    def __init__(self):
        super().__init__()
        self.linear, self.again = nn.Linear(24, 48), nn.Linear(48, 24)
        self.narrow = nn.Linear(24, 3)
        self.table, self.norm = nn.Embedding(40, 24), nn.LayerNorm(24)
        self.convolution = nn.Conv2d(16, 32, 3)
        self.position = nn.Parameter(torch.zeros(32, 24))
        self.shared = nn.Linear(24, 48)
        self.shared.weight = self.linear.weight


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (20, 300), (64, 80)])
def test_orthogonalise_keeps_singular_vectors(rows, columns):
    """U S V^T becomes nearly U V^T: every singular value ends near 1, also for a badly conditioned matrix."""
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(2, rows, columns), full_matrices=False)
    values = torch.logspace(0, -2, rows)
    steps = orthogonalise(u @ torch.diag(values) @ v)
    in_basis = u.mT @ steps @ v.mT
    diagonal = torch.diagonal(in_basis, dim1=-2, dim2=-1)
    assert diagonal.min() > 0.3
    assert diagonal.max() < 1.3
    torch.testing.assert_close(in_basis, torch.diag_embed(diagonal), atol=1e-3, rtol=0)
    assert not orthogonalise(torch.zeros(1, rows, columns)).any()


def test_a_first_step_is_the_orthogonal_direction_at_the_promised_size():
    """The first step is against the gradient's orthogonal factor, with a root mean square of about 0.2 lr."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(64, 16, 3))
    before = weight.detach().clone()
    weight.grad = torch.randn_like(weight)
    Muon([weight], lr=0.01).step()
    step = (before - weight.detach()).flatten(1)
    u, _, v = torch.linalg.svd(weight.grad.flatten(1), full_matrices=False)
    cosine = nn.functional.cosine_similarity(step.flatten(), (u @ v).flatten(), dim=0)
    assert cosine > 0.97
    assert 0.7 * 0.002 < step.square().mean().sqrt() < 1.2 * 0.002


def test_stacking_and_turning_do_not_change_a_step():
    """A tall matrix steps like its transpose, whatever other matrices it is stacked with."""
    torch.manual_seed(0)
    start, gradients = torch.randn(3, 20, 50), torch.randn(4, 3, 20, 50)
    alone = [nn.Parameter(w.clone()) for w in start]
    stacked = [nn.Parameter(w.clone() if i != 1 else w.mT.clone()) for i, w in enumerate(start)]
    separate, together = [Muon([w], lr=0.1, weight_decay=0.1) for w in alone], Muon(stacked, lr=0.1, weight_decay=0.1)
    for gradient in gradients:
        for i in range(3):
            alone[i].grad = gradient[i].clone()
            stacked[i].grad = gradient[i].clone() if i != 1 else gradient[i].mT.clone()
            separate[i].step()
        together.step()
    for i in range(3):
        torch.testing.assert_close(stacked[i] if i != 1 else stacked[i].mT, alone[i])


def test_every_parameter_has_one_optimiser():
    """Weights of layers go to Muon, once each; tables, narrow layers, norms and biases go to AdamW."""
    module = Mixed()
    muon, adamw = make_optimizers(module, AutoencoderStage(), matrix_dtype=torch.float32)
    assert isinstance(muon, Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    names = {id(p): name for name, p in module.named_parameters()}
    groups = [[names[id(p)] for group in o.param_groups for p in group["params"]] for o in (muon, adamw)]
    assert sorted(groups[0]) == ["again.weight", "convolution.weight", "linear.weight"]
    assert sorted(groups[0] + groups[1]) == sorted(names.values())
    decayed = [[names[id(p)] for p in group["params"]] for group in adamw.param_groups if group["weight_decay"]]
    assert sorted(decayed[0]) == ["narrow.weight", "position", "table.weight"]
    (only,) = make_optimizers(module, AutoencoderStage(optimizer="adamw"), matrix_dtype=torch.float32)
    assert sum(len(group["params"]) for group in only.param_groups) == len(names)
