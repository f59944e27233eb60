"""A model's networks by name, for counting and printing."""

from torch import nn

from shala_framework.model.shala import ShaLa


def parts_of(model: ShaLa) -> dict[str, nn.Module]:
    """The networks of a model: each modality's, those that modalities share, the posterior, prior and refiners."""
    stage_1 = model.autoencoder
    return {
        **{f"{name} encoder": stage_1.encoders[name] for name in model.names},
        **({"shared encoders": stage_1.shared_encoders} if len(stage_1.shared_encoders) else {}),
        "posterior": stage_1.method,
        **{f"{name} decoder": stage_1.decoders[name] for name in model.names},
        **({"shared decoders": stage_1.shared_decoders} if len(stage_1.shared_decoders) else {}),
        "prior": model.prior,
        **({"refiner": model.refiner} if model.refiner.names else {}),
    }
