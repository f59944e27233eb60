"""Models of the MultiVae library for PolyMNIST: its own implementations, with the layers of pictures.py.

They need an environment with multivae, which need not have the framework. Settings are those that the methods' authors
publish for PolyMNIST: 512 dimensions, or 32 shared and 32 for each modality (MMVAE+), a Laplace likelihood of scale
0.75 and the factors of the KL terms below. MVTCAE's alpha is M / (M + 1) for M modalities, 5 / 6 for five.
Shapes: B batch, N rows, M modalities, D latent_dim, S dimensions of one modality's own latent.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peer_training import train
from torch import Tensor, nn

warnings.filterwarnings("ignore")  # the library's imports warn of packages that it does not need here
from multivae.data.datasets import MultimodalBaseDataset  # noqa: E402
from multivae.models import (  # noqa: E402
    JMVAE,
    MVTCAE,
    JMVAEConfig,
    MMVAEPlus,
    MMVAEPlusConfig,
    MoPoE,
    MoPoEConfig,
    MVTCAEConfig,
)
from multivae.models.base import BaseDecoder, BaseEncoder, ModelOutput  # noqa: E402
from multivae.samplers import GaussianMixtureSampler, GaussianMixtureSamplerConfig  # noqa: E402

METHODS = ("mvtcae", "mopoe", "mmvaeplus", "jmvae")
SHAPE, SCALE, LATENT_DIM, OWN_DIM, NUM_JOINT = (3, 28, 28), 0.75, 512, 32, 2_000
MIXTURE_ROWS, MIXTURE_COMPONENTS = 10_000, 10


class Encoder(BaseEncoder):
    """The layers of pictures.Encoder on pixels in [0, 1], and heads of a Gaussian for each latent."""

    def __init__(self, latent_dim: int, own_dim: int = 0) -> None:
        super().__init__()
        self.latent_dim, self.sizes = latent_dim, [latent_dim, latent_dim, own_dim, own_dim]
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 24, 4, 2, 1), nn.SiLU()),
            *(nn.Conv2d(24, 48, 4, 2, 1), nn.GroupNorm(8, 48), nn.SiLU()),
            *(nn.Conv2d(48, 64, 3, 2, 1), nn.GroupNorm(8, 64), nn.SiLU()),
            *(nn.Flatten(), nn.Linear(64 * 4 * 4, 256), nn.SiLU()),
        )
        self.heads = nn.Linear(256, sum(self.sizes))

    def forward(self, x_BCHW: Tensor) -> ModelOutput:
        mean_BD, log_var_BD, own_mean_BS, own_log_var_BS = self.heads(self.layers(x_BCHW)).split(self.sizes, dim=1)
        found = ModelOutput(embedding=mean_BD, log_covariance=log_var_BD)
        if own_mean_BS.shape[1]:
            found["style_embedding"], found["style_log_covariance"] = own_mean_BS, own_log_var_BS
        return found


class Decoder(BaseDecoder):
    """The layers of pictures.Decoder, whose output are the means of pixels."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.layers = nn.Sequential(
            *(nn.Linear(latent_dim, 64 * 4 * 4), nn.Unflatten(1, (64, 4, 4)), nn.GroupNorm(8, 64), nn.SiLU()),
            *(nn.ConvTranspose2d(64, 48, 3, 2, 1), nn.GroupNorm(8, 48), nn.SiLU()),
            *(nn.ConvTranspose2d(48, 24, 4, 2, 1), nn.GroupNorm(8, 24), nn.SiLU()),
            nn.ConvTranspose2d(24, 3, 4, 2, 1),
        )

    def forward(self, z: Tensor) -> ModelOutput:
        x = self.layers(z.reshape(-1, z.shape[-1]))  # some methods decode several draws at once
        return ModelOutput(reconstruction=x.reshape(*z.shape[:-1], *SHAPE))


