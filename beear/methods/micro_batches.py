"""Which of a worker's rows are computed at once: few enough for its memory, and alike enough to waste little on padding.

Legend: B rows, in order of their real tokens; a run is a stretch of them, padded to its own longest row.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

from beear.data.batch import DefenseBatch, TextBatch
from beear.parallel.base import Backend

B = TypeVar("B", DefenseBatch, TextBatch)
# Real tokens over all elements that a batch should reach, and tokens below which a run of its own is not worth a pass: a
# pass reads every weight, and has them sent where workers share them.
USEFUL, BUSY, BUSY_SHARED = 0.9, 512, 4096


def runs_of(batch: B, backend: Backend, micro_batch: int | None) -> list[B]:
    """Return what a worker computes at once of its rows: all as they are, or runs of like length; none where it has none.

    Every worker makes as many runs, since each is a step that they take together where weights are shared.
    ``micro_batch`` rows at most are in one, or one row more where a run of another worker would else be empty.
    """
    ordered = batch.shortest_first() if batch.rows else batch
    lengths = ordered.lengths()
    wanted = backend.max(enough(lengths, BUSY_SHARED if backend.lockstep else BUSY) if lengths else 1)
    count = how_many(batch.global_rows, backend.world, micro_batch, int(wanted))
    if batch.rows == 0:
        return []
    count = min(count, batch.rows)
    return [batch] if count == 1 else [ordered.part(run) for run in cut(lengths, count, micro_batch)]


def how_many(global_rows: int, workers: int, micro_batch: int | None, wanted: int = 1) -> int:
    """Return how many runs each worker makes: what memory needs or what lengths want, and none of them empty."""
    least, largest = max(1, global_rows // workers), -(-global_rows // workers)
    return min(max(-(-largest // (micro_batch or largest)), wanted), least)


def enough(lengths: Sequence[tuple[int, ...]], busy: int = BUSY) -> int:
    """Return the fewest runs in which ``USEFUL`` of all elements are real, as far as each can have ``busy`` real ones."""
    real = sum(map(sum, lengths))
    most = min(len(lengths), max(1, real // busy))
    if most == 1:
        return 1
    sizes = [size for size, _ in _best(lengths, most, len(lengths))]
    return next((count for count, size in enumerate(sizes, 1) if real >= USEFUL * size), most)


def cut(lengths: Sequence[tuple[int, ...]], count: int, most_rows: int | None = None) -> list[slice]:
    """Return the ``count`` runs of rows with ``lengths`` (tokens of each padded part) that hold the least padding.

    ``most_rows`` bounds a run's rows, or its even share does where so many runs could not hold all rows.
    """
    rows = len(lengths)
    _, ends = _best(lengths, count, max(most_rows or rows, -(-rows // count)))[-1]
    return [slice(start, end) for start, end in zip((0, *ends), ends, strict=False)]


def _best(lengths: Sequence[tuple[int, ...]], count: int, limit: int) -> list[tuple[float, tuple[int, ...]]]:
    """Return, for 1 to ``count`` runs of at most ``limit`` rows, the least elements they hold and where they end."""
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
    """Return the elements of the runs that begin at ``start`` and end behind each row before ``stop``."""
    widest, found = lengths[start], []
    for end in range(start, stop):
        widest = tuple(map(max, widest, lengths[end]))
        found.append((end + 1 - start) * sum(widest))
    return found
