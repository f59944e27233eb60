"""Latents of the training set: everything that stage 2 needs of it, so it never runs encoders or reads media.

Shapes: N rows, B batch, M modalities, F feature_dim, D latent_dim.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import attrs
import torch
from torch import Tensor

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.data.order import weighted_rows
from shala_framework.data.rows import Rows
from shala_framework.plugin.posterior import GaussianPosterior
from shala_framework.support.machine import to_device
from shala_framework.support.modes import evaluating

STATISTICS_ROWS = 16_384  # rows that are summed at a time
NUM_COPIES = 4  # copies of a row with hidden parts
HIDDEN_ROWS = 0.5  # share of rows for which a step of stage 2 takes one of the copies


class Latents(Protocol):
    """Posteriors and features of all training rows, in memory or in files."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def take(self, rows: Tensor) -> "LatentStore":
        """Load some rows, by number, into memory."""
        ...


@attrs.frozen(eq=False)
class LatentStore:
    """Posteriors and features of rows, in memory.

    Attributes:
        mean_ND: Mean of q(z | all present modalities).
        log_var_ND: Log-variance of q(z | all present modalities).
        h_NMF: Features; zeros for missing modalities.
        presence_NM: Presence of each modality, bool.
        hidden_NKHF: Features of K copies of the H modalities that hide parts of x in training, such as cells; of each
            copy another random part is hidden. K and H are 0 if there are none.
    """

    mean_ND: Tensor
    log_var_ND: Tensor
    h_NMF: Tensor
    presence_NM: Tensor
    hidden_NKHF: Tensor = attrs.field(
        default=attrs.Factory(lambda self: self.h_NMF.new_zeros(len(self.h_NMF), 0, 0, 0), takes_self=True)
    )

    @classmethod
    def blank(
        cls, num_rows: int, *, latent_dim: int, num_modalities: int, feature_dim: int, device: torch.device
    ) -> "LatentStore":
        """Return complete rows of zeros, on which a step of stage 2 costs what it costs on real ones."""
        return cls(
            torch.zeros(num_rows, latent_dim, device=device),
            torch.zeros(num_rows, latent_dim, device=device),
            torch.zeros(num_rows, num_modalities, feature_dim, device=device),
            torch.ones(num_rows, num_modalities, dtype=torch.bool, device=device),
        )

    def __len__(self) -> int:
        return len(self.mean_ND)

    def take(self, rows: Tensor) -> "LatentStore":
        """Select some rows, by number."""
        rows = to_device(rows, self.mean_ND.device)  # once for all tensors
        return LatentStore(*(value[rows] for value in attrs.astuple(self, recurse=False)))

    def sample(self, noise_ND: Tensor | None = None) -> Tensor:
        """Sample z [N, D] from every row's posterior, with torch's global generator or given standard normal noise."""
        noise_ND = torch.randn_like(self.mean_ND) if noise_ND is None else noise_ND
        return self.mean_ND + torch.exp(0.5 * self.log_var_ND) * noise_ND

    def partly_hidden(self, columns: Sequence[int], uniform_NH: Tensor) -> "LatentStore":
        """Return the same rows, in which some features are those of copies with hidden parts.

        Args:
            columns: Columns of presence of the H modalities.
            uniform_NH: Draws from [0, 1). Those below `HIDDEN_ROWS` choose one of the copies, the others none.
        """
        num_copies = self.hidden_NKHF.shape[1]
        if not num_copies:
            return self
        features = list(self.h_NMF.unbind(1))
        for k, column in enumerate(columns):
            copy_N = (uniform_NH[:, k] * (num_copies / HIDDEN_ROWS)).long()
            index_N1F = copy_N.clamp_max(num_copies - 1)[:, None, None].expand(-1, 1, self.h_NMF.shape[2])
            hidden_NF = self.hidden_NKHF[:, :, k].gather(1, index_N1F)[:, 0]
            features[column] = torch.where((copy_N < num_copies)[:, None], hidden_NF, features[column])
        return attrs.evolve(self, h_NMF=torch.stack(features, 1))

    @property
    def posterior(self) -> GaussianPosterior:
        """q(z | all that is present) of each row."""
        return GaussianPosterior(self.mean_ND, self.log_var_ND)

    def to(self, device: torch.device, *, copy: bool = False) -> "LatentStore":
        """Return the same rows on a device, with `copy` always in new memory."""
        moved = (to_device(value, device) for value in attrs.astuple(self, recurse=False))
        return LatentStore(*(value.clone() if copy else value for value in moved))


@attrs.frozen(eq=False)
class _ChosenLatents:
    """Some rows of other latents, possibly several times."""

    latents: Latents
    chosen: Tensor

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, rows: Tensor) -> LatentStore:
        return self.latents.take(self.chosen[rows])


def drawn_latents(latents: Latents, weights_N: Tensor | None, seed: int) -> Latents:
    """Return as many latents as there are, each about as often as the weight of its row says; all, without weights."""
    return latents if weights_N is None else _ChosenLatents(latents, weighted_rows(weights_N, seed))


def rows_behind(latents: Latents) -> Tensor:
    """Return the number of the row behind each latent, int64 [N]: `drawn_latents` has some rows several times."""
    return latents.chosen if isinstance(latents, _ChosenLatents) else torch.arange(len(latents))


def join_latents(parts: Sequence[LatentStore]) -> LatentStore:
    """Concatenate rows of several stores."""
    columns = zip(*(attrs.astuple(rows, recurse=False) for rows in parts), strict=True)
    return LatentStore(*(torch.cat(column) for column in columns))


