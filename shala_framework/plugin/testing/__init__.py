"""Contract tests that the test class of every modality plugin inherits.

    class TestVideo(ModalitySuite):
        modality = Video
        options = {"frames": 4, "height": 16, "width": 16}

        def sample_fields(self, index: int) -> dict[str, bytes]:
            return {"mp4": encode_mp4(a_small_clip(index), 8.0)}

Choose small options to keep it fast: the suite trains the networks for a few dozen steps.
"""

import importlib.util

if importlib.util.find_spec("pytest") is None:
    raise ModuleNotFoundError(
        "shala_framework.plugin.testing needs pytest, which is not installed; run: pip install pytest", name="pytest"
    )

from shala_framework.plugin.testing.augmenting import AugmentingTests
from shala_framework.plugin.testing.damage import damage
from shala_framework.plugin.testing.densities import DensityTests
from shala_framework.plugin.testing.networks import NetworkTests
from shala_framework.plugin.testing.reading import ReadingTests
from shala_framework.plugin.testing.refining import RefiningTests
from shala_framework.plugin.testing.training import TrainingTests

__all__ = ["ModalitySuite", "damage"]


class ModalitySuite(ReadingTests, NetworkTests, DensityTests, RefiningTests, TrainingTests, AugmentingTests):
    """Tests that every modality must pass. A plugin's test class sets the attributes described in `Subject`."""
