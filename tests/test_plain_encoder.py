"""The encoder of second judges accepts every shape and dtype of a modality, and learns."""

import pytest
import torch
from torch import nn

from shala_framework.evaluation.plain_encoder import PlainEncoder


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((3, 28, 28), torch.uint8),
        ((16, 3, 64, 64), torch.uint8),
        ((40,), torch.int64),
        ((2000,), torch.int64),
        ((5120,), torch.float32),
        ((2, 30_000), torch.float32),
        ((20, 25, 3), torch.float32),
        ((), torch.float32),
        ((2,), torch.bool),
    ],
)
def test_any_shape_gives_features(shape, dtype):
    """Features are finite for any shape, the network's size is bounded, and other values give other features."""
    torch.manual_seed(0)
    net = PlainEncoder(shape, dtype, 16)
    x = torch.zeros(3, *shape).to(dtype)
    x[0] = 1
    features = net(x)
    assert features.shape == (3, 16)
    assert features.isfinite().all()
    assert sum(p.numel() for p in net.parameters()) < 3_000_000
    assert not torch.equal(features[0], features[1])


def test_it_tells_patterns_apart():
    """It learns the position of a bright square in noise, which the picture's mean does not reveal."""
    torch.manual_seed(0)
    labels = torch.randint(4, (512,))
    x = torch.randint(60, (512, 16, 16, 1))
    for row, label in enumerate(labels.tolist()):
        top, left = 8 * (label // 2), 8 * (label % 2)
        x[row, top + 2 : top + 6, left + 2 : left + 6, 0] += 100
    x = x.to(torch.uint8)
    net = nn.Sequential(PlainEncoder((16, 16, 1), torch.uint8, 32), nn.SiLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(60):
        rows = slice(64 * (step % 6), 64 * (step % 6) + 64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[rows]), labels[rows]).backward()
        optimizer.step()
    net.eval()
    assert (net(x[384:]).argmax(1) == labels[384:]).float().mean() > 0.95