class LatentStatistics(NamedTuple):
    """Moments of a training set's latents and features, in float32.

    Attributes:
        z_mean_D: Mean of z under the aggregate posterior.
        z_covariance_DD: Its covariance.
        h_mean_MF: Means of the features of the rows that have the modality.
        h_std_MF: Their standard deviations.
        num_rows: Number of different rows.
    """

    z_mean_D: Tensor
    z_covariance_DD: Tensor
    h_mean_MF: Tensor
    h_std_MF: Tensor
    num_rows: int


def latent_statistics(latents: Latents) -> LatentStatistics:
    """Return the moments of z under the aggregate posterior, and of the features.

    Sums are in float64 and over a limited number of rows at a time, so memory does not grow with the set.
    """

    def summed(values: Callable[[LatentStore], Sequence[Tensor]]) -> list[Tensor]:
        totals: list[Tensor] = []
        for rows in torch.arange(len(latents)).split(STATISTICS_ROWS):
            sums = values(latents.take(rows))
            totals = [a + b for a, b in zip(totals, sums, strict=True)] if totals else list(sums)
        return totals

    def total(value: Tensor) -> Tensor:
        return value.sum(0, dtype=torch.float64)

    def weights(rows: LatentStore) -> Tensor:
        return rows.presence_NM[:, :, None].to(rows.h_NMF.dtype)

    z_sum_D, variance_sum_D, h_sum_MF, count_M1 = summed(
        lambda rows: (
            total(rows.mean_ND),
            total(rows.log_var_ND.exp()),
            total(rows.h_NMF * weights(rows)),
            total(weights(rows)),
        )
    )
    z_mean_D, h_mean_MF = z_sum_D / len(latents), h_sum_MF / count_M1.clamp_min(1)

    def squares(rows: LatentStore) -> Sequence[Tensor]:
        gap_ND = rows.mean_ND - z_mean_D
        return gap_ND.T @ gap_ND, total((rows.h_NMF - h_mean_MF).square() * weights(rows))

    z_products_DD, h_squares_MF = summed(squares)
    # Cov z = Cov E[z|x] + E Cov[z|x], the law of total covariance.
    z_covariance_DD = (z_products_DD + variance_sum_D.diag()) / len(latents)
    h_std_MF = (h_squares_MF / count_M1.clamp_min(1)).sqrt().clamp_min(1e-4)
    num_rows = len(rows_behind(latents).unique())
    return LatentStatistics(z_mean_D.float(), z_covariance_DD.float(), h_mean_MF.float(), h_std_MF.float(), num_rows)


@torch.no_grad()
def encoded(
    autoencoder: Autoencoder, batches: Iterable[Rows], device: torch.device, *, num_copies: int = 0
) -> Iterator[LatentStore]:
    """Yield the latents of each batch, on the CPU. The autoencoder is in evaluation mode while it encodes.

    Of a posterior that is a mixture a row has one component, picked by its key: whatever the batches, and over rows
    each component as often as its weight says, so that draws of all rows are those of the aggregate posterior.

    Args:
        autoencoder: Trained networks of stage 1.
        batches: Batches of rows.
        device: Device of the autoencoder.
        num_copies: Copies with hidden parts of modalities that hide some in training; of copy k of K, each part is
            hidden with a probability between k / K and (k + 1) / K. The row's key decides what is hidden.
    """
    hiding = autoencoder.hiding if num_copies else {}
    for rows in batches:
        moved = rows.to(device)
        with evaluating(autoencoder):
            h = autoencoder.encode(moved.x)
            posterior = autoencoder.fuse(h, moved.presence).picked(_uniform_of_keys(rows.keys).to(device)).detach()
        h_BMF = torch.stack([h[name] for name in autoencoder.names], 1) * moved.presence[:, :, None]
        store = LatentStore(posterior.mean_BD.cpu(), posterior.log_var_BD.cpu(), h_BMF.cpu(), rows.presence.cpu())
        if hiding:
            with evaluating(autoencoder):
                copies = [_hidden_copies(autoencoder, moved, name, num_copies) for name in hiding.values()]
            hidden_BKHF = torch.stack(copies, 2) * moved.presence[:, None, list(hiding), None]
            store = attrs.evolve(store, hidden_NKHF=hidden_BKHF.cpu())
        yield store


def _hidden_copies(autoencoder: Autoencoder, rows: Rows, name: str, num_copies: int) -> Tensor:
    """Features of copies of a modality with hidden parts: [B, K, F]."""
    x, modality = rows.x[name], autoencoder.modalities[name]
    draws = []
    for key in rows.keys:
        seed = int.from_bytes(hashlib.sha256(f"{name} {key}".encode()).digest()[:8])
        generator = torch.Generator().manual_seed(seed)
        draws.append(torch.rand(num_copies, 1 + x[0].numel(), generator=generator))
    draws_KBU = torch.stack(draws, 1).to(x.device)
    found = []
    for number, draws_BU in enumerate(draws_KBU):
        share_B, uniform = (number + draws_BU[:, 0]) / num_copies, draws_BU[:, 1:].view(x.shape)
        found.append(autoencoder.encode({name: modality.hide(x, share_B, uniform)})[name])
    return torch.stack(found, 1)


def _uniform_of_keys(keys: Sequence[str]) -> Tensor:
    """A number from [0, 1) for each row, which depends on its key alone: [B]."""
    digests = [hashlib.sha256(key.encode()).digest() for key in keys]
    return torch.tensor([int.from_bytes(digest[:3]) / 2**24 for digest in digests])


def latents_of(
    autoencoder: Autoencoder, rows: Rows, device: torch.device, batch_size: int = 64, *, num_copies: int = 0
) -> LatentStore:
    """The latents of rows in memory, on the CPU. `num_copies` is as for `encoded`."""
    return join_latents(list(encoded(autoencoder, rows.split(batch_size), device, num_copies=num_copies)))
