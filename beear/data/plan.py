"""The sampling plan: which rows make which batch, decided by (seed, epoch) alone, on any number of workers.

A pass goes once through a data set. Its blocks are permuted and grouped into visits of a few megabytes; a visit's
rows are permuted together. Row ``j`` of an epoch's stream stands in lane ``j % lanes`` of global batch ``j // lanes``,
and worker ``w`` of ``W`` holds the lanes ``k`` with ``k % W == w``. Every worker walks the same stream and tokenises
its own lanes only. A data set that ends is passed through again, so a pass of a small set is a permutation of it, and
of a large one only the visits needed are read.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from beear.data.blocks import Block

VISIT_BYTES = 8 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class Visit:
    """Blocks read and shuffled together. ``key`` seeds the shuffle."""

    blocks: tuple[Block, ...]
    key: str


def visits(
    blocks: Sequence[Block], seed: int, name: str, epoch: int, turn: int, target_bytes: int = VISIT_BYTES
) -> Iterator[Visit]:
    """Yield the visits of pass ``turn`` of ``epoch`` over the data set called ``name``."""
    key = f"{seed}/{name}/{epoch}/{turn}"
    order = shuffled(blocks, key)
    group: list[Block] = []
    total = number = 0
    for block in order:
        if group and total + block.size > target_bytes:
            yield Visit(tuple(group), f"{key}/{number}")
            group, total, number = [], 0, number + 1
        group.append(block)
        total += block.size
    if group:
        yield Visit(tuple(group), f"{key}/{number}")


def passes(blocks: Sequence[Block], seed: int, name: str, epoch: int) -> Iterator[Iterator[Visit]]:
    """Yield pass after pass, without end."""
    return (visits(blocks, seed, name, epoch, turn) for turn in count())


def shuffled(items: Iterable[T], key: str) -> list[T]:
    """Return ``items`` in an order that ``key`` alone decides."""
    out = list(items)
    random.Random(key).shuffle(out)
    return out


def own_lanes(lanes: int, rank: int, world: int) -> range:
    """Return the lanes that worker ``rank`` of ``world`` holds."""
    return range(rank, lanes, world)
