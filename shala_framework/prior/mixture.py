"""A Gaussian mixture of latents: the control that the diffusion prior must beat, and the clusters it is built on.

Where rows fall into classes, so do their latents, without any label. K-means finds these clusters, and each has a
Gaussian. Their number is the one under which latents of other rows are most likely.
Shapes: N rows, B batch, K components, D latent_dim.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from shala_framework.prior.clustering import ROUNDS, joined, k_means, means_of, numbered, pooled_covariance
from shala_framework.prior.sampling import Denoise, row_noise
from shala_framework.support.autocasting import without_autocast
from shala_framework.support.seeds import mix_seed

SHRINKAGES = 0.5, 4.0, 32.0  # rows, in units of D, by which a component's covariance is drawn to the mean one
LEAST_ROWS = 20  # of a component, on average
STARTS = 2  # of k-means, for each number of components
TOLERANCE = 3  # larger numbers of components that are tried without success
LITTLE = 0.1  # share of what the clusters have gained so far
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

    def covariance(self) -> Tensor:
        """Return the covariance of all latents: float64 [D, D]."""
        weights_K, means_KD = self.weights.double(), self.means.double()
        centred_KD = means_KD - weights_K @ means_KD
        scaled_KDD = self.directions.double() * self.variances.double().sqrt()[:, None]
        return torch.einsum("k,kde,kfe->df", weights_K, scaled_KDD, scaled_KDD) + centred_KD.T * weights_K @ centred_KD

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
        return self._times_own(z_BD - self.means[component_B], self.directions, component_B)

    def _turned_back(self, turned_BD: Tensor, component_B: Tensor) -> Tensor:
        """Invert `_turned_to`."""
        return self._times_own(turned_BD, self.directions.mT, component_B) + self.means[component_B]

    def _times_own(self, x_BD: Tensor, matrix_KDE: Tensor, component_B: Tensor) -> Tensor:
        """Multiply each row by its component's matrix: [B, E]."""
        count = self.num_components
        if component_B.device.type == "cpu" and not torch.compiler.is_compiling():
            order_B = component_B.argsort()
            sizes = component_B.bincount(minlength=count).tolist()
            parts = x_BD[order_B].split(sizes)
            product_BE = torch.cat([part @ matrix for part, matrix in zip(parts, matrix_KDE[:count], strict=True)])
            return product_BE[order_B.argsort()]
        # A device would have to wait for the sizes, and a graph cannot depend on them: take all products, and keep one.
        is_own_KB = torch.arange(count, device=component_B.device)[:, None] == component_B
        return torch.einsum("kbd,kde->be", is_own_KB[:, :, None] * x_BD, matrix_KDE[:count])

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

    def fit(self, z_ND: Tensor, *, seed: int = 0, row_N: Tensor | None = None) -> None:
        """Fit clusters, as many as make the latents of other rows most likely.

        For each number of components, k-means clusters four fifths of the rows from several starts, and each cluster is
        given a Gaussian, whose covariance is drawn to that of all clusters by several amounts. The start and the amount
        count under which the remaining rows are most likely. The smallest number counts whose log-likelihood of those
        rows is within a standard error of the best. What the means of these clusters leave of the rows is clustered in
        the same way, as long as that makes the remaining rows more likely: classes that differ in two respects, such as
        a digit and its place, lie at sums of two offsets. All rows then join their most likely components.

        Args:
            z_ND: Latents in units in which variances are near 1.
            seed: Seed of k-means.
            row_N: Number of the row behind each latent, on the CPU; by default each has a row of its own. All latents
                of a row are clustered, or all are held out. Fewer rows know less about covariances.
        """
        z = z_ND.detach().cpu().double()
        row_N = torch.arange(len(z)) if row_N is None else numbered(row_N)
        num_rows = int(row_N.max()) + 1
        held_out_N = row_N % HELD_OUT == HELD_OUT - 1
        most = max(1, min(self.weights.numel(), num_rows // LEAST_ROWS))
        label_N, shrinkage = torch.zeros(len(z), dtype=torch.int64), SHRINKAGES[0]
        if most > 1:
            split = _Split(
                fitted_ND=z[~held_out_N],
                num_rows=round(num_rows * (1 - 1 / HELD_OUT)),
                held_out_ND=z[held_out_N],
                row_H=torch.unique(row_N[held_out_N], return_inverse=True)[1],
                most=most,
                seed=seed,
            )
            found = self._divided(split, self._scored(split, label_N[~held_out_N]))
            shrinkage = found.shrinkage
            self._fit(_Moments.of(split.fitted_ND, found.label_N, split.num_rows), shrinkage)
            label_N = self._components_of(z)
        self._fit(_Moments.of(z, label_N, num_rows), shrinkage)
        self._weigh(z)

    def _divided(self, split: "_Split", base: "_Scored") -> "_Scored":
        """Cluster what the means of clusters leave of the rows, and return the clusters that make other rows likeliest.

        Of numbers whose log-likelihood is within a standard error of the best, the smallest counts. The clusters of the
        first number on which the next ones hardly improve are divided in turn, and compared with these.
        """
        rest_ND = split.fitted_ND - means_of(split.fitted_ND, base.label_N)
        unit = rest_ND.shape[1] * len(rest_ND) / split.num_rows
        found, best = [base], 0
        for i, parts in enumerate(_numbers(split.most // base.count)[1:], 1):
            if i - best > TOLERANCE:
                break
            seeds = [split.seed + start * ROUNDS for start in range(STARTS)]
            labels = [joined(base.label_N, k_means(rest_ND, parts, seed=seed, unit=unit)) for seed in seeds]
            found.append(max((self._scored(split, label_N) for label_N in labels), key=lambda scored: scored.mean))
            best = i if found[i].mean > found[best].mean else best
        direct, plateau = _smallest(found), _plateau(found)
        if plateau is None or direct is base:
            return direct
        return _smallest(sorted((direct, self._divided(split, plateau)), key=lambda scored: scored.count))

    def _scored(self, split: "_Split", label_N: Tensor) -> "_Scored":
        """Fit clusters with the shrinkage under which other rows are most likely."""
        tried: list[_Scored] = []
        moments = _Moments.of(split.fitted_ND, label_N, split.num_rows)
        for shrinkage in SHRINKAGES:
            self._fit(moments, shrinkage)
            score_H = self.log_prob(split.held_out_ND.to(self.means)).double().cpu()
            score_R = torch.zeros(int(split.row_H.max()) + 1, dtype=torch.float64).index_add_(0, split.row_H, score_H)
            score_R /= torch.bincount(split.row_H)
            tried.append(_Scored(score_R=score_R, label_N=label_N, shrinkage=shrinkage))
        return max(tried, key=lambda scored: scored.mean)

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

    def _fit(self, moments: "_Moments", shrinkage: float) -> None:
        """Give each cluster its Gaussian; the largest cluster comes first."""
        added = shrinkage * moments.unit
        self.weights.zero_()
        for k, (count, mean_D, products_DD) in enumerate(moments.clusters):
            covariance_DD = (products_DD + added * moments.pooled_DD) / (count + added)
            variances_D, directions_DD = torch.linalg.eigh(covariance_DD)
            self.weights[k] = count / moments.num_draws
            self.means[k] = mean_D
            self.variances[k] = variances_D.clamp(*VARIANCES)
            self.directions[k] = directions_DD
        self._count()


@attrs.frozen(kw_only=True, eq=False)
class _Moments:
    """What the Gaussians of some clusters are made of, whatever the shrinkage.

    Attributes:
        num_draws: Number of draws of all clusters.
        unit: D rows, as so many draws.
        pooled_DD: Covariance around the means of clusters.
        clusters: Of each cluster, the largest first: number of draws, mean [D], sum of the products of offsets [D, D].
    """

    num_draws: int
    unit: float
    pooled_DD: Tensor
    clusters: list[tuple[int, Tensor, Tensor]]

    @classmethod
    def of(cls, z_ND: Tensor, label_N: Tensor, num_rows: int) -> "_Moments":
        """Measure the clusters of the draws with one label each, of a number of different rows."""
        num_draws, dim = z_ND.shape
        unit = dim * num_draws / num_rows
        sizes = torch.bincount(label_N)
        clusters = []
        for label in sorted(sizes.nonzero()[:, 0].tolist(), key=lambda label: -int(sizes[label])):
            part_ND = z_ND[label_N == label]
            mean_D = part_ND.mean(0)
            clusters.append((len(part_ND), mean_D, (part_ND - mean_D).T @ (part_ND - mean_D)))
        return cls(num_draws=num_draws, unit=unit, pooled_DD=pooled_covariance(z_ND, label_N, unit), clusters=clusters)


@attrs.frozen(kw_only=True, eq=False)
class _Split:
    """Rows to cluster, and others that decide on the clusters.

    Attributes:
        fitted_ND: Draws of the rows to cluster.
        num_rows: Number of these rows.
        held_out_ND: Draws of the other rows.
        row_H: The row of each of them.
        most: Largest number of clusters.
        seed: Seed of k-means.
    """

    fitted_ND: Tensor
    num_rows: int
    held_out_ND: Tensor
    row_H: Tensor
    most: int
    seed: int


@attrs.frozen(kw_only=True, eq=False)
class _Scored:
    """Clusters, and how likely they make other rows.

    Attributes:
        score_R: Log-likelihood of each of the other rows.
        label_N: Labels of the draws that were clustered.
        shrinkage: Rows, in units of D, by which a component's covariance is drawn to the mean one.
    """

    score_R: Tensor
    label_N: Tensor
    shrinkage: float

    @property
    def mean(self) -> float:
        """Mean log-likelihood."""
        return float(self.score_R.mean())

    @property
    def count(self) -> int:
        """Number of clusters."""
        return int(self.label_N.max()) + 1


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


def _smallest(found: Sequence[_Scored]) -> _Scored:
    """Return the first whose log-likelihood is within a standard error of the best."""
    best = max(found, key=lambda scored: scored.mean)
    return next(scored for scored in found if _as_good(scored.score_R, best.score_R))


def _plateau(found: Sequence[_Scored]) -> _Scored | None:
    """Return the first after which the next few gain little of what has been gained so far."""
    mean = [scored.mean for scored in found]
    for i in range(1, len(found)):
        if max(mean[i : i + 1 + TOLERANCE]) - mean[i] <= LITTLE * (mean[i] - mean[0]):
            return found[i]
    return None


def _as_good(score_R: Tensor, best_R: Tensor) -> bool:
    """Return whether log-likelihoods are within a standard error of the best ones."""
    gap_R = best_R - score_R
    return float(gap_R.mean()) <= float(gap_R.std()) / math.sqrt(len(gap_R))
