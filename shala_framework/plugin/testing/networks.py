"""Tests of a modality's encoder and decoder, and of the likelihood that the decoder returns.

Shapes: B batch, F feature_dim, D latent_dim.
"""

import pytest
import torch
from torch import Tensor

from shala_framework.plugin.modality import Likelihood, Relaxed
from shala_framework.plugin.testing.subject import FEATURE_DIM, LATENT_DIM, Subject


class NetworkTests(Subject):
    """Shapes, dtypes, independent rows, and parameters that can be saved."""

    @pytest.mark.parametrize("feature_dim", [FEATURE_DIM, 32])
    def test_encoder_is_deterministic(self, feature_dim: int) -> None:
        """In eval mode, an encoder returns the same finite h [B, F] each time, row by row, also for B = 1."""
        x, encoder = self.batch(3), self.make().encoder(feature_dim).eval()
        with torch.no_grad():
            h_BF = encoder(x)
            assert h_BF.shape == (3, feature_dim)
            assert h_BF.dtype == torch.float32
            assert torch.isfinite(h_BF).all()
            assert torch.equal(h_BF, encoder(x))
            torch.testing.assert_close(encoder(x[1:2]), h_BF[1:2], rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("latent_dim", [1, LATENT_DIM])
    def test_decoder_gives_a_likelihood(self, latent_dim: int) -> None:
        """log_prob is [B], finite and float32. mode and sample look like the result of `read`, also for B = 1."""
        modality, x = self.make(), self.batch(3)
        decoder = modality.decoder(latent_dim).eval()
        for num_rows in (3, 1):
            with torch.no_grad():
                likelihood = decoder(torch.randn(num_rows, latent_dim))
                assert isinstance(likelihood, Likelihood)
                assert isinstance(likelihood.is_bound, bool)
                log_prob_B = likelihood.log_prob(x[:num_rows])
                assert log_prob_B.shape == (num_rows,)
                assert log_prob_B.dtype == torch.float32
                assert torch.isfinite(log_prob_B).all()
                for drawn in (likelihood.mode(), likelihood.sample(torch.Generator().manual_seed(0))):
                    assert drawn.shape == x[:num_rows].shape
                    assert drawn.dtype == x.dtype
                    self.check_values(drawn)
                    assert all(modality.write(drawn[0]).values())
                    modality.preview(drawn[0])

    def test_relaxed_form_leads_back_to_the_encoder(self) -> None:
        """A relaxed form, if any, is the mode before rounding, and its h has a gradient in z for every row."""
        modality = self.make()
        encoder, decoder = modality.encoder(FEATURE_DIM).eval(), modality.decoder(LATENT_DIM).eval()
        z_BD = torch.randn(3, LATENT_DIM, requires_grad=True)
        likelihood = decoder(z_BD)
        mode = likelihood.mode()
        if not isinstance(likelihood, Relaxed):
            pytest.skip("this likelihood has no differentiable form of its mode")
        relaxed = likelihood.relaxed()
        nearest = relaxed.detach()
        if not mode.dtype.is_floating_point:
            limits = torch.iinfo(mode.dtype)
            nearest = nearest.round().clamp(limits.min, limits.max)
        torch.testing.assert_close(nearest, mode.to(nearest.dtype), rtol=1e-4, atol=1e-4)
        h_BF = encoder(relaxed)
        assert h_BF.shape == (3, FEATURE_DIM)
        h_BF.square().sum().backward()
        assert z_BD.grad is not None
        assert z_BD.grad.abs().sum(1).gt(0).all()

    def test_values_are_counted(self) -> None:
        """count_values returns, for each row alone, the number of values that are scored: at least 1, at most all."""
        modality, x = self.make(), self.batch(3)
        count_B = modality.count_values(x)
        assert count_B.shape == (3,)
        assert count_B.dtype == torch.int64
        assert count_B.min() >= 1
        assert count_B.max() <= x[0].numel()
        assert torch.equal(modality.count_values(x[1:2]), count_B[1:2])
        assert modality.count_values(x[:0]).shape == (0,)

    def test_log_prob_of_a_row_is_its_own(self) -> None:
        """A row's log_prob depends only on its own x and z, and on every part of that x."""
        x = self.batch(3)
        z_BD = torch.randn(2, LATENT_DIM)
        decoder = self.make().decoder(LATENT_DIM).eval()
        with torch.no_grad():
            first = decoder(z_BD).log_prob(x[:2])
            other_x = decoder(z_BD).log_prob(x[[0, 2]])
            other_z = decoder(torch.stack([z_BD[0], -z_BD[1]])).log_prob(x[:2])
            torch.testing.assert_close(other_x[0], first[0], rtol=1e-4, atol=1e-2)
            torch.testing.assert_close(other_z[0], first[0], rtol=1e-4, atol=1e-2)
            assert not torch.equal(other_x[1], first[1])
            assert not torch.equal(other_z[1], first[1])
            if not self.likelihood_skips_padding:
                mixed = x[:1].flatten(1).clone()
                for part in torch.arange(mixed.shape[1]).chunk(4):
                    changed = mixed.clone()
                    changed[:, part] = x[1:2].flatten(1)[:, part]
                    same = torch.equal(changed, mixed)
                    unmoved = torch.equal(decoder(z_BD[:1]).log_prob(changed.view_as(x[:1])), first[:1])
                    assert same or not unmoved, f"log_prob ignores elements {part[0]} to {part[-1]} of x"

    def test_sample_follows_its_generator(self) -> None:
        """Equal seeds give equal samples."""
        decoder = self.make().decoder(LATENT_DIM).eval()
        with torch.no_grad():
            likelihood = decoder(torch.randn(2, LATENT_DIM))
            drawn = [likelihood.sample(torch.Generator().manual_seed(seed)) for seed in (0, 0)]
        assert torch.equal(*drawn)

    def test_state_dicts_are_plain_tensors(self) -> None:
        """Networks can be saved as safetensors: tensors are separate and contiguous, and restore the same results."""
        modality, x = self.make(), self.batch(2)
        networks = (modality.encoder(FEATURE_DIM).eval(), modality.decoder(FEATURE_DIM).eval())
        shared = set.intersection(
            *({v.untyped_storage().data_ptr() for v in n.state_dict().values() if v.numel()} for n in networks)
        )
        assert not shared, "encoder and decoder share a tensor; give each one its own copy"
        fresh = (modality.encoder(FEATURE_DIM).eval(), modality.decoder(FEATURE_DIM).eval())
        for network, copy in zip(networks, fresh, strict=True):
            tensors = network.state_dict()
            assert all(isinstance(value, Tensor) and value.is_contiguous() for value in tensors.values())
            storages = [value.untyped_storage().data_ptr() for value in tensors.values()]
            assert len(set(storages)) == len(storages), "two entries of the state_dict share their memory"
            copy.load_state_dict(tensors)
        with torch.no_grad():
            h_BF, restored_BF = networks[0](x), fresh[0](x)
            assert torch.equal(h_BF, restored_BF)
            assert torch.equal(networks[1](h_BF).log_prob(x), fresh[1](h_BF).log_prob(x))
