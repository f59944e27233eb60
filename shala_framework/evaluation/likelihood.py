"""Log-likelihood of one modality given others, under samples of the shared latent.

Shapes: N rows, S samples a row.
"""

import math

import torch
from torch import Tensor

from shala_framework.data.rows import Rows
from shala_framework.model import PriorName, ShaLa


@torch.no_grad()
def conditional_log_likelihood(
    model: ShaLa,
    rows: Rows,
    given: str,
    target: str,
    *,
    num_samples: int = 16,
    prior: PriorName = "diffusion",
    shift: int = 0,
    seed: int = 0,
    batch_size: int = 64,
) -> Tensor:
    """Estimate of log p(x_target | x_given) of each row: log of the mean of p(x_target | z) over z ~ p(z | x_given).

    Its expectation is a lower bound, by Jensen's inequality, that rises with the number of samples.

    Args:
        model: Trained.
        rows: Rows that have both modalities.
        given: Modality that z is sampled from.
        target: Modality whose x is scored.
        num_samples: Samples of z a row.
        prior: "diffusion" or "posterior".
        shift: Score each x_target under the z of the row so many places on; 0 is its own, others are a control.
        seed: Of the samples.
        batch_size: Latents decoded at a time.

    Returns:
        float tensor [N], nats.
    """
    z_ND = model.sample_latents(num_samples, given={given: rows.x[given]}, prior=prior, seed=seed)
    index_N = (torch.arange(len(rows)) + shift) % len(rows)
    z_NSD = z_ND.cpu().unflatten(0, (len(rows), num_samples))[index_N]
    decoder = model.autoencoder.decoders[target].eval()
    scores = []
    for start in range(0, z_NSD.flatten(0, 1).shape[0], batch_size):
        flat = torch.arange(start, min(start + batch_size, len(rows) * num_samples))
        z = z_NSD.flatten(0, 1)[flat].to(model.device)
        x = rows.x[target][flat // num_samples].to(model.device)
        scores.append(decoder(z).log_prob(x).cpu())
    score_NS = torch.cat(scores).unflatten(0, (len(rows), num_samples))
    return torch.logsumexp(score_NS, 1) - math.log(num_samples)
