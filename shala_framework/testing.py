"""The contract of a modality as tests, which every plugin inherits.

    class TestVideo(ModalitySuite):
        modality = Video
        options = {"frames": 4, "height": 16, "width": 16}

        def sample_fields(self, index: int) -> dict[str, bytes]:
            return {"mp4": encode_mp4(a_small_clip(index), 8.0)}

Small options keep it quick: the suite trains the networks for a few dozen steps.
Shapes: B batch, F feature_dim, D latent_dim.
"""

import abc
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shala_framework.errors import DataError
from shala_framework.modality import Likelihood, Modality, Preview, Relaxed
from shala_framework.spec import structure, unstructure

LATENT_DIM = 8
FEATURE_DIM = 12
NUM_DRAWS = 1_000


class ModalitySuite(abc.ABC):
    """Tests that hold for every modality; a plugin's test class names what is tested.

    Attributes:
        modality: The class under test.
        options: Its options, as keyword arguments of `modality.Options`.
        garbage: Bytes that no field of this modality may accept.
        value_range: Lowest and highest value of x, or None where any finite value will do.
        round_trip_tolerance: Mean absolute difference, as a share of the range of x, that writing and reading
            again may make; integers other than pixels must come back as they were.
        likelihood_skips_padding: True where log_prob leaves out what follows the end of a sequence.
        num_steps: Optimiser steps within which log_prob of four samples must rise.
        density_options: Options to add where draws are held against log_prob, such as a fixed small scale with which
            clamping to the range of x cuts nothing off.
        independent_values: False where the values of x depend on each other given z, as words do; such a plugin tests
            by its own means that its densities add up to 1.
    """

    modality: ClassVar[type[Modality]]
    options: ClassVar[dict[str, Any]] = {}
    garbage: ClassVar[bytes] = bytes(range(256)) * 4
    value_range: ClassVar[tuple[float, float] | None] = None
    round_trip_tolerance: ClassVar[float] = 0.05
    likelihood_skips_padding: ClassVar[bool] = False
    num_steps: ClassVar[int] = 40
    density_options: ClassVar[dict[str, Any]] = {}
    independent_values: ClassVar[bool] = True

    @abc.abstractmethod
    def sample_fields(self, index: int) -> dict[str, bytes]:
        """Raw fields of a valid sample; another index gives another sample, the same index the same one."""

    # What tests are made from.

    def make(self, **changes: Any) -> Modality:
        """A modality, fitted on eight samples; changes go over `options`."""
        torch.manual_seed(0)
        modality = self.modality(self.modality.Options(**(self.options | changes)))
        modality.fit(self.sample_fields(index) for index in range(8))
        return modality

    def batch(self, n: int) -> Tensor:
        """The first n samples, as a batch x [n, ...]."""
        return torch.stack([_present(self.make().read(self.sample_fields(index))) for index in range(n)])

    # Options.

    def test_options_are_a_frozen_attrs_class(self) -> None:
        """Options cannot change after a modality has been built from them."""
        assert attrs.has(self.modality.Options)
        options = self.modality.Options(**self.options)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(options, attrs.fields(self.modality.Options)[0].name, None)

    def test_options_have_defaults_and_documentation(self) -> None:
        """A spec may leave any option out, and the docstring of Options says what each one does."""
        documentation = self.modality.Options.__doc__ or ""
        for field in attrs.fields(self.modality.Options):
            assert field.default is not attrs.NOTHING, f"option {field.name} has no default"
            assert f"{field.name}:" in documentation, f"the docstring of Options does not explain {field.name}"

    def test_options_survive_a_checkpoint(self) -> None:
        """Options, whether given or defaults, become the same options again by way of the JSON of a saved run."""
        for options in (self.modality.Options(), self.modality.Options(**self.options)):
            saved = json.loads(json.dumps(unstructure(options)))
            restored = structure(saved, self.modality.Options)
            assert restored == options, f"{options} became {restored}; sequences are tuples in options"

    # Reading and writing.

    def test_read_gives_the_declared_shape(self) -> None:
        """Every x has the modality's shape and one dtype, and reading twice gives the same x."""
        modality = self.make()
        dtypes = set()
        for index in range(3):
            x = _present(modality.read(self.sample_fields(index)))
            assert tuple(x.shape) == modality.shape
            dtypes.add(x.dtype)
            assert torch.equal(x, _present(modality.read(self.sample_fields(index))))
            self.check_values(x)
        assert len(dtypes) == 1

    def test_samples_differ(self) -> None:
        """The suite's own samples differ, or its other tests would prove little."""
        x = self.batch(2)
        assert not torch.equal(x[0], x[1])

    def test_missing_field_is_none(self) -> None:
        """A sample without any of the modality's fields lacks the modality; foreign fields do not matter."""
        modality = self.make()
        assert modality.fields
        assert modality.read({}) is None
        assert modality.read({"no-such-field": b"1"}) is None

    def test_undecodable_field_is_a_data_error(self) -> None:
        """Garbage and empty bytes are errors that name the field, never a missing modality."""
        modality = self.make()
        for field in modality.fields:
            for data in (self.garbage, b""):
                with pytest.raises(DataError) as caught:
                    modality.read({field: data})
                assert field in str(caught.value)

    def test_damaged_fields_are_values_or_data_errors(self) -> None:
        """Cut, flipped, emptied and foreign bytes end in an x of the declared shape or in a DataError."""
        self.check_damage([self.sample_fields(index) for index in range(4)])

    def test_write_and_read_again(self) -> None:
        """What `write` makes is not empty, and what `read` accepts of it is close to x."""
        modality = self.make()
        for x in self.batch(2):
            written = modality.write(x)
            assert written
            assert all(isinstance(data, bytes) and data for data in written.values())
            assert written == modality.write(x)
            for extension in set(written) & set(modality.fields):
                self.check_close(_present(modality.read({extension: written[extension]})), x)

    def test_preview_can_be_shown(self) -> None:
        """A preview holds uint8 frames, sound in [-1, 1] or text."""
        preview = self.make().preview(self.batch(1)[0])
        assert isinstance(preview, Preview)
        assert preview.frames is not None or preview.sound is not None or preview.text is not None
        if preview.frames is not None:
            assert preview.frames.dtype == np.uint8
            assert preview.frames.ndim == 4
            assert preview.frames.shape[3] == 3
            assert 0 not in preview.frames.shape
            assert preview.frames_per_second > 0
        if preview.sound is not None:
            assert preview.sound.dtype == np.float32
            assert preview.sound.ndim == 1
            assert preview.sound.size
            assert np.abs(preview.sound).max() <= 1
            assert preview.sample_rate_hz > 0

    def test_state_round_trip(self) -> None:
        """What fit learned survives JSON: a new modality with that state reads and previews alike."""
        modality = self.make()
        state = json.loads(json.dumps(modality.state(), allow_nan=False))
        restored = self.modality(self.modality.Options(**self.options))
        restored.load_state(state)
        assert json.loads(json.dumps(restored.state())) == state
        x = _present(modality.read(self.sample_fields(0)))
        assert torch.equal(_present(restored.read(self.sample_fields(0))), x)
        assert restored.write(x) == modality.write(x)

    def test_foreign_state_is_refused(self) -> None:
        """A state that this modality did not write is an error, not a silent default."""
        with pytest.raises(ValueError):  # noqa: PT011  (the contract fixes the type; the words are the plugin's)
            self.make().load_state({"no such key": 1})

    # Networks.

    @pytest.mark.parametrize("feature_dim", [FEATURE_DIM, 32])
    def test_encoder_is_deterministic(self, feature_dim: int) -> None:
        """In eval mode an encoder gives the same finite h [B, F] each time, row by row, also for B = 1."""
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
        """log_prob is [B], finite and float32; mode and sample look like what `read` returns, also for B = 1."""
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
        """Where a likelihood has one: it is the mode before rounding, and h of it has a gradient in z, of every row."""
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

    def test_log_prob_of_a_row_is_its_own(self) -> None:
        """A row's log_prob depends on its own x and z only, and on every part of that x."""
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
        """The same seed draws the same x."""
        decoder = self.make().decoder(LATENT_DIM).eval()
        with torch.no_grad():
            likelihood = decoder(torch.randn(2, LATENT_DIM))
            drawn = [likelihood.sample(torch.Generator().manual_seed(seed)) for seed in (0, 0)]
        assert torch.equal(*drawn)

    def test_densities_add_up_to_one(self) -> None:
        """Summed over the values that one element of x may take, p(x | z) leaves the density of all others.

        With independent values log p(x | z) is therefore the sum over elements of log p(x) less the logarithm of that
        sum or integral; many elements stand for all of them where x is large.
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
        assert abs(log_prob - expected) < slack + spread * element_log_prob_E.std(), "log_prob is not normalised"
        expected, error = -num_values * entropy_E.mean(), of_draws_B.std() / NUM_DRAWS**0.5
        assert abs(of_draws_B.mean() - expected) < slack + 5 * error + spread * entropy_E.std(), (
            "draws are more or less likely than those of log_prob"
        )

    def test_draws_follow_log_prob(self) -> None:
        """Under draws of p(x | z) the ratio p(x | z') / p(x | z) is 1 on average, whatever z' is."""
        decoder = self.make(**self.density_options).decoder(LATENT_DIM).eval()
        z_1D, step_1D = torch.randn(2, 1, LATENT_DIM).mul(0.3).unbind()
        with torch.no_grad():
            likelihood = decoder(z_1D.expand(NUM_DRAWS, -1))
            if likelihood.is_bound:
                return
            x = likelihood.sample(torch.Generator().manual_seed(0))
            own_B = likelihood.log_prob(x)
            for _ in range(4):  # until the two differ so much that it shows, and not more
                ratio_B = decoder((z_1D + step_1D).expand(NUM_DRAWS, -1)).log_prob(x) - own_B
                spread = ratio_B.std()
                assert spread > 0, "draws of one z are all alike, or log_prob does not depend on them"
                step_1D = step_1D * (0.7 / spread).clamp(0.01, 100)
        assert 0.3 < spread < 1.5
        mean, error = ratio_B.exp().mean(), ratio_B.exp().std() / NUM_DRAWS**0.5
        assert abs(mean - 1) < 5 * error + 0.01, "draws do not follow log_prob"

    def test_state_dicts_are_plain_tensors(self) -> None:
        """Networks can be saved as safetensors: own, contiguous tensors, which restore what was computed."""
        modality, x = self.make(), self.batch(2)
        networks = (modality.encoder(FEATURE_DIM).eval(), modality.decoder(FEATURE_DIM).eval())
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

    # Training.

    def test_training_raises_log_prob(self) -> None:
        """Gradients reach every parameter of both networks, and a few dozen steps on four samples pay."""
        networks, x = self._networks(), self.batch(4)
        optimiser = torch.optim.AdamW(networks.parameters(), lr=2e-3)
        log_probs = []
        for step in range(self.num_steps):
            log_prob = _reconstruct(networks, x).mean()
            optimiser.zero_grad()
            (-log_prob / x[0].numel()).backward()
            # Layers that start at zero hold back the first gradients of what lies before them.
            if step == self.num_steps // 2:
                for name, parameter in networks.named_parameters():
                    assert parameter.grad is not None, f"no gradient reaches {name}"
                    assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"
                    assert parameter.grad.any(), f"the gradient of {name} is zero"
            optimiser.step()
            log_probs.append(log_prob.item())
        assert np.isfinite(log_probs).all()
        assert np.mean(log_probs[-3:]) > log_probs[0]

    def test_one_row_trains(self) -> None:
        """A batch of one row gives finite gradients."""
        networks = self._networks()
        _reconstruct(networks, self.batch(1)).sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in networks.parameters() if p.grad is not None)

    def test_autocast_keeps_log_prob_in_float32(self) -> None:
        """Under bfloat16 autocast log_prob is still summed in float32, and close to what it is without."""
        networks, x = self._networks().eval(), self.batch(2)
        with torch.no_grad():
            exact = _reconstruct(networks, x)
            with torch.autocast("cpu", torch.bfloat16):
                log_prob_B = _reconstruct(networks, x)
        assert log_prob_B.dtype == torch.float32
        torch.testing.assert_close(log_prob_B, exact, rtol=0.1, atol=0.1 * x[0].numel())

    def _networks(self) -> nn.Sequential:
        modality = self.make()
        return nn.Sequential(modality.encoder(FEATURE_DIM), modality.decoder(FEATURE_DIM)).train()

    # What a plugin's own tests may use.

    def check_damage(self, samples: Sequence[dict[str, bytes]], count: int = 200) -> None:
        """Fail unless every one of `count` damaged copies of the samples ends in a value or in a DataError.

        Args:
            samples: Raw fields of valid samples; those of real files where there are some.
            count: Damaged copies to read, in turn of each sample and each of its fields.
        """
        modality, generator = self.make(), np.random.default_rng(0)
        originals = [(name, data) for fields in samples for name, data in fields.items() if name in modality.fields]
        assert originals, "no sample has a field of this modality"
        messages: list[tuple[str, str]] = []
        for index in range(count):
            name, data = originals[index % len(originals)]
            damaged = damage(data, generator)
            try:
                x = modality.read({name: damaged})
            except DataError as error:
                messages.append((name, str(error)))
                continue
            if x is not None:
                assert tuple(x.shape) == modality.shape
                assert x.dtype == modality.dtype
                self.check_values(x)
        unnamed = [message for name, message in messages if name not in message]
        assert not unnamed, f"messages that do not name the field: {unnamed[:3]}"

    # What a plugin may override.

    def check_values(self, x: Tensor) -> None:
        """Fail unless x is finite and within `value_range`."""
        assert torch.isfinite(x).all()
        if self.value_range is not None:
            assert self.value_range[0] <= x.min()
            assert x.max() <= self.value_range[1]

    def check_close(self, x: Tensor, expected: Tensor) -> None:
        """Fail unless x is what was written, as near as the file format allows."""
        if x.dtype == torch.uint8 or x.is_floating_point():
            difference = (x.float() - expected.float()).abs().mean()
            spread = expected.float().max() - expected.float().min()
            assert difference <= self.round_trip_tolerance * spread + 1e-6
        else:
            assert torch.equal(x, expected)


def damage(data: bytes, generator: np.random.Generator) -> bytes:
    """A damaged copy: cut short, bits flipped, a stretch lost, repeated or overwritten, another type, or nothing."""
    kind = int(generator.integers(7))
    start, end = sorted(int(i) for i in generator.integers(0, max(1, len(data)), 2))
    if kind == 0:
        return data[:end]
    if kind == 1:
        flipped = bytearray(data)
        for i in generator.integers(0, max(1, len(data)), int(generator.integers(1, 20))).tolist():
            flipped[i : i + 1] = bytes([flipped[i] ^ (1 << int(generator.integers(8)))]) if data else b""
        return bytes(flipped)
    if kind == 2:
        return data[:start] + data[end:]
    if kind == 3:
        return data[:end] + data[start:]
    if kind == 4:
        return data[:start] + generator.bytes(end - start) + data[end:]
    if kind == 5:
        return [b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WAVE", b"{}", b"\xff\xfe\0", b"0 " * 50][int(generator.integers(5))]
    return b""


def _present(x: Tensor | None) -> Tensor:
    assert x is not None, "read returned None for a valid sample"
    return x


def _one_by_one(decoder: nn.Module) -> tuple[Tensor, Tensor, Tensor, int]:
    """Change elements of the likeliest x one at a time over all values that they may take, at z = 0.

    Returns:
        log_prob of that x; what each of some elements E (all of a small x) contributes to it, and each one's entropy,
        both by summing over its values, or by the trapezoidal rule where they are real numbers; the number of elements.
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


def _reconstruct(networks: nn.Sequential, x: Tensor) -> Tensor:
    likelihood: Likelihood = networks(x)
    return likelihood.log_prob(x)
