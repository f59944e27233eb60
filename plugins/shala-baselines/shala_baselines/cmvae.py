"""CMVAE: MMVAE+ with clusters of the shared latent.

Reference: Palumbo, Manduchi, Laguna, Chopard and Vogt 2024, "Deep Generative Clustering with Multimodal Diffusion
Variational Autoencoders", ICLR.

A cluster c ~ pi has z | c ~ N(mu_c, I), and each modality has a private latent w_m ~ N(0, I), with the posteriors,
auxiliary distributions r_n and decoders of MMVAE+ (see private.py). What is maximised is

    1/M sum_m E[log 1/K sum_k exp sum_c q(c | z_k) G(c, z_k, w_k)],

    G(c, z, w) = log p(x_m | z, w) + sum_{n != m} log p(x_n | z, v_n)
                 + beta log(p(c) p(z | c) p(w) / (q(z | X) q(w | x_m) q(c | z))),
    z_k ~ q(z | x_m),  w_k ~ q(w_m | x_m),  v_n ~ r_n.

With q(c | z) = p(c) p(z | c) / p(z), the best choice, the sum over c leaves log p(z) of the mixture in the place of
p(c) p(z | c) / q(c | z), so that CMVAE is MMVAE+ with a learned Gaussian mixture as the prior of z.

The paper's diffusion decoders are a third stage here as well: [train.refiner]. Its choice of the number of clusters
after training is not part of this method; clusters that are not needed get little weight (figure `clusters_in_use`).
The paper samples z from this mixture, which here is the prior "own", beside the diffusion prior and a mixture that is
fitted to the latents.

No code of the authors was found (github.com/epalu/CMVAE has none yet). Equations and settings were checked against
MultiVae's documentation and its implementation (github.com/AgatheSenellart/MultiVae): K = 10 with DReG, beta 1, 10
clusters of scale 1 whose means start uniformly in [-1, 1]. It has Laplace distributions over w and z; here they are
Gaussian.

Shapes: C clusters, Z dimensions of z. An ellipsis stands for any number of draws and rows.
"""

import math
from collections.abc import Sequence
from typing import final

import attrs
import torch
from torch import Tensor, nn

from shala_baselines.bounds import number_of_draws
from shala_baselines.private import PrivateLatents, PrivateOptions
from shala_framework.plugin import EncodedRows, MethodSizes, MixturePosterior, Objective, PosteriorMethod, at_least


@final
class CMVAE(PosteriorMethod):
    """CMVAE (Palumbo et al. 2024): MMVAE+ with a Gaussian mixture as the prior of the shared latent."""

    @attrs.frozen(kw_only=True)
    class Options(PrivateOptions):
        """Options.

        Attributes:
            num_clusters: Number of clusters of the shared latent.
        """

        num_samples: int = number_of_draws(10)
        num_clusters: int = attrs.field(default=10, validator=at_least(1, at_most=10_000))

    def __init__(self, options: Options, sizes: MethodSizes) -> None:
        super().__init__(options, sizes)
        self.latents = PrivateLatents(options, sizes)
        self.cluster_mean_CZ = nn.Parameter(2 * torch.rand(options.num_clusters, self.latents.shared_dim) - 1)
        self.cluster_logit_C = nn.Parameter(torch.zeros(options.num_clusters))

    def decoder_dimensions(self, modality: int) -> Sequence[int]:
        return self.latents.seen_by(modality)

    def fuse(self, h_MBF: list[Tensor], presence_BM: Tensor) -> MixturePosterior:
        return self.latents.posterior(h_MBF, presence_BM)

    def own_prior(self) -> MixturePosterior:
        """The mixture of clusters, and N(0, I) of private latents."""
        clusters, private_dim = len(self.cluster_mean_CZ), self.sizes.latent_dim - self.latents.shared_dim
        mean_CBD = nn.functional.pad(self.cluster_mean_CZ, (0, private_dim))[:, None]
        return MixturePosterior(
            mean_CBD, torch.zeros_like(mean_CBD), self.cluster_logit_C.log_softmax(0).view(clusters, 1)
        )

    def log_joint(self, z: Tensor) -> Tensor:
        """Return log p(c) p(z | c) of every cluster for z [..., Z] in nats: [..., C]."""
        squared = (z.unsqueeze(-2) - self.cluster_mean_CZ).square() + math.log(2 * math.pi)
        return self.cluster_logit_C.log_softmax(0) - 0.5 * squared.sum(-1)

    def objective(self, batch: EncodedRows) -> Objective:
        objective = self.latents.objective(batch, lambda z: self.log_joint(z).logsumexp(-1))
        with torch.no_grad():
            share_C = self.log_joint(objective.z_BD[:, : self.latents.shared_dim]).softmax(-1).mean(0)
            in_use = torch.special.entr(share_C).sum().exp()
        return attrs.evolve(objective, figures={"clusters_in_use": in_use})
