"""Places in data files: a block that can be read on its own, and where one record stands."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

from beear.data import unpacked
from beear.data.suffixes import Format, packing_of

SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class Block:
    """Bytes ``start`` to ``stop`` of a JSONL, CSV or TSV file, a whole JSON or Excel file, or rows of a parquet row group.

    Bytes are those of the unpacked content. For parquet ``start`` and ``stop`` are row numbers of the file, and ``group`` is
    the row group. ``size`` is in unpacked bytes. ``index`` counts the blocks of one data set.
    """

    path: str
    format: Format
    start: int
    stop: int
    index: int = 0
    size: int = 0
    group: int = 0

    def with_next(self, other: Self) -> Self | None:
        """Return both as one block where ``other`` continues the same parquet row group or compressed file, else None."""
        if (self.path, self.group, self.stop) != (other.path, other.group, other.start):
            return None
        if self.format != "parquet" and packing_of(self.path) is None:
            return None
        return replace(self, stop=other.stop, size=self.size + other.size)


def joined(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield ``blocks`` in order, with neighbours of one parquet row group or of one compressed file joined into one.

    Both are read from their start, so reading two neighbours apart would read all that stands before them twice.
    """
    held: Block | None = None
    for block in blocks:
        whole = held.with_next(block) if held else None
        if held and not whole:
            yield held
        held = whole or block
    if held:
        yield held


@dataclass(frozen=True)
class Where:
    """The place of one record: ``number`` counts lines, items or rows (``unit``) from 1 after byte ``start``.

    A block in the middle of a file does not know the number of its first line. ``str()`` counts the lines before the
    block, which reads the file up to there. So a row carries its place as this value, and only an error message turns
    it into text.
    """

    path: str
    number: int
    unit: str = "line"
    start: int = 0

    def __str__(self) -> str:
        """Return ``FILE, line N``.

        Raises:
            UserError: the lines must be counted and the file cannot be read any more.
        """
        before = unpacked.count_lines(self.path, self.start) if self.start else 0
        return f"{self.path}, {self.unit} {before + self.number}"


def shown(value: object) -> str:
    """Return ``value`` as JSON (or as Python writes it), cut to 40 characters so that it fits in a sentence."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    # A terminal cannot print a lone surrogate.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
