"""Methods of shala-baselines and the same methods of MultiVae, with equal networks, data and steps on PolyMNIST.

    python benchmarks/methods_against_peer.py POLYMNIST.npz JUDGES.pt --peers-python PEERS/bin/python
        --results RESULTS [--methods mvtcae mopoe] [--steps 20000] [--seeds 0 1 2] [--threads 2] [--device cpu]

PEERS is a virtual environment with `multivae` installed (peer.py runs there). polymnist_arrays.py builds POLYMNIST.npz,
and `polymnist_judges.py train` writes JUDGES.pt.

Both systems of a seed start from the same weights, which the peer writes and which are checked by what the networks
make of a few rows. They see the same rows in the same order, with the same likelihoods, optimiser and schedule; only
their noise differs, so that already their losses before the first step are equal up to it. Samples are of N(0, I) and
of q(z | x_S). The difference of the means stands beside its standard error over seeds: a method agrees with the peer's
if the two are of one size. RESULTS keeps finished trainings.
"""

import argparse
import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, variance

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from peer_training import train
from pictures import FEATURE_DIM, Decoder, Encoder, Picture, load_pictures, write_samples
from polymnist_judges import score
from scripts import cell, claim_results, markdown
from torch import Tensor, nn

from shala_framework import ShaLa
from shala_framework.plugin import Laplace, Likelihood

HERE = Path(__file__).parent
LATENT_DIM, NUM_MODALITIES, NUM_JOINT, CHUNK = 512, 5, 2_000, 500
SCALE = 0.75  # of the peers' Laplace likelihoods
METHODS = ("mvtcae", "mopoe")
WITHOUT_TERMS = {"contrast_weight": 0.0, "recognition_weight": 0.0, "texture_weight": 0.0}
COLUMNS = {
    "first loss": "first_loss",
    "loss": "loss",
    "joint coherence": "joint_coherence",
    **{f"coherence given {size}": f"coherence_given_{size}" for size in (1, 2, 4)},
    "joint Frechet": "joint_frechet",
    "Frechet given 1": "frechet_given_1",
}


class UnitEncoder(Encoder):
    """The benchmark's layers, on pixels in [0, 1]."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BF: Tensor = self.small(self.large(x_BCHW))
        return h_BF


class UnitDecoder(Decoder):
    """The benchmark's layers, with Laplace distributions of fixed scale over pixels in [0, 1]."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        del self.log_scale

    def forward(self, z_BD: Tensor) -> Likelihood:
        return Laplace(self.mean(z_BD), torch.tensor(math.log(SCALE)))


class UnitPicture(Picture):
    """A picture of floats in [0, 1], as the peers see it."""

    dtype = torch.float32

    def encoder(self, feature_dim: int) -> nn.Module:
        assert feature_dim == FEATURE_DIM
        return UnitEncoder()

    def decoder(self, latent_dim: int) -> nn.Module:
        return UnitDecoder(latent_dim)


@attrs.frozen(kw_only=True)
class Settings:
    """What is compared.

    Attributes:
        data: PolyMNIST's arrays.
        judges: The judges' weights.
        peers_python: Interpreter with multivae.
        results: Folder of finished trainings.
        methods: Methods.
        steps: Steps of each training.
        seeds: Seeds.
        threads: Threads of each training.
        device: Device of the trainings; samples are drawn on the CPU.
    """

    data: Path
    judges: Path
    peers_python: Path
    results: Path
    methods: Sequence[str]
    steps: int
    seeds: Sequence[int]
    threads: int
    device: str


def with_weights(model: ShaLa, path: Path, x: Mapping[str, Tensor]) -> None:
    """Give a model the peer's first weights, and check that its networks make of a few rows what the peer's make.

    Raises:
        ValueError: They do not.
    """
    networks = model.autoencoder
    with np.load(path) as weights, torch.no_grad():
        for i, name in enumerate(model.names):
            found = {key: torch.from_numpy(weights[key]) for key in weights.files if f"/{i}" in key}
            own = [*networks.encoders[name].parameters()]
            for number, parameter in enumerate(own):
                parameter.copy_(found[f"encoder/{i}/{number}"])
            head = networks.method.experts.heads[i]
            for kind, offset in (("weight", 0), ("bias", 1)):
                both = found[f"encoder/{i}/{len(own) + offset}"].chunk(2)
                for layer, value in zip((head.mean, head.log_var), both, strict=True):
                    getattr(layer, kind).copy_(value)
            for number, parameter in enumerate(networks.decoders[name].parameters()):
                parameter.copy_(found[f"decoder/{i}/{number}"])
            mean = torch.from_numpy(weights[f"mean/{i}"])
            q = head(networks.encoders[name](x[name][: len(mean)]))
            decoded = networks.decoders[name](mean).mode()
            for mine, key in ((q.mean_BD, f"mean/{i}"), (q.log_var_BD, f"log_var/{i}"), (decoded, f"x/{i}")):
                if not torch.allclose(mine, torch.from_numpy(weights[key]), rtol=1e-3, atol=1e-4):
                    raise ValueError(f"expected networks equal to the peer's, got another {key} of the same weights")


