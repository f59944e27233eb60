"""Find, load and check only the plugins that a spec names.

An entry point of the group `shala.plugins` has the name of the one modality, data set, method or tracker that it
offers. A name therefore leads to its distribution without importing other plugins.
"""

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import attrs
import pluggy

from shala_framework.plugin import hookspecs
from shala_framework.plugin.dataset import Dataset
from shala_framework.plugin.modality import Modality
from shala_framework.plugin.posterior import PosteriorMethod
from shala_framework.plugin.tracker import Tracker
from shala_framework.support.errors import PluginError
from shala_framework.support.hints import nearest, shortened

GROUP = "shala.plugins"
HOOKS: dict[str, type[Any]] = {  # the class that each hook registers
    "shala_register_modalities": Modality,
    "shala_register_datasets": Dataset,
    "shala_register_posteriors": PosteriorMethod,
    "shala_register_trackers": Tracker,
}
NOUNS: dict[type[Any], str] = {
    Modality: "modality",
    Dataset: "data set",
    PosteriorMethod: "method",
    Tracker: "tracker",
}
AnyPlugin = type[Modality] | type[Dataset] | type[PosteriorMethod] | type[Tracker]
T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Offer:
    """An installed entry point: its name, distribution, version and module."""

    name: str
    distribution: str
    version: str
    module: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


def installed_offers() -> list[Offer]:
    """List every entry point of the group, sorted by name, without importing any."""
    offers = {_offer(entry) for entry in entry_points(group=GROUP)}
    return sorted(offers, key=lambda offer: (offer.name, offer.distribution))


def _offer(entry: EntryPoint) -> Offer:
    dist = entry.dist
    name, version = (dist.name, dist.version) if dist is not None else ("unknown distribution", "")
    return Offer(name=entry.name, distribution=name, version=version, module=entry.value)


def load_modality(name: str) -> type[Modality]:
    """Return the Modality class that an installed plugin registers under name.

    Raises:
        PluginError: No plugin or several plugins offer it, its import fails, or the class does not keep the contract.
    """
    found: type[Modality] = _checked(name, Modality, *_registered(name))
    return found


def load_dataset(name: str) -> type[Dataset]:
    """Return the Dataset class that an installed plugin registers under name.

    Raises:
        PluginError: No plugin or several plugins offer it, its import fails, or the class does not keep the contract.
    """
    found: type[Dataset] = _checked(name, Dataset, *_registered(name))
    return found


def load_method(name: str) -> type[PosteriorMethod]:
    """Return the PosteriorMethod class that an installed plugin registers under name.

    Raises:
        PluginError: No plugin or several plugins offer it, its import fails, or the class does not keep the contract.
    """
    found: type[PosteriorMethod] = _checked(name, PosteriorMethod, *_registered(name))
    return found


def load_tracker(name: str) -> type[Tracker]:
    """Return the Tracker class that an installed plugin registers under name.

    Raises:
        PluginError: No plugin or several plugins offer it, its import fails, or the class does not keep the contract.
    """
    found: type[Tracker] = _checked(name, Tracker, *_registered(name))
    return found


def name_of_class(found: type[Any]) -> str:
    """Return the name under which an installed distribution offers a class, or else the class's dotted name."""
    module = found.__module__
    for offer in installed_offers():
        if module == offer.module or module.startswith(f"{offer.module.partition(':')[0]}."):
            registered = _registered(offer.name)[1]
            names = [name for classes in registered.values() for name, other in classes.items() if other is found]
            if names:
                return names[0]
    return f"{module}.{found.__qualname__}"


def load_offer(name: str) -> AnyPlugin:
    """Return the class that an installed plugin registers under name, of any kind.

    Raises:
        PluginError: As for the loaders of each kind.
    """
    offer, registered = _registered(name)
    contract = next((kind for kind in HOOKS.values() if name in registered[kind]), Modality)
    found: AnyPlugin = _checked(name, contract, offer, registered)
    return found


def kind_of(found: AnyPlugin) -> str:
    """Return the kind of a plugin's class: "modality", "data set", "method" or "tracker"."""
    return next(noun for contract, noun in NOUNS.items() if issubclass(found, contract))


