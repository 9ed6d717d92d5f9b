"""A piece of a file that can be read on its own, anywhere."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self

Format = Literal["jsonl", "json", "csv", "parquet"]


@dataclass(frozen=True)
class Block:
    """Bytes ``start`` to ``stop`` of a JSONL or CSV file, a whole JSON file, or rows of one parquet row group.

    For parquet ``start`` and ``stop`` are row numbers of the file, and ``group`` is the row group. ``size`` is in bytes
    (unpacked, for parquet).
    ``index`` counts the blocks of one data set.
    """

    path: str
    format: Format
    start: int
    stop: int
    index: int = 0
    size: int = 0
    group: int = 0

    def with_next(self, other: Self) -> Self | None:
        """Return both as one where ``other`` goes on in the same parquet row group, else None."""
        if (self.format, self.path, self.group, self.stop) != ("parquet", other.path, other.group, other.start):
            return None
        return replace(self, stop=other.stop, size=self.size + other.size)

    def numbered(self, index: int) -> Self:
        """Return the same block with its number in the data set."""
        return replace(self, index=index)


def joined(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield ``blocks`` in order, neighbours of one parquet row group as one.

    Reaching a row of a group costs reading all of the group before it: better once than for each block.
    """
    held: Block | None = None
    for block in blocks:
        whole = held.with_next(block) if held else None
        if held and not whole:
            yield held
        held = whole or block
    if held:
        yield held
