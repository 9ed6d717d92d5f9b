"""What the driver sees of a data set before training: all of a small file, the head of a large one."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from beear.data import storage
from beear.data.blocks import Block
from beear.data.locations import Where
from beear.data.source import Row, Source
from beear.errors import UserError

WHOLE_BYTES = 64 << 20
HEAD_BYTES = 8 << 20


@dataclass
class Scan:
    """Rows seen, by digest in file order (a repeated request counts once; ``duplicates`` counts the rest).

    ``whole`` is False where a file was too large to be read to its end. ``shared`` counts rows whose request another
    file holds too.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    seen: int = 0
    duplicates: int = 0
    shared: int = 0
    whole: bool = True


def scan(source: Source) -> Scan:
    """Read the source as far as the driver does, validating every row met.

    Raises:
        UserError: a row is bad, or there is none.
    """
    blocks, whole = visible(source.blocks)
    found = Scan(whole=whole)
    for _, row in _rows(source, blocks):
        found.seen += 1
        if source.elsewhere(row):
            found.shared += 1
        elif (digest := row.digest) in found.rows:
            found.duplicates += 1
        else:
            found.rows[digest] = row
    if not found.seen:
        paths = ", ".join(sorted({block.path for block in source.blocks}))
        raise UserError(f"{paths} holds no row; expected at least one.")
    return found


def visible(blocks: tuple[Block, ...]) -> tuple[list[Block], bool]:
    """Return the blocks that the driver reads, and whether these are all."""
    chosen: list[Block] = []
    by_path: dict[str, list[Block]] = {}
    for block in blocks:
        by_path.setdefault(block.path, []).append(block)
    budget, whole = WHOLE_BYTES, True
    for path, own in by_path.items():
        total = storage.size(path)
        limit = budget if total <= budget else min(HEAD_BYTES, budget)
        taken: list[Block] = []
        used = 0
        for block in own:
            if used >= limit and (chosen or taken):
                whole = False
                break
            taken.append(block)
            used += block.size
        chosen += taken
        budget = max(budget - used, 0)
    return chosen, whole


def _rows(source: Source, blocks: list[Block]) -> Iterator[tuple[Where, Row]]:
    for where, row in source.rows(blocks):
        yield where, replace(row, origin=str(where)) if not where.start else row
