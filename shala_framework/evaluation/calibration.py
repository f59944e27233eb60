"""Calibration: whether samples of p(z | x_S) on held-out rows are as uncertain about z as they should be.

It needs no judge. The truth is a draw of q(z | X) given all modalities of a row. If p(z | x_S) were the mean of those
posteriors over everything that x_S leaves open, truth and samples would be exchangeable: two samples would be as far
apart as a sample and the truth, and the truth would have a uniform rank among samples in any statistic. Each figure
tests one consequence. All use the metric that whitens training latents, so that no dimension dominates. A
metric fitted to the truths themselves would make them look too close to each other.

Shapes: N rows, S samples a row, D latent_dim, P directions.
Reference: Gneiting and Raftery 2007 for the two distances, which are the terms of the energy score; Gneiting et al.
2008 for ranks of multivariate forecasts.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import attrs
import torch
from torch import Tensor

from shala_framework.data.order import spread_positions
from shala_framework.data.rows import Rows
from shala_framework.evaluation.intervals import Figure, ratio_figure, share_figure
from shala_framework.evaluation.methods import Method, conditional_methods, joint_methods
from shala_framework.evaluation.parts import Part, Parts
from shala_framework.evaluation.subsets import cyclic_subsets
from shala_framework.model import ShaLa
from shala_framework.plugin.posterior import GaussianPosterior
from shala_framework.spec import unstructure
from shala_framework.spec.schema import Evaluate
from shala_framework.support.progress import Reporter
from shala_framework.support.seeds import mix_seed

NUM_DRAWS = 39  # with the truth these give 40 ranks; 50, 80 and 95 % of 40 are whole numbers
NOMINAL = (0.5, 0.8, 0.95)
NUM_DIRECTIONS = 16
LEAST_OF_SUBSET = 20  # rows of a subset that has a ratio of its own


@attrs.frozen(kw_only=True)
class CalibrationFigures:
    """Calibration of p(z | x_S) by one method, for subsets of one size.

    Attributes:
        method: As for samples; "diffusion" is without guidance.
        num_given: Size of S; 0 is joint synthesis.
        ratio: Mean squared distance between two samples of a row, divided by that between a sample and the truth. 1 if
            samples are calibrated, less if they are too narrow or miss the truth, more if they are too wide.
        intervals: Nominal share, such as "50", to the share of random projections in which the truth lies within the
            central interval of samples.
        regions: Nominal share to the share of rows whose truth lies in the central region of that share.
        by_subset: The ratio of the rows of each subset, by what is given or, where that is most, by what is not; empty
            if there is one subset. Subsets of fewer than `LEAST_OF_SUBSET` rows are left out.
    """

    method: str
    num_given: int
    ratio: Figure
    intervals: dict[str, Figure]
    regions: dict[str, Figure]
    by_subset: dict[str, Figure] = attrs.field(factory=dict)

    def extremes(self) -> tuple[str, str]:
        """Return the lowest and the highest ratio of a subset, in words."""
        ratios = sorted((figure.value, title) for title, figure in self.by_subset.items())
        lowest, highest = (f"{value:.3f} {title}" for value, title in (ratios[0], ratios[-1]))
        return lowest, highest


def squared_distances(samples_NSD: Tensor, truth_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean squared distances between two samples of a row, and between a sample and the truth: [N] each."""
    num_samples = samples_NSD.shape[1]
    centred_NSD = samples_NSD - samples_NSD.mean(1, keepdim=True)
    between_N = 2 * centred_NSD.square().sum((1, 2)) / (num_samples - 1)
    return between_N, (samples_NSD - truth_ND[:, None]).square().sum(2).mean(1)


