"""A model as separate programs of plain tensors, which torch.export can write to files.

Latents are sampled in steady coordinates y, in which every cluster is N(0, I) at any noise level. The loop of a sampler
then needs nothing but the program `denoise`. Shapes: B batch, M modalities, F feature_dim, D latent_dim, K clusters.
"""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.autoencoder.shared_networks import SharedDecoder, SharedEncoder
from shala_framework.model.shala import ShaLa
from shala_framework.plugin.posterior import either_posterior
from shala_framework.prior import SAMPLERS, DiffusionPrior, Guidance, karras_sigmas, row_noise
from shala_framework.prior.temperature import HIGHEST, LOWEST
from shala_framework.support.seeds import mix_seed


@attrs.frozen(kw_only=True, eq=False)
class Program:
    """One function of a model, whose arguments and results are tensors with a row of the batch in each first index.

    Attributes:
        name: Name of the program.
        module: Module whose forward it is.
        meaning: What it computes.
        inputs: Name of each argument, in order, and its name in `example_values`.
        outputs: Names of the results; of several, the module returns a tuple.
    """

    name: str
    module: nn.Module
    meaning: str
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]

    def arguments(self, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Select the arguments from example values."""
        return tuple(values[key] for key in self.inputs.values())

    def results(self, returned: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Name what the module, or the program made of it, returned."""
        return dict(zip(self.outputs, [returned] if isinstance(returned, Tensor) else returned, strict=True))


TENSORS = {
    "x": "values of a modality, as its plugin reads them",
    "h": "features",
    "given": "which modalities of a row are given, in the order of `modalities`",
    "cluster": "number of each row's cluster",
    "log_probs": "log-probability of each cluster",
    "sigma": "noise level of each row",
    "y": "latents in the coordinates in which they are sampled: N(0, 1) in each dimension at first",
    "denoised": "the y that `denoise` expects behind the noise; dy / dsigma = (y - denoised) / sigma",
    "z": "latents",
    "mean": "mean of z given what is given",
    "std": "standard deviation of z given what is given",
}
"""What the arguments and results of programs are, by name."""


class EncodeProgram(nn.Module):
    """Encodes x of one modality as its feature h."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.shared = network, _shared_in(network)

    def forward(self, x: Tensor) -> Tensor:
        h_BF: Tensor = self.network(x).float()
        return h_BF


class DecodeProgram(nn.Module):
    """Decodes latents as the mode of one modality's likelihood."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.shared = network, _shared_in(network)

    def forward(self, z_BD: Tensor) -> Tensor:
        x: Tensor = self.network(z_BD).mode()
        return x


class FuseProgram(nn.Module):
    """Mean and standard deviation of q(z | x_S), those of `ShaLa.posterior`."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.method = autoencoder.method

    def forward(self, h_BMF: Tensor, given_BM: Tensor) -> tuple[Tensor, Tensor]:
        h_MBF = list(h_BMF.unbind(1))
        whole, part = self.method.fuse(h_MBF, given_BM), self.method.fuse_subset(h_MBF, given_BM)
        q = either_posterior(given_BM.all(1), whole, part)
        return q.mean_BD, (0.5 * q.log_var_BD).exp()


class ClustersProgram(nn.Module):
    """Log-probabilities of the clusters given any subset."""

    def __init__(self, prior: DiffusionPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, h_BMF: Tensor, given_BM: Tensor) -> Tensor:
        return self.prior.cluster_log_probs(list(h_BMF.unbind(1)), given_BM)


class DenoiseProgram(nn.Module):
    """D(y; sigma) in steady coordinates, with fixed guidance.

    It is `DiffusionPrior.denoiser` without branches on values: each kind of guidance costs an evaluation at any level.
    """

    def __init__(self, prior: DiffusionPrior, guidance: Guidance) -> None:
        super().__init__()
        self.prior, self.guidance = prior, guidance

    def forward(self, y_BD: Tensor, sigma_B: Tensor, h_BMF: Tensor, given_BM: Tensor, cluster_B: Tensor) -> Tensor:
        prior, h_MBF = self.prior, list(h_BMF.unbind(1))
        towards_given, from_guide = self.guidance.extents(any_given=True)
        _, from_guide_alone = self.guidance.extents(any_given=False)
        some_B1 = given_BM.any(1, keepdim=True).to(y_BD.dtype)

        def denoise(z_ND: Tensor, sigma_N: Tensor) -> Tensor:
            plain_ND = guided_ND = prior.denoise(z_ND, sigma_N, prior.condition(h_MBF, given_BM), cluster_B)
            share_N1 = self.guidance.share(sigma_N)[:, None]
            if towards_given:
                nothing_BW = prior.condition(h_MBF, torch.zeros_like(given_BM))
                other_ND = prior.denoise(z_ND, sigma_N, nothing_BW, cluster_B)
                guided_ND = guided_ND + towards_given * some_B1 * share_N1 * (plain_ND - other_ND)
            if from_guide or from_guide_alone:
                guide_BW = prior.condition(h_MBF, given_BM, guide=True)
                other_ND = prior.denoise(z_ND, sigma_N, guide_BW, cluster_B, guide=True)
                extent_N1 = some_B1 * from_guide + (1 - some_B1) * from_guide_alone
                guided_ND = guided_ND + extent_N1 * share_N1 * (plain_ND - other_ND)
            return guided_ND

        return prior.clusters.steady(denoise, cluster_B)(y_BD, sigma_B)


class RestoreProgram(nn.Module):
    """The latents z of y without noise."""

    def __init__(self, prior: DiffusionPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, y_BD: Tensor, cluster_B: Tensor) -> Tensor:
        return self.prior.restore(self.prior.clusters.from_steady(y_BD, torch.zeros_like(y_BD[:, 0]), cluster_B))


def programs_of(model: ShaLa) -> list[Program]:
    """Return the programs of a model in evaluation mode; those of the prior only if stage 2 is trained.

    `denoise` applies the guidance of the spec's [generate].

    Args:
        model: Model whose stage 1 is trained.
    """
    autoencoder, prior = model.autoencoder, model.prior
    features = {"h": "h", "given": "given"}
    programs = [
        *(
            Program(
                name=f"encode_{name}",
                module=EncodeProgram(autoencoder.encoders[name]),
                meaning=f"the feature of {name}",
                inputs={"x": name},
                outputs=("h",),
            )
            for name in model.names
        ),
        Program(
            name="fuse",
            module=FuseProgram(autoencoder),
            meaning="the posterior of z given any subset of the modalities",
            inputs=features,
            outputs=("mean", "std"),
        ),
        *(
            Program(
                name=f"decode_{name}",
                module=DecodeProgram(autoencoder.decoders[name]),
                meaning=f"the most likely {name} of each latent",
                inputs={"z": "z"},
                outputs=("x",),
            )
            for name in model.names
        ),
    ]
    if "prior" in model.stages:
        programs += [
            Program(
                name="clusters",
                module=ClustersProgram(prior),
                meaning="log-probabilities of the clusters of latents given any subset of the modalities",
                inputs=features,
                outputs=("log_probs",),
            ),
            Program(
                name="denoise",
                module=DenoiseProgram(prior, model.guidance),
                meaning="one evaluation of the denoiser in the sampler's loop",
                inputs={"y": "y", "sigma": "sigma"} | features | {"cluster": "cluster"},
                outputs=("denoised",),
            ),
            Program(
                name="restore",
                module=RestoreProgram(prior),
                meaning="the latents of y at the end of the loop",
                inputs={"y": "y", "cluster": "cluster"},
                outputs=("z",),
            ),
        ]
    for program in programs:
        program.module.eval()
    return programs


@torch.no_grad()
def example_values(model: ShaLa, num_rows: int, seed: int = 0) -> dict[str, Tensor]:
    """Return arguments of every program as they occur in use, by name; x of a modality by the modality's name.

    The first of several rows has every modality given and the second has none.

    Args:
        model: Model on the CPU.
        num_rows: Number of rows.
        seed: Seed of the values.
    """
    generator = torch.Generator().manual_seed(seed)
    z_BD = torch.randn(num_rows, model.autoencoder.latent_dim, generator=generator)
    x = model.decode(z_BD)
    given_BM = torch.rand(num_rows, len(model.names), generator=generator) < 0.5
    given_BM[0] = True
    given_BM[1:2] = False
    h = [EncodeProgram(model.autoencoder.encoders[name]).eval()(x[name]) for name in model.names]
    return {
        **x,
        "z": z_BD,
        "y": torch.randn(z_BD.shape, generator=generator),
        "h": torch.stack(h, 1) * given_BM[:, :, None],
        "given": given_BM,
        "sigma": torch.randn(num_rows, generator=generator).exp(),
        "cluster": torch.randint(model.prior.clusters.num_components, (num_rows,), generator=generator),
    }


def noise_levels(model: ShaLa) -> list[float]:
    """Return the noise levels of the sampler, by the spec's [generate] and [prior]; the last is 0."""
    table = model.spec.prior
    levels: list[float] = karras_sigmas(model.spec.generate.num_steps, table.sigma_min, table.sigma_max).tolist()
    return levels


def temperatures(model: ShaLa) -> dict[str, Any]:
    """Return the terms of the squared temperatures of sampling, and the limits of temperatures."""
    return {"squares": model.prior.temperature_squares().tolist(), "lowest": LOWEST, "highest": HIGHEST}


@torch.no_grad()
def sample_by_programs(
    model: ShaLa,
    denoise: Callable[..., Tensor],
    restore: Callable[..., Tensor],
    h_BMF: Tensor,
    given_BM: Tensor,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return latents of the same noise and clusters twice: by programs and by the model itself.

    Args:
        model: Model on the CPU whose stage 2 is trained.
        denoise: The program of this name, as it was loaded.
        restore: The program of this name, as it was loaded.
        h_BMF: Features.
        given_BM: Which of them are given.
        seed: Seed of the noise and the clusters.
    """
    prior, generate = model.prior, model.spec.generate
    sigmas, sampler = torch.tensor(noise_levels(model), dtype=torch.float64), SAMPLERS[generate.sampler]
    noise_BD = row_noise(seed, range(len(h_BMF)), prior.latent_dim)
    h_MBF = list(h_BMF.unbind(1))
    cluster_B = prior.draw_clusters(mix_seed(seed, 7), h_MBF, given_BM)

    def denoise_by_program(z_ND: Tensor, sigma_N: Tensor) -> Tensor:
        return denoise(z_ND, sigma_N, h_BMF, given_BM, cluster_B)

    first_BD = prior.temperature(given_BM)[:, None] * noise_BD
    y_BD = sampler(denoise_by_program, first_BD / sigmas[0].to(noise_BD), sigmas)
    by_model_BD = prior.sample(noise_BD, h_MBF, given_BM, cluster_B, sigmas, sampler=sampler, guidance=model.guidance)
    return restore(y_BD, cluster_B), by_model_BD


def _shared_in(network: nn.Module) -> nn.ModuleList:
    """Return modules that a network uses but that are registered elsewhere, in the group that shares them."""
    return nn.ModuleList(m.shared for m in network.modules() if isinstance(m, SharedEncoder | SharedDecoder))
