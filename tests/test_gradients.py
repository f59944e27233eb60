"""What docs/model.md says about gradients, compared with the gradients."""

import re
from pathlib import Path

import pytest
import torch

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.data.rows import Rows
from shala_framework.plugin.posterior import GaussianPosterior
from shala_framework.refiner import Refiner
from shala_framework.spec.schema import Posterior, Refine, RefinerStage
from shala_framework.training.refinement import RefinerTraining

from two_floats import ConvolvedFloats, FloatsRefiner, TwoFloatsOptions  # isort: skip

PARTS = {
    "encoders": r"encoders\.",
    "decoders": r"decoders\.",
    "posterior": r"method\.posterior\.",
    "r, a network of its own": r"method\.subset_posterior\.",
    "projections": r"terms\.contrast\.projections\.",
    "temperature": r"terms\.contrast\.log_scale",
}
TERMS = {"subset posterior": "subset_kl", "contrast": "contrast", "recognition": "recognition", "texture": "texture"}
PAGE = Path(__file__).parents[1] / "docs/model.md"


def stated(term: str) -> set[str]:
    """The parts that the table of terms names in its column of gradients."""
    (row,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| {term} |"))
    *_, gradient, _, _ = row.split(" |")
    return {part for part in PARTS if re.search(rf"\b{part}\b", gradient)}


def reached(loss: str, *, dropout: float = 0.0) -> set[str]:
    """The parts that get a gradient from one added loss of stage 1."""
    torch.manual_seed(0)
    modalities = {name: ConvolvedFloats(TwoFloatsOptions(field=name)) for name in "ab"}
    table = Posterior(latent_dim=2, feature_dim=4, hidden_dim=8, modality_dropout=dropout)
    model = Autoencoder(modalities, table)
    bound = model.bound({name: torch.randn(6, 2) for name in "ab"}, torch.ones(6, 2, dtype=torch.bool))
    bound.losses[loss].backward()
    names = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    found = {part for part, pattern in PARTS.items() for name in names if re.match(pattern, name)}
    assert all(any(re.match(pattern, name) for pattern in PARTS.values()) for name in names), names
    return found


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("term", TERMS)
def test_terms_have_gradients_where_the_page_says(term: str, dropout: float) -> None:
    """Each term reaches the parts in its row of the page's table and no others, also with modality dropout."""
    assert stated(term)
    assert reached(TERMS[term], dropout=dropout) == stated(term)


@pytest.mark.parametrize("term", ["recognition", "texture"])
def test_weights_of_the_encoder_that_judges_are_fixed(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient in posterior and encoders comes through z alone: where z is fixed, only decoders have one."""
    draw = GaussianPosterior.draw
    monkeypatch.setattr(GaussianPosterior, "draw", lambda *arguments: draw(*arguments).detach())
    assert reached(term) == {"decoders"}


class Refined(ConvolvedFloats):
    """ConvolvedFloats with a network for stage 3, so that its texture term has maps to compare."""

    def refiner(self, latent_dim: int) -> torch.nn.Module:
        return FloatsRefiner(latent_dim)


def test_stage_1_is_frozen_in_stage_3() -> None:
    """A step of stage 3, its texture term included, reaches the refiner alone."""
    torch.manual_seed(0)
    modalities = {"a": Refined(TwoFloatsOptions(field="a"))}
    autoencoder = Autoencoder(modalities, Posterior(latent_dim=2, feature_dim=4, hidden_dim=8))
    refiner = Refiner(modalities, latent_dim=2)
    stage = RefinerTraining(
        refiner, autoencoder, Refine(texture_weight=0.5), RefinerStage(steps=1), torch.device("cpu")
    )
    x = {"a": torch.randn(6, 2)}
    rows = Rows(x=x, presence=torch.ones(6, 1, dtype=torch.bool), keys=tuple("abcdef"), labels=(None,) * 6)
    total, terms = stage.loss(rows, 0)
    total.backward()
    assert float(terms["texture"]) > 0
    assert any(p.grad is not None and p.grad.any() for p in refiner.parameters())
    assert all(p.grad is None for p in autoencoder.parameters())