def names_of(count: int) -> list[str]:
    """Names of a number of modalities, as in pictures.py."""
    return [f"m{i}" for i in range(count)]


def build(method: str, count: int) -> Any:
    """Return a model of a method for a number of modalities."""
    names = names_of(count)
    common: dict[str, Any] = {
        "n_modalities": count,
        "input_dims": dict.fromkeys(names, SHAPE),
        "decoders_dist": dict.fromkeys(names, "laplace"),
        "decoder_dist_params": {name: {"scale": SCALE} for name in names},
    }
    if method == "mmvaeplus":
        config = MMVAEPlusConfig(
            latent_dim=OWN_DIM, modalities_specific_dim=OWN_DIM, K=1, beta=2.5, loss="iwae_looser", **common
        )
        encoders = {name: Encoder(OWN_DIM, OWN_DIM) for name in names}
        return MMVAEPlus(config, encoders, {name: Decoder(2 * OWN_DIM) for name in names})
    common["latent_dim"] = LATENT_DIM
    kind, config = {
        "mvtcae": lambda: (MVTCAE, MVTCAEConfig(beta=2.5, alpha=count / (count + 1), **common)),
        "mopoe": lambda: (MoPoE, MoPoEConfig(beta=2.5, **common)),
        "jmvae": lambda: (JMVAE, JMVAEConfig(beta=1.0, alpha=0.1, **common)),
    }[method]()
    encoders, decoders = {name: Encoder(LATENT_DIM) for name in names}, {name: Decoder(LATENT_DIM) for name in names}
    return kind(config, encoders, decoders)


def dataset(x: NDArray[np.uint8], device: str = "cpu") -> MultimodalBaseDataset:
    """Return the library's data set of uint8 [M, N, 28, 28, 3], as floats in [0, 1]."""
    unit = torch.from_numpy(x).to(device).permute(0, 1, 4, 2, 3).float() / 255
    return MultimodalBaseDataset(dict(zip(names_of(len(x)), unit, strict=True)))


def train_model(model: Any, x: NDArray[np.uint8], seed: int, device: str = "cpu", **length: Any) -> dict[str, float]:
    """Train a model for `steps` or `seconds`, and return what peer_training.train returns."""

    def loss_of(rows: NDArray[np.intp], epoch: int) -> Tensor:
        loss: Tensor = model(dataset(x[:, rows], device), epoch=epoch).loss
        return loss

    model.train().to(device)
    figures = train(model.parameters(), loss_of, x.shape[1], seed, **length)
    model.eval().cpu()
    return figures


@torch.no_grad()
def joint_samples(model: Any, sampler: str, train_x: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """Return joint samples of N(0, I) ("prior"), or of a Gaussian mixture of training rows' latents ("mixture")."""
    if sampler == "prior":
        latents = model.generate_from_prior(NUM_JOINT)
    else:
        mixture = GaussianMixtureSampler(model, GaussianMixtureSamplerConfig(n_components=MIXTURE_COMPONENTS))
        mixture.fit(dataset(train_x[:, :MIXTURE_ROWS]))
        latents = mixture.sample(NUM_JOINT)
    return _pictures(model.decode(latents), names_of(len(train_x)))


@torch.no_grad()
def conditional_samples(
    model: Any, x: NDArray[np.uint8], given: Sequence[int], targets: Sequence[int]
) -> dict[str, NDArray[np.uint8]]:
    """Return a sample of each target modality for each row given some of its modalities."""
    names = names_of(len(x))
    wanted = [names[i] for i in targets]
    found = model.predict(dataset(x), cond_mod=[names[i] for i in given], gen_mod=wanted)
    return _pictures(found, wanted)


def _pictures(decoded: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
    """Return means of pixels as uint8 [N, 28, 28, 3]."""
    unit = {name: decoded[name].reshape(-1, *SHAPE).clamp(0, 1) for name in names}
    return {name: (255 * x).round().byte().permute(0, 2, 3, 1).numpy() for name, x in unit.items()}
