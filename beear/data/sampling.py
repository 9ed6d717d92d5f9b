"""Which rows make which batch: decided by seed, epoch and pass alone, so that any number of workers makes the same.

A pass goes once through a data set. It permutes the blocks, groups them into visits of up to 8 MB, reads a visit and
permutes its rows. Where rows are bucketed, windows of the pass are then regrouped by length. A data set that ends is
passed through again. So a pass of a small set is a permutation of it, and of a large set only the visits that are used
are read.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import TypeVar

from beear.data.data_source import DataSource, Row
from beear.data.locations import Block
from beear.errors import UserError

VISIT_BYTES = 8 << 20
# Batches in a window: below LEAST_WINDOW they save little padding, above WINDOW the extra reading costs more than it saves.
LEAST_WINDOW, WINDOW = 8, 64
T = TypeVar("T")
Measured = tuple[T, Sequence[int]]
"""An item, and the tokens of each of its parts that a batch pads on its own."""


@dataclass(frozen=True)
class Visit:
    """Blocks that are read and shuffled together. ``key`` seeds the shuffle."""

    blocks: tuple[Block, ...]
    key: str


@dataclass(frozen=True)
class Pass:
    """One pass over a data set: its rows in order. ``size`` is how many they are, or None for a large data set."""

    key: str
    size: int | None
    rows: Iterator[Row]


class RowStream:
    """The endless order of training rows of one data set in one epoch. A small data set is read once and kept.

    ``read`` counts the training rows read from files.
    """

    def __init__(self, source: DataSource, seed: int, name: str) -> None:
        """Name the stream: streams of different names over the same data set are independent."""
        self.source, self.seed, self.name = source, seed, name
        self.read = 0
        self._kept: list[Row] | None = None

    def passes(self, epoch: int) -> Iterator[Pass]:
        """Yield the passes of ``epoch`` without end.

        Raises:
            UserError: a row is bad, or the whole set holds no training row.
        """
        for number in count():
            key = f"{self.seed}/{self.name}/{epoch}/{number}"
            rows = (row for visit in visits(self.source.blocks, key) for row in shuffled(self._read(visit.blocks), visit.key))
            first = next(rows, None)
            if first is None:
                path = self.source.blocks[0].path if self.source.blocks else f"data.{self.source.kind}.path"
                raise UserError(f"{path} has no training row left; expected more rows or a smaller --data.holdout.")
            yield Pass(key, None if self._kept is None else len(self._kept), chain([first], rows))

    def _read(self, blocks: tuple[Block, ...]) -> list[Row]:
        if self._kept is not None:
            return self._kept
        single = len(blocks) == len(self.source.blocks)
        rows = self.source.train_rows(sorted(blocks, key=lambda block: block.index) if single else blocks)
        self.read += len(rows)
        if single:
            self._kept = rows
        return rows


def visits(blocks: Sequence[Block], key: str, target_bytes: int = VISIT_BYTES) -> Iterator[Visit]:
    """Yield the visits of the pass that ``key`` names."""
    group: list[Block] = []
    total = number = 0
    for block in shuffled(blocks, key):
        if group and total + block.size > target_bytes:
            yield Visit(tuple(group), f"{key}/{number}")
            group, total, number = [], 0, number + 1
        group.append(block)
        total += block.size
    if group:
        yield Visit(tuple(group), f"{key}/{number}")


def shuffled(items: Iterable[T], key: str) -> list[T]:
    """Return ``items`` in an order that ``key`` alone decides."""
    out = list(items)
    random.Random(key).shuffle(out)
    return out


def window_of(asked: int | None, rows: int, size: int | None) -> int:
    """Return how many batches of ``rows`` are grouped together by length in a pass over ``size`` rows (None: very many).

    A window is at most a quarter of a pass, or every pass would be cut into the same batches. Where nothing was
    ``asked`` for, a quarter below ``LEAST_WINDOW`` batches gives 1: grouping so few saves little.
    """
    quarter = WINDOW if size is None else size // (4 * rows)
    if asked is not None:
        return max(1, min(asked, quarter if size is not None else asked))
    return min(WINDOW, quarter) if quarter >= LEAST_WINDOW else 1


def bucketed(items: Iterator[T], lengths: Callable[[T], Sequence[int]], rows: int, window: int, key: str) -> Iterator[T]:
    """Yield ``items`` as batches of ``rows`` items of like lengths: ``window`` batches are regrouped, then their order mixed.

    ``lengths`` gives the tokens of each part that a batch pads on its own. With ``window`` 1 the order stays.
    """
    if window <= 1:
        yield from items
        return
    for number in count():
        held = [(item, lengths(item)) for item in islice(items, rows * window)]
        if not held:
            return
        whole = len(held) - len(held) % rows
        for batch in shuffled(alike(held[:whole], rows), f"{key}/window/{number}"):
            yield from (item for item, _ in batch)
        yield from (item for item, _ in held[whole:])


def alike(items: Sequence[Measured[T]], rows: int) -> list[Sequence[Measured[T]]]:
    """Cut measured items into batches of ``rows``: in two along the part where that saves most padding, and so on."""
    if len(items) <= rows:
        return [items] if items else []
    middle = len(items) // rows // 2 * rows
    orders = [sorted(items, key=lambda held, part=part: held[1][part]) for part in range(len(items[0][1]))]  # type: ignore[misc]
    best = min(orders, key=lambda order: padded_size(order[:middle]) + padded_size(order[middle:]))
    return [*alike(best[:middle], rows), *alike(best[middle:], rows)]


def padded_size(items: Sequence[Measured[T]]) -> int:
    """Return the tokens that a batch of ``items`` takes, padding included."""
    return len(items) * sum(map(max, zip(*(lengths for _, lengths in items), strict=True)))
