"""The choice of guidance by held-out rows."""

import torch

from shala_framework.data.latent_store import LatentStore
from shala_framework.prior import DiffusionPrior
from shala_framework.training.guidance_choice import choose_guidance, energy_score, smallest_as_good

LEVELS = {"sigma_min": 0.01, "sigma_max": 40.0, "seed": 0}


def test_the_energy_score_is_that_of_the_closed_form_and_lowest_for_the_truth():
    """In one dimension, N(0, s) for N(0, 1) scores sqrt(2 (1 + s^2) / pi) - s / sqrt(pi), which is lowest at s = 1."""
    torch.manual_seed(0)
    truth, noise = torch.randn(400, 1), torch.randn(400, 200, 1)
    found = {}
    for deviation in (0.6, 1.0, 1.6):
        found[deviation] = float(energy_score(deviation * noise, truth).mean())
        expected = (2 * (1 + deviation**2) / torch.pi) ** 0.5 - deviation / torch.pi**0.5
        assert abs(found[deviation] - expected) < 0.05
    assert min(found, key=found.get) == 1.0
    shared = energy_score(noise[:1], truth)
    torch.testing.assert_close(shared, energy_score(noise[:1].expand(400, -1, -1), truth), atol=1e-5, rtol=0)


def test_the_smallest_scale_that_is_as_good_counts():
    """A gain within its standard error buys no guidance; one beyond it does."""
    torch.manual_seed(0)
    rows, noise = torch.randn(100), torch.randn(100)
    scores = {1.0: rows, 1.5: rows + 0.1 * noise - 0.005, 2.0: rows + 1.0}
    assert smallest_as_good(scores) == 1.0
    assert smallest_as_good({**scores, 3.0: rows - 0.5 + 0.1 * noise}) == 3.0


class Wide(DiffusionPrior):
    """Data are N(0, I), but the denoiser believes in twice the deviation, and its guide in three times."""

    def denoise(self, z_BD, sigma_B, condition_BW, cluster_B, *, guide=False):
        variance = 9.0 if guide else 4.0
        return z_BD * variance / (variance + sigma_B[:, None] ** 2)


def test_guidance_makes_up_for_a_denoiser_that_is_too_wide_and_is_left_out_where_none_is_needed():
    """Too wide a denoiser with a wider guide is guided away from it; the exact denoiser of held-out rows is not."""
    sizes = {"latent_dim": 4, "num_modalities": 2, "feature_dim": 3}
    torch.manual_seed(0)
    held_out = LatentStore(
        torch.randn(200, 4), torch.full((200, 4), -20.0), torch.randn(200, 2, 3), torch.ones(200, 2, dtype=torch.bool)
    )
    assert choose_guidance(Wide(**sizes).eval(), held_out, **LEVELS).autoguidance_scale > 1
    exact = DiffusionPrior(**sizes).eval()
    exact.load_state_dict({name: value * ("network" not in name) for name, value in exact.state_dict().items()})
    chosen = choose_guidance(exact, held_out, **LEVELS)
    assert (chosen.guidance_scale, chosen.autoguidance_scale) == (1.0, 1.0)
    few = choose_guidance(Wide(**sizes).eval(), held_out.take(torch.arange(5)), **LEVELS)
    assert few.autoguidance_scale == 1.0
