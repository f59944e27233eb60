"""Tests that a modality's networks can be trained. Shapes: B batch, F feature_dim, D latent_dim."""

import numpy as np
import torch

from shala_framework.plugin.testing.subject import Subject, reconstruct


class TrainingTests(Subject):
    """Gradients, a batch of one row, and autocast."""

    def test_training_raises_log_prob(self) -> None:
        """Gradients reach every parameter of both networks, and a few dozen steps on four samples raise log_prob."""
        networks, x = self.networks(), self.batch(4)
        optimiser = torch.optim.AdamW(networks.parameters(), lr=2e-3)
        log_probs = []
        for step in range(self.num_steps):
            log_prob = reconstruct(networks, x).mean()
            optimiser.zero_grad()
            (-log_prob / x[0].numel()).backward()
            # Layers that start at zero block the first gradients of the layers before them.
            if step == self.num_steps // 2:
                for name, parameter in networks.named_parameters():
                    if not parameter.requires_grad:
                        continue  # frozen
                    assert parameter.grad is not None, f"no gradient reaches {name}"
                    assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"
                    assert parameter.grad.any(), f"the gradient of {name} is zero"
            optimiser.step()
            log_probs.append(log_prob.item())
        assert np.isfinite(log_probs).all()
        assert np.mean(log_probs[-3:]) > log_probs[0], (
            f"log_prob fell from {log_probs[0]:.4g} to {np.mean(log_probs[-3:]):.4g}; "
            "raise num_steps if learning is slow"
        )

    def test_one_row_trains(self) -> None:
        """A batch of one row gives finite gradients."""
        networks = self.networks()
        reconstruct(networks, self.batch(1)).sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in networks.parameters() if p.grad is not None)

    def test_autocast_keeps_log_prob_in_float32(self) -> None:
        """Under bfloat16 autocast, log_prob is still summed in float32 and close to its value without autocast."""
        networks, x = self.networks().eval(), self.batch(2)
        with torch.no_grad():
            exact = reconstruct(networks, x)
            with torch.autocast("cpu", torch.bfloat16):
                log_prob_B = reconstruct(networks, x)
        assert log_prob_B.dtype == torch.float32
        torch.testing.assert_close(log_prob_B, exact, rtol=0.1, atol=0.1 * x[0].numel())
