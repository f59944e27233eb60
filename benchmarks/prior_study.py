"""What each change of stage 2 is worth on one and the same set of latents, at equal rows; nothing is guided.

    python benchmarks/prior_study.py digits MNIST --results RESULTS [--rows 512000] [--seeds 1] [--only NAME ...]
    python benchmarks/prior_study.py polymnist POLYMNIST.npz --judges JUDGES.pt --results RESULTS ...

"digits" takes minutes, as it needs no stage 1: MNIST is a folder with the four gzipped files of that set, and a row is
five of its pictures of one class, each as its first 18 principal components, mixed by a fixed random matrix into one
latent of 90 dimensions. "polymnist" trains the benchmark's stage 1 first, which is kept in RESULTS. In both, the last
2,000 training rows are held out and decide; test rows are never looked at. The result of each variant is kept in
RESULTS, and a call continues where the last one stopped. Columns:

    denoising    held-out loss given nothing but the cluster, at fixed noise levels; variants with another unit or
                 other clusters do not compare
    given 1      the same given one modality
    variance     mean variance of joint samples over all directions, in the unit of held-out draws of q(z|x): 1 is right
    latent FD    Frechet distance of joint samples to such draws, in that unit
    joint        coherence of joint samples: all judges name one class
    FD           Frechet distance in the judges' features, mean over modalities
    recall       share of held-out rows within the manifold of joint samples (Kynkaanniemi et al. 2019), likewise
    spread       distance between joint samples of one class, divided by that of held-out rows
    TV           total variation between the judges' classes of joint samples and of held-out rows
    right 1      generated given one modality that the judges find right, and the Frechet distance of these
    clusters     number of clusters that were found in the latents
    CPU s        processor time of training
"""

import argparse
import gzip
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Protocol

import attrs
import numpy as np
import torch
from pictures import load_pictures
from polymnist import Recipe, train_stage
from polymnist_judges import Scorer
from prior_variants import PRIORS
from scripts import claim_results, markdown
from torch import Tensor, nn

from shala_framework import ShaLa
from shala_framework.data.latent_store import LatentStore, latent_statistics, latents_of
from shala_framework.data.rows import Rows, shuffled_batches
from shala_framework.evaluation.class_distribution import total_variation
from shala_framework.evaluation.frechet import frechet_distance
from shala_framework.evaluation.manifold import precision_recall
from shala_framework.evaluation.spread import relative_class_spread
from shala_framework.prior import DiffusionPrior
from shala_framework.prior.priors import DiffusedPrior, Given, Sampling
from shala_framework.prior.whitening import whitening
from shala_framework.spec import structure
from shala_framework.spec.schema import Prior, PriorStage
from shala_framework.support.checkpoint import read_checkpoint, write_checkpoint
from shala_framework.support.machine import describe_machine
from shala_framework.training.loop import train
from shala_framework.training.prior_stage import PriorTraining, fit_to_latents

HELD_OUT, NUM_MODALITIES = 2_000, 5
CPU = torch.device("cpu")
NUM_CLASSES = 10
COLUMNS = {
    "denoising": 4, "given 1": 4, "variance": 3, "latent FD": 2, "joint": 3, "FD": 2, "recall": 3, "spread": 2, "TV": 3,
    "right 1": 3, "FD 1": 2, "clusters": 0, "CPU s": 0,
}  # fmt: skip


@attrs.frozen(kw_only=True)
class Variant:
    """Values that differ from a spec's defaults: keys of [prior] and [train.prior], and the class of the prior."""

    prior: dict[str, Any] = attrs.field(factory=dict)
    stage: dict[str, Any] = attrs.field(factory=dict)
    kind: str = "diffusion"


