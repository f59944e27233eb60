"""The model: its stages assembled, and the files that hold them."""

from shala_framework.model.checkpoints import STAGES, checkpoint_checksums, checkpoint_file
from shala_framework.model.shala import PriorName, ShaLa

__all__ = ["STAGES", "PriorName", "ShaLa", "checkpoint_checksums", "checkpoint_file"]
