"""Methods of inference as plugins: one written outside this repository, and all installed ones."""

import importlib
import json

import pytest
import torch
from small_runs import metric_lines, run
from two_floats import ConvolvedFloats, TwoFloats

import shala_framework as shala
from shala_framework import PluginError, SpecError
from shala_framework.cli.main import main, main_run
from shala_framework.data.latent_store import latents_of
from shala_framework.data.rows import Rows
from shala_framework.plugin.loading import installed_offers, kind_of, load_offer
from shala_framework.plugin.posterior import GaussianPosterior, MixturePosterior, either_posterior
from shala_framework.spec import structure
from shala_framework.spec.schema import AutoencoderStage
from shala_framework.training.stages import AutoencoderTraining

AVERAGE = '''\
"""A method of inference: the mean of what each modality says, and one variance for all."""

import attrs
import torch
from torch import nn

from shala_framework.plugin import GaussianPosterior, Objective, PosteriorMethod, at_least, hookimpl


class Average(PosteriorMethod):
    """Average of the present modalities' means."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options.

        Attributes:
            beta: Factor of the KL term.
        """

        beta: float = attrs.field(default=1.0, validator=at_least(0))

    def __init__(self, options, sizes):
        super().__init__(options, sizes)
        self.means = nn.ModuleList(nn.Linear(sizes.feature_dim, sizes.latent_dim) for _ in range(sizes.num_modalities))
        self.log_var = nn.Parameter(torch.zeros(sizes.latent_dim))

    def fuse(self, h_MBF, presence_BM):
        bits = presence_BM.float().T[:, :, None]
        means = torch.stack([mean(h) for mean, h in zip(self.means, h_MBF)])
        mean = (means * bits).sum(0) / bits.sum(0).clamp_min(1)
        return GaussianPosterior(mean.float(), self.log_var.expand_as(mean))

    def objective(self, batch):
        q = self.fuse(batch.h_MBF, batch.presence_BM)
        z = q.draw(batch.randn(self.sizes.latent_dim))
        log_prob, kl = batch.log_prob(z), q.kl_BD().sum(1)
        value = batch.weighted(log_prob) - self.options.beta * batch.kl_weight * kl
        return Objective(value_B=value, z_BD=z, log_prob=log_prob, kl_B=kl)


@hookimpl
def shala_register_posteriors(register):
    register("average", Average)
'''
OFFERED = [name for name in sorted({o.name for o in installed_offers()}) if kind_of(load_offer(name)) == "method"]
FEW_STEPS = ("train.autoencoder.steps=2", "train.prior.steps=2", "train.autoencoder.batch_size=8")
ENOUGH = 4  # latent dimensions, for methods that have shared ones and some for each of two modalities
SMALL = {"latent_dim": 2, "feature_dim": 8, "hidden_dim": 8, "prior": {"hidden_dim": 8, "num_blocks": 1}}


@pytest.fixture
def average(install_distribution):
    """Install the method, and return its class."""
    return importlib.import_module(install_distribution("acme-average", AVERAGE, ["average"])).Average


def pair():
    return {"a": ConvolvedFloats(field="a"), "b": TwoFloats(field="b")}


def trained(method, **posterior):
    torch.manual_seed(0)
    x = {name: torch.randn(24, 2) for name in "ab"}
    model = shala.ShaLa(pair(), method=method, seed=1, **(SMALL | posterior))
    return shala.train(model, x, steps=2, batch_size=8, device="cpu"), x


def works(model, x):
    """A trained model embeds, samples each prior, and gives finite densities."""
    few = {"b": x["b"][:3]}
    assert model.embed(x).shape == (24, model.spec.posterior.latent_dim)
    assert model.elbo({n: v[:3] for n, v in x.items()}, num_samples=2).isfinite().all()
    for prior, given in (
        ("posterior", few),
        ("diffusion", few),
        ("diffusion", None),
        ("mixture", None),
        ("normal", None),
    ):
        shape = (3, 2, 2) if given else (2, 2)
        out = model.generate(2, given=given, prior=prior, num_steps=2)
        assert all(v.shape == shape and v.isfinite().all() for v in out.values())
    z = model.sample_latents(2, given=few, prior="posterior").view(3, 2, -1)
    assert model.log_prob(z, given=few, prior="posterior").isfinite().all()


