"""The denoiser that a method of inference may bring for stage 2."""

from shala_framework.plugin.denoising import DenoiserSizes, LatentDenoiser
from shala_framework.plugin.posterior import PosteriorMethod
from shala_framework.prior import DiffusionPrior
from shala_framework.spec.schema import Prior
from shala_framework.support.errors import PluginError, Problem, SpecError


def bring_denoisers(prior: DiffusionPrior, method: PosteriorMethod, table: Prior) -> None:
    """Give a prior the networks of the method, if the method brings any.

    Args:
        prior: The prior, with the networks of the core.
        method: The method of inference.
        table: [prior].

    Raises:
        SpecError: [prior] asks for what only the networks of the core can do.
        PluginError: The method does not keep its contract.
    """
    sizes = DenoiserSizes(hidden_dim=table.hidden_dim, num_blocks=table.num_blocks, dropout=table.dropout)
    network = method.latent_denoiser(sizes)
    if network is None:
        return
    name = type(method).__name__
    problems = [
        Problem(path=f"prior.{key}", message=f"expected {expected} with {name}, which brings its own denoiser")
        for key, expected, got in (
            ("skip", "'gaussian'", table.skip != "gaussian"),
            ("whiten", "false", table.whiten),
        )
        if got
    ]
    if problems:
        raise SpecError(problems)
    guide = method.latent_denoiser(
        DenoiserSizes(hidden_dim=table.guide_hidden_dim, num_blocks=table.guide_num_blocks, dropout=table.dropout)
    )
    for found in (network, guide):
        if not isinstance(found, LatentDenoiser):
            raise PluginError(
                f"{name}.latent_denoiser returned {type(found).__name__}; expected a LatentDenoiser each time, or None"
            )
    prior.add_module("network", network)
    prior.add_module("guide", guide)
