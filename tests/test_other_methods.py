"""Methods with a mixture as posterior, a denoiser of their own, or no densities: embedding, export, figures."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import run
from two_floats import TwoFloats

from shala_framework import ShaLa, load, train
from shala_framework.cli.main import dispatch
from shala_framework.data.latent_store import LatentStore, latent_statistics
from shala_framework.data.rows import Rows, load_rows
from shala_framework.evaluation.annealing import annealed_log_likelihood
from shala_framework.evaluation.likelihood import log_mean_weight, log_weights
from shala_framework.model.denoisers import make_prior
from shala_framework.plugin import MethodSizes
from shala_framework.prior.guidance import Guidance
from shala_framework.prior.priors import DiffusedPrior, Given, Sampling
from shala_framework.run.exporting import export_model
from shala_framework.spec.schema import Prior
from shala_framework.support.progress import Silent

MLD = pytest.importorskip("shala_baselines", reason="needs other methods").MLD
PROGRAMS = {
    *(f"{verb}_{modality}" for verb in ("encode", "decode") for modality in ("first", "second")),
    *("fuse", "clusters", "denoise", "restore"),
}  # fmt: skip


def test_an_embedding_of_a_mixture_is_its_mean(two_spec):
    """Of a method whose posterior is a mixture, the file has the mixture's moments, as model.posterior does."""
    folder = run(two_spec, "runs/mmvae", "posterior.method=mmvae", "train.prior.steps=1")
    assert dispatch(["embed", str(folder), "--out", "z.npz"]) == 0
    model = load(folder)
    both = load_rows(sorted(map(str, (folder / "data").glob("validation-*.tar"))), model.modalities).having(model.names)
    q = model.posterior(both.x)
    with np.load("z.npz", allow_pickle=False) as found:
        places = [found["keys"].tolist().index(key) for key in both.keys]
        np.testing.assert_allclose(found["z"][places], q.mean_BD, atol=1e-5)
        np.testing.assert_allclose(found["std"][places], (0.5 * q.log_var_BD).exp(), atol=1e-5)


@pytest.mark.parametrize("method", ["mopoe", "mld"])
def test_every_method_can_be_exported(two_spec, tmp_path, method):
    """Mixtures and denoisers that a method brings become programs too."""
    sizes = ("posterior.latent_dim=32", "data.stand_in.options.missing=0") if method == "mld" else ()
    folder = run(two_spec, "run", f"posterior.method={method}", "train.prior.steps=1", *sizes)
    assert set(export_model(load(folder), tmp_path / "out", reporter=Silent())["programs"]) == PROGRAMS


@pytest.mark.parametrize(
    "guidance", [Guidance(), Guidance(guidance_scale=3.0), Guidance(autoguidance_scale=2.0)], ids=["none", "w", "v"]
)
@pytest.mark.parametrize("sampler", ["heun", "dpm"])
def test_given_latents_of_mld_stay_as_they_are(guidance, sampler):
    """Those of samples are the features, also far outside the training rows, of a constant one, and under guidance."""
    torch.manual_seed(0)
    method = MLD(MLD.Options(), MethodSizes(num_modalities=2, feature_dim=3, hidden_dim=8, latent_dim=6))
    sizes = {"latent_dim": 6, "num_modalities": 2, "feature_dim": 3}
    prior = make_prior(method, Prior(hidden_dim=16, num_blocks=1), **sizes)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    rows = torch.randn(500, 2, 3)
    rows[:, 0, 0] = 0.3 + 1e-5 * torch.randn(500)
    everything = torch.ones(500, 2, dtype=torch.bool)
    q = method.fuse(list(rows.unbind(1)), everything)
    prior.set_statistics(*latent_statistics(LatentStore(q.mean_BD, q.log_var_BD, rows, everything)))
    h = torch.randn(4, 2, 3)
    h[:, 0, 0] = 0.3
    h[1, 0] = torch.tensor([0.31, 30.0, -12.0])
    subset = torch.tensor([[True, False]] * 3 + [[False, False]])
    given = Given(h_MNF=list(h.unbind(1)), subset_NM=subset, row_K=torch.arange(4))
    with torch.no_grad():
        z = DiffusedPrior(prior, 0.01, 40.0).sample(0, given, Sampling(guidance=guidance, sampler=sampler))
    assert torch.equal(z[:3, :3], h[:3, 0])
    denoise = prior.denoiser(given.h_MNF, subset, torch.zeros(4, dtype=torch.int64), guidance)
    with torch.no_grad():
        denoised = prior.restore(denoise(torch.randn(4, 6), torch.full((4,), 0.5)))
    torch.testing.assert_close(denoised[:3, :3], h[:3, 0], rtol=1e-5, atol=1e-6)
    assert (z[:3, 3:] - h[:3, 1]).abs().min() > 1e-3
    assert (z[3] - h[3].flatten()).abs().min() > 1e-3