BASE = {"batch_size": 512, "ema_halflife_steps": 150.0, "warmup_steps": 50}  # proportions of the recipe
SMALL = {"batch_size": 128, "ema_halflife_steps": 600.0, "warmup_steps": 200}
VARIANTS: dict[str, Variant] = {
    "default": Variant(),
    "one cluster": Variant(prior={"max_clusters": 1}),
    "whitened": Variant(prior={"whiten": True}),
    "one cluster, whitened": Variant(prior={"max_clusters": 1, "whiten": True}),
    "learning_rate 2e-3": Variant(stage={"learning_rate": 2e-3}),
    "batches of 128, learning_rate 2e-3": Variant(stage={**SMALL, "learning_rate": 2e-3}),
    "Muon": Variant(stage={"optimizer": "muon", "learning_rate": 1e-2}),
    "Muon, whitened": Variant(prior={"whiten": True}, stage={"optimizer": "muon", "learning_rate": 1e-2}),
    "Muon, hidden_dim 384": Variant(prior={"hidden_dim": 384}, stage={"optimizer": "muon", "learning_rate": 1e-2}),
    "hidden_dim 384": Variant(prior={"hidden_dim": 384}),
    "5 blocks": Variant(prior={"num_blocks": 5}),
    "unconditional_share 0.3": Variant(prior={"unconditional_share": 0.3}),
    "log_sigma -0.2 +- 1": Variant(prior={"log_sigma_mean": -0.2, "log_sigma_std": 1.0}),
    "log_sigma 0.2 +- 0.9": Variant(prior={"log_sigma_mean": 0.2, "log_sigma_std": 0.9}),
    "uncertainty weight": Variant(kind="uncertainty"),
    "coupling": Variant(kind="coupling"),
    "ema_halflife_steps 50": Variant(stage={"ema_halflife_steps": 50.0}),
}


