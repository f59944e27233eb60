"""What evaluations ask of a model beside its samples, for models that a test makes up."""

from types import SimpleNamespace
from typing import ClassVar

from shala_framework.prior.guidance import Guidance
from shala_framework.spec.schema import Generate, Refine


class PlainModel:
    """Without guidance and stage 3, and with the controls that most methods of inference have."""

    refined_names: ClassVar[tuple[str, ...]] = ()
    guidance = Guidance()
    spec = SimpleNamespace(generate=Generate(), refine=Refine())
    autoencoder = SimpleNamespace(method=SimpleNamespace(has_densities=True, own_prior=lambda: None))
