"""Train one model of the MultiVae library for a number of steps, for methods_against_peer.py.

    PEERS_ENVIRONMENT/bin/python benchmarks/peer_steps.py PEERS.py METHOD POLYMNIST.npz STEM --steps 20000 [--seed 0]
        [--device cpu]

It runs in an environment of its own, with multivae installed. PEERS.py is the benchmark's script, whose models and
layers are used unchanged. STEM.weights.npz has the weights before training, and what the networks make of a few rows
with them; STEM.npz has the samples, by N(0, I) and from given modalities.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scripts import load_script
from torch import Tensor, nn

SCALE, PEAK_LEARNING_RATE, WARMUP_STEPS, LEAST_RATE, CLIP = 0.75, 2e-3, 100, 0.05, 500.0
BATCH_SIZE, PROBED_ROWS = 128, 4


def train_steps(
    parameters: Iterable[nn.Parameter],
    loss_of: Callable[[NDArray[np.intp]], Tensor],
    num_rows: int,
    steps: int,
    seed: int,
) -> dict[str, float]:
    """Train by AdamW under a cosine schedule, on the same rows in the same order for every system of a seed.

    Args:
        parameters: What is trained.
        loss_of: Returns the loss of some rows, a mean over them in nats.
        num_rows: Number of training rows.
        steps: Number of steps.
        seed: Seed of the rows' order.

    Returns:
        "seconds", "first_loss" before any step, and "loss", a mean over the last tenth of the steps.
    """
    parameters, losses = list(parameters), []
    optimizer = torch.optim.AdamW(parameters, PEAK_LEARNING_RATE, (0.9, 0.99), weight_decay=1e-4, fused=True)
    rng, order = np.random.default_rng(seed), np.empty(0, np.intp)
    start = time.perf_counter()
    for step in range(steps):
        if len(order) < BATCH_SIZE:
            order = rng.permutation(num_rows)
        rows, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
        decay = LEAST_RATE + (1 - LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * min(1, (step + 1) / WARMUP_STEPS) * decay
        optimizer.zero_grad()
        loss = loss_of(rows)
        loss.backward()
        losses.append(float(loss.detach()))
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
    last = losses[-max(1, steps // 10) :]
    seconds = round(time.perf_counter() - start, 1)
    return {"seconds": seconds, "first_loss": losses[0], "loss": sum(last) / len(last)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", type=Path)
    parser.add_argument("method")
    parser.add_argument("data", type=Path)
    parser.add_argument("stem")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of the training")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)  # noqa: NPY002  (the library draws from it)
    peers = load_script(args.peers)
    with np.load(args.data) as arrays:
        train_x, test_x = arrays["train_x"], arrays["test_x"]
    model = peers.build(args.method, SCALE)
    weights = {
        f"{kind}/{i}/{number}": parameter.detach().numpy()
        for kind, networks in (("encoder", model.encoders), ("decoder", model.decoders))
        for i, name in enumerate(peers.NAMES)
        for number, parameter in enumerate(networks[name].parameters())
    }
    probed = peers.dataset(test_x[:, :PROBED_ROWS]).data
    model.eval()
    with torch.no_grad():
        for i, name in enumerate(peers.NAMES):
            encoded = model.encoders[name](probed[name])
            weights[f"mean/{i}"], weights[f"log_var/{i}"] = encoded.embedding.numpy(), encoded.log_covariance.numpy()
            weights[f"x/{i}"] = model.decoders[name](encoded.embedding).reconstruction.numpy()
    np.savez(f"{args.stem}.weights.npz", **weights)
    model.train().to(args.device)

    def loss_of(rows: NDArray[np.intp]) -> Tensor:
        batch = peers.dataset(train_x[:, rows])
        batch.data = {name: x.to(args.device) for name, x in batch.data.items()}
        loss: Tensor = model(batch).loss
        return loss

    figures = train_steps(model.parameters(), loss_of, train_x.shape[1], args.steps, args.seed)
    model.eval().cpu()
    np.savez(f"{args.stem}.npz", **peers.generate(model, train_x, test_x, "prior"))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