def test_likelihoods_under_a_prior_of_stage_1s_own_are_those_of_its_draws():
    """Importance weights and annealed chains agree with the mean density of data at draws of CMVAE's prior."""
    generator = torch.Generator().manual_seed(0)
    x = {name: torch.randn(24, 2, generator=generator) for name in "ab"}
    sizes = {"latent_dim": 4, "feature_dim": 2, "hidden_dim": 8, "prior": {"hidden_dim": 8, "num_blocks": 1}}
    model = ShaLa({name: TwoFloats(field=name) for name in "ab"}, method="cmvae", seed=1, **sizes)
    train(model, x, steps=20, batch_size=8, device="cpu")
    few = {name: of_modality[:3] for name, of_modality in x.items()}
    rows = Rows(x=few, presence=torch.ones(3, 2, dtype=torch.bool), keys=("p", "q", "r"), labels=(None,) * 3)
    asked = (model, rows, ("a", "b"), ())
    weighted = log_weights(*asked, prior="own", num_samples=4_000, mixture=True, seed=0).mixture_NS
    annealed = annealed_log_likelihood(*asked, prior="own", num_chains=64, num_steps=60, seed=0)
    count = 30_000
    z = model.sample_latents(count, prior="own", seed=5).repeat(3, 1)
    of_rows = torch.arange(3).repeat_interleave(count)
    log_prob = sum(model.autoencoder.decoded_log_prob(few, name, z, of_rows) for name in "ab").view(3, count)
    expected = log_prob.logsumexp(1) - math.log(count)
    for found in (weighted, annealed):
        torch.testing.assert_close(log_mean_weight(found).float(), expected, atol=0.05, rtol=0)


def test_methods_are_compared_by_the_controls_that_they_have(two_spec):
    """N(0, I), a prior of stage 1's own, or neither; deterministic encoders have no q(z given x_S) and likelihoods."""
    made = ("data.stand_in.options.missing=0.0", "train.autoencoder.steps=2", "train.prior.steps=2")
    few = (
        *("evaluate.at_end=true", "evaluate.num_seeds=1", "evaluate.num_samples=40", "evaluate.num_rows=4"),
        *("evaluate.judge_steps=2", "evaluate.calibration_rows=4", "evaluate.likelihood_rows=2"),
        *("evaluate.likelihood=elbo", "generate.num_steps=3", "evaluate.suite=multimodal-vae"),
    )
    found = {}
    for method in ("mld", "mvtcae", "cmvae"):
        sizes = ("posterior.latent_dim=32", f"posterior.method={method}")
        folder = run(two_spec, method, *made, *few, *sizes)
        found[method] = json.loads((folder / "evaluation" / "validation.json").read_text())

    def priors(part, method):
        return {figures["method"].split(",")[0] for figures in found[method][part]}

    assert priors("joint", "mvtcae") - priors("joint", "mld") == {"normal"}
    assert priors("conditional", "mvtcae") - priors("conditional", "mld") == {"posterior"}
    assert priors("calibration", "mvtcae") - priors("calibration", "mld") == {"normal", "posterior"}
    assert priors("joint", "mvtcae") ^ priors("joint", "cmvae") == {"normal", "own"}
    assert "all together, normal" in found["mvtcae"]["log_likelihood"]
    assert "all together, own" in found["cmvae"]["log_likelihood"]
    assert found["mld"]["log_likelihood"] == {}
    assert any("no log-likelihoods: the encoders" in note for note in found["mld"]["notes"])
    words = ["compare", "mld", "mvtcae", "cmvae", "--by", "posterior.method", "--csv", "table.csv"]
    assert dispatch(words) == 0
    rows = list(csv.DictReader(Path("table.csv").read_text().splitlines()))
    for prior, methods in (("normal", {"mvtcae"}), ("own", {"cmvae"}), ("mixture", {"mld", "mvtcae", "cmvae"})):
        assert {row["posterior.method"] for row in rows if row["method"] == prior} == methods
    own = load("cmvae").generate(3, prior="own", seed=1)
    torch.testing.assert_close(load("cmvae").generate(2, prior="own", seed=1)["first"], own["first"][:2])
    with pytest.raises(ValueError, match="expected prior 'diffusion', 'mixture', 'normal', 'posterior', got 'own'"):
        load("mvtcae").generate(3, prior="own")
