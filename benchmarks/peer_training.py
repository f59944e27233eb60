"""Training that the models of the MultiVae library and those compared with them have in common."""

import math
import time
from collections.abc import Callable, Iterable
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PEAK_LEARNING_RATE, WARMUP_STEPS, LEAST_RATE, CLIP, BATCH_SIZE = 2e-3, 100, 0.05, 500.0, 128


def train(
    parameters: Iterable[nn.Parameter],
    loss_of: Callable[[NDArray[np.intp], int], Tensor],
    num_rows: int,
    seed: int,
    *,
    steps: int | None = None,
    seconds: float | None = None,
) -> dict[str, float]:
    """Train by AdamW under a cosine schedule, on the same rows in the same order for every system of a seed.

    Args:
        parameters: What is trained.
        loss_of: Returns the loss of some rows, a mean over them in nats, in an epoch, counted from 1.
        num_rows: Number of training rows.
        seed: Seed of the rows' order.
        steps: Number of steps.
        seconds: Length in place of `steps`.

    Returns:
        "steps", "seconds", "samples_per_second", "first_loss" before any step, and "loss", a mean over the last tenth
        of the steps.
    """
    parameters, losses = list(parameters), []
    optimizer = torch.optim.AdamW(parameters, PEAK_LEARNING_RATE, (0.9, 0.99), weight_decay=1e-4, fused=True)
    rng, order, start = np.random.default_rng(seed), np.empty(0, np.intp), time.perf_counter()

    def share_done(step: int) -> float:
        return step / steps if steps is not None else (time.perf_counter() - start) / (seconds or 0.0)

    for step in count():
        done = share_done(step)
        if done >= 1:
            break
        if len(order) < BATCH_SIZE:
            order = rng.permutation(num_rows)
        rows, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
        decay = LEAST_RATE + (1 - LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * min(1, (step + 1) / WARMUP_STEPS) * decay
        optimizer.zero_grad()
        loss = loss_of(rows, 1 + step * BATCH_SIZE // num_rows)
        loss.backward()
        losses.append(float(loss.detach()))
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
    spent, last = time.perf_counter() - start, losses[-max(1, len(losses) // 10) :]
    return {
        "steps": len(losses),
        "seconds": round(spent, 1),
        "samples_per_second": round(len(losses) * BATCH_SIZE / spent, 1),
        "first_loss": losses[0],
        "loss": sum(last) / len(last),
    }
