"""What a model costs: its parameters, and its hours of training. What a sample costs stands with the samples."""

import attrs

from shala_framework.model import ShaLa


@attrs.frozen(kw_only=True)
class CostFigures:
    """Cost of a model.

    Attributes:
        parameters: Numbers that training changes, of each trained stage.
        hours: Hours of training of all stages, without saving and validating; None where no record says.
    """

    parameters: dict[str, int]
    hours: float | None


def measure_cost(model: ShaLa, training_seconds: float) -> CostFigures:
    """Count a model's parameters.

    Args:
        model: The model.
        training_seconds: Seconds that its stages have trained; 0 where no record says.
    """
    stages = {"autoencoder": model.autoencoder, "prior": model.prior, "refiner": model.refiner}
    return CostFigures(
        parameters={
            name: sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
            for name, module in stages.items()
            if name in model.stages
        },
        hours=training_seconds / 3600 if training_seconds else None,
    )
