"""JSONL: one object per line, cut into byte ranges."""

import json
from collections.abc import Iterator

from beear.data import storage
from beear.data.locations import Block, Where, shown
from beear.data.readers.text import BOM, decode, why_not
from beear.errors import UserError


def cut(path: str, target_bytes: int) -> list[Block]:
    """Cut by size alone; a line belongs to the block that it starts in."""
    total = storage.size(path)
    starts = range(0, total, target_bytes)
    return [Block(path, "jsonl", s, min(s + target_bytes, total), size=min(target_bytes, total - s)) for s in starts]


def read(block: Block) -> Iterator[tuple[Where, dict[str, object]]]:
    """Yield the objects of the lines that start in the block; blank lines are skipped.

    Raises:
        UserError: a line is not UTF-8, not JSON or not an object.
    """
    with storage.open_binary(block.path) as file:
        position = _first_line_start(file, block.start)
        origin, number = position, 0
        while position < block.stop and (raw := file.readline()):
            number += 1
            line = raw.removeprefix(BOM) if position == 0 else raw
            position += len(raw)
            if line.strip():
                where = Where(block.path, number, "line", origin)
                yield where, parse(line, where)


def parse(raw: bytes, where: Where) -> dict[str, object]:
    """Return the object on one line.

    Raises:
        UserError: the line is not UTF-8, not JSON or not an object.
    """
    text = decode(raw, where).strip()
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {shown(text)} is not JSON ({why_not(error)}); expected one object per line.") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: found {shown(record)}; expected a JSON object with named fields.")
    return record


def _first_line_start(file, start: int) -> int:  # type: ignore[no-untyped-def]  # local file or pyarrow's
    if start == 0:
        return 0
    file.seek(start - 1)
    return start - 1 + len(file.readline())
