"""Absent modalities have no influence, and random subsets have the documented distribution."""

import pytest
import torch

from shala_framework.autoencoder.posterior import FUSIONS, random_subsets
from shala_framework.plugin.posterior import GaussianPosterior


@pytest.mark.parametrize("fusion", FUSIONS)
def test_absent_features_have_no_influence(fusion):
    """The posterior and its gradient do not depend on the feature of an absent modality."""
    torch.manual_seed(0)
    posterior = FUSIONS[fusion](num_modalities=3, feature_dim=8, hidden_dim=16, latent_dim=4)
    presence = torch.tensor([[True, False, True], [False, True, False]])
    h = [torch.randn(2, 8) for _ in range(3)]
    changed = [torch.where(presence[:, i, None], v, 100 * torch.randn(2, 8)) for i, v in enumerate(h)]
    torch.testing.assert_close(posterior(h, presence).mean_BD, posterior(changed, presence).mean_BD, rtol=0, atol=0)
    everything = posterior(h, torch.ones_like(presence)).mean_BD
    assert not torch.allclose(everything, posterior(h, presence).mean_BD)
    absent = h[1].requires_grad_()
    posterior(h, presence).mean_BD[0].sum().backward()
    assert not absent.grad[0].any()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_rows_are_fused_one_by_one(fusion):
    """A row's posterior is the same alone as among rows of other presence, also for a row without modalities."""
    torch.manual_seed(0)
    posterior = FUSIONS[fusion](num_modalities=3, feature_dim=8, hidden_dim=16, latent_dim=4).eval()
    presence = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    h = [torch.randn(3, 8) for _ in range(3)]
    together = posterior(h, presence).mean_BD
    assert together.isfinite().all()
    for row in range(3):
        alone = posterior([v[row : row + 1] for v in h], presence[row : row + 1]).mean_BD
        torch.testing.assert_close(alone[0], together[row])


def test_kl_is_the_closed_form():
    """KL to N(0, I) and to another posterior equal torch's."""
    torch.manual_seed(0)
    q, other = (GaussianPosterior(torch.randn(5, 3), torch.randn(5, 3)) for _ in range(2))
    theirs = [torch.distributions.Normal(p.mean_BD, (0.5 * p.log_var_BD).exp()) for p in (q, other)]
    standard = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(q.kl_BD(), torch.distributions.kl_divergence(theirs[0], standard))
    torch.testing.assert_close(q.kl_to(other), torch.distributions.kl_divergence(*theirs).sum(1))


def test_random_subsets_are_uniform_in_size_and_members():
    """Subsets contain only present modalities and are never empty, and sizes 1..M are equally likely."""
    torch.manual_seed(0)
    presence = torch.tensor([[True, True, False, True]]).expand(30_000, -1)
    subsets = random_subsets(presence)
    assert not (subsets & ~presence).any()
    sizes = subsets.sum(1).bincount(minlength=4) / 30_000
    torch.testing.assert_close(sizes, torch.tensor([0, 1 / 3, 1 / 3, 1 / 3]), atol=0.02, rtol=0)
    singles = subsets[subsets.sum(1) == 1].float().mean(0)
    torch.testing.assert_close(singles, torch.tensor([1 / 3, 1 / 3, 0, 1 / 3]), atol=0.02, rtol=0)


def test_rows_without_anything_stay_empty():
    """A row without modalities gets an empty subset."""
    assert not random_subsets(torch.zeros(7, 3, dtype=torch.bool)).any()
