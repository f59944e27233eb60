"""A digest of Python packages' source files, which tells whether what was computed earlier came from the same code."""

import hashlib
import sys
from functools import cache
from pathlib import Path


@cache
def source_digest(*names: str) -> str:
    """Return a digest of the source files of imported packages, whose order has no effect.

    Args:
        names: Top-level packages or modules. One without files, such as `__main__` of an interactive session, counts
            by its name.
    """
    digest = hashlib.sha256()
    for name in sorted(set(names)):
        digest.update(name.encode())
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None:
            continue
        path = Path(file)
        files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
        for source in files:
            digest.update(source.relative_to(path.parent).as_posix().encode())
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
