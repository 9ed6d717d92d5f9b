"""CSV and TSV (RFC 4180, with a header), cut into byte ranges that begin with a row."""

import csv
import io
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

from beear.data import unpacked
from beear.data.locations import Block, Where, shown
from beear.data.readers.csv_cut import Cutter
from beear.data.readers.text import BOM, decode
from beear.data.suffixes import format_of
from beear.errors import UserError

FIELD_LIMIT = 1 << 24
HEADER_BYTES = 1 << 16
csv.field_size_limit(FIELD_LIMIT)
DELIMITERS = {"csv": ",", "tsv": "\t"}
DELIMITER_NAMES = {"csv": "a comma", "tsv": "a tab"}


def cut(path: str, target_bytes: int) -> list[Block]:
    """Cut at starts of rows.

    Raises:
        UserError: a quoted cell does not close, or a row is too long.
    """
    kind = format_of(path)
    cutter = Cutter(path, DELIMITERS[kind].encode(), target_bytes)
    with unpacked.open_at(path) as file:
        skipped = len(BOM) if file.read(len(BOM)) == BOM else 0
    cutter.cut(unpacked.chunks(path), skipped)
    stops = [*cutter.starts[1:], cutter.total]
    return [Block(path, kind, a, b, size=b - a) for a, b in zip(cutter.starts, stops, strict=True)]


def read(block: Block) -> Iterator[tuple[Where, dict[str, object]]]:
    """Yield records as text by column name; empty cells are None.

    Raises:
        UserError: a record has another number of cells than the header, or quoting is broken.
    """
    header = _header(block)
    with unpacked.open_at(block.path, block.start) as file:
        for where, cells in _rows(file, block, unpacked.CHUNK):
            if not cells or (block.start == 0 and where.number == 1):
                continue
            if len(cells) != len(header):
                raise UserError(f"{where}: found {len(cells)} cells; expected {len(header)}, as in the header.")
            yield where, {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _header(block: Block) -> list[str]:
    with unpacked.open_at(block.path) as file:
        whole = Block(block.path, block.format, 0, unpacked.LARGEST_RECORD)
        where, names = next(_rows(file, whole, HEADER_BYTES), (Where(block.path, 1), []))
    if not any(names) or len(set(names)) != len(names):
        raise UserError(f"{where}: the header is {names}; expected one distinct name per column.")
    other = next((character for character in ",;\t" if len(names) == 1 and character in names[0]), None)
    if other:
        name = DELIMITER_NAMES[block.format]
        raise UserError(
            f"{where}: the header is one cell, {shown(names[0])}; expected {name} between cells, as the file's name says."
        )
    return names


def _rows(file: BinaryIO, block: Block, at_once: int) -> Iterator[tuple[Where, list[str]]]:
    """Yield the rows of ``block``, at whose start ``file`` stands, with the line that each begins in."""
    rows = csv.reader(chain.from_iterable(_pieces(file, block, at_once)), delimiter=DELIMITERS[block.format], strict=True)
    first = 0
    try:
        for cells in rows:
            yield Where(block.path, first + 1, "line", block.start), cells
            first = rows.line_num
    except csv.Error as error:
        where, last = Where(block.path, first + 1, "line", block.start), rows.line_num - first
        reason = "text follows a closing quote" if "expected after" in str(error) else str(error)
        reach = f"; the row goes on for {last} lines" if last > 1 else ""
        raise UserError(f"{where}: not {block.format.upper()} ({reason}{reach}).") from error


def _pieces(file: BinaryIO, block: Block, at_once: int) -> Iterator[io.StringIO]:
    """Yield whole lines, many at a time, each ended by a line feed, a carriage return, or both."""
    left, rest, passed = block.stop - block.start, b"", 0
    while True:
        chunk = file.read(min(at_once, left))
        left -= len(chunk)
        rest = (rest + chunk) if block.start or passed or rest else chunk.removeprefix(BOM)
        # The next chunk may begin with the line feed after a carriage return.
        end = max(rest.rfind(b"\n"), rest.rfind(b"\r", 0, -1)) + 1 if chunk else len(rest)
        where = Where(block.path, passed + 1, "line", block.start)
        if len(rest) - end > unpacked.LARGEST_RECORD:
            raise UserError(f"{where}: the line is longer than {unpacked.LARGEST_RECORD >> 20} MB; expected shorter rows.")
        whole, rest = rest[:end], rest[end:]
        if b"\0" in whole:
            bad = Where(
                block.path, where.number + unpacked.line_ends(whole[: whole.index(b"\0")], block.path), "line", block.start
            )
            raise UserError(f"{bad}: found a NUL byte; expected text.")
        yield io.StringIO(decode(whole, where), newline="")
        passed += unpacked.line_ends(whole, block.path)
        if not chunk:
            return
