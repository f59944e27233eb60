"""Finds, loads and checks the plugins that a spec names, and no other.

An entry point of the group `shala.plugins` bears the name of the one modality or data set that it offers, so that
a name leads to its distribution without importing anything else.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import attrs
import pluggy

from shala_framework import hookspecs
from shala_framework.dataset import Dataset
from shala_framework.errors import PluginError
from shala_framework.modality import Modality
from shala_framework.spec.structuring import nearest

GROUP = "shala.plugins"
T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Offer:
    """An installed entry point: what it is called, who ships it and where its code is."""

    name: str
    distribution: str
    version: str
    module: str


def installed_offers() -> list[Offer]:
    """Every entry point of the group, without importing one, sorted by name."""
    offers = {_offer(entry) for entry in entry_points(group=GROUP)}
    return sorted(offers, key=lambda offer: (offer.name, offer.distribution))


def _offer(entry: EntryPoint) -> Offer:
    dist = entry.dist
    name, version = (dist.name, dist.version) if dist is not None else ("unknown distribution", "")
    return Offer(name=entry.name, distribution=name, version=version, module=entry.value)


def load_modality(name: str) -> type[Modality]:
    """The Modality class that an installed plugin registers under name.

    Raises:
        PluginError: None or several offer it, its import fails, or it is not a sound Modality.
    """
    return _load(name, Modality, "modality")


def load_dataset(name: str) -> type[Dataset]:
    """The Dataset class that an installed plugin registers under name.

    Raises:
        PluginError: None or several offer it, its import fails, or it is not a sound Dataset.
    """
    return _load(name, Dataset, "data set")


def _load(name: str, contract: type[T], noun: str) -> type[T]:
    entries = {_offer(entry): entry for entry in entry_points(group=GROUP) if entry.name == name}
    if not entries:
        hint = nearest(name, {offer.name for offer in installed_offers()}, "plugins")
        raise PluginError(f"no installed plugin offers {name!r}; {hint}; install the package that offers it")
    if len(entries) > 1:
        owners = " and ".join(sorted(f"{offer.distribution} {offer.version}" for offer in entries))
        raise PluginError(f"{owners} both offer {name!r}; uninstall one of them")
    ((offer, entry),) = entries.items()
    registered = _registered(offer, entry)[contract is Dataset]
    if name not in registered:
        raise PluginError(
            f"{offer.distribution}: its entry point {name!r} registers no {noun} of that name, "
            f"only {sorted(registered) or 'nothing'}"
        )
    found = registered[name]
    if not (isinstance(found, type) and issubclass(found, contract)):
        raise PluginError(f"{offer.distribution}: {name!r} is {found!r}; expected a subclass of {contract.__name__}")
    abstract = sorted(getattr(found, "__abstractmethods__", ()))
    if abstract:
        raise PluginError(f"{offer.distribution}: {found.__name__} lacks {', '.join(abstract)}")
    options = getattr(found, "Options", None)
    if not (isinstance(options, type) and attrs.has(options)):
        raise PluginError(f"{offer.distribution}: {found.__name__}.Options must be an attrs class, got {options!r}")
    return found


def _registered(offer: Offer, entry: EntryPoint) -> tuple[dict[str, Any], dict[str, Any]]:
    """Import one entry point and collect the modalities and the data sets that it registers."""
    try:
        module = entry.load()
    except Exception as error:  # whatever a plugin's import raises is that plugin's fault and is named as such
        raise PluginError(
            f"{offer.distribution} {offer.version}: importing {offer.module!r} failed: {type(error).__name__}: {error}"
        ) from error
    manager = pluggy.PluginManager("shala")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, name=offer.distribution)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{offer.distribution}: {error}") from error
    found: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for hook, names in zip(("shala_register_modalities", "shala_register_datasets"), found, strict=True):

        def register(name: str, value: Any, names: dict[str, Any] = names) -> None:
            if name in names:
                raise PluginError(f"{offer.distribution} registers {name!r} twice")
            names[name] = value

        getattr(manager.hook, hook)(register=register)
    return found
