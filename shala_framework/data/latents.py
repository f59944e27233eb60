"""The latent store: what stage 2 needs of the training set, so that it never touches encoders or media again.

Shapes: N rows, B batch, M modalities, F feature_dim, D latent_dim.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

import attrs
import torch
from torch import Tensor

from shala_framework.autoencoder import Autoencoder
from shala_framework.checkpoint import read_checkpoint, write_checkpoint
from shala_framework.data.rows import Rows


@attrs.frozen(eq=False)
class LatentStore:
    """Posterior and features of every training row.

    Attributes:
        mean_ND: Mean of q(z | all that is present).
        log_var_ND: Its log-variance.
        h_NMF: Features; zeros where a modality is missing.
        presence_NM: bool.
    """

    mean_ND: Tensor
    log_var_ND: Tensor
    h_NMF: Tensor
    presence_NM: Tensor

    def __len__(self) -> int:
        return len(self.mean_ND)

    def sample(self, rows: Tensor, noise_BD: Tensor | None = None) -> Tensor:
        """Draws z [B, D] of the posteriors of some rows, from torch's global generator or of given normal noise."""
        mean_BD = self.mean_ND[rows]
        noise_BD = torch.randn_like(mean_BD) if noise_BD is None else noise_BD
        return mean_BD + torch.exp(0.5 * self.log_var_ND[rows]) * noise_BD

    def statistics(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and standard deviation of z [D] under the aggregate posterior, and of the features [M, F]."""
        # Var z = Var E[z|x] + E Var[z|x], the law of total variance.
        z_std_D = (self.mean_ND.var(0, correction=0) + self.log_var_ND.exp().mean(0)).sqrt().clamp_min(1e-6)
        weights_NM1 = self.presence_NM[:, :, None].to(self.h_NMF.dtype)
        count_M1 = weights_NM1.sum(0).clamp_min(1)
        h_mean_MF = (self.h_NMF * weights_NM1).sum(0) / count_M1
        h_var_MF = ((self.h_NMF - h_mean_MF).square() * weights_NM1).sum(0) / count_M1
        return self.mean_ND.mean(0), z_std_D, h_mean_MF, h_var_MF.sqrt().clamp_min(1e-4)

    def to(self, device: torch.device) -> "LatentStore":
        """The same store on a device."""
        return LatentStore(*(value.to(device) for value in attrs.astuple(self, recurse=False)))

    def save(self, path: Path) -> None:
        """Write the store as a safetensors file."""
        write_checkpoint(path, attrs.asdict(self, recurse=False), {"kind": "latents"})

    @classmethod
    def load(cls, path: Path) -> "LatentStore":
        """Read what `save` wrote.

        Raises:
            CheckpointError: There is no such file or it is damaged.
        """
        tensors, _ = read_checkpoint(path)
        return cls(**tensors)


@torch.no_grad()
def collect_latents(
    autoencoder: Autoencoder,
    batches: Iterable[Rows],
    device: torch.device,
    on_rows: Callable[[int], None] = lambda _: None,
) -> LatentStore:
    """Encode every row once.

    Args:
        autoencoder: Trained; it is put into evaluation mode.
        batches: Every row of the training set exactly once.
        device: Where the autoencoder is.
        on_rows: Called with the number of rows done so far.
    """
    autoencoder.eval()
    parts: list[tuple[Tensor, ...]] = []
    done = 0
    for rows in batches:
        moved = rows.to(device)
        h = autoencoder.encode(moved.x)
        posterior = autoencoder.fuse(h, moved.presence)
        h_BMF = torch.stack([h[name] for name in autoencoder.names], 1) * moved.presence[:, :, None]
        parts.append((posterior.mean_BD.cpu(), posterior.log_var_BD.cpu(), h_BMF.cpu(), rows.presence))
        done += len(rows)
        on_rows(done)
    if not parts:  # a process whose share is empty
        num, dim, feature_dim = len(autoencoder.names), autoencoder.latent_dim, autoencoder.feature_dim
        presence = torch.zeros(0, num, dtype=torch.bool)
        return LatentStore(torch.zeros(0, dim), torch.zeros(0, dim), torch.zeros(0, num, feature_dim), presence)
    return LatentStore(*(torch.cat(column) for column in zip(*parts, strict=True)))


def by_turns(parts: Sequence[LatentStore], num_rows: int) -> LatentStore:
    """One store of several, which have batches of so many rows by turns: the first from the first, and so on."""
    columns = []
    for column in zip(*(attrs.astuple(part, recurse=False) for part in parts), strict=True):
        batches = [tensor.split(num_rows) if len(tensor) else () for tensor in column]
        columns.append(torch.cat([batch for turn in zip_longest(*batches) for batch in turn if batch is not None]))
    return LatentStore(*columns)