def _checked(name: str, contract: type[Any], offer: Offer, registered: Mapping[type[Any], dict[str, Any]]) -> Any:
    """Return the class registered under name after checking the basics of its contract."""
    other = next((kind for kind, classes in registered.items() if name in classes), None)
    if name not in registered[contract] and other is not None:
        raise PluginError(f"{name!r} is a {NOUNS[other]} (of {offer}), not a {NOUNS[contract]}")
    if name not in registered[contract]:
        others = [f"the {NOUNS[kind]} {other!r}" for kind, classes in registered.items() for other in sorted(classes)]
        raise PluginError(
            f"{offer}: expected its entry point {name!r} to register a {NOUNS[contract]} under that name, "
            f"got {' and '.join(others) or 'nothing'}"
        )
    found = registered[contract][name]
    if not (isinstance(found, type) and issubclass(found, contract)):
        got = f"the class {found.__name__}" if isinstance(found, type) else f"a value of type {type(found).__name__}"
        raise PluginError(f"{offer}: expected a subclass of {contract.__name__} for {name!r}, got {got}")
    abstract = sorted(getattr(found, "__abstractmethods__", ()))
    if abstract:
        raise PluginError(f"{offer}: {found.__name__} does not implement {', '.join(abstract)} of {contract.__name__}")
    options = getattr(found, "Options", None)
    if not (isinstance(options, type) and attrs.has(options)):
        raise PluginError(f"{offer}: expected {found.__name__}.Options to be an attrs class, got {options!r}")
    if issubclass(found, Dataset):
        _check_samples(offer, found)
    return found


def _check_samples(offer: Offer, found: type[Dataset]) -> None:
    """Refuse a data set if its `samples` cannot be called with a source and an account."""
    signature = inspect.signature(found.samples)
    try:
        signature.bind("self", "source", "account")
    except TypeError:
        raise PluginError(
            f"{offer}: expected {found.__name__}.samples(self, source, account), got {signature}"
        ) from None


def _registered(name: str) -> tuple[Offer, dict[type[Any], dict[str, Any]]]:
    """Import the entry point of a name and collect the classes that its hooks register."""
    offer, entry = _find(name)
    plugin = _attempt(offer, f"importing {offer.module!r} failed", entry.load)
    _check_hooks(offer, plugin)
    manager = pluggy.PluginManager("shala")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name=offer.distribution)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{offer}: {error}") from error
    found: dict[type[Any], dict[str, Any]] = {contract: {} for contract in HOOKS.values()}
    for hook, contract in HOOKS.items():

        def register(name: str, value: Any, classes: dict[str, Any] = found[contract]) -> None:
            if name in classes:
                raise PluginError(f"{offer} registers {name!r} twice")
            classes[name] = value

        def call(hook: str = hook, register: Callable[..., None] = register) -> Any:
            return getattr(manager.hook, hook)(register=register)

        _attempt(offer, f"its hook {hook} failed", call)
    return offer, found


def _find(name: str) -> tuple[Offer, EntryPoint]:
    entries = {_offer(entry): entry for entry in entry_points(group=GROUP) if entry.name == name}
    if not entries:
        hint = nearest(name, {offer.name for offer in installed_offers()}, "plugins")
        own = "; a class of your own is an argument: load(folder, classes=[...])" if "." in name else ""
        raise PluginError(f"no installed plugin offers {shortened(name)}; install the package that does ({hint}){own}")
    if len(entries) > 1:
        owners = " and ".join(sorted(str(offer) for offer in entries))
        raise PluginError(f"expected one distribution that offers {name!r}, got {owners}; uninstall all but one")
    ((offer, entry),) = entries.items()
    return offer, entry


def _attempt(offer: Offer, failure: str, action: Callable[[], T]) -> T:
    """Run a plugin's own code and name the plugin in the error if it fails."""
    try:
        return action()
    except PluginError:
        raise
    except Exception as error:
        raise PluginError(f"{offer}: {failure}: {type(error).__name__}: {error}") from error


def _check_hooks(offer: Offer, plugin: Any) -> None:
    """Refuse a function that looks like a hook but would never be called; pluggy sees only marked functions."""
    for name, function in inspect.getmembers(plugin, inspect.isroutine):
        marks = getattr(function, "shala_impl", None)
        hook = (marks and marks.get("specname")) or name
        if hook not in HOOKS and (marks is not None or name.startswith("shala_")):
            raise PluginError(f"{offer}: unknown hook {hook!r} ({nearest(hook, HOOKS, 'hooks')})")
        if marks is None and name in HOOKS:
            raise PluginError(f"{offer}: expected the hook {name!r} to be marked with @hookimpl, got a plain function")
