"""Tests of a modality's network of stage 3, and of the residual space that its likelihood names.

Shapes: B batch, D latent_dim.
"""

import attrs
import pytest
import torch
from torch import Tensor, nn

from shala_framework.plugin.refining import Refinable, ResidualSpace
from shala_framework.plugin.testing.subject import LATENT_DIM, Subject


class RefiningTests(Subject):
    """Shapes, rows that do not depend on each other, gradients, and a space that x survives."""

    def refiner_and_space(self, num_rows: int) -> tuple[nn.Module, ResidualSpace]:
        """The network and the space at random latents; skips a modality that stage 3 leaves alone."""
        modality = self.make()
        network = modality.refiner(LATENT_DIM)
        if network is None:
            pytest.skip("this modality offers no network to stage 3")
        likelihood = modality.decoder(LATENT_DIM).eval()(torch.randn(num_rows, LATENT_DIM))
        assert isinstance(likelihood, Refinable), (
            f"a modality with a refiner needs a likelihood with residual_space(); {type(likelihood).__name__} has none"
        )
        return network, likelihood.residual_space()

    def test_refiner_options_are_options_of_networks(self) -> None:
        """They exist, and nothing that is read depends on them: `--from` takes other stages whatever they are."""
        modality, names = self.modality, {field.name for field in attrs.fields(self.modality.Options)}
        assert modality.refiner_options <= names, f"{modality.refiner_options - names} are no options"
        assert modality.refiner_options <= modality.network_options, "refiner_options must be in network_options"

    def test_refiner_keeps_the_shape_of_x(self) -> None:
        """Float [B, ...] in, the same out; row by row, also for B = 1; and mean, z and noise level all count."""
        x = self.batch(3)
        network, space = self.refiner_and_space(3)
        _jolt(network)
        network.eval()
        mean, noisy = space.mean.detach().float(), torch.randn(x.shape)
        z_BD, c_noise_B = torch.randn(3, LATENT_DIM), torch.linspace(-1, 1, 3)
        with torch.no_grad():
            raw = network(noisy, mean, z_BD, c_noise_B)
            assert raw.shape == x.shape
            assert torch.isfinite(raw).all()
            alone = network(noisy[1:2], mean[1:2], z_BD[1:2], c_noise_B[1:2])
            torch.testing.assert_close(alone, raw[1:2], rtol=1e-3, atol=1e-4)
            scale = mean.std() + 1e-3
            for what, changed in (
                ("the noisy residual", network(noisy + 1, mean, z_BD, c_noise_B)),
                ("the mean", network(noisy, mean + scale * torch.randn(x.shape), z_BD, c_noise_B)),
                ("the latent", network(noisy, mean, z_BD + 1, c_noise_B)),
                ("the noise level", network(noisy, mean, z_BD, c_noise_B + 1)),
            ):
                assert not torch.equal(changed, raw), f"the refiner's network ignores {what}"

    def test_residual_space_holds_x(self) -> None:
        """The mean is float in the shape of x, x comes back from the space as it was, and the encoder takes it."""
        x = self.batch(3)
        _, space = self.refiner_and_space(3)
        there = space.to_space(x)
        assert space.mean.is_floating_point()
        assert there.is_floating_point()
        assert space.mean.shape == there.shape == x.shape
        assert space.log_scale.expand_as(space.mean).isfinite().all()
        assert torch.equal(space.from_space(there), x)
        assert space.from_space(space.mean).dtype == x.dtype
        self.check_values(space.from_space(space.mean + 3 * space.log_scale.exp()).detach())
        if space.levels is not None:
            level = (there - space.levels.lowest) / space.levels.step
            torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-2)
            assert space.levels.lowest <= float(there.min())
            assert float(there.max()) <= space.levels.highest + 1e-6
        inner = there.clone().requires_grad_()
        self.make().encoder(LATENT_DIM).eval()(space.to_encoder(inner)).square().sum().backward()
        assert inner.grad is not None
        assert inner.grad.any()

    def test_refiner_is_saved_and_trained(self) -> None:
        """Its tensors are its own, and after a jolt a gradient reaches every parameter, for one row too."""
        network, space = self.refiner_and_space(1)
        tensors = network.state_dict()
        assert all(isinstance(value, Tensor) and value.is_contiguous() for value in tensors.values())
        storages = [value.untyped_storage().data_ptr() for value in tensors.values()]
        assert len(set(storages)) == len(storages), "two entries of the state_dict share their memory"
        _jolt(network)
        mean = space.mean.detach().float()
        raw = network(torch.randn_like(mean), mean, torch.randn(1, LATENT_DIM), torch.zeros(1))
        raw.float().square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, f"no gradient reaches {name}"
            assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"


def _jolt(network: nn.Module) -> None:
    """Move weights that start at zero, and hold back what lies before them."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