class World(Protocol):
    """Latents, and judges of what they represent.

    Attributes:
        train: Latents of the training rows.
        held_out: Latents of the held-out rows.
        labels: Classes of the held-out rows.
        real: Each judge's features of the held-out rows.
        real_classes: Each judge's classes of the held-out rows.
    """

    train: LatentStore
    held_out: LatentStore
    labels: Tensor
    real: Sequence[Tensor]
    real_classes: Sequence[Tensor]

    def judged(self, z_ND: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return each modality's features and class by its judge."""
        ...


class Digits:
    """Five pictures of one class as principal components, mixed into one latent."""

    COMPONENTS, FEATURES, NOISE = 18, 128, 0.15

    def __init__(self, folder: Path, results: Path) -> None:
        arrays = {}
        for split, name in (("train", "train"), ("test", "t10k")):
            raw = gzip.decompress((folder / f"{name}-images-idx3-ubyte.gz").read_bytes())
            arrays[split] = torch.from_numpy(np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 784).copy()).float()
        labels = gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())
        classes = torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))
        x = arrays["train"] / 255
        generator = torch.Generator().manual_seed(0)
        values, vectors = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)) / len(x))
        code = (x - x.mean(0)) @ vectors[:, -self.COMPONENTS :] / values[-1].sqrt()
        dim = NUM_MODALITIES * self.COMPONENTS
        rotation, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator))
        self.scale = torch.logspace(-0.5, 0.5, dim)  # scales of the latent's dimensions
        self.mix, self.unmix = rotation * self.scale, rotation.T / self.scale[:, None]
        self.lift = torch.randn(self.COMPONENTS, self.FEATURES, generator=generator)
        known, unseen = torch.randperm(len(x), generator=generator).split([50_000, 10_000])
        self.judge = self._train_judge(code[known], classes[known])
        self.train, _, _ = self._rows(code[known], classes[known], 20_000, generator)
        self.held_out, self.labels, parts = self._rows(code[unseen], classes[unseen], HELD_OUT, generator)
        noisy = parts + self.NOISE * torch.randn(parts.shape, generator=generator)
        self.real, self.real_classes = zip(*(self._judge(part) for part in noisy.unbind(1)), strict=True)

    def _train_judge(self, code: Tensor, classes: Tensor) -> nn.Sequential:
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(self.COMPONENTS, 256), nn.SiLU(), nn.Linear(256, 64), nn.SiLU())
        judge = nn.Sequential(body, nn.Linear(64, 10))
        optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3, weight_decay=1e-2)
        for _ in range(4):
            for rows in torch.randperm(len(code)).split(250):
                seen = code[rows] + self.NOISE * torch.randn(len(rows), self.COMPONENTS)
                loss = nn.functional.cross_entropy(judge(seen), classes[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return judge.eval()

    def _rows(
        self, code: Tensor, classes: Tensor, count: int, generator: torch.Generator
    ) -> tuple[LatentStore, Tensor, Tensor]:
        chosen = torch.randint(len(code), (count,), generator=generator)
        labels = classes[chosen]
        parts = torch.empty(count, NUM_MODALITIES, self.COMPONENTS)
        for digit in range(10):
            members, rows = (classes == digit).nonzero()[:, 0], (labels == digit).nonzero()[:, 0]
            picked = torch.randint(len(members), (len(rows), NUM_MODALITIES), generator=generator)
            parts[rows] = code[members[picked]]
        z = parts.flatten(1) @ self.mix
        h = torch.relu(parts @ self.lift)
        log_var = 2 * (self.NOISE * self.scale).log().expand_as(z)
        return (
            LatentStore(z, log_var.contiguous(), h, torch.ones(count, NUM_MODALITIES, dtype=torch.bool)),
            labels,
            parts,
        )

    @torch.no_grad()
    def _judge(self, code: Tensor) -> tuple[Tensor, Tensor]:
        features = self.judge[0](code)
        return features, self.judge[1](features).argmax(1)

    def judged(self, z_ND: Tensor) -> list[tuple[Tensor, Tensor]]:
        parts = (z_ND @ self.unmix).unflatten(1, (NUM_MODALITIES, -1))
        return [self._judge(part) for part in parts.unbind(1)]


class Pictures:
    """PolyMNIST with the benchmark's stage 1 and judges."""

    def __init__(self, data: Path, judges: Path, results: Path, steps: int) -> None:
        pictures = load_pictures(data, "train")
        with np.load(data) as arrays:
            labels = arrays["train_y"][-HELD_OUT:]
        held_out = {name: x[-HELD_OUT:] for name, x in pictures.items()}
        rows = {name: x[:-HELD_OUT] for name, x in pictures.items()}
        recipe = Recipe(steps=steps)
        self.model = recipe.model(len(rows))
        file = results / "autoencoder.safetensors"
        if not file.exists():
            train_stage(self.model, "autoencoder", recipe, rows, 0.0, "cpu")
            write_checkpoint(file, self.model.autoencoder.state_dict(), {})
        self.model.autoencoder.load_state_dict(read_checkpoint(file)[0])
        self.train, self.held_out = (
            _encoded(self.model, x, results / f"latents-{name}.safetensors")
            for name, x in (("train", rows), ("held-out", held_out))
        )
        self.scorer = Scorer(judges, held_out, labels)
        self.labels, self.real = self.scorer.labels, self.scorer.real
        self.real_classes = [self.scorer.classes(i, features) for i, features in enumerate(self.real)]

    def judged(self, z_ND: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = []
        for i, x in enumerate(self.model.decode(z_ND, batch_size=250).values()):
            features = self.scorer.features(i, x)
            found.append((features, self.scorer.classes(i, features)))
        return found


def _encoded(model: ShaLa, x: Mapping[str, Tensor], file: Path) -> LatentStore:
    if not file.exists():
        store = latents_of(model.autoencoder, rows_of(x), CPU)
        write_checkpoint(file, attrs.asdict(store, recurse=False), {})
    return LatentStore(**read_checkpoint(file)[0])


def rows_of(x: Mapping[str, Tensor]) -> Rows:
    """Return unlabelled rows with every modality."""
    count = len(next(iter(x.values())))
    keys = tuple(map(str, range(count)))
    presence = torch.ones(count, len(x), dtype=torch.bool)
    return Rows(x=dict(x), presence=presence, keys=keys, labels=(None,) * count)


class Study:
    """Trains variants in a world, and scores them."""

    def __init__(self, world: World) -> None:
        self.world = world
        moments = latent_statistics(world.held_out)
        self.z_mean = moments.z_mean_D
        self.whiten, _ = whitening(moments.z_covariance_DD, 10**9)

    def run(self, variant: Variant, rows: int, seed: int) -> dict[str, float]:
        """Train and score a variant."""
        torch.manual_seed(seed)
        store, table = self.world.train, structure(variant.prior, Prior)
        prior = PRIORS[variant.kind].from_table(
            table,
            latent_dim=store.mean_ND.shape[1],
            num_modalities=store.h_NMF.shape[1],
            feature_dim=store.h_NMF.shape[2],
        )
        start = time.process_time()
        fit_to_latents(prior, store, seed=seed)
        keys = {**BASE, **variant.stage}
        steps = rows // keys["batch_size"]
        settings = structure({**keys, "steps": steps, "save_every_steps": steps}, PriorStage)
        stage = PriorTraining(prior, table, settings, store)
        batches = partial(shuffled_batches, len(store), settings.batch_size, seed)
        train(stage, settings, batches, seed=seed, matrix_dtype=torch.float32)
        seconds = time.process_time() - start
        stage.finish()
        clusters = prior.mixture.num_components
        return {**self.score(prior.eval()), "clusters": clusters, "CPU s": seconds}

    def score_mixture(self) -> dict[str, float]:
        """Return the figures of the control."""
        store = self.world.train
        dim, num_modalities, feature_dim = store.mean_ND.shape[1], *store.h_NMF.shape[1:]
        sizes = {"latent_dim": dim, "num_modalities": num_modalities, "feature_dim": feature_dim}
        prior = DiffusionPrior.from_table(Prior(), **sizes)
        fit_to_latents(prior, store, seed=0)
        figures = self.score_joint(prior.restore(prior.mixture.sample(0, range(HELD_OUT))))
        return {**figures, "clusters": prior.mixture.num_components}

    @torch.no_grad()
    def sample(self, prior: DiffusionPrior, seed: int, *, given_one: bool = False) -> Tensor:
        """Sample joint latents, or one for each held-out row given one of its modalities in turn."""
        h_NMF = self.world.held_out.h_NMF
        subset = torch.zeros(h_NMF.shape[:2], dtype=torch.bool)
        if given_one:
            subset[torch.arange(len(subset)), self.turns()] = True
        given = Given(h_MNF=list(h_NMF.unbind(1)), subset_NM=subset, row_K=torch.arange(len(h_NMF)))
        return DiffusedPrior(prior, 0.01, 40.0).sample(seed, given, Sampling())

    def turns(self) -> Tensor:
        """Return the modality given in each held-out row."""
        count, modalities = self.world.held_out.h_NMF.shape[:2]
        return torch.arange(count) % modalities

    def score(self, prior: DiffusionPrior) -> dict[str, float]:
        """Return every column of the table."""
        figures = {"denoising": self.denoising(prior, 0), "given 1": self.denoising(prior, 1)}
        figures |= self.score_joint(self.sample(prior, 0))
        hits, distances = [], []
        for i, (features, classes) in enumerate(self.world.judged(self.sample(prior, 1, given_one=True))):
            generated = self.turns() != i
            hits.append(float((classes == self.world.labels)[generated].float().mean()))
            distances.append(frechet_distance(features[generated], self.world.real[i][generated]))
        figures["right 1"], figures["FD 1"] = mean(hits), mean(distances)
        return figures

    def score_joint(self, z_ND: Tensor) -> dict[str, float]:
        """Return the columns of joint samples."""
        judged = self.world.judged(z_ND)
        classes = torch.stack([found for _, found in judged])
        features = [found for found, _ in judged]
        unit, real = self.unit(z_ND), self.unit(self.draws(1))
        every = list(zip(features, classes, self.world.real, self.world.real_classes, strict=True))
        return {
            "variance": float(unit.var(0).mean()),
            "latent FD": frechet_distance(unit, real),
            "joint": float((classes == classes[0]).all(0).float().mean()),
            "FD": mean(map(frechet_distance, features, self.world.real)),
            "recall": mean(precision_recall(f, real)[1] for f, _, real, _ in every),
            "spread": mean(relative_class_spread(*of_modality) for of_modality in every),
            "TV": mean(total_variation(c, real, NUM_CLASSES) for _, c, _, real in every),
        }

    def unit(self, z_ND: Tensor) -> Tensor:
        """Convert latents to a unit that is the same for all variants."""
        return (z_ND - self.z_mean) @ self.whiten

    def draws(self, seed: int) -> Tensor:
        """Draw from q(z|x) of the held-out rows."""
        generator = torch.Generator().manual_seed(seed)
        held_out = self.world.held_out
        return held_out.sample(torch.randn(held_out.mean_ND.shape, generator=generator))

    def training_draws(self) -> Tensor:
        """Draw from q(z|x) of training rows: what a perfect prior would draw."""
        torch.manual_seed(0)
        rows = self.world.train.take(torch.randperm(len(self.world.train))[:HELD_OUT])
        return rows.sample(torch.randn(rows.mean_ND.shape))

    @torch.no_grad()
    def denoising(self, prior: DiffusionPrior, size: int) -> float:
        """Return the held-out error, in a unit that is the same for all variants."""
        generator = torch.Generator().manual_seed(size)
        clean = self.draws(2)
        h_NMF = self.world.held_out.h_NMF
        count, num = h_NMF.shape[:2]
        subset = torch.zeros(count, num, dtype=torch.bool)
        if size:
            subset[torch.arange(count), torch.randint(num, (count,), generator=generator)] = True
        condition = prior.condition(list(h_NMF.unbind(1)), subset)
        cluster = prior.mixture.component_of(prior.standardise(clean))
        total, unit, levels = 0.0, prior.standardise(clean), torch.logspace(-1.2, 0.8, 9).tolist()
        for sigma in levels:
            noise = torch.randn(clean.shape, generator=generator)
            denoised = prior.denoise(unit + sigma * noise, torch.full((count,), sigma), condition, cluster)
            error = (prior.restore(denoised) - clean) @ self.whiten
            total += (sigma**2 + 1) / sigma**2 * float(error.square().mean())
        return total / len(levels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", choices=("digits", "polymnist"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--judges", type=Path)
    parser.add_argument("--stage-1-steps", type=int, default=2_344)
    parser.add_argument("--rows", type=int, default=512_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    claim_results(args.results, world=args.world, data=args.data, stage_1_steps=args.stage_1_steps)
    if args.world == "digits":
        study = Study(Digits(args.data, args.results))
    else:
        study = Study(Pictures(args.data, args.judges, args.results, args.stage_1_steps))
    lines = [
        ["", "seed", *COLUMNS],
        _line("held-out rows, drawn again", "", study.score_joint(study.draws(3))),
        _line("training rows, drawn again", "", study.score_joint(study.training_draws())),
        _line("Gaussian mixture", "", study.score_mixture()),
    ]
    print(*lines, sep="\n", flush=True)
    for seed in range(args.seeds):
        for name in args.only:
            path = args.results / f"{name.replace(' ', '_')}-{args.rows}-{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(study.run(VARIANTS[name], args.rows, seed)) + "\n")
            figures = json.loads(path.read_text())
            lines.append(_line(name, str(seed), figures))
            print(seed, name, {k: round(v, 4) for k, v in figures.items()}, flush=True)
    print(f"\n{args.rows} rows, {args.threads} threads; {describe_machine()}\n\n{markdown(lines)}")


def _line(name: str, seed: str, figures: Mapping[str, float]) -> list[str]:
    return [name, seed, *(f"{figures[c]:.{digits}f}" if c in figures else "" for c, digits in COLUMNS.items())]


if __name__ == "__main__":
    main()
