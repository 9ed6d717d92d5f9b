"""Splits a worker's rows into groups that are computed at once: few enough for its memory, and of like length to save padding.

Rows are sorted by their real tokens. A group is a stretch of the sorted rows, padded to its own longest row.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

from beear.data.batch import DefenseBatch, TextBatch
from beear.parallel.base import Backend

B = TypeVar("B", DefenseBatch, TextBatch)
# Share of a batch's elements that should be real tokens.
USEFUL = 0.9
# Real tokens that a group should have at least. A pass reads every weight, so it does not pay for fewer tokens. If weights are
# sharded, a pass also sends them between workers, so it needs more.
BUSY, BUSY_SHARDED = 512, 4096


def split_rows(batch: B, backend: Backend, micro_batch: int | None) -> list[B]:
    """Return the groups of rows that this worker computes at once; no group if it has no rows.

    All workers make the same number of groups, because they make each pass together if weights are sharded. A group has at most
    ``micro_batch`` rows, or one more if another worker's group would otherwise be empty.
    """
    ordered = batch.shortest_first() if batch.rows else batch
    lengths = ordered.lengths()
    wanted = backend.max(fewest_groups(lengths, BUSY_SHARDED if backend.lockstep else BUSY) if lengths else 1)
    count = _group_count(batch.global_rows, backend.world, micro_batch, int(wanted))
    if batch.rows == 0:
        return []
    count = min(count, batch.rows)
    return [batch] if count == 1 else [ordered.part(group) for group in least_padded(lengths, count, micro_batch)]


def _group_count(global_rows: int, workers: int, micro_batch: int | None, wanted: int) -> int:
    """Return how many groups each worker makes: what memory needs or ``wanted`` by the lengths, but none empty on any worker."""
    least, largest = max(1, global_rows // workers), -(-global_rows // workers)
    return min(max(-(-largest // (micro_batch or largest)), wanted), least)


def fewest_groups(lengths: Sequence[tuple[int, ...]], busy: int = BUSY) -> int:
    """Return the fewest groups in which a share ``USEFUL`` of all elements is real; each should have ``busy`` real tokens."""
    real = sum(map(sum, lengths))
    most = min(len(lengths), max(1, real // busy))
    if most == 1:
        return 1
    sizes = [size for size, _ in _best(lengths, most, len(lengths))]
    return next((count for count, size in enumerate(sizes, 1) if real >= USEFUL * size), most)


def least_padded(lengths: Sequence[tuple[int, ...]], count: int, most_rows: int | None = None) -> list[slice]:
    """Return the ``count`` groups with the least padding of rows with ``lengths`` (tokens of each padded part).

    A group has at most ``most_rows`` rows, or an even share of the rows if ``count`` groups of that size could not hold all.
    """
    rows = len(lengths)
    _, ends = _best(lengths, count, max(most_rows or rows, -(-rows // count)))[-1]
    return [slice(start, end) for start, end in zip((0, *ends), ends, strict=False)]


def _best(lengths: Sequence[tuple[int, ...]], count: int, limit: int) -> list[tuple[float, tuple[int, ...]]]:
    """Return, for 1 to ``count`` groups of at most ``limit`` rows, the fewest elements they can hold and where they then end."""
    rows = len(lengths)
    sizes = [_sizes(lengths, start, min(rows, start + limit)) for start in range(rows)]
    reached: list[tuple[float, tuple[int, ...]]] = [(0.0, ()), *[(math.inf, ())] * rows]
    found = []
    for _ in range(count):
        longer: list[tuple[float, tuple[int, ...]]] = [(math.inf, ())] * (rows + 1)
        for start, (held, ends) in enumerate(reached[:rows]):
            if held < math.inf:
                for end, size in enumerate(sizes[start], start + 1):
                    if held + size < longer[end][0]:
                        longer[end] = (held + size, (*ends, end))
        reached = longer
        found.append(reached[rows])
    return found


def _sizes(lengths: Sequence[tuple[int, ...]], start: int, stop: int) -> list[int]:
    """Return the elements of the groups that begin at ``start`` and end after each row before ``stop``."""
    widest, found = lengths[start], []
    for end in range(start, stop):
        widest = tuple(map(max, widest, lengths[end]))
        found.append((end + 1 - start) * sum(widest))
    return found