def interval_coverage(samples_NSD: Tensor, truth_ND: Tensor, directions_PD: Tensor) -> dict[str, Tensor]:
    """Return the share of directions in which the truth lies within the central interval: nominal share to [N].

    Args:
        samples_NSD: Samples. For each nominal share, an even number of the S + 1 ranks must lie outside.
        truth_ND: One truth a row.
        directions_PD: Directions of projection.
    """
    truth_NP1 = (truth_ND @ directions_PD.T)[..., None]
    rank_NP = ((samples_NSD @ directions_PD.T).transpose(1, 2) < truth_NP1).sum(2)
    num_ranks = samples_NSD.shape[1] + 1
    outside = {share: round(num_ranks * (1 - share) / 2) for share in NOMINAL}  # number of ranks at either end
    return {
        _percent(share): ((rank_NP >= ranks) & (rank_NP < num_ranks - ranks)).double().mean(1)
        for share, ranks in outside.items()
    }


def region_coverage(samples_NSD: Tensor, truth_ND: Tensor) -> dict[str, Tensor]:
    """Return whether the truth lies in the central region of samples and truth: nominal share to 0 or 1 [N].

    Points of small mean distance from all other points, including the truth, are central. This treats truth and
    samples alike, so that the region has exactly its nominal share if they are exchangeable.
    """
    points_NTD = torch.cat([truth_ND[:, None], samples_NSD], 1)
    distance_NT = torch.cdist(points_NTD, points_NTD).sum(2)
    rank_N = (distance_NT[:, 1:] < distance_NT[:, :1]).sum(1)
    num_ranks = points_NTD.shape[1]
    return {_percent(share): (rank_N < round(num_ranks * share)).double() for share in NOMINAL}


def _ratios_of_subsets(
    between_N: Tensor, beside_N: Tensor, title_N: Sequence[str], groups_N: Tensor | None
) -> dict[str, Figure]:
    found = {}
    for title, count in Counter(title_N).items():
        if count >= LEAST_OF_SUBSET:
            rows_N = torch.tensor([other == title for other in title_N])
            groups_K = None if groups_N is None else groups_N[rows_N]
            found[title] = ratio_figure(between_N[rows_N], beside_N[rows_N], groups_K)
    return found if len(found) > 1 else {}


