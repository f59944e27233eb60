"""Tests that a modality's likelihood is a density and that its samples follow it.

Shapes: B batch, D latent_dim, E chosen elements of x, V values of an element, N all elements of x.
"""

import torch
from torch import Tensor, nn

from shala_framework.plugin.testing.subject import LATENT_DIM, Subject

NUM_DRAWS = 1_000


class DensityTests(Subject):
    """Densities integrate to 1, and samples are distributed as log_prob says."""

    def test_densities_add_up_to_one(self) -> None:
        """Summing p(x | z) over the values of one element of x gives the density of all other elements.

        If values are independent, log p(x | z) is therefore the sum, over elements, of log p(x) minus the logarithm of
        that sum or integral. For a large x, many elements represent all of them.
        """
        decoder = self.make(**self.density_options).decoder(LATENT_DIM).eval()
        with torch.no_grad():
            if not self.independent_values or decoder(torch.zeros(1, LATENT_DIM)).is_bound:
                return
            log_prob, element_log_prob_E, entropy_E, num_values = _one_by_one(decoder)
            drawn = decoder(torch.zeros(NUM_DRAWS, LATENT_DIM))
            of_draws_B = drawn.log_prob(drawn.sample(torch.Generator().manual_seed(0)))
        slack = 0.005 * num_values + 0.5
        spread = 4 * num_values / len(element_log_prob_E) ** 0.5 * (len(element_log_prob_E) < num_values)
        expected = num_values * element_log_prob_E.mean()
        assert abs(log_prob - expected) < slack + spread * element_log_prob_E.std(), (
            "log_prob is not normalised, or the values of x depend on each other given z: then set independent_values "
            "to False and test the sum by hand"
        )
        expected, error = -num_values * entropy_E.mean(), of_draws_B.std() / NUM_DRAWS**0.5
        assert abs(of_draws_B.mean() - expected) < slack + 5 * error + spread * entropy_E.std(), (
            "samples are more or less likely than log_prob says; if values are clamped or rounded, set density_options "
            "to a small fixed scale"
        )

    def test_draws_follow_log_prob(self) -> None:
        """For samples of p(x | z), the ratio p(x | z') / p(x | z) is 1 on average for any z'."""
        decoder = self.make(**self.density_options).decoder(LATENT_DIM).eval()
        z_1D, step_1D = torch.randn(2, 1, LATENT_DIM).mul(0.3).unbind()
        with torch.no_grad():
            likelihood = decoder(z_1D.expand(NUM_DRAWS, -1))
            if likelihood.is_bound:
                return
            x = likelihood.sample(torch.Generator().manual_seed(0))
            own_B = likelihood.log_prob(x)
            for _ in range(4):  # until the two differ enough to be measured, and no more
                ratio_B = decoder((z_1D + step_1D).expand(NUM_DRAWS, -1)).log_prob(x) - own_B
                spread = ratio_B.std()
                assert spread > 0, "all samples of one z are alike, or log_prob does not depend on them"
                step_1D = step_1D * (0.7 / spread).clamp(0.01, 100)
        assert 0.3 < spread < 1.5, "log_prob hardly follows z, or jumps with it; set density_options to another scale"
        mean, error = ratio_B.exp().mean(), ratio_B.exp().std() / NUM_DRAWS**0.5
        assert abs(mean - 1) < 5 * error + 0.01, (
            "samples do not follow log_prob; if values are clamped or rounded, set density_options to a small fixed "
            "scale"
        )


def _one_by_one(decoder: nn.Module) -> tuple[Tensor, Tensor, Tensor, int]:
    """Change elements of the most likely x at z = 0, one at a time, over all values that they may take.

    Returns:
        log_prob of that x; the contribution of some elements E to it (all elements of a small x) and the entropy of
        each, both computed by summing over its values, or with the trapezoidal rule for real numbers; and the number of
        elements.
    """
    likelihood = decoder(torch.zeros(64, LATENT_DIM))
    mode, drawn_BN = likelihood.mode()[:1], likelihood.sample(torch.Generator().manual_seed(0)).flatten(1)
    num_values = mode.numel()
    most = max(32, 100_000 // num_values)
    chosen_E = torch.randperm(num_values, generator=torch.Generator().manual_seed(0))[:most]
    if mode.is_floating_point():
        reach = 8 * drawn_BN.std(0)[chosen_E].clamp_min(1e-6)
        values_EV = mode.flatten()[chosen_E, None] + reach[:, None] * torch.linspace(-1, 1, 129)
        log_width_E1 = (reach[:, None] / 64).log()
    else:
        highest = torch.iinfo(mode.dtype).max
        assert highest < 1_000, "expected values of 8 bits; set independent_values to False and test the sum by hand"
        values_EV = torch.arange(highest + 1, dtype=mode.dtype).expand(len(chosen_E), -1)
        log_width_E1 = torch.zeros(len(chosen_E), 1)
    num_levels = values_EV.shape[1]
    per_batch = max(1, 4_000_000 // (num_values * num_levels))
    parts = []
    for some_E in torch.arange(len(chosen_E)).split(per_batch):
        x_EVN = mode.flatten().repeat(len(some_E), num_levels, 1)
        index_EV1 = chosen_E[some_E][:, None, None].expand(-1, num_levels, 1)
        x_EVN.scatter_(2, index_EV1, values_EV[some_E][:, :, None])
        x = x_EVN.flatten(0, 1).unflatten(1, mode.shape[1:])
        latents = torch.zeros(len(x), LATENT_DIM)
        parts.append(decoder(latents).log_prob(x).unflatten(0, (len(some_E), num_levels)))
    log_prob_EV = torch.cat(parts).double()
    log_total_E1 = torch.logsumexp(log_prob_EV, 1, keepdim=True)
    log_share_EV = log_prob_EV - log_total_E1
    entropy_E = -(log_share_EV.exp() * (log_share_EV - log_width_E1)).sum(1)
    own = likelihood.log_prob(likelihood.mode())[0].double()
    return own, own - (log_total_E1 + log_width_E1)[:, 0], entropy_E, num_values
