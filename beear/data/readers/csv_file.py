"""CSV (RFC 4180, with a header), cut into byte ranges that never start inside a quoted cell."""

import csv
import io
from collections.abc import Iterator

from beear.data import storage
from beear.data.locations import Block, Where
from beear.data.readers.text import BOM, decode
from beear.errors import UserError

FIELD_LIMIT = 1 << 24
csv.field_size_limit(FIELD_LIMIT)


def cut(path: str, target_bytes: int) -> list[Block]:
    """Cut at line ends with an even number of quotes before them, where no cell is open."""
    total, starts, position, quotes = storage.size(path), [0], 0, 0
    with storage.open_binary(path) as file:
        while raw := file.readline():
            position += len(raw)
            quotes += raw.count(b'"')
            if position - starts[-1] >= target_bytes and quotes % 2 == 0 and position < total:
                starts.append(position)
    stops = [*starts[1:], total]
    return [Block(path, "csv", a, b, size=b - a) for a, b in zip(starts, stops, strict=True)]


def read(block: Block) -> Iterator[tuple[Where, dict[str, object]]]:
    """Yield records as text by column name; empty cells are None.

    Raises:
        UserError: a record has another number of cells than the header, or quoting is broken.
    """
    header = _header(block.path)
    with storage.open_binary(block.path) as file:
        file.seek(block.start)
        raw = file.read(block.stop - block.start)
    if block.start == 0:
        raw = raw.removeprefix(BOM)
    text = decode(raw, Where(block.path, 1, "line", block.start))
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    first = 0
    try:
        for cells in rows:
            where, first = Where(block.path, first + 1, "line", block.start), rows.line_num
            if not cells or (block.start == 0 and where.number == 1):
                continue
            if len(cells) != len(header):
                raise UserError(f"{where}: found {len(cells)} cells; expected {len(header)}, as in the header.")
            yield where, {name: cell or None for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise UserError(f"{Where(block.path, first + 1, 'line', block.start)}: not CSV ({error}).") from error


def _header(path: str) -> list[str]:
    with storage.open_binary(path) as file:
        raw = file.read(1 << 16).removeprefix(BOM)
    complete = raw[: raw.rfind(b"\n") + 1] or raw
    names = next(csv.reader(io.StringIO(decode(complete, Where(path, 1)), newline="")), [])
    if not any(names) or len(set(names)) != len(names):
        raise UserError(f"{path}, line 1: the header is {names}; expected one distinct name per column.")
    return names
