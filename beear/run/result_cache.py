"""Caches results in the staging folder, so that a resumed run measures nothing twice."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

T = TypeVar("T", bound=BaseModel)


def once(path: Path, kind: type[T], make: Callable[[], T]) -> T:
    """Return what ``path`` holds, or make it and write it there, whole or not at all."""
    if path.exists():
        return kind.model_validate_json(path.read_text())
    made = make()
    # Two runs may make the same at once.
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    partial.write_text(made.model_dump_json())
    partial.replace(path)
    return made
