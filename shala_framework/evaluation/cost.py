"""Cost of a model: parameters and hours of training. The cost of a sample is measured with the joint samples."""

import attrs

from shala_framework.model import ShaLa


@attrs.frozen(kw_only=True)
class CostFigures:
    """Cost of a model.

    Attributes:
        parameters: Number of trainable parameters of each trained stage.
        hours: Hours of training of all stages, without saving and validating; None if they were not recorded, or if a
            stage comes from another run.
    """

    parameters: dict[str, int]
    hours: float | None


def measure_cost(model: ShaLa, training_seconds: float) -> CostFigures:
    """Count a model's parameters.

    Args:
        model: The model.
        training_seconds: Seconds of training of all stages; 0 if they were not recorded.
    """
    stages = {"autoencoder": model.autoencoder, "prior": model.prior, "refiner": model.refiner}
    # A prior of one cluster does not train the network of clusters, also where it was loaded and does not say so.
    clusters = model.prior.cluster_network.parameters() if model.prior.clusters.num_components == 1 else ()
    untrained = frozenset(map(id, clusters))
    return CostFigures(
        parameters={
            name: sum(p.numel() for p in module.parameters() if p.requires_grad and id(p) not in untrained)
            for name, module in stages.items()
            if name in model.stages
        },
        hours=training_seconds / 3600 if training_seconds else None,
    )
