"""A mixed model of a label and a table with gaps, trained in seconds, against a joint distribution that is known."""

import numpy as np
import pytest
import torch

import shala_framework as shala

MISSING_SHARE, NOISE, NUM_NUMBERS = 0.15, 0.4, 4
LOADING = np.array([1.0, -0.8, 0.6, 1.2])
SHIFT = np.array([1.5, 1.0, -1.5, 0.0])  # of class 1; class 0 has the opposite


def draw(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels [N], numbers [N, 4] with one shared cause and a shift by the label, and which cells are known."""
    label = generator.integers(0, 2, count)
    cause = generator.normal(size=(count, 1))
    numbers = SHIFT * (2 * label[:, None] - 1) + LOADING * cause + NOISE * generator.normal(size=(count, NUM_NUMBERS))
    known = generator.random(numbers.shape) >= MISSING_SHARE
    known[~known.any(1), 0] = True
    return label, numbers, known


def exact_conditional(label: int, numbers: np.ndarray, known: np.ndarray, target: int) -> tuple[float, float]:
    """Mean and deviation of one number given the label and the known numbers."""
    covariance = np.outer(LOADING, LOADING) + NOISE**2 * np.eye(NUM_NUMBERS)
    given = np.flatnonzero(known)
    mean = SHIFT * (2 * label - 1)
    solved = np.linalg.solve(covariance[np.ix_(given, given)], covariance[given, target])
    variance = covariance[target, target] - covariance[target, given] @ solved
    return float(mean[target] + solved @ (numbers[given] - mean[given])), float(np.sqrt(variance))


def test_missing_cells_have_calibrated_values() -> None:
    """Intervals of a hidden cell, given label and other cells, cover the truth and are about as long as the exact ones.

    The label given the cells is right about as often as the best classifier is.
    """
    Label, Table = pytest.importorskip("shala_label").Label, pytest.importorskip("shala_table").Table
    generator = np.random.default_rng(0)
    scale, origin = np.array([1e-3, 1.0, 50.0, 1e4]), np.array([0.0, 100.0, -3.0, 1e5])
    label, numbers, known = draw(4_000, generator)
    # One thread and a few seconds: small networks, and the plain ELBO.
    table = Table(width=64)
    names = [f"n{i}" for i in range(NUM_NUMBERS)]
    cells = np.where(known, numbers * scale + origin, np.nan)
    rows = ["{" + ", ".join(f'"{n}": {c}' for n, c in zip(names, row, strict=True)) + "}" for row in cells]
    table.fit({"table.json": row.replace("nan", "null").encode()} for row in rows)
    modalities = {"kind": Label(classes=("a", "b"), width=16), "record": table}
    modalities["kind"].fit({"cls": name} for name in (b"a", b"b"))
    model = shala.ShaLa(
        modalities,
        latent_dim=2,
        feature_dim=32,
        hidden_dim=64,
        contrast_weight=0,
        recognition_weight=0,
        texture_weight=0,
        prior={"hidden_dim": 64, "num_blocks": 2, "unconditional_share": 0.1},
    )
    x = {"kind": torch.from_numpy(label)[:, None], "record": table.tensor(cells)}
    elbo = {"kl_warmup_steps": 100, "likelihood_rescaling": False}
    shala.train(
        model,
        x,
        batch_size=128,
        autoencoder={**elbo, "steps": 500, "learning_rate": 5e-3, "warmup_steps": 20},
        prior={"steps": 800, "learning_rate": 6e-3, "warmup_steps": 20},
    )

    label, numbers, known = draw(400, generator)
    target = np.array([generator.choice(np.flatnonzero(row)) for row in known])
    row = np.arange(len(label))
    truth = numbers[row, target]
    known[row, target] = False
    some = known.any(1)
    cells = np.where(known, numbers * scale + origin, np.nan)
    x = {"kind": torch.from_numpy(label)[:, None], "record": table.tensor(cells)}
    drawn = table.values(model.generate(100, given=x, draw=True, batch_size=4_096)["record"])
    assert not np.isnan(drawn).any()
    drawn = (drawn[row, :, target] - origin[target, None]) / scale[target, None]
    exact = np.array(
        [exact_conditional(*of) for of in zip(label[some], numbers[some], known[some], target[some], strict=True)]
    )
    for level, z in ((0.5, 0.674), (0.8, 1.282), (0.95, 1.960)):
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=1)
        covered = ((low <= truth) & (truth <= high)).mean()
        assert abs(covered - level) < 0.08, f"{level:.0%} intervals cover {covered:.0%}"
        assert 0.8 < (high - low)[some].mean() / (2 * z * exact[:, 1].mean()) < 1.3
    error, best = (np.sqrt(np.square(mean - truth[some]).mean()) for mean in (drawn[some].mean(1), exact[:, 0]))
    assert error < 1.1 * best

    named = model.generate(20, given={"record": x["record"]}, draw=True)["kind"][..., 0].double().mean(1) > 0.5
    covariance = np.outer(LOADING, LOADING) + NOISE**2 * np.eye(NUM_NUMBERS)
    right = []
    for index in row:
        given = np.flatnonzero(known[index])
        direction = np.linalg.solve(covariance[np.ix_(given, given)], SHIFT[given]) if len(given) else np.zeros(0)
        right.append((numbers[index, given] @ direction > 0) == label[index])
    assert (named.numpy() == label).mean() > np.mean(right) - 0.05
