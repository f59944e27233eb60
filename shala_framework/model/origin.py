"""The record of stages that a run took from another run in place of training them."""

from pathlib import Path

import attrs

from shala_framework.support.checkpoint import write_file
from shala_framework.support.errors import CheckpointError
from shala_framework.support.json_files import dump_json, read_json

ORIGIN_FILE = "taken.json"


@attrs.frozen(kw_only=True)
class StageOrigin:
    """The source of stages that a run took from another one.

    Attributes:
        source: Folder of the run that trained them, as it was named on the command line.
        stages: The stages.
        source_fingerprint: Fingerprint of that run.
        autoencoder_digest: Digest of the weights of stage 1.
    """

    source: str
    stages: tuple[str, ...]
    source_fingerprint: str
    autoencoder_digest: str

    def describe(self) -> str:
        """The origin in a few words, such as "autoencoder from runs/a"."""
        return f"{' and '.join(self.stages)} from {self.source} (run {self.source_fingerprint[:8]})"


def read_origin(folder: Path) -> StageOrigin | None:
    """Read where stages of a run come from; None if the run trained all of them.

    Raises:
        CheckpointError: The record is damaged.
    """
    path = folder / ORIGIN_FILE
    if not path.exists():
        return None
    shape = {"source": str, "stages": [str], "source_fingerprint": str, "autoencoder_digest": str}
    found = read_json(path, shape, error=CheckpointError, advice="remove it to forget where stages were taken from")
    return StageOrigin(**{key: found[key] for key in shape if key != "stages"}, stages=tuple(found["stages"]))


def write_origin(folder: Path, origin: StageOrigin) -> None:
    """Write the record into the folder of a run."""
    write_file(folder / ORIGIN_FILE, dump_json(attrs.asdict(origin), indent=2))
