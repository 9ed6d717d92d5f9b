"""From a path to blocks, and from a block to records, in the same way for every format and store."""

import os
from collections.abc import Iterator
from dataclasses import replace

from beear.data import hub, storage
from beear.data.locations import Block, Where
from beear.data.readers import csv_file, json_array, json_lines, parquet_file
from beear.errors import UserError

EXTENSIONS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
READERS = {"jsonl": json_lines, "json": json_array, "csv": csv_file, "parquet": parquet_file}
BLOCK_BYTES = 1 << 20


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


def format_of(path: str) -> str:
    """Return ``jsonl``, ``json``, ``csv`` or ``parquet``; a ``.json`` file that holds lines of objects is ``jsonl``.

    Raises:
        UserError: the extension is unknown.
    """
    extension = os.path.splitext(path)[1].lower()
    if extension not in EXTENSIONS:
        raise UserError(f'{path} has the extension "{extension}"; expected one of {", ".join(EXTENSIONS)}.')
    if extension == ".json" and not json_array.is_array(path):
        return "jsonl"
    return EXTENSIONS[extension]


def blocks(paths: list[str], target_bytes: int = BLOCK_BYTES) -> list[Block]:
    """Cut files into blocks of about ``target_bytes``, numbered in order; JSON arrays are one block each.

    Reads only metadata, but all of a CSV file: its quotes show where no cell is open.
    """
    cut = [block for path in paths for block in READERS[format_of(path)].cut(path, target_bytes)]
    return [replace(block, index=index) for index, block in enumerate(cut)]


def read_block(block: Block) -> Iterator[tuple[Where, dict[str, object]]]:
    """Yield each record of ``block`` with its place.

    Raises:
        UserError: bytes are not UTF-8 or a record is malformed; the sentence names file and line.
    """
    yield from READERS[block.format].read(block)
