"""Tests of how a modality varies and damages training rows. Shapes: B batch."""

import attrs
import pytest
import torch
from torch import Tensor

from shala_framework.plugin.augmenting import Draws
from shala_framework.plugin.modality import Modality, augments
from shala_framework.plugin.testing.subject import FEATURE_DIM, LATENT_DIM, Subject


class AugmentingTests(Subject):
    """Off by default; otherwise rows like those of `read`, which depend on their own x and draws alone."""

    def varied(self, modality: Modality, x: Tensor, seed: int, rank: int = 0, world_size: int = 1) -> list[Tensor]:
        """Return the rows that the likelihood takes, and those that the encoder sees."""
        draws = Draws(seed=seed, num_rows=len(x), rank=rank, world_size=world_size)
        varied = modality.augment(x, draws)
        return [varied, modality.corrupt(varied, draws)]

    def make_augmenting(self) -> Modality:
        """A modality with `augmenting` options; skips one that leaves rows as they are."""
        if not augments(self.modality(self.modality.Options(**self.options))):
            pytest.skip("this modality leaves training rows as they are")
        assert self.augmenting, "set `augmenting` to options with which `augment` and `corrupt` change rows"
        return self.make(**self.augmenting)

    def test_rows_are_not_augmented_by_default(self) -> None:
        """Without options for it, training sees the data as they are."""
        x = self.batch(3)
        for varied in self.varied(self.make(), x.clone(), 0):
            assert torch.equal(varied, x)

    def test_augmented_rows_look_like_data(self) -> None:
        """Rows keep shape, dtype and range, the given ones stay as they are, and both networks take the result."""
        modality, x = self.make_augmenting(), self.batch(4)
        before, changed = x.clone(), torch.zeros(2, dtype=torch.bool)
        for seed in range(8):
            rows = self.varied(modality, x, seed)
            assert torch.equal(x, before), "rows were changed in place; change a copy"
            for i, varied in enumerate(rows):
                assert varied.shape == x.shape
                assert varied.dtype == x.dtype
                self.check_values(varied)
                changed[i] |= not torch.equal(varied, x)
        assert changed.any(), "no row changed; set `augmenting` to options that turn something on"
        h_BF = modality.encoder(FEATURE_DIM).eval()(rows[1])
        log_prob_B = modality.decoder(LATENT_DIM).eval()(torch.randn(len(x), LATENT_DIM)).log_prob(rows[0])
        assert torch.isfinite(h_BF).all()
        assert torch.isfinite(log_prob_B).all()

    def test_augmentation_follows_its_draws(self) -> None:
        """Equal seeds give equal rows, other seeds others, and a row does not depend on the rows beside it.

        So rows are the same for any number of processes. Rows that lack the modality, which are zeros, stay finite.
        """
        modality, x = self.make_augmenting(), self.batch(4)
        x = torch.cat([x, torch.zeros_like(x)])
        first, again = self.varied(modality, x, 1), self.varied(modality, x, 1)
        assert all(map(torch.equal, first, again))
        others = [self.varied(modality, x, seed) for seed in (2, 3, 4)]
        assert not all(all(map(torch.equal, first, other)) for other in others)
        assert all(torch.isfinite(varied).all() for varied in first)
        for rank in (0, 1):
            for varied, own in zip(first, self.varied(modality, x[rank::2], 1, rank, 2), strict=True):
                torch.testing.assert_close(own, varied[rank::2], rtol=1e-5, atol=1e-5)

    def test_augmentation_leaves_prepared_shards_valid(self) -> None:
        """Options of augmentation do not change what `read` returns, and `network_options` says so."""
        modality = self.make_augmenting()
        plain = self.modality.Options(**self.options)
        names = {
            field.name
            for field in attrs.fields(self.modality.Options)
            if getattr(plain, field.name) != getattr(modality.options, field.name)
        }
        assert names <= modality.network_options, f"{names - modality.network_options} are not in network_options"
        for index in range(3):
            x, expected = modality.read(self.sample_fields(index)), self.make().read(self.sample_fields(index))
            assert x is not None
            assert expected is not None
            assert torch.equal(x, expected)
