"""Train one model of the MultiVae library on PolyMNIST, and write samples by N(0, I) and by a Gaussian mixture.

    PEERS/bin/python benchmarks/peer.py METHOD POLYMNIST.npz STEM (--seconds 900 | --steps 20000) [--seed 0]
        [--threads 2] [--device cpu] [--weights] [--next]

PEERS is a virtual environment with multivae; it does not need the framework. One training serves both samplers, which
differ only in their joint samples: STEM.prior.npz and STEM.mixture.npz are what polymnist_judges.py scores. The set may
have any number of modalities. --weights writes STEM.weights.npz, with the weights before training and what the networks
make of a few rows with them. --next samples only the next modality from each, which suffices for many of them.
"""

import argparse
import json
from typing import Any

import numpy as np
import peer_models
import torch
from numpy.typing import NDArray

PROBED_ROWS = 4


def given_subsets(count: int) -> list[tuple[int, ...]]:
    """Return the subsets that pictures.py scores: windows of one, two and four modalities on a circle."""
    return [tuple(sorted((i + j) % count for j in range(size))) for size in (1, 2, 4) for i in range(count)]


@torch.no_grad()
def weights_of(model: Any, x: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Return a model's weights, and what its encoders and decoders make of a few rows."""
    names, probed = peer_models.names_of(len(x)), peer_models.dataset(x[:, :PROBED_ROWS]).data
    found = {
        f"{kind}/{i}/{number}": parameter.numpy(force=True).copy()
        for kind, networks in (("encoder", model.encoders), ("decoder", model.decoders))
        for i, name in enumerate(names)
        for number, parameter in enumerate(networks[name].parameters())
    }
    model.eval()
    for i, name in enumerate(names):
        encoded = model.encoders[name](probed[name])
        found[f"mean/{i}"], found[f"log_var/{i}"] = encoded.embedding.numpy(), encoded.log_covariance.numpy()
        found[f"x/{i}"] = model.decoders[name](encoded.embedding).reconstruction.numpy()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=peer_models.METHODS)
    parser.add_argument("data")
    parser.add_argument("stem")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--seconds", type=float)
    length.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of the training")
    parser.add_argument("--weights", action="store_true")
    parser.add_argument("--next", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)  # noqa: NPY002  (the library draws from it)
    with np.load(args.data) as arrays:
        train_x, test_x = arrays["train_x"], arrays["test_x"]
    count = len(train_x)
    model = peer_models.build(args.method, count)
    if args.weights:
        np.savez(f"{args.stem}.weights.npz", **weights_of(model, test_x))  # type: ignore[arg-type]
    figures = peer_models.train_model(model, train_x, args.seed, args.device, steps=args.steps, seconds=args.seconds)
    conditional: dict[str, NDArray[np.uint8]] = {}
    for given in [(i,) for i in range(count)] if args.next else given_subsets(count):
        targets = [(given[0] + 1) % count] if args.next else [i for i in range(count) if i not in given]
        found = peer_models.conditional_samples(model, test_x, given, targets)
        conditional |= {f"given/{','.join(map(str, given))}/{name[1:]}": x for name, x in found.items()}
    for sampler in ("prior", "mixture"):
        joint = {f"joint/{n[1:]}": x for n, x in peer_models.joint_samples(model, sampler, train_x).items()}
        np.savez(f"{args.stem}.{sampler}.npz", **joint, **conditional)  # type: ignore[arg-type]
    print(json.dumps({"method": args.method, "seed": args.seed, **figures}))


if __name__ == "__main__":
    main()
