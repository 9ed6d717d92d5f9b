"""Reads files of an untrusted folder: they must lie inside it, be small enough, and be valid UTF-8 or JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beear.errors import UserError

MEGABYTE = 1 << 20


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return the first names for a sentence, with a sign that there are more."""
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")


def _root(folder: Path) -> Path:
    """Return the directory that links inside ``folder`` may point into.

    A hub cache keeps each snapshot as links into ``blobs`` beside it, so a snapshot's root is its cache entry.
    """
    resolved = folder.resolve()
    for parent in resolved.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return parent.parent
    return resolved


def inside(folder: Path, name: str, where: str) -> Path:
    """Return ``folder/name`` once it is known to be a plain name whose target lies in the folder.

    Raises:
        UserError: the name has a separator or climbs out, or the file is a link that leaves the folder or leads nowhere.
    """
    if not name or name in {".", ".."} or "/" in name or "\\" in name or "\0" in name:
        raise UserError(f"{where}: found the file name {name[:200]!r}, expected a plain name inside the folder")
    path = folder / name
    try:
        leaves = path.is_symlink() and not path.resolve().is_relative_to(_root(folder))
    # A loop of links is a RuntimeError in Python 3.11 and an OSError in others.
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: found a link that cannot be followed, expected a file inside the folder") from error
    if leaves:
        raise UserError(f"{path}: found a link that leaves the folder, expected a file inside it")
    return path


def read_text(path: Path, limit: int) -> str:
    """Return the UTF-8 text of a file of at most ``limit`` bytes.

    Raises:
        UserError: missing, unreadable, too big, or not UTF-8.
    """
    try:
        if not path.is_file():
            found = "no regular file" if path.exists() else "no such file"
            raise UserError(f"{path}: found {found}, expected a readable file")
        size = path.stat().st_size
        if size > limit:
            raise UserError(f"{path}: found {size:,} bytes, expected at most {limit:,}")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: could not be read ({error.strerror}), expected a readable file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: found bytes that are not UTF-8 at offset {error.start}, expected UTF-8 text") from error


def read_object(path: Path, limit: int) -> dict[str, Any]:
    """Return the JSON object in a file of at most ``limit`` bytes.

    Raises:
        UserError: as :func:`read_text`, or the text is not a JSON object.
    """
    text = read_text(path, limit)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: found broken JSON at line {error.lineno} column {error.colno} ({error.msg}), expected a JSON object"
        ) from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: found JSON nested too deeply or with absurd numbers, expected a JSON object") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: found a JSON {type(value).__name__}, expected an object")
    return value
