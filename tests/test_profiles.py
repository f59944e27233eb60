"""Profiles of a spec: how they are applied, recorded and checked, and those of the shipped specs."""

import json
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

import attrs
import pytest
import tomli
import torch

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.cli.main import dispatch
from shala_framework.data.rows import Rows
from shala_framework.model import ShaLa
from shala_framework.spec import doubts, read_spec, resolve_spec, unstructure
from shala_framework.support.errors import SpecError
from shala_framework.training.counting import META, count_step
from shala_framework.training.optimizers import make_optimizers
from shala_framework.training.parallel import shared_loss
from shala_framework.training.stages import AutoencoderTraining
from shala_framework.training.steps import take_step

SPECS = sorted((Path(__file__).parent.parent / "specs").glob("*.toml"))
WITH_PROFILES = [path for path in SPECS if "profile" in tomli.loads(path.read_text())]
PROFILES = """
[profile.large]
seed = 5
modality.first.options.width = 64

[profile.large.train]
"autoencoder.batch_size" = 128
prior.steps = 77

[profile.small]
posterior.latent_dim = 2
"""


@pytest.fixture
def profiled(two_spec):
    two_spec.write_text(two_spec.read_text() + PROFILES)
    return two_spec


def test_a_profile_lies_between_the_stand_in_and_set(profiled):
    """Nested and dotted keys apply, over the stand-in's; --set wins; without --profile nothing changes."""
    plain, large = read_spec(profiled), read_spec(profiled, profile="large")
    assert plain.spec.train.prior.steps != 77  # the stand-in's
    assert (large.profile, large.spec.seed, large.spec.train.prior.steps) == ("large", 5, 77)
    assert large.options["first"].width == 64
    assert large.spec.train.autoencoder.batch_size == 128
    assert large.spec.posterior == plain.spec.posterior
    assert read_spec(profiled, ("train.prior.steps=9",), profile="large").spec.train.prior.steps == 9
    assert plain.spec.profile == large.spec.profile == {}
    assert resolve_spec(unstructure(large.spec), "saved").spec == large.spec


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("prior.steps = 77", "prior.stps = 77", r"two\.toml:\d+: train\.prior\.stps: unknown key"),
        ("seed = 5", "seed = 'five'", r"two\.toml:\d+: seed: expected int, got string"),
        ("options.width = 64", "options.width = 0", r"first\.options\.width: expected a number of at least 1"),
        ("latent_dim = 2", "latent_dim = 2\nschema = 1", r"two\.toml:\d+: profile\.small\.schema: a profile"),
        ("seed = 5", "schema = 1", r"profile\.large\.schema: a profile cannot change this key"),
        ("[profile.small]", "[profile.'a b']", r"profile\.\"a b\": expected letters"),
        ("seed = 5", "seed.x = 5", r"seed"),
    ],
)
def test_a_mistake_in_a_profile_is_found_without_using_it(profiled, old, new, message):
    """The error has the line within the profile, and others of the file are still listed once."""
    profiled.write_text(profiled.read_text().replace(old, new))
    for profile in (None, "large"):
        with pytest.raises(SpecError, match=message) as caught:
            read_spec(profiled, profile=profile)
        texts = list(map(str, caught.value.problems))
        assert len(set(texts)) == len(texts) == 1
    with pytest.raises(SpecError, match=message):  # and whatever --set says of other keys
        read_spec(profiled, ("seed=3",))


def test_a_profile_that_does_not_exist_lists_those_that_do(profiled, two_spec, capsys):
    assert dispatch(["check", "two.toml", "--profile", "larg"]) == 2
    err = capsys.readouterr().err
    assert "expected one of 'large', 'small', got 'larg'" in err
    assert "did you mean 'large'?" in err
    with pytest.raises(SpecError, match=r"profile: cannot be set"):
        read_spec(profiled, ("profile.large.seed=3",))
    two_spec.write_text(two_spec.read_text().partition("\n[profile")[0])
    with pytest.raises(SpecError, match="expected a spec with profiles, got 'large'"):
        read_spec(two_spec, profile="large")


@pytest.mark.long
def test_a_run_keeps_its_profile_without_the_flag(profiled, capsys):
    """The folder records it; the same command without --profile resumes; a sweep names it in its commands."""
    line = ["run", "two.toml", "--out", "r", "--set", "train.autoencoder.steps=3", "--set", "evaluate.at_end=false"]
    assert dispatch([*line, "--set", "train.prior.steps=2", "--profile", "large"]) == 0
    saved = json.loads(Path("r/spec.json").read_text())
    assert (saved["profile"], saved["spec"]["seed"], saved["spec"]["profile"]) == ("large", 5, {})
    assert dispatch([*line, "--set", "train.prior.steps=2"]) == 0
    assert "r was begun with --profile large" in capsys.readouterr().err
    assert dispatch([*line, "--set", "train.prior.steps=2", "--profile", "small"]) == 2
    assert "belongs to another spec" in capsys.readouterr().err
    assert dispatch(["sweep", "two.toml", "--profile", "large", "--set", "seed=0,1", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("--profile large") == 2


@pytest.mark.parametrize("path", WITH_PROFILES, ids=lambda path: path.stem)
def test_a_shipped_profile_fits_and_takes_a_step(path, tmp_path, monkeypatch):
    """Its options are the plugins', its settings fit together, and a step of its networks runs on the meta device."""
    wanted = {table["plugin"] for table in tomli.loads(path.read_text())["modality"].values()}
    if missing := wanted - {entry.name for entry in entry_points(group="shala.plugins")}:
        pytest.skip(f"plugins not installed: {sorted(missing)}")
    monkeypatch.chdir(tmp_path)
    plain, loaded = (read_spec(path, profile=profile, use_stand_in=False) for profile in (None, "gpu"))
    spec = loaded.spec
    assert not doubts(spec)
    assert 512 <= spec.train.autoencoder.batch_size <= 4_096
    assert spec.posterior.latent_dim == 256
    assert spec.train.autoencoder.steps * spec.train.autoencoder.batch_size >= 5_000_000
    modalities = ShaLa.from_spec(loaded).modalities
    found = {}
    for name, table in (("plain", plain.spec), ("gpu", spec)):
        made = modalities if name == "gpu" else ShaLa.from_spec(plain).modalities
        settings = attrs.evolve(table.train.autoencoder, batch_size=4, micro_batches=1)
        with META:
            autoencoder = Autoencoder(made, table.posterior).to(META)
            stage = AutoencoderTraining(autoencoder, settings, META)
        x = {key: torch.empty((4, *m.shape), dtype=m.dtype, device=META) for key, m in made.items()}
        rows = Rows(
            x=x, presence=torch.ones(4, len(x), dtype=torch.bool, device=META), keys=("",) * 4, labels=(None,) * 4
        )
        optimizers = make_optimizers(autoencoder, settings, matrix_dtype=torch.float32)
        take = partial(take_step, stage, settings, optimizers, shared_loss(stage, META), rows, 0)
        found[name] = count_step(take, autoencoder.parameters())
    assert found["gpu"].operations > 3 * found["plain"].operations