def train_own(settings: Settings, method: str, seed: int, weights: Path, samples: Path) -> dict[str, float]:
    """Train a method of shala-baselines, write its samples, and return seconds and losses of training."""
    torch.manual_seed(seed)
    model = ShaLa(
        {f"m{i}": UnitPicture(Picture.Options()) for i in range(NUM_MODALITIES)},
        seed=seed,
        method=method,
        latent_dim=LATENT_DIM,
        feature_dim=FEATURE_DIM,
        **WITHOUT_TERMS,
    )
    train_x, test = (
        {n: x.float() / 255 for n, x in load_pictures(settings.data, s).items()} for s in ("train", "test")
    )
    with_weights(model, weights, test)
    networks, device = model.autoencoder.train().to(settings.device), torch.device(settings.device)

    def loss_of(rows: NDArray[np.intp], _: int) -> Tensor:
        x = {name: value[torch.from_numpy(rows)].to(device) for name, value in train_x.items()}
        present = torch.ones(len(rows), NUM_MODALITIES, dtype=torch.bool, device=device)
        return -networks.bound(x, present).value_B.mean()

    trained = (p for module in (networks.encoders, networks.decoders, networks.method) for p in module.parameters())
    figures = train(trained, loss_of, len(train_x["m0"]), seed, steps=settings.steps)
    networks.eval().cpu()

    def decoded(z_ND: Tensor) -> dict[str, Tensor]:
        parts = [networks.decode(z_KD) for z_KD in z_ND.split(CHUNK)]
        x = {name: torch.cat([part[name].mode() for part in parts]) for name in model.names}
        return {name: (255 * value.clamp(0, 1)).round().byte() for name, value in x.items()}

    def conditional(given: tuple[int, ...]) -> dict[str, Tensor]:
        rows = len(test["m0"])
        bits = torch.tensor([i in given for i in range(NUM_MODALITIES)]).expand(rows, -1)
        z = [
            networks.fuse_subset(networks.encode({n: x[index] for n, x in test.items()}), bits[index]).sample()
            for index in torch.arange(rows).split(CHUNK)
        ]
        return decoded(torch.cat(z))

    with torch.no_grad():
        write_samples(samples, NUM_MODALITIES, lambda: decoded(torch.randn(NUM_JOINT, LATENT_DIM)), conditional)
    return figures


def run(settings: Settings, method: str, seed: int) -> dict[str, dict[str, float]]:
    """Return the figures of both systems, from an earlier call or by training them now."""
    path = settings.results / f"{method}-{settings.steps}-seed{seed}.json"
    if path.exists():
        found: dict[str, dict[str, float]] = json.loads(path.read_text())
        return found
    stem = settings.results / f"{method}-{settings.steps}-seed{seed}"
    own = settings.results / f"{stem.name}.own.npz"
    weights, samples, mixed = (settings.results / f"{stem.name}.{part}.npz" for part in ("weights", "prior", "mixture"))
    line = [
        *(str(settings.peers_python), str(HERE / "peer.py"), method, str(settings.data), str(stem), "--weights"),
        *("--steps", str(settings.steps), "--seed", str(seed), "--threads", str(settings.threads)),
        *("--device", settings.device),
    ]
    peer = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    trained = train_own(settings, method, seed, weights, own)
    result = {
        "MultiVae": score(settings.data, settings.judges, samples) | peer,
        "shala-baselines": score(settings.data, settings.judges, own) | trained,
    }
    for used in (weights, samples, mixed, own):
        used.unlink()
    path.write_text(json.dumps(result, indent=2) + "\n")
    return result


def table(found: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]) -> str:
    """Format both systems of each method, and their difference with its standard error over seeds."""
    lines = [["", "seeds", *COLUMNS, "seconds"]]
    for method, results in found.items():
        for system in results[0]:
            values = [[result[system][key] for result in results] for key in (*COLUMNS.values(), "seconds")]
            lines.append([f"{method}, {system}", str(len(results)), *map(cell, values)])
        differences = []
        for key in COLUMNS.values():
            one, other = ([result[system][key] for result in results] for system in results[0])
            error = math.sqrt((variance(one) + variance(other)) / len(one)) if len(one) > 1 else math.nan
            differences.append(f"{fmean(other) - fmean(one):+.3f} ± {error:.3f}")
        lines.append([f"{method}, difference", "", *differences, ""])
    return markdown(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("judges", type=Path)
    parser.add_argument("--peers-python", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of the trainings")
    settings = Settings(**vars(parser.parse_args()))
    claim_results(settings.results, data=settings.data, judges=settings.judges, steps=settings.steps)
    torch.set_num_threads(settings.threads)
    found = {method: [run(settings, method, seed) for seed in settings.seeds] for method in settings.methods}
    print(table(found))


if __name__ == "__main__":
    main()
