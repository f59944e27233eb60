"""Train one model of the MultiVae library on any number of picture modalities, for many_modalities.py.

    PEERS_ENVIRONMENT/bin/python benchmarks/peer_many.py PEERS.py MODEL ROWS.npz SAMPLES.npz --steps 1000 [--seed 0]

ROWS.npz holds uint8 train_x and test_x [M, N, 28, 28, 3]. Layers, optimiser, schedule and settings are those of
PEERS.py, the benchmark's script, which is written for five modalities. Here M is free, MVTCAE's alpha is M / (M + 1),
which equals its 5 / 6 at five, and a training takes the given number of steps of 128 rows. SAMPLES.npz holds joint
samples of both samplers, prior/I and mixture/I, and given/I, modality I + 1 (on the circle) of every test row from
modality I.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from scripts import load_script
from torch import nn

BATCH_SIZE, PEAK_LEARNING_RATE, NUM_JOINT = 128, 2e-3, 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", type=Path)
    parser.add_argument("model", choices=["mvtcae", "jmvae"])
    parser.add_argument("rows")
    parser.add_argument("samples")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    with np.load(args.rows) as arrays:
        train_x, test_x = arrays["train_x"], arrays["test_x"]
    peers, count = load_script(args.peers), len(train_x)
    peers.NAMES = names = [f"m{i}" for i in range(count)]
    common = {
        "n_modalities": count,
        "input_dims": dict.fromkeys(names, peers.SHAPE),
        "decoders_dist": dict.fromkeys(names, "laplace"),
        "decoder_dist_params": {name: {"scale": 0.75} for name in names},
        "latent_dim": 512,
    }
    encoders, decoders = {name: peers.Encoder(512) for name in names}, {name: peers.Decoder(512) for name in names}
    if args.model == "mvtcae":
        model = peers.MVTCAE(peers.MVTCAEConfig(beta=2.5, alpha=count / (count + 1), **common), encoders, decoders)
    else:
        model = peers.JMVAE(peers.JMVAEConfig(beta=1.0, alpha=0.1, **common), encoders, decoders)
    optimizer = torch.optim.AdamW(model.parameters(), PEAK_LEARNING_RATE, (0.9, 0.99), weight_decay=1e-4, fused=True)
    model.train()
    start, order = time.perf_counter(), np.empty(0, int)
    for step in range(args.steps):
        if len(order) < BATCH_SIZE:
            order = rng.permutation(train_x.shape[1])
        rows, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
        decay = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * min(1, (step + 1) / 100) * decay
        loss = model(peers.dataset(train_x[:, rows]), epoch=1 + step * BATCH_SIZE // train_x.shape[1]).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 500.0)
        optimizer.step()
    seconds = time.perf_counter() - start
    model.eval()
    samples: dict[str, np.ndarray] = {}
    with torch.no_grad():
        mixture = peers.GaussianMixtureSampler(model, peers.GaussianMixtureSamplerConfig(n_components=10))
        mixture.fit(peers.dataset(train_x[:, :10_000]))
        for sampler, latents in (
            ("prior", model.generate_from_prior(NUM_JOINT)),
            ("mixture", mixture.sample(NUM_JOINT)),
        ):
            decoded = model.decode(latents)
            samples |= {f"{sampler}/{i}": peers.pixels(decoded[name]) for i, name in enumerate(names)}
        test = peers.dataset(test_x)
        for i, name in enumerate(names):
            target = names[(i + 1) % count]
            samples[f"given/{i}"] = peers.pixels(model.predict(test, cond_mod=[name], gen_mod=[target])[target])
    np.savez(args.samples, **samples)
    print(json.dumps({"model": args.model, "seed": args.seed, "seconds": round(seconds, 1), "steps": args.steps}))


if __name__ == "__main__":
    main()
