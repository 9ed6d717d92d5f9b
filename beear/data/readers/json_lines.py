"""JSONL: one object per line, cut into byte ranges."""

import json
from collections.abc import Iterator
from typing import BinaryIO

from beear.data import storage, unpacked
from beear.data.locations import Block, Where, shown
from beear.data.readers.text import BOM, decode, distinct, why_not
from beear.data.suffixes import packing_of
from beear.data.unpacked import LARGEST_RECORD
from beear.errors import UserError

TOO_LONG = f"the line is longer than {LARGEST_RECORD >> 20} MB; expected one object per line, ended by a line feed."


def cut(path: str, target_bytes: int) -> list[Block]:
    """Cut by size alone; a line belongs to the block that it starts in. A compressed file is read through for its size.

    Raises:
        UserError: a line is too long in a compressed file, or such a file is damaged.
    """
    total = _unpacked_size(path) if packing_of(path) else storage.size(path)
    starts = range(0, total, target_bytes)
    return [Block(path, "jsonl", s, min(s + target_bytes, total), size=min(target_bytes, total - s)) for s in starts]


def read(block: Block) -> Iterator[tuple[Where, dict[str, object]]]:
    """Yield the objects of the lines that start in the block; blank lines are skipped.

    Raises:
        UserError: a line is too long, not UTF-8, not JSON or not an object.
    """
    # The byte before the block says whether a line starts with it.
    position = max(block.start - 1, 0)
    with unpacked.open_at(block.path, position) as file:
        if block.start:
            position += len(_line(file, Where(block.path, 1, "line", position)))
        origin, number = position, 0
        while position < block.stop and (raw := _line(file, Where(block.path, number + 1, "line", origin))):
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
        record = json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        reason = why_not(error)
        if reason == "Extra data" and "\r" in text:
            reason = "lines end with a carriage return alone"
        raise UserError(f"{where}: {shown(text)} is not JSON ({reason}); expected one object per line.") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: found {shown(record)}; expected a JSON object with named fields.")
    return record


def _line(file: BinaryIO, where: Where) -> bytes:
    raw = file.readline(LARGEST_RECORD + 1)
    if len(raw) > LARGEST_RECORD:
        raise UserError(f"{where}: {TOO_LONG}")
    return raw


def _unpacked_size(path: str) -> int:
    """Return the size of a compressed file's content; a line without end stops it early."""
    total = line = 0
    for chunk in unpacked.chunks(path):
        total += len(chunk)
        line = len(chunk) - chunk.rfind(b"\n") - 1 if b"\n" in chunk else line + len(chunk)
        if line > LARGEST_RECORD:
            raise UserError(f"{Where(path, 1, 'line', total - line)}: {TOO_LONG}")
    return total
