"""Caches results in the staging folder, so that a resumed run measures nothing twice."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from beear.files import write_text

T = TypeVar("T", bound=BaseModel)


def once(path: Path, kind: type[T], make: Callable[[], T]) -> T:
    """Return the result that the file ``path`` holds, or ``make`` it and write it there."""
    if path.exists():
        return kind.model_validate_json(path.read_bytes())
    made = make()
    write_text(path, made.model_dump_json())
    return made
