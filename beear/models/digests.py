"""Digests of a checkpoint's files, for the report, the registry and the run's identity."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path


def file_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file, streamed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_digest(files: Iterable[tuple[str, Path]]) -> str:
    """Return the sha256 (hex) over ``<sha256>  <name>`` lines in name order.

    It is what ``sha256sum FILES | sha256sum`` prints for files given in name order from inside their folder.
    """
    return combined({name: file_digest(path) for name, path in files})


def combined(found: Mapping[str, str]) -> str:
    """Return the sha256 (hex) over ``<digest>  <name>`` lines in name order."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(found.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def template_digest(templates: dict[str, str]) -> str:
    """Return the sha256 (hex) of the only template's UTF-8 text, of a manifest where there are several, or ``none``."""
    if not templates:
        return "none"
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in templates.items()}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return combined(digests)
