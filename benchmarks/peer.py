"""Train one model of the MultiVae library on PolyMNIST, and write samples by N(0, I) and by a Gaussian mixture.

    PEERS_ENVIRONMENT/bin/python benchmarks/peer.py PEERS.py MODEL POLYMNIST.npz OUT_STEM --seconds 900 [--seed 0]

It runs in an environment of its own, with multivae installed. PEERS.py is the benchmark's script, whose models, layers
and training are used unchanged. Only the seed can be chosen, and one training serves both samplers, which differ only
in their joint samples. Writes OUT_STEM.prior.npz and OUT_STEM.gmm.npz.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from scripts import load_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", type=Path)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)  # noqa: NPY002  (the script's own generator)
    peers = load_script(args.peers)
    arrays = np.load(args.data)
    train_x, test_x = arrays["train_x"], arrays["test_x"]
    model = peers.build(args.model, 0.75)
    throughput = peers.train(model, train_x, args.seconds)
    for sampler in ("prior", "gmm"):
        np.savez(f"{args.out}.{sampler}.npz", **peers.generate(model, train_x, test_x, sampler))
    print(json.dumps({"model": args.model, "seed": args.seed, "samples_per_second": round(throughput, 1)}))


if __name__ == "__main__":
    main()
