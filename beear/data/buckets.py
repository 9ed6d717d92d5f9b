"""Batches of rows of like length, so that padding wastes little: the same ones on any number of workers."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import TypeVar

from beear.data.plan import shuffled

# Batches grouped by length: fewer than the least save little, more than the most cost more reading than they save.
LEAST_WINDOW, WINDOW = 8, 64
T = TypeVar("T")
Measured = tuple[T, Sequence[int]]


def window_of(asked: int | None, lanes: int, size: int | None) -> int:
    """Return how many batches are grouped together by length in a pass over ``size`` rows (None: very many).

    At most a quarter of a pass, or every pass would be cut into the same batches. Unless ``asked`` for, none where a
    quarter is under ``LEAST_WINDOW`` batches: it would save little.
    """
    quarter = WINDOW if size is None else size // (4 * lanes)
    if asked is not None:
        return max(1, min(asked, quarter if size is not None else asked))
    return min(WINDOW, quarter) if quarter >= LEAST_WINDOW else 1


def bucketed(rows: Iterator[T], lengths: Callable[[T], Sequence[int]], lanes: int, window: int, key: str) -> Iterator[T]:
    """Yield ``rows`` in batches of like lengths: windows of ``window`` batches are regrouped, then their order mixed.

    ``lengths`` are those of a row's parts, each padded by itself. With ``window`` 1 the order stays.
    """
    if window <= 1:
        yield from rows
        return
    for number in count():
        held = [(row, lengths(row)) for row in islice(rows, lanes * window)]
        if not held:
            return
        whole = len(held) - len(held) % lanes
        for batch in shuffled(alike(held[:whole], lanes), f"{key}/window/{number}"):
            yield from (row for row, _ in batch)
        yield from (row for row, _ in held[whole:])


def alike(rows: Sequence[Measured[T]], lanes: int) -> list[Sequence[Measured[T]]]:
    """Cut (row, lengths) into batches of ``lanes``: in two along the part where that saves most padding, and so on."""
    if len(rows) <= lanes:
        return [rows] if rows else []
    middle = len(rows) // lanes // 2 * lanes
    orders = [sorted(rows, key=lambda held, part=part: held[1][part]) for part in range(len(rows[0][1]))]  # type: ignore[misc]
    best = min(orders, key=lambda order: padded_size(order[:middle]) + padded_size(order[middle:]))
    return [*alike(best[:middle], lanes), *alike(best[middle:], lanes)]


def padded_size(rows: Sequence[Measured[T]]) -> int:
    """Return the elements that a batch's parts take, padding and all."""
    return len(rows) * sum(map(max, zip(*(lengths for _, lengths in rows), strict=True)))
