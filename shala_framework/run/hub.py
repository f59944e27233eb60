"""Models on the Hugging Face Hub, by the names of their repositories.

Only checkpoints (safetensors) and spec.json are fetched, by these names. Nothing that is fetched is executed or
unpickled, and `load` verifies it as it does the files of any folder.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from shala_framework.model import STAGES, checkpoint_file
from shala_framework.plugin.pretrained import import_library
from shala_framework.run.files import SPEC_FILE
from shala_framework.support.errors import CheckpointError, DataError
from shala_framework.support.hints import shortened

SCHEME = "hf://"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w./-]{0,254}", re.ASCII)


@attrs.frozen(kw_only=True)
class HubName:
    """A repository of models on the Hub.

    Attributes:
        repository: Owner and name, such as "me/digits".
        revision: Branch, tag or commit; None is the main branch.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision is not None else "")


def is_hub_name(run: str | Path) -> bool:
    """Return whether this is the name of a repository instead of a folder."""
    return isinstance(run, str) and run.startswith(SCHEME)


def parse_hub_name(text: str) -> HubName:
    """Parse `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`.

    Raises:
        DataError: The text has another form.
    """
    name, at, revision = text.removeprefix(SCHEME).partition("@")
    wrong = not text.startswith(SCHEME) or not _NAME.fullmatch(name) or bool(at and not _REVISION.fullmatch(revision))
    if wrong:
        raise DataError(
            f"expected {SCHEME}OWNER/NAME or {SCHEME}OWNER/NAME@REVISION, such as {SCHEME}me/digits@v1, got "
            f"{shortened(text)}"
        )
    return HubName(repository=name, revision=revision or None)


def local_folder(run: str | Path) -> Path:
    """Return the folder of a run; one on the Hub is fetched into the Hub's cache first.

    Raises:
        DataError: huggingface_hub is not installed, or the name has a wrong form.
        CheckpointError: There is no such repository or revision, it has no model, or it cannot be reached.
    """
    return fetch(parse_hub_name(run)) if isinstance(run, str) and is_hub_name(run) else Path(run)


def fetch(name: HubName) -> Path:
    """Fetch the files of a model that are not in the Hub's cache yet, and return their folder, which is read-only.

    Without network, files that were fetched before are used.

    Raises:
        DataError: huggingface_hub is not installed.
        CheckpointError: There is no such repository or revision, it has no model, or it cannot be reached.
    """
    hub, errors = hub_library(name), hub_library(name, ".errors")
    with explained(name):
        first = Path(_fetch_file(hub, name, checkpoint_file(Path(), STAGES[0]).name))
        commit = attrs.evolve(name, revision=first.parent.name)  # all files of one commit
        for file in (SPEC_FILE, *(checkpoint_file(Path(), stage).name for stage in STAGES[1:])):
            if hub.try_to_load_from_cache(name.repository, file, revision=commit.revision) is hub._CACHED_NO_EXIST:
                continue
            try:
                _fetch_file(hub, commit, file)
            except errors.RemoteEntryNotFoundError:
                continue  # a model without this stage, or one that was saved without a spec.json
    return first.parent


def hub_library(name: HubName, part: str = "") -> Any:
    """Import the library of the Hub, or a part of it such as ".errors"; DataError where it is not installed."""
    return import_library(f"huggingface_hub{part}", str(name), "shala-framework[hub]")


def hub_endpoint() -> str | None:
    """Return the address of the Hub that the environment names; None is the public one."""
    return os.environ.get("HF_ENDPOINT") or None


def _fetch_file(hub: Any, name: HubName, file: str) -> str:
    path: str = hub.hf_hub_download(
        name.repository, file, revision=name.revision, endpoint=hub_endpoint(), library_name="shala_framework"
    )
    return path


@contextmanager
def explained(name: HubName) -> Iterator[None]:
    """Turn what the library raises into an error that says what to do."""
    errors, where = hub_library(name, ".errors"), hub_endpoint() or hub_library(name, ".constants").ENDPOINT
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{name}: the repository has no revision {name.revision!r}; check its name") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name}: expected a repository that you may use on {where}, found none; check its name, or log in with "
            "`hf auth login`"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise CheckpointError(
            f"{name} is no model of shala_framework: it has no {checkpoint_file(Path(), STAGES[0])}; `shala push` "
            "makes such a repository"
        ) from error
    except errors.HfHubHTTPError as error:
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{name}: {where} refused: {text}; log in with `hf auth login`, with a token that may do this"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.HTTPError, OSError) as error:
        reason = error.__cause__ or error
        raise CheckpointError(
            f"{name}: cannot reach {where}, and its files are not in the cache: {str(reason).strip()[:300]}; check the "
            "network, or fetch the model where there is one"
        ) from error
