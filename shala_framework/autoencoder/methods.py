"""Make the method of inference that a spec names, and check that methods keep their contract.

Shapes: B batch, D latent_dim.
"""

from typing import Any

from torch import Tensor

from shala_framework.autoencoder.method import ShaLaMethod
from shala_framework.plugin.loading import load_method
from shala_framework.plugin.posterior import (
    GaussianPosterior,
    MethodSizes,
    MixturePosterior,
    Objective,
    PosteriorMethod,
)
from shala_framework.spec.schema import DEFAULT_METHOD, Posterior
from shala_framework.support.errors import PluginError, Problem, SpecError
from shala_framework.support.structuring import structure


def method_of(table: Posterior, sizes: MethodSizes, kind: type[PosteriorMethod] | None = None) -> PosteriorMethod:
    """Make the networks of the method of a checked [posterior].

    Args:
        table: The table.
        sizes: Sizes of the networks around the method.
        kind: Class of the method; None takes the class of the installed plugin that the table names.

    Raises:
        PluginError: No plugin offers the method.
        SpecError: The method does not suit the sizes.
    """
    if table.method == DEFAULT_METHOD:
        return ShaLaMethod(ShaLaMethod.options_of(table), sizes)
    kind = kind or load_method(table.method)
    try:
        return kind(structure(table.options, kind.Options), sizes)
    except ValueError as error:
        raise SpecError([Problem(path="posterior.method", message=f"{table.method!r}: {error}")]) from error


def check_objective(objective: Any, method: str, num_rows: int) -> None:
    """Check the objective that a method returned.

    Raises:
        PluginError: It does not keep its contract.
    """
    if not isinstance(objective, Objective):
        raise PluginError(f"{method}.objective returned {type(objective).__name__}; expected an Objective")
    for what, value in (("value_B", objective.value_B), ("kl_B", objective.kl_B), *objective.log_prob.items()):
        if tuple(value.shape) != (num_rows,):
            raise PluginError(
                f"{method}.objective returned {what} of shape {tuple(value.shape)}; expected {(num_rows,)}"
            )


def check_posterior(posterior: Any, method: str, num_rows: int, latent_dim: int) -> None:
    """Check the posterior that a method returned.

    Raises:
        PluginError: It does not keep its contract.
    """
    if not isinstance(posterior, GaussianPosterior | MixturePosterior):
        expected = "a GaussianPosterior or a MixturePosterior"
        raise PluginError(f"{method}.fuse returned {type(posterior).__name__}; expected {expected}")
    for what, value in (("mean_BD", posterior.mean_BD), ("log_var_BD", posterior.log_var_BD)):
        if not isinstance(value, Tensor) or tuple(value.shape) != (num_rows, latent_dim):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise PluginError(f"{method}.fuse returned {what} of shape {got}; expected {(num_rows, latent_dim)}")
