"""The methods whose samples are compared: the diffusion prior under each guidance, and its controls."""

from collections.abc import Iterator

import attrs

from shala_framework.model import PriorName
from shala_framework.prior import num_evaluations
from shala_framework.spec.schema import Evaluate, Generate


@attrs.frozen(kw_only=True)
class Method:
    """How z is sampled.

    Attributes:
        prior: As `ShaLa.generate` takes it.
        guidance_scale: Towards what is given; 1 is none.
        autoguidance_scale: Away from what a poorer denoiser gets wrong; 1 is none.
    """

    prior: PriorName
    guidance_scale: float = 1.0
    autoguidance_scale: float = 1.0

    @property
    def title(self) -> str:
        """The prior and every guidance, such as "diffusion, guidance 2, autoguidance 3"."""
        scales = {"guidance": self.guidance_scale, "autoguidance": self.autoguidance_scale}
        return ", ".join([self.prior, *(f"{name} {scale:g}" for name, scale in scales.items() if scale != 1)])

    def num_evaluations(self, sampling: Generate) -> int:
        """Evaluations of a denoiser for one sample; 0 without diffusion."""
        if self.prior != "diffusion":
            return 0
        passes = 1 + (self.guidance_scale != 1) + (self.autoguidance_scale != 1)
        return passes * num_evaluations(sampling.sampler, sampling.num_steps)


def joint_methods(settings: Evaluate) -> Iterator[Method]:
    """No guidance, each autoguidance scale, and the controls."""
    guided = [Method(prior="diffusion", autoguidance_scale=scale) for scale in settings.autoguidance_scales]
    yield from dict.fromkeys([Method(prior="diffusion"), *guided])
    yield Method(prior="mixture")
    yield Method(prior="normal")


def conditional_methods(settings: Evaluate, sampling: Generate) -> Iterator[Method]:
    """No guidance, each guidance scale at the spec's autoguidance, and q(z | x_given) of stage 1."""
    guided = [
        Method(prior="diffusion", guidance_scale=scale, autoguidance_scale=sampling.autoguidance_scale)
        for scale in settings.guidance_scales
    ]
    yield from dict.fromkeys([Method(prior="diffusion"), *guided])
    yield Method(prior="posterior")
