"""Data sets of aligned modalities, read from a folder of raw files or generated."""

from typing import Any

from shala_datasets.cub import CUB
from shala_datasets.digits import Digits
from shala_datasets.emoji import Emoji
from shala_datasets.folder import Folder
from shala_datasets.huggingface import HuggingFace
from shala_datasets.mfeat import MultipleFeatures
from shala_datasets.mimic_cxr import MIMICCXR
from shala_datasets.ntu import NTU
from shala_datasets.ntu_synthetic import NTUSynthetic
from shala_datasets.nw_ucla import NWUCLA
from shala_datasets.polymnist import PolyMNIST
from shala_datasets.polymnist_quadrant import PolyMNISTQuadrant
from shala_datasets.ucf101 import UCF101
from shala_framework.plugin import hookimpl

__all__ = [
    "CUB", "Digits", "Emoji", "Folder", "HuggingFace", "MIMICCXR", "MultipleFeatures", "NTU", "NTUSynthetic", "NWUCLA",
    "PolyMNIST", "PolyMNISTQuadrant", "UCF101", "shala_register_datasets",
]  # fmt: skip


@hookimpl
def shala_register_datasets(register: Any) -> None:
    """Register the data sets with the core."""
    register("cub", CUB)
    register("digits", Digits)
    register("emoji", Emoji)
    register("folder", Folder)
    register("huggingface", HuggingFace)
    register("mfeat", MultipleFeatures)
    register("mimic-cxr", MIMICCXR)
    register("ntu", NTU)
    register("ntu-synthetic", NTUSynthetic)
    register("nw-ucla", NWUCLA)
    register("polymnist", PolyMNIST)
    register("polymnist-quadrant", PolyMNISTQuadrant)
    register("ucf101", UCF101)
