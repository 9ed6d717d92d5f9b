"""From a path to blocks, and from a block to records, in the same way for every format and store."""

from collections.abc import Iterator
from dataclasses import replace

from beear.data import hub, storage
from beear.data.locations import Block, Where
from beear.data.readers import csv_file, excel_file, json_array, json_lines, parquet_file
from beear.data.suffixes import Format, packing_of
from beear.data.suffixes import format_of as named_format
from beear.errors import UserError

READERS = {
    "jsonl": json_lines,
    "json": json_array,
    "csv": csv_file,
    "tsv": csv_file,
    "parquet": parquet_file,
    "xlsx": excel_file,
}
BLOCK_BYTES = 1 << 20
# A block of a compressed file is found by unpacking all before it, so it is worth one visit (sampling.VISIT_BYTES).
PACKED_BLOCKS = 8


def expand(path: str) -> list[str]:
    """Return the files that ``path`` names: a file, a glob, ``s3://``, ``gs://`` or ``hub:ORG/NAME[:SPLIT]``.

    Raises:
        UserError: nothing is there, a file is empty, or its extension is not a known one.
    """
    found = hub.fetch(path) if hub.is_hub(path) else storage.find(path)
    for name in found:
        format_of(name)
        if storage.size(name) == 0:
            raise UserError(f"{name} is empty (0 bytes); expected at least one row.")
    return found


def format_of(path: str) -> Format:
    """Return the format that the file's name says; a ``.json`` file that holds lines of objects is ``jsonl``.

    Raises:
        UserError: the extension is unknown, or a compressed file is damaged.
    """
    named = named_format(path)
    return "jsonl" if named == "json" and not json_array.is_array(path) else named


def blocks(paths: list[str], target_bytes: int = BLOCK_BYTES) -> list[Block]:
    """Cut files into blocks of about ``target_bytes``, numbered in order; JSON arrays and Excel files are one block each.

    Blocks of a compressed file are eight times as large. Reads only metadata, but all of a CSV or compressed file: its
    quotes show where a row starts, and only its content says how long it is.

    Raises:
        UserError: a file is damaged, holds nothing, or a record of it is too long.
    """
    cut: list[Block] = []
    for path in paths:
        target = target_bytes * PACKED_BLOCKS if packing_of(path) else target_bytes
        found = READERS[format_of(path)].cut(path, target)
        if packing_of(path) and not any(block.size for block in found):
            raise UserError(f"{path} is empty (0 bytes unpacked); expected at least one row.")
        cut += found
    return [replace(block, index=index) for index, block in enumerate(cut)]


def read_block(block: Block) -> Iterator[tuple[Where, dict[str, object]]]:
    """Yield each record of ``block`` with its place.

    Raises:
        UserError: bytes are not UTF-8 or a record is malformed; the sentence names file and line.
    """
    yield from READERS[block.format].read(block)
