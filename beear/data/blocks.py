"""A piece of a file that can be read on its own, anywhere."""

from dataclasses import dataclass, replace
from typing import Literal, Self

Format = Literal["jsonl", "json", "csv", "parquet"]


@dataclass(frozen=True)
class Block:
    """Bytes ``start`` to ``stop`` of a JSONL or CSV file, a whole JSON file, or one parquet row group.

    For parquet ``start`` and ``stop`` are row numbers, and ``group`` is the row group. ``size`` is in bytes.
    ``index`` counts the blocks of one data set.
    """

    path: str
    format: Format
    start: int
    stop: int
    index: int = 0
    size: int = 0
    group: int = 0

    def numbered(self, index: int) -> Self:
        """Return the same block with its number in the data set."""
        return replace(self, index=index)
