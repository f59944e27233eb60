"""A Gaussian mixture of latents: the control that the diffusion prior must beat, and the clusters it is built on.

Where rows fall into classes, so do their latents, without any label. K-means finds these clusters, once the latents are
whitened, and each has a Gaussian. Their number is the one under which latents of other rows are most likely.
Shapes: N rows, B batch, K components, D latent_dim.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shala_framework.prior.sampling import Denoise, row_noise
from shala_framework.prior.whitening import whitening
from shala_framework.support.autocasting import without_autocast
from shala_framework.support.seeds import mix_seed

SHRINKAGE = 0.5  # rows, in units of D, by which a component's covariance is drawn to the mean one
LEAST_ROWS = 20  # of a component, on average
STARTS = 4  # of k-means, for each number of components
TOLERANCE = 3  # larger numbers of components that are tried without success
HELD_OUT = 5  # every fifth row decides on the number of components
MOST_WEIGHINGS, SETTLED = 20, 1e-3  # rounds in which weights become shares of rows, and the change that ends them
VARIANCES = 1e-6, 1e12  # range in any direction


class GaussianMixture(nn.Module):
    """A mixture of Gaussians with full covariances, initially N(0, I).

    Everything is a buffer, so a mixture is saved like a module. There is room for a largest number of components; those
    in use come first.

    Attributes:
        weights: Probabilities of the components, 0 for those that are not in use: [K].
        means: [K, D].
        variances: Variance along each direction: [K, D].
        directions: Orthonormal directions of each component, as columns: [K, D, D].
        num_components: Number of components in use.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor
    directions: Tensor

    def __init__(self, max_components: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("weights", nn.functional.one_hot(torch.tensor(0), max_components).float())
        self.register_buffer("means", torch.zeros(max_components, dim))
        self.register_buffer("variances", torch.ones(max_components, dim))
        self.register_buffer("directions", torch.eye(dim).repeat(max_components, 1, 1))
        self.num_components = 1

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._count()

    def _count(self) -> None:
        self.num_components = int((self.weights > 0).sum())

    @contextmanager
    def supposed(self, count: int) -> Iterator[None]:
        """Have some number of equally likely components, or all there is room for, to see what they cost.

        Args:
            count: Number of components. On leaving, the components of before are back.
        """
        before = {name: value.clone() for name, value in self.state_dict().items()}
        self.weights.zero_()
        self.weights[:count] = 1 / min(count, len(self.weights))
        self._count()
        try:
            yield
        finally:
            self.load_state_dict(before)

    def log_joint(self, z_BD: Tensor) -> Tensor:
        """Return log p(z, component): [B, K]."""
        count = self.num_components
        variances_K1D = self.variances[:count, None]
        squares_KB = (self._turned(z_BD).square() / variances_K1D + variances_K1D.log()).sum(2)
        constant = 0.5 * z_BD.shape[1] * math.log(2 * math.pi)
        return self.weights[:count].log() - 0.5 * squares_KB.T - constant

    def log_prob(self, z_BD: Tensor) -> Tensor:
        """Return log p(z): [B]."""
        return self.log_joint(z_BD).logsumexp(1)

    def component_of(self, z_BD: Tensor) -> Tensor:
        """Return the most likely component of each row: int64 [B]."""
        if self.num_components == 1:
            return torch.zeros(len(z_BD), dtype=torch.int64, device=z_BD.device)
        with without_autocast(z_BD.device):
            return self.log_joint(z_BD.float()).argmax(1)

    def denoise(self, z_BD: Tensor, sigma_B: Tensor, component_B: Tensor) -> Tensor:
        """Return E[clean | clean + sigma * noise = z] for clean latents of one component each: [B, D]."""
        with without_autocast(z_BD.device):
            variances_BD = self.variances[component_B]
            kept_BD = variances_BD / (variances_BD + sigma_B[:, None].square())
            return self._turned_back(kept_BD * self._turned_to(z_BD, component_B), component_B)

    def to_steady(self, z_BD: Tensor, sigma_B: Tensor, component_B: Tensor) -> Tensor:
        """Return steady coordinates [B, D] of noisy latents, in which their component is N(0, I) at any noise level."""
        return self._turned_to(z_BD, component_B) / self.scale(sigma_B, component_B)

    def from_steady(self, y_BD: Tensor, sigma_B: Tensor, component_B: Tensor) -> Tensor:
        """Invert `to_steady`."""
        return self._turned_back(self.scale(sigma_B, component_B) * y_BD, component_B)

    def scale(self, sigma_B: Tensor, component_B: Tensor) -> Tensor:
        """Return the deviation of noisy latents along their component's directions: [B, D]."""
        return (self.variances[component_B] + sigma_B[:, None].square()).sqrt()

    def steady(self, denoise: Denoise, component_B: Tensor) -> Denoise:
        """Express a denoiser in steady coordinates.

        The probability-flow ODE keeps its form, dy/dsigma = (y - D(y; sigma)) / sigma, but nothing moves where the
        denoiser is the component's own. A solver's error is therefore only that of what the denoiser adds to it.
        """

        def steady_denoise(z_ND: Tensor, sigma_N: Tensor) -> Tensor:
            variances_ND, scale_ND = self.variances[component_B], self.scale(sigma_N, component_B)
            clean_ND = denoise(self._turned_back(scale_ND * z_ND, component_B), sigma_N)
            change_ND = self._turned_to(clean_ND, component_B) - variances_ND / scale_ND * z_ND
            return z_ND + change_ND / scale_ND

        return steady_denoise

    def _turned_to(self, z_BD: Tensor, component_B: Tensor) -> Tensor:
        """Return each row's offset from its component's mean, along the component's directions: [B, D]."""
        return torch.einsum("kb,kbe->be", self._own(component_B), self._turned(z_BD))

    def _turned_back(self, turned_BD: Tensor, component_B: Tensor) -> Tensor:
        """Invert `_turned_to`."""
        own_KBD = self._own(component_B)[:, :, None] * turned_BD
        return torch.einsum("kbe,kde->bd", own_KBD, self.directions[: self.num_components]) + self.means[component_B]

    def _own(self, component_B: Tensor) -> Tensor:
        """Return 1 for each row's component and 0 for others, [K, B], without waiting for the device."""
        numbers_K1 = torch.arange(self.num_components, device=component_B.device)[:, None]
        return (numbers_K1 == component_B).to(self.means.dtype)

    def _turned(self, z_BD: Tensor) -> Tensor:
        """Return each row's offset from each mean, along the component's directions: [K, B, D]."""
        count = self.num_components
        return torch.einsum("kbd,kde->kbe", z_BD - self.means[:count, None], self.directions[:count])

    def sample(self, seed: int, rows: Sequence[int]) -> Tensor:
        """Return draws [N, D]; draw n depends only on (seed, rows[n])."""
        noise_ND = row_noise(seed, rows, self.means.shape[1]).to(self.means.device)
        log_weights_NK = self.weights[: self.num_components].log().expand(len(rows), -1)
        component_N = draw_components(mix_seed(seed, 1), log_weights_NK, rows)
        return self.from_steady(noise_ND, noise_ND.new_zeros(len(rows)), component_N)

    def fit(self, z_ND: Tensor, *, seed: int = 0, num_rows: int | None = None) -> None:
        """Fit clusters, as many as make the latents of other rows most likely.

        For each number of components, k-means clusters four fifths of the rows from several starts, and each cluster is
        given a Gaussian. The start counts under which the remaining rows are most likely: two classes that k-means
        left in one cluster make them less so. The smallest number counts whose log-likelihood of those rows is within
        a standard error of the best. All rows then join their most likely components.

        Args:
            z_ND: Latents in units in which variances are near 1. Draws of one row are num_rows rows apart.
            seed: Seed of k-means.
            num_rows: Number of different rows behind the latents; by default as many as there are latents. Fewer rows
                know less about covariances.
        """
        num_rows = len(z_ND) if num_rows is None else min(num_rows, len(z_ND))
        z = z_ND.detach().cpu().double()
        held_out = torch.arange(len(z)) % num_rows % HELD_OUT == HELD_OUT - 1
        numbers = _numbers(min(self.weights.numel(), num_rows // LEAST_ROWS))
        fitted, fitted_rows = z[~held_out], round(num_rows * (1 - 1 / HELD_OUT))
        scores: list[Tensor] = []
        clusters: list[Tensor] = []
        best = 0
        for i, count in enumerate(numbers):
            if len(numbers) == 1 or i - best > TOLERANCE:
                break
            score_N, label_N = self._best_start(fitted, z[held_out], count, seed, fitted_rows)
            scores.append(score_N)
            clusters.append(label_N)
            best = i if scores[i].mean() > scores[best].mean() else best
        label_N = torch.zeros(len(z), dtype=torch.int64)
        if clusters:
            chosen = next((i for i, score_N in enumerate(scores) if _as_good(score_N, scores[best])), 0)
            self._fit(fitted, clusters[chosen], fitted_rows)
            label_N = self._components_of(z)
        self._fit(z, label_N, num_rows)
        self._weigh(z)

    def _best_start(
        self, z_ND: Tensor, held_out_ND: Tensor, count: int, seed: int, num_rows: int
    ) -> tuple[Tensor, Tensor]:
        """Cluster rows from several starts; return log-likelihoods of the rows held out and the labels of the best."""
        tried: list[tuple[Tensor, Tensor]] = []
        for start in range(STARTS if count > 1 else 1):
            label_N = _clusters(z_ND, count, seed + start, num_rows)
            self._fit(z_ND, label_N, num_rows)
            tried.append((self.log_prob(held_out_ND.to(self.means)).double().cpu(), label_N))
        return max(tried, key=lambda scored: float(scored[0].mean()))

    def _components_of(self, z_ND: Tensor) -> Tensor:
        parts = [self.component_of(part.to(self.means)).cpu() for part in z_ND.split(1_000)]
        return torch.cat(parts)

    def _weigh(self, z_ND: Tensor) -> None:
        """Make each weight the share of the latents whose most likely component it is.

        Stage 2 learns a latent under its most likely component, and joint samples draw components by their weights. A
        cluster of k-means has other latents than its Gaussian where neighbours are of unequal width.
        """
        count = self.num_components
        for _ in range(MOST_WEIGHINGS if count > 1 else 0):
            share_K = torch.bincount(self._components_of(z_ND), minlength=count).to(self.weights) / len(z_ND)
            settled = bool((share_K - self.weights[:count]).abs().sum() < SETTLED)
            if settled or not share_K.all():
                break
            self.weights[:count] = share_K

    def _fit(self, z_ND: Tensor, label_N: Tensor, num_rows: int) -> None:
        """Give each cluster, of the rows with one label, its Gaussian; the largest cluster comes first."""
        num_draws, dim = z_ND.shape
        sizes = torch.bincount(label_N)
        labels = sorted(sizes.nonzero()[:, 0].tolist(), key=lambda label: -int(sizes[label]))
        unit = dim * num_draws / num_rows  # D rows, as so many draws
        members = [z_ND[label_N == label] for label in labels]
        means = [part.mean(0) for part in members]
        products = [(part - mean).T @ (part - mean) for part, mean in zip(members, means, strict=True)]
        pooled_DD = (torch.stack(products).sum(0) + unit * _covariance(z_ND, unit)) / (num_draws + unit)
        self.weights.zero_()
        for k, (part, mean, product) in enumerate(zip(members, means, products, strict=True)):
            covariance_DD = (product + SHRINKAGE * unit * pooled_DD) / (len(part) + SHRINKAGE * unit)
            variances_D, directions_DD = torch.linalg.eigh(covariance_DD)
            self.weights[k] = len(part) / num_draws
            self.means[k] = mean
            self.variances[k] = variances_D.clamp(*VARIANCES)
            self.directions[k] = directions_DD
        self._count()


def _covariance(z_ND: Tensor, unit: float) -> Tensor:
    """Return the covariance of all rows, drawn to its diagonal by some rows: [D, D], never singular.

    The narrowest directions of latents have a fiftieth of the mean variance, so the identity would widen them.
    """
    offset_ND = z_ND - z_ND.mean(0)
    products_DD = offset_ND.T @ offset_ND
    diagonal_D = (products_DD.diagonal() / len(z_ND)).clamp_min(VARIANCES[0])
    return (products_DD + unit * diagonal_D.diag()) / (len(z_ND) + unit)


def draw_components(seed: int, log_probs_NK: Tensor, rows: Sequence[int]) -> Tensor:
    """Draw a component for each row, int64 [N]; draw n depends only on (seed, rows[n]) and its probabilities."""
    device = log_probs_NK.device
    uniform_N1 = torch.special.ndtr(row_noise(seed, rows, 1).double()).to(device)
    edges_NK = log_probs_NK.double().exp().cumsum(1)
    return torch.searchsorted(edges_NK, uniform_N1 * edges_NK[:, -1:])[:, 0].clamp_max(edges_NK.shape[1] - 1)


def _numbers(most: int) -> list[int]:
    """Return numbers of components to try, about a fifth apart."""
    numbers = [1]
    while numbers[-1] < most:
        numbers.append(min(most, max(numbers[-1] + 1, round(1.2 * numbers[-1]))))
    return numbers


def _as_good(score_N: Tensor, best_N: Tensor) -> bool:
    """Return whether log-likelihoods are within a standard error of the best ones."""
    gap_N = best_N - score_N
    return float(gap_N.mean()) <= float(gap_N.std()) / math.sqrt(len(gap_N))


def _clusters(z_ND: Tensor, count: int, seed: int, num_rows: int) -> Tensor:
    """Return the label of each row by k-means of the whitened rows: int64 [N]."""
    if count == 1:
        return torch.zeros(len(z_ND), dtype=torch.int64)
    from sklearn.cluster import KMeans  # a second, which priors that are only sampled do not need
    from sklearn.exceptions import ConvergenceWarning

    whiten_DD, _ = whitening(torch.cov(z_ND.T), num_rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        labels = KMeans(count, n_init=1, random_state=seed % 2**32).fit_predict((z_ND.float() @ whiten_DD).numpy())
    return torch.from_numpy(labels).long()
