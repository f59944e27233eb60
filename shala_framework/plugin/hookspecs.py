"""The plugin interface: four hooks, offered through the entry-point group `shala.plugins`."""

from typing import TYPE_CHECKING, Protocol

import pluggy

if TYPE_CHECKING:
    from shala_framework.plugin.dataset import Dataset
    from shala_framework.plugin.modality import Modality
    from shala_framework.plugin.posterior import PosteriorMethod
    from shala_framework.plugin.tracker import Tracker

hookspec = pluggy.HookspecMarker("shala")
hookimpl = pluggy.HookimplMarker("shala")


class RegisterModality(Protocol):
    """Registers a Modality class under a name."""

    def __call__(self, name: str, modality: "type[Modality]") -> None: ...


class RegisterDataset(Protocol):
    """Registers a Dataset class under a name."""

    def __call__(self, name: str, dataset: "type[Dataset]") -> None: ...


class RegisterPosterior(Protocol):
    """Registers a PosteriorMethod class under a name."""

    def __call__(self, name: str, method: "type[PosteriorMethod]") -> None: ...


class RegisterTracker(Protocol):
    """Registers a Tracker class under a name."""

    def __call__(self, name: str, tracker: "type[Tracker]") -> None: ...


@hookspec
def shala_register_modalities(register: RegisterModality) -> None:
    """Call `register("skeleton", Skeleton)` for each Modality class that the plugin offers."""


@hookspec
def shala_register_datasets(register: RegisterDataset) -> None:
    """Call `register("ntu", NTU)` for each Dataset class that the plugin offers."""


@hookspec
def shala_register_posteriors(register: RegisterPosterior) -> None:
    """Call `register("average", Average)` for each PosteriorMethod class that the plugin offers."""


@hookspec
def shala_register_trackers(register: RegisterTracker) -> None:
    """Call `register("tensorboard", TensorBoard)` for each Tracker class that the plugin offers."""
