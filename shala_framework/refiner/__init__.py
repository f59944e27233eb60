"""Stage 3: a conditional diffusion of the detail that the decoder's mean leaves out."""

from shala_framework.refiner.contracts import check_refiner
from shala_framework.refiner.likelihood import Refined
from shala_framework.refiner.linear import LinearFilter
from shala_framework.refiner.model import Refinement, Refiner
from shala_framework.refiner.residuals import ResidualUnit

__all__ = ["LinearFilter", "Refined", "Refinement", "Refiner", "ResidualUnit", "check_refiner"]
