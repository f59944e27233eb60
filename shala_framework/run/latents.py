"""The latents of the training rows between the stages: encoded once by all processes, then in memory or in files."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from shala_framework.data.latent_files import BATCH_ROWS, LatentFiles, finish_latents, write_latents
from shala_framework.data.latent_store import NUM_COPIES, Latents, LatentStore, encoded, join_latents
from shala_framework.model import ShaLa
from shala_framework.run.data import TrainingData
from shala_framework.run.folder import RunFolder
from shala_framework.support.distributed import processes
from shala_framework.support.errors import CheckpointError
from shala_framework.support.progress import Reporter
from shala_framework.support.seeds import forked_rng

MOST_LATENT_BYTES = 4 * 2**30  # latents that take more memory are read from their files
FEATURES_DTYPE = torch.bfloat16  # of the features in these files


def latents_of_training(
    model: ShaLa, data: TrainingData, folder: RunFolder | None, device: torch.device, reporter: Reporter
) -> Latents:
    """Return posterior and features of all training rows. Each process encodes and writes a share.

    Args:
        model: Model with stage 1 trained.
        data: The rows.
        folder: Folder of the run, which keeps the latents; None keeps them in memory.
        device: Device of the model.
        reporter: Receives progress.
    """
    encode = partial(_encoded, model, data, device)
    if folder is None:
        reporter.begin("latents", None, "row")
        latents = join_latents(list(encode(BATCH_ROWS, 0)))
        reporter.finish()
        return latents.to(device)
    place, size = folder.latents, processes.world_size()
    name = f"{model.fingerprint}-{model.autoencoder_digest()}"
    files = _read(place, name, reporter) if LatentFiles.exist(place) else None
    if files is None:
        many = (data.num_train_rows() or 0) * _row_bytes(model) > MOST_LATENT_BYTES
        reporter.begin("latents", None, "row")
        with forked_rng():  # worker processes are seeded from it
            write_latents(
                place,
                processes.rank(),
                size,
                encode,
                reporter.advance,
                fingerprint=name,
                features_dtype=FEATURES_DTYPE if many else torch.float32,
            )
        reporter.finish()
        processes.barrier()
        if processes.rank() == 0:
            finish_latents(place, size, fingerprint=name)
        processes.barrier()
        files = LatentFiles(place, fingerprint=name)
    if files.num_bytes > MOST_LATENT_BYTES:
        reporter.note(f"latents: {files.num_bytes / 2**30:.1f} GiB are read from {place} as they are needed")
        return files
    return files.take(torch.arange(len(files))).to(device)


def _row_bytes(model: ShaLa) -> int:
    """Return the number of bytes of a row's latents in memory."""
    table, num_modalities = model.spec.posterior, len(model.names)
    num_features = num_modalities + NUM_COPIES * len(model.autoencoder.hiding)
    return 4 * (2 * table.latent_dim + num_features * table.feature_dim) + num_modalities


def _encoded(
    model: ShaLa, data: TrainingData, device: torch.device, num_rows: int, start: int
) -> Iterator[LatentStore]:
    return encoded(model.autoencoder, data.in_order(num_rows, start), device, num_copies=NUM_COPIES)


def _read(folder: Path, name: str, reporter: Reporter) -> LatentFiles | None:
    """Read the latents of an earlier call. If a process finds them damaged, remove them and return None."""
    files, reason = None, "another process found them damaged"
    try:
        files = LatentFiles(folder, fingerprint=name)
    except CheckpointError as error:
        reason = str(error)
    processes.barrier()  # each process reads them at its own pace
    (damaged,) = processes.any_process((files is None,))
    if not damaged:
        return files
    reporter.warn(f"{reason}\nthe training set is encoded again")
    if processes.rank() == 0:
        shutil.rmtree(folder)
    processes.barrier()
    return None
