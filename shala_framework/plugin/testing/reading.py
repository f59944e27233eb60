"""Tests of a modality's options, of reading and writing, and of what `fit` learns."""

import json
from collections.abc import Sequence

import attrs
import numpy as np
import pytest
import torch

from shala_framework.plugin.modality import Preview
from shala_framework.plugin.testing.damage import damage
from shala_framework.plugin.testing.subject import Subject, present
from shala_framework.spec import structure, unstructure
from shala_framework.support.errors import DataError


class ReadingTests(Subject):
    """Options, bytes to x, x to bytes, and the state."""

    # Options.

    def test_options_are_a_frozen_attrs_class(self) -> None:
        """Options cannot change after a modality is built from them."""
        assert attrs.has(self.modality.Options)
        options = self.modality.Options(**self.options)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(options, attrs.fields(self.modality.Options)[0].name, None)

    def test_options_have_defaults_and_documentation(self) -> None:
        """A spec may omit any option, and the docstring of Options describes each one."""
        documentation = self.modality.Options.__doc__ or ""
        for field in attrs.fields(self.modality.Options):
            assert field.default is not attrs.NOTHING, f"option {field.name} has no default"
            assert f"{field.name}:" in documentation, f"the docstring of Options does not explain {field.name}"

    def test_options_survive_a_checkpoint(self) -> None:
        """Options, given or default, become equal options after a round trip through a saved run's JSON."""
        for options in (self.modality.Options(), self.modality.Options(**self.options)):
            saved = json.loads(json.dumps(unstructure(options)))
            restored = structure(saved, self.modality.Options)
            assert restored == options, f"{options} became {restored}; sequences are tuples in options"

    # Reading and writing.

    def test_read_gives_the_declared_shape(self) -> None:
        """Every x has the modality's shape and the same dtype, and reading twice gives equal x."""
        modality = self.make()
        dtypes = set()
        for index in range(3):
            x = present(modality.read(self.sample_fields(index)))
            assert tuple(x.shape) == modality.shape
            dtypes.add(x.dtype)
            assert torch.equal(x, present(modality.read(self.sample_fields(index))))
            self.check_values(x)
        assert len(dtypes) == 1

    def test_samples_differ(self) -> None:
        """The suite's own samples differ; otherwise its other tests would prove little."""
        x = self.batch(2)
        assert not torch.equal(x[0], x[1])

    def test_missing_field_is_none(self) -> None:
        """A sample without any of the modality's fields lacks the modality. Foreign fields do not matter."""
        modality = self.make()
        assert modality.fields
        assert modality.read({}) is None
        assert modality.read({"no-such-field": b"1"}) is None

    def test_undecodable_field_is_a_data_error(self) -> None:
        """Garbage raises an error that names the field, and so do empty bytes unless they count as missing."""
        modality = self.make()
        for field in modality.fields:
            if self.empty_is_missing:
                assert modality.read({field: b""}) is None
            for data in (self.garbage,) if self.empty_is_missing else (self.garbage, b""):
                with pytest.raises(DataError) as caught:
                    modality.read({field: data})
                assert field in str(caught.value)

    def test_damaged_fields_are_values_or_data_errors(self) -> None:
        """Truncated, flipped, emptied and foreign bytes give an x of the declared shape or a DataError."""
        self.check_damage([self.sample_fields(index) for index in range(4)])

    def test_write_and_read_again(self) -> None:
        """The files that `write` makes are not empty; those that `read` accepts give nearly the same x."""
        modality = self.make()
        for x in self.batch(2):
            written = modality.write(x)
            assert written
            assert all(isinstance(data, bytes) and data for data in written.values())
            assert written == modality.write(x)
            for extension in set(written) & set(modality.fields):
                self.check_close(present(modality.read({extension: written[extension]})), x)

    def test_what_is_cut_off_is_said_in_parts(self) -> None:
        """cut_off returns None or an amount with its words, which are the same for all samples."""
        modality = self.make()
        found = [cut for index in range(8) if (cut := modality.cut_off(self.sample_fields(index))) is not None]
        assert all(np.isfinite(cut.amount) and cut.excess and cut.consequence for cut in found)
        assert len({(cut.excess, cut.unit, cut.consequence) for cut in found}) <= 1

    def test_typed_text_is_read_or_refused(self) -> None:
        """If a modality can be typed, any text gives fields of its own, and reading them an x, None or a DataError."""
        modality = self.make()
        shown = modality.preview(self.batch(1)[0]).text or ""
        for text in (shown, "", " ", "a red circle", "1, 2", "\0", "\udcff", "\ud800", self.garbage.decode("latin-1")):
            fields = modality.typed(text)
            if fields is None:
                continue
            assert set(fields) <= set(modality.fields)
            try:
                x = modality.read(fields)
            except DataError:
                continue
            if x is not None:
                assert tuple(x.shape) == modality.shape
                assert x.dtype == modality.dtype

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
        """What `fit` learned survives JSON: a new modality with that state reads and writes the same."""
        modality = self.make()
        state = json.loads(json.dumps(modality.state(), allow_nan=False))
        restored = self.modality(self.modality.Options(**self.options))
        restored.load_state(state)
        assert json.loads(json.dumps(restored.state())) == state
        x = present(modality.read(self.sample_fields(0)))
        assert torch.equal(present(restored.read(self.sample_fields(0))), x)
        assert restored.write(x) == modality.write(x)

    def test_foreign_state_is_refused(self) -> None:
        """A state that this modality did not write raises an error; it is not silently ignored."""
        with pytest.raises(ValueError):  # noqa: PT011  (the contract fixes the type; the message is up to the plugin)
            self.make().load_state({"no such key": 1})

    # Methods that a plugin's own tests may use.

    def check_damage(self, samples: Sequence[dict[str, bytes]], count: int = 200) -> None:
        """Fail unless each of `count` damaged copies of the samples gives a value or a DataError.

        Args:
            samples: Raw fields of valid samples, from real files if available.
            count: Number of damaged copies to read, taken from each sample and each of its fields in turn.
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