@attrs.frozen
class Calibration:
    """Measures the calibration of a model.

    Attributes:
        model: Model with both stages trained.
        rows: Held-out rows.
        z_ND: The truth: a draw of q(z | all present) of each row.
        training: q(z | all present) of training rows; the metric gives their aggregate unit covariance.
        settings: Methods to measure.
        groups_N: Groups of rows that are resampled together, or None.
        seed: Seed of the samples.
    """

    model: ShaLa
    rows: Rows
    z_ND: Tensor
    training: GaussianPosterior
    settings: Evaluate
    groups_N: Tensor | None
    seed: int

    def questions(self) -> Iterator[tuple[int, Method]]:
        """Yield sizes of subsets, 0 and powers of two below the number of modalities, with the methods of each."""
        for method in joint_methods(self.model, self.settings, refined=False):
            yield 0, method
        size = 1
        while size < len(self.model.names):
            for method in conditional_methods(self.model, self.settings, refined=False):
                yield size, method
            size *= 2

    def measure(self, num_rows: int, reporter: Reporter, parts: Parts) -> list[CalibrationFigures]:
        """Return figures of each method for each size, except those that no row allows.

        Args:
            num_rows: Largest number of held-out rows.
            reporter: Receives progress.
            parts: Keeps the figures of each method and size.
        """
        questions = list(self.questions())
        depends = [num_rows, self.settings.group, unstructure(self.model.spec.generate)]
        reporter.begin("calibration of latents", len(questions), "figure")
        figures = parts.values(
            [
                Part(
                    f"calibration given {size}, {method.title}",
                    depends,
                    CalibrationFigures | None,
                    partial(self.figures, method, size, num_rows),
                )
                for size, method in questions
            ],
            reporter.advance,
        )
        reporter.finish()
        return [found for found in figures if found is not None]

    def figures(self, method: Method, size: int, num_rows: int) -> CalibrationFigures | None:
        """Return figures of one method for one size; None if no row has such a subset and another modality."""
        index_N, samples_NSD, title_N = self._samples(method, size, num_rows)
        if not len(index_N):
            return None
        whiten = self._whitening()
        samples_NSD, truth_ND = whiten(samples_NSD), whiten(self.z_ND[index_N])
        groups_N = None if self.groups_N is None else self.groups_N[index_N]
        generator = torch.Generator().manual_seed(mix_seed(self.seed, 7))
        directions_PD = torch.randn(NUM_DIRECTIONS, truth_ND.shape[1], generator=generator, dtype=torch.float64)
        intervals, regions = (
            {share: share_figure(covered_N[None], groups_N) for share, covered_N in covered.items()}
            for covered in (
                interval_coverage(samples_NSD, truth_ND, directions_PD),
                region_coverage(samples_NSD, truth_ND),
            )
        )
        distances = squared_distances(samples_NSD, truth_ND)
        return CalibrationFigures(
            method=method.title,
            num_given=size,
            ratio=ratio_figure(*distances, groups_N),
            intervals=intervals,
            regions=regions,
            by_subset=_ratios_of_subsets(*distances, title_N, groups_N),
        )

    def _samples(self, method: Method, size: int, num_rows: int) -> tuple[Tensor, Tensor, list[str]]:
        """Return rows [N], samples [N, S, D] given one subset of each row, and its title; subsets take turns."""
        draw = partial(
            self.model.sample_latents,
            prior=method.prior,
            guidance_scale=method.guidance_scale,
            autoguidance_scale=method.autoguidance_scale,
        )
        if not size:
            index_N = self._spread(num_rows)
            z_KD = draw(NUM_DRAWS * len(index_N), seed=self.seed)
            return index_N, z_KD.cpu().unflatten(0, (len(index_N), NUM_DRAWS)), ["given nothing"] * len(index_N)
        subsets = list(cyclic_subsets(self.model.names, size))
        of_subset: list[list[int]] = [[] for _ in subsets]
        for turn, row in enumerate(self._spread(num_rows).tolist()):
            number = self._subset_of(row, turn, subsets)
            if number is not None:
                of_subset[number].append(row)
        index: list[int] = []
        samples: list[Tensor] = []
        titles: list[str] = []
        for number, (subset, members) in enumerate(zip(subsets, of_subset, strict=True)):
            if members:
                given = {name: self.rows.x[name][members] for name in subset}
                z_KD = draw(NUM_DRAWS, given=given, seed=mix_seed(self.seed, 8 + number))
                index += members
                samples.append(z_KD.cpu().unflatten(0, (len(members), NUM_DRAWS)))
                titles += [self._title(subset)] * len(members)
        return torch.tensor(index, dtype=torch.int64), torch.cat(samples) if samples else torch.empty(0), titles

    def _title(self, subset: Sequence[str]) -> str:
        left_out = [name for name in self.model.names if name not in subset]
        return f"without {', '.join(left_out)}" if len(left_out) < len(subset) else f"given {', '.join(subset)}"

    def _subset_of(self, row: int, turn: int, subsets: list[tuple[str, ...]]) -> int | None:
        """Return the first subset, from the one whose turn it is, that the row has together with another modality."""
        has = {name for name, there in zip(self.rows.x, self.rows.presence[row].tolist(), strict=True) if there}
        for i in range(len(subsets)):
            number = (turn + i) % len(subsets)
            if set(subsets[number]) < has:
                return number
        return None

    def _spread(self, num_rows: int) -> Tensor:
        """Return indices of at most this many rows, evenly spaced over all."""
        return torch.tensor(spread_positions(len(self.rows), num_rows), dtype=torch.int64)

    def _whitening(self) -> Callable[[Tensor], Tensor]:
        """Map latents to the metric in which the training rows' aggregate posterior has unit covariance."""
        mean_ND = self.training.mean_BD.double()
        variance_D = self.training.log_var_BD.double().exp().mean(0)
        covariance_DD = mean_ND.T.cov(correction=0).reshape(len(variance_D), -1) + variance_D.diag()
        lower_DD = torch.linalg.cholesky(covariance_DD)

        def whiten(z: Tensor) -> Tensor:
            flat: Tensor = torch.linalg.solve_triangular(lower_DD, z.double().flatten(0, -2).T, upper=False).T
            return flat.reshape(z.shape)

        return whiten


def _percent(share: float) -> str:
    return f"{100 * share:g}"
