"""Draws within a context leave no trace, on whatever devices a machine has."""

import torch

from shala_framework.support.seeds import forked_rng, seed_generators


def test_a_fork_saves_this_process_device_alone(monkeypatch):
    """On a machine of eight devices, the generators of the seven others are not touched, and nothing warns."""
    saved, restored = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: saved.append(device) or torch.zeros(1))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda _, device: restored.append(device))
    state = torch.get_rng_state()
    with forked_rng():
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), state)
    assert [int(torch.device("cuda", d).index if isinstance(d, int) else d.index) for d in saved + restored] == [3, 3]


def test_seeding_gives_the_draws_of_torch():
    """Draws after `seed_generators` are those after `torch.manual_seed`, which run folders were made with."""
    with forked_rng():
        torch.manual_seed(2**62 + 7)
        expected = torch.rand(5), torch.randn(5)
        seed_generators(2**62 + 7)
        assert torch.equal(torch.rand(5), expected[0])
        assert torch.equal(torch.randn(5), expected[1])
