"""Checks of the modules that plugins provide, made before training."""

from collections.abc import Mapping

import torch
from torch import Tensor

from shala_framework.autoencoder.methods import check_posterior
from shala_framework.autoencoder.model import Autoencoder
from shala_framework.plugin.modality import Likelihood, Modality, Relaxed
from shala_framework.support.errors import PluginError, Problem, SpecError
from shala_framework.support.hints import kind_of
from shala_framework.support.modes import evaluating


def check_groups(groups: Mapping[str, str], modalities: Mapping[str, Modality]) -> None:
    """Check that modalities which share an encoder and a decoder are of one kind.

    Args:
        groups: Group of each modality that has one, by name.
        modalities: Modalities by name.

    Raises:
        SpecError: Two members of a group differ in class, type or shape.
    """
    first: dict[str, str] = {}
    for name, group in groups.items():
        other = first.setdefault(group, name)
        mine, others = (_kind(modalities[n]) for n in (name, other))
        if mine != others:
            message = f"expected what modality {other!r} has, with which it shares: {others}; got {mine}"
            raise SpecError([Problem(path=f"modality.{name}.share", message=message)])


def _kind(modality: Modality) -> str:
    shape = [int(size) for size in modality.shape]
    return f"{type(modality).__name__}, {modality.dtype} {shape}".replace("torch.", "")


def check_contracts(autoencoder: Autoencoder, modalities: Mapping[str, Modality]) -> None:
    """Pass one batch through every plugin's modules, including the method's, and check the results.

    Raises:
        PluginError: An encoder, a decoder or the method does not keep its contract.
    """
    num_rows, feature_dim = 2, autoencoder.feature_dim
    for name, modality in modalities.items():
        x = torch.zeros((num_rows, *modality.shape), dtype=modality.dtype)
        with evaluating(autoencoder), torch.no_grad():
            h = autoencoder.encoders[name](x)
            likelihood = autoencoder.decoders[name](torch.zeros(num_rows, autoencoder.latent_dim))
            if not isinstance(likelihood, Likelihood):
                raise PluginError(
                    f"modality {name!r}: its decoder returned {type(likelihood).__name__}; expected a Likelihood"
                )
            log_prob, mode = likelihood.log_prob(x), likelihood.mode()
            relaxed = autoencoder.encoders[name](likelihood.relaxed()) if isinstance(likelihood, Relaxed) else h
        for what, got, expected in (
            ("encoder returned", tuple(h.shape), (num_rows, feature_dim)),
            ("encoder returned, for its likelihood's relaxed form,", tuple(relaxed.shape), (num_rows, feature_dim)),
            ("log_prob returned", tuple(log_prob.shape), (num_rows,)),
            ("mode returned", (mode.dtype, tuple(mode.shape)), (modality.dtype, tuple(x.shape))),
        ):
            if got != expected:
                raise PluginError(f"modality {name!r}: its {what} {got}; expected {expected}")
    h_MBF = {name: torch.zeros(num_rows, feature_dim) for name in modalities}
    presence_BM = torch.zeros(num_rows, len(modalities), dtype=torch.bool)
    presence_BM[0] = True  # the second row has no modality
    for fuse in (autoencoder.fuse, autoencoder.fuse_subset):
        with evaluating(autoencoder), torch.no_grad():
            posterior = fuse(h_MBF, presence_BM)
        check_posterior(posterior, type(autoencoder.method).__name__, num_rows, autoencoder.latent_dim)


def check_given(modalities: Mapping[str, Modality], given: Mapping[str, Tensor]) -> int:
    """Check tensors that a caller passes to a model, and count their rows.

    Args:
        modalities: Modalities of the model, by name.
        given: Name of a modality to tensor [N, ...].

    Returns:
        N.

    Raises:
        ValueError: There is no tensor, a name is unknown, or rows, shapes or types do not fit.
    """
    unknown = sorted(set(given) - set(modalities))
    if unknown or not given:
        raise ValueError(f"expected modalities among {list(modalities)}, got {unknown or 'none'}")
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"expected a tensor of {name!r}, got {kind_of(value)}; leave out what is not given")
    sizes = {name: len(value) for name, value in given.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"expected the same number of rows of each given modality, got {sizes}")
    for name, value in given.items():
        if tuple(value.shape[1:]) != tuple(modalities[name].shape):
            shape = ("N", *modalities[name].shape)
            raise ValueError(f"expected {name!r} of shape {shape}, got {tuple(value.shape)}")
        if value.dtype != modalities[name].dtype:
            raise ValueError(f"expected {name!r} of {modalities[name].dtype}, got {value.dtype}")
        check_limits(name, modalities[name], value)
    return next(iter(sizes.values()))


def check_limits(name: str, modality: Modality, value: Tensor) -> None:
    """Check that values are within the limits of a modality, if it has any.

    Raises:
        ValueError: A value is not.
    """
    if modality.limits is None or not value.numel():
        return
    (low, high), (least, largest) = modality.limits, (value.min().item(), value.max().item())
    if least < low or largest > high:
        raise ValueError(f"expected {name!r} with values from {low} to {high}, got {least} to {largest}")