@pytest.mark.parametrize("method", ["shala", *OFFERED])
def test_every_method_trains_from_python_saves_and_loads(method, tmp_path):
    """Every method trains with all added terms and priors; the loaded model gives the same results to the last bit."""
    model, x = trained(method, latent_dim=ENOUGH, feature_dim=ENOUGH // 2)
    works(model, x)
    assert set(model.autoencoder.added_terms) == {"contrast", "recognition", "texture"}
    model.save(tmp_path)
    again = shala.load(tmp_path)
    assert again.spec.posterior.method == method
    assert torch.equal(again.embed(x), model.embed(x))
    given = {"b": x["b"][:3]}
    assert torch.equal(*(m.sample_latents(2, given=given, prior="posterior") for m in (model, again)))


@pytest.mark.parametrize("method", ["shala", *OFFERED])
def test_the_figure_elbo_is_the_elbo_of_every_method(method):
    """Validations agree with model.elbo, whatever the method maximises, which is a figure of its own."""
    model, x = trained(method, latent_dim=ENOUGH, feature_dim=ENOUGH // 2)
    many = {name: value[:4].repeat(250, 1) for name, value in x.items()}
    presence = torch.ones(1_000, 2, dtype=torch.bool)
    rows = Rows(x=many, presence=presence, keys=tuple(map(str, range(1_000))), labels=(None,) * 1_000)
    stage = AutoencoderTraining(model.autoencoder, structure({}, AutoencoderStage), torch.device("cpu"), rows)
    figures, kind = stage.validate(), model.autoencoder.method
    assert ("objective" in figures) == (method != "shala")
    assert ("elbo" in figures) == kind.has_densities
    if kind.has_densities:
        found = model.elbo({name: value[:4] for name, value in x.items()}, num_samples=1_000)
        assert figures["elbo"] == pytest.approx(float(found.mean()), abs=0.25)
    if method != "shala":
        torch.manual_seed(0)
        with torch.no_grad():
            values = [model.autoencoder.bound(many, presence).value_B.mean() for _ in range(8)]
        assert figures["objective"] == pytest.approx(float(torch.stack(values).mean()), abs=0.25)


@pytest.mark.parametrize("method", ["shala", *OFFERED])
def test_every_method_trains_from_a_spec(method, two_spec):
    """Rows that lack a modality are trained on, unless the method needs complete rows."""
    overrides = [f"posterior.method={method}", *FEW_STEPS]
    overrides += [f"posterior.latent_dim={ENOUGH}", f"posterior.feature_dim={ENOUGH // 2}"]
    if method != "shala" and load_offer(method).needs_complete_rows:
        with pytest.raises(shala.DataError, match=f"the method '{method}' trains on complete rows alone, but the row"):
            run(two_spec, "gaps", *overrides)
        overrides.append("data.stand_in.options.missing=0.0")
    stages = {line.get("stage") for line in metric_lines(run(two_spec, "r", *overrides))}
    assert {"autoencoder", "prior"} <= stages
    assert shala.load("r").spec.posterior.method == method


def test_a_method_of_another_package_is_listed_and_trains(average, two_spec, capsys):
    """Forty lines that import only shala_framework.plugin are a method; errors in its options name their lines."""
    with pytest.raises(SystemExit):
        main(["plugins", "--json"])
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["average"]["kind"] == "method"
    assert listed["average"]["summary"] == "Average of the present modalities' means."
    text = two_spec.read_text()
    two_spec.write_text(text.replace("[posterior]\n", '[posterior]\nmethod = "average"\noptions = { beta = 0.5 }\n'))
    folder = run(two_spec, "r", *FEW_STEPS)
    assert shala.load(folder).spec.posterior.options == {"beta": 0.5}
    two_spec.write_text(two_spec.read_text().replace("beta = 0.5", "beta = -1, gamma = 2") + "\n[track]\n")
    line = two_spec.read_text().splitlines().index("options = { beta = -1, gamma = 2 }") + 1
    with pytest.raises(SystemExit):
        main_run(["two.toml"])
    err = capsys.readouterr().err
    assert f"two.toml:{line}: posterior.options.beta: expected a number of at least 0, got -1" in err
    assert f"two.toml:{line}: posterior.options.gamma: unknown key" in err


def test_terms_are_added_to_and_removed_from_any_method(average):
    model, _ = trained("average", contrast_weight=0.0, recognition_weight=0.0)
    assert set(model.autoencoder.added_terms) == {"texture"}
    model, x = trained(average, texture_weight=0.0)
    assert set(model.autoencoder.added_terms) == {"contrast", "recognition"}
    works(model, x)


def test_decoders_see_the_dimensions_that_a_method_shows_them(average):
    """Others have no gradient and no effect; a group shares a decoder of that size, and wrong numbers are an error."""

    class Private(average):
        shown = ([0, 1], [0, 2])

        def decoder_dimensions(self, modality):
            return self.shown[modality]

    sizes = SMALL | {"latent_dim": 3}
    for groups in ({}, {"a": "g", "b": "g"}):
        model = shala.ShaLa({n: TwoFloats(field="f") for n in "ab"}, method=Private, groups=groups, **sizes).build()
        z = torch.randn(5, 3, requires_grad=True)
        for name, shown in zip("ab", Private.shown, strict=True):
            likelihood = model.autoencoder.decode(z)[name]
            (slope,) = torch.autograd.grad(likelihood.log_prob(torch.zeros(5, 2)).sum(), z)
            assert slope[:, shown].all()
            assert slope.count_nonzero() == 10
    for shown in ([], [0, 0], [0, 3], [-1]):
        Private.shown = (shown, [0])
        with pytest.raises(PluginError, match=r"decoder_dimensions returned .* expected distinct numbers from 0 to 2"):
            shala.ShaLa({n: TwoFloats(field="f") for n in "ab"}, method=Private, **sizes).build()
    Private.shown = ([0], [0, 1])
    with pytest.raises(PluginError, match="shows 2 dimensions to modality 'b' and 1 to another of its group"):
        shala.ShaLa({n: TwoFloats(field="f") for n in "ab"}, method=Private, groups=groups, **sizes).build()


def test_a_method_brings_its_own_denoiser_of_latents(tmp_path, average):
    """MLD learns one modality from the other, holds what is given, and is loaded again; the core's options refuse."""
    mld = pytest.importorskip("shala_baselines").MLD
    torch.manual_seed(0)
    x = torch.randn(256, 2)
    posterior = {"contrast_weight": 0.0, "texture_weight": 0.0, "recognition_weight": 0.0}
    sizes = {"latent_dim": 4, "feature_dim": 2, "hidden_dim": 8} | posterior
    two = {name: TwoFloats(field=name) for name in "ab"}
    model = shala.ShaLa(two, method=mld, prior={"hidden_dim": 32, "num_blocks": 2}, **sizes)
    shala.train(model, {"a": x, "b": x}, steps=400, batch_size=64, device="cpu")
    given = {"b": x[:64]}
    z = model.sample_latents(4, given=given, num_steps=8).view(64, 4, 4)
    clean = model.embed(given)[:, None, 2:].expand(-1, 4, -1)
    torch.testing.assert_close(z[..., 2:], clean, rtol=1e-3, atol=1e-3)
    drawn = model.generate(4, given=given, num_steps=8)["a"]
    error, shuffled = ((drawn - other[:, None]).square().mean() for other in (x[:64], x[:64].roll(1, 0)))
    assert error < 0.25 * shuffled
    model.save(tmp_path)
    again = shala.load(tmp_path, classes=[mld])
    assert torch.equal(again.sample_latents(4, given=given, num_steps=8).view(64, 4, 4), z)
    with pytest.raises(SpecError, match=r"prior\.whiten: expected false with MLD"):
        shala.ShaLa(two, method=mld, prior={"whiten": True}, **sizes).build()

    class Wrong(average):
        def latent_denoiser(self, sizes):
            return torch.nn.Linear(2, 2)

    with pytest.raises(PluginError, match=r"Wrong\.latent_denoiser returned Linear; expected a LatentDenoiser"):
        shala.ShaLa(two, method=Wrong, **SMALL).build()


def test_wrong_methods_are_one_clear_error(average):
    """An unknown name, an option of another method, and a broken contract are refused."""
    wrong = {
        "no installed plugin offers 'avrage'": {"method": "avrage"},
        r"posterior\.options\.beta: unknown key \(the method 'shala' is set by keys of \[posterior\]": {
            "options": {"beta": 1.0}
        },
        r"posterior\.fusion: expected no such setting beside method = 'average'": {
            "method": "average", "fusion": "attention",
        },
        "'two-floats' is a modality": {"method": "two-floats"},
    }  # fmt: skip
    for message, keys in wrong.items():
        with pytest.raises(SpecError, match=message):
            shala.ShaLa(pair(), **SMALL, **keys)

    class Loose(average):
        def fuse(self, h_MBF, presence_BM):
            return torch.zeros(len(presence_BM), 2)

    with pytest.raises(PluginError, match=r"Loose\.fuse returned Tensor; expected a GaussianPosterior or a Mixture"):
        shala.ShaLa({name: TwoFloats(field=name) for name in "ab"}, method=Loose, **SMALL).build()


def test_a_class_that_is_not_installed_is_loaded_by_the_caller(tmp_path):
    """A class can be given directly, as for a modality."""
    namespace = {"__name__": "elsewhere"}
    exec(compile(AVERAGE, "elsewhere.py", "exec"), namespace)
    model, x = trained(namespace["Average"])
    model.save(tmp_path)
    with pytest.raises(SpecError, match=r"classes=\[\.\.\.\]"):
        shala.load(tmp_path)
    assert torch.equal(shala.load(tmp_path, classes=[namespace["Average"]]).embed(x), model.embed(x))


def mixture(num_rows=6):
    torch.manual_seed(0)
    parts = [GaussianPosterior(torch.randn(num_rows, 2), torch.randn(num_rows, 2)) for _ in range(3)]
    present = torch.ones(3, num_rows, dtype=torch.bool)
    present[1, 2:], present[:, 5] = False, False
    return MixturePosterior.uniform(parts, present), parts, present


def test_a_mixture_is_torch_distributions_mixture():
    """Density, moments and draws are right for rows with three, two and no components."""
    q, parts, _ = mixture()
    z = torch.randn(4, 6, 2)
    for row, chosen in ((0, [0, 1, 2]), (3, [0, 2])):
        normal = torch.distributions.Independent(
            torch.distributions.Normal(
                torch.stack([parts[c].mean_BD[row] for c in chosen]),
                torch.stack([(0.5 * parts[c].log_var_BD[row]).exp() for c in chosen]),
            ), 1,
        )  # fmt: skip
        exact = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(len(chosen))), normal)
        torch.testing.assert_close(q.log_prob(z)[:, row], exact.log_prob(z[:, row]))
        torch.testing.assert_close(q.mean_BD[row], exact.mean)
        torch.testing.assert_close(q.log_var_BD[row].exp(), exact.variance)
        uniform = (torch.arange(999) + 0.5) / 999
        picked = q.take(torch.full((999,), row)).picked(uniform).mean_BD
        counts = [int((picked == parts[c].mean_BD[row]).all(1).sum()) for c in chosen]
        assert counts == [999 // len(chosen)] * len(chosen) or max(counts) - min(counts) <= 1
    assert not q.mean_BD[5].any()
    torch.testing.assert_close(q.log_var_BD[5], torch.zeros(2))
    gaussian = GaussianPosterior(torch.randn(6, 2), torch.randn(6, 2))
    first = torch.arange(6) % 2 == 0
    either = either_posterior(first, gaussian, q)
    torch.testing.assert_close(either.log_prob(z), torch.where(first, gaussian.log_prob(z), q.log_prob(z)))


def test_latents_of_a_mixture_are_components_picked_by_the_rows_keys(average):
    """Draws do not depend on batches, and components occur in proportion to their weights."""

    class Two(average):
        def fuse(self, h_MBF, presence_BM):
            ends = [
                GaussianPosterior(torch.full((len(presence_BM), 2), v), torch.zeros(len(presence_BM), 2))
                for v in (-1.0, 1.0)
            ]
            return MixturePosterior.uniform(ends, torch.ones(2, len(presence_BM), dtype=torch.bool))

    model = shala.ShaLa({name: TwoFloats(field=name) for name in "ab"}, method=Two, **SMALL).build()
    count = 400
    rows = Rows(
        x={name: torch.randn(count, 2) for name in "ab"},
        presence=torch.ones(count, 2, dtype=torch.bool),
        keys=tuple(f"train_{n:04d}" for n in range(count)),
        labels=(None,) * count,
    )
    found = [latents_of(model.autoencoder, rows, torch.device("cpu"), size).mean_ND for size in (64, 7)]
    assert torch.equal(*found)
    assert set(found[0].unique().tolist()) == {-1.0, 1.0}
    assert abs(float(found[0][:, 0].mean())) < 0.2  # within four standard errors
