"""The network that plugins give to stage 3: sizes, and what z can say through its map."""

import pytest
import torch

from shala_framework.plugin import RefinerUNet


def output(network, sides, z):
    """Of constant inputs, with small weights in place of the zeros of a new network."""
    for weight in network.parameters():
        if weight.ndim > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    constant = torch.ones(len(z), 3, *sides)
    with torch.no_grad():
        return network(constant, constant, z, torch.zeros(len(z)))


@pytest.mark.parametrize("sides", [(28, 28), (29, 31), (40, 57)])
@pytest.mark.parametrize("blocks", [(1,), (1, 1), (1, 1, 1)])
def test_the_map_of_z_fits_any_side(sides, blocks):
    """Odd sides are rounded up at each level, by the map of z as by the signal's."""
    torch.manual_seed(0)
    network = RefinerUNet(3, 5, width=8, num_blocks=blocks, attention=True, sides=sides)
    assert output(network, sides, torch.randn(2, 5)).shape == (2, 3, *sides)


def test_only_a_map_of_z_tells_places_apart():
    """In the middle of constant inputs, far from their borders, z moves each 4 x 4 pixels alike without a map."""
    torch.manual_seed(0)
    sides, middle = (256, 256), (..., slice(124, 132), slice(124, 132))
    z = torch.randn(2, 5)
    for drawn in (False, True):
        network = RefinerUNet(3, 5, width=8, num_blocks=(1, 1), sides=sides if drawn else None)
        first, second = output(network, sides, z)[middle]
        change = (second - first).unflatten(2, (2, 4)).unflatten(1, (2, 4))
        unlike = float((change - change[:, :1, :, :1]).abs().max() / change.abs().max())
        assert (unlike > 0.01) if drawn else (unlike < 1e-4), (drawn, unlike)
