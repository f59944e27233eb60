"""The sampling methods that an evaluation compares: the diffusion prior under each guidance, and its controls."""

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from shala_framework.model import PriorName, ShaLa
from shala_framework.prior import num_evaluations
from shala_framework.refiner import Refinement
from shala_framework.spec import unstructure
from shala_framework.spec.schema import Evaluate, Generate, Spec


@attrs.frozen(kw_only=True)
class Method:
    """A way to sample z.

    Attributes:
        prior: As for `ShaLa.generate`.
        guidance_scale: Extrapolates towards the given modalities; 1 is no guidance.
        autoguidance_scale: Extrapolates away from a poorer denoiser; 1 is no autoguidance.
        refine: Whether stage 3 refines decoded samples.
    """

    prior: PriorName
    guidance_scale: float = 1.0
    autoguidance_scale: float = 1.0
    refine: bool = False

    @property
    def title(self) -> str:
        """Name of the method with its guidance, such as "diffusion, guidance 2, autoguidance 3"."""
        scales = {"guidance": self.guidance_scale, "autoguidance": self.autoguidance_scale}
        parts = [self.prior, *(f"{name} {scale:g}" for name, scale in scales.items() if scale != 1)]
        return ", ".join([*parts, "refined"] if self.refine else parts)

    def num_evaluations(self, sampling: Generate, refinement: Refinement) -> int:
        """Return denoiser evaluations for one sample, including the refiner's of one modality; 0 without diffusion."""
        refining = refinement.num_evaluations if self.refine else 0
        if self.prior != "diffusion":
            return refining
        passes = 1 + (self.guidance_scale != 1) + (self.autoguidance_scale != 1)
        return passes * num_evaluations(sampling.sampler, sampling.num_steps) + refining

    def settings(self, spec: Spec) -> list[Any]:
        """Return the spec's tables that the samples depend on, as JSON values."""
        return [unstructure(spec.generate), *([unstructure(spec.refine)] if self.refine else [])]


def controls(model: ShaLa) -> tuple[PriorName, ...]:
    """Return the controls of joint synthesis: the mixture, and what stage 1 was trained with if that is a density."""
    method = model.autoencoder.method
    if not method.has_densities:
        return ("mixture",)
    return "mixture", "normal" if method.own_prior() is None else "own"


def joint_methods(model: ShaLa, settings: Evaluate, *, refined: bool = True) -> Iterator[Method]:
    """Return no guidance, the model's own, each autoguidance scale, and the controls that the method of inference has.

    Args:
        model: The model.
        settings: Scales to compare.
        refined: Whether to return the first ones also with a third stage, if the model has one.
    """
    scales = model.guidance.autoguidance_scale, *settings.autoguidance_scales
    guided = [Method(prior="diffusion", autoguidance_scale=scale) for scale in scales]
    yield from _with_refinement([Method(prior="diffusion"), *guided], refined=refined and bool(model.refined_names))
    yield from (Method(prior=prior) for prior in controls(model))


def conditional_methods(model: ShaLa, settings: Evaluate, *, refined: bool = True) -> Iterator[Method]:
    """Return no guidance, the model's own guidance, each scale, and q(z | x_given) if the method of inference has it.

    Arguments are those of `joint_methods`.
    """
    guidance = model.guidance
    guided = [
        Method(prior="diffusion", guidance_scale=scale, autoguidance_scale=guidance.autoguidance_scale)
        for scale in (guidance.guidance_scale, *settings.guidance_scales)
    ]
    yield from _with_refinement([Method(prior="diffusion"), *guided], refined=refined and bool(model.refined_names))
    if model.autoencoder.method.has_densities:
        yield Method(prior="posterior")


def _with_refinement(methods: Sequence[Method], *, refined: bool) -> Iterator[Method]:
    """Return each method once; if there is a third stage, both with and without it."""
    for method in dict.fromkeys(methods):
        yield method
        if refined:
            yield attrs.evolve(method, refine=True)
