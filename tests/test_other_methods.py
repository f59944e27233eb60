"""Methods with a mixture as posterior, a denoiser of their own, or no densities: embedding, export, figures."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import run

from shala_framework import load
from shala_framework.cli.main import dispatch
from shala_framework.data.rows import load_rows
from shala_framework.run.exporting import export_model
from shala_framework.support.progress import Silent

pytest.importorskip("shala_baselines", reason="needs other methods")
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
