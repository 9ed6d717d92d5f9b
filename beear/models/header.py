"""The safetensors header, parsed and checked without reading a weight.

Layout (https://huggingface.co/docs/safetensors): 8 bytes little-endian N, N bytes of JSON mapping each tensor's name
to ``{dtype, shape, data_offsets}``, then the data, which the offsets cover exactly once, without holes.
"""

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from beear.errors import UserError

MAX_HEADER_BYTES = 100_000_000
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
QUANTISED = {"F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F8_E8M0", "F6_E2M3", "F6_E3M2", "F4"}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as its header describes it; ``start`` and ``stop`` are byte offsets into the data part."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)


def read_header(path: str | os.PathLike[str]) -> dict[str, TensorEntry]:
    """Return every tensor's entry by name, after checking the whole header against the file's size.

    Raises:
        UserError: the header is missing, oversized, not valid JSON, has unknown dtypes or impossible shapes, or its
            offsets overlap, leave holes, or do not match the file's size (a truncated or padded file); or it is no file
            that can be read.
    """
    path = Path(path)
    try:
        raw, data_bytes = _raw_header(path)
    except OSError as error:
        raise UserError(f"{path}: could not be read ({error.strerror}), expected a readable safetensors file") from error
    entries = parse_header(raw, str(path))
    _check_cover(entries, data_bytes, str(path))
    return entries


def read_data(path: Path, entry: TensorEntry) -> Iterator[bytes]:
    """Yield the bytes of one tensor of a file whose header was checked, a megabyte at a time."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + length + entry.start)
        left = entry.stop - entry.start
        while left and (piece := file.read(min(left, 1 << 20))):
            left -= len(piece)
            yield piece


def _raw_header(path: Path) -> tuple[bytes, int]:
    """Return the header's JSON bytes and how many bytes of data follow."""
    # Opening a named pipe would wait for ever.
    if not path.is_file():
        raise UserError(f"{path}: found no regular file, expected a safetensors file")
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise UserError(f"{path}: found {size} bytes, expected a safetensors file of at least 8")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES:
            raise UserError(f"{path}: found a header of {length:,} bytes, expected at most {MAX_HEADER_BYTES:,}")
        if length > size - 8:
            raise UserError(f"{path}: found a header of {length:,} bytes in a file of {size:,}: it is truncated")
        return file.read(length), size - 8 - length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def parse_header(raw: bytes, where: str) -> dict[str, TensorEntry]:
    """Parse the header's JSON bytes.

    Raises:
        UserError: anything other than a JSON object of well-formed tensor entries.
    """
    try:
        if not raw.startswith(b"{"):
            raise ValueError("it does not start with {")
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError as error:
        raise UserError(f"{where}: found a header nested too deeply, expected a JSON object of tensors") from error
    except ValueError as error:
        raise UserError(f"{where}: found a broken header ({str(error)[:120]}), expected a JSON object of tensors") from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
        raise UserError(f"{where}: found __metadata__ that is not text to text, expected a JSON object of strings")
    return {name: _entry(name, value, where) for name, value in header.items()}


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _entry(name: str, value: Any, where: str) -> TensorEntry:
    shown = f'{where}: tensor "{name[:200]}"'
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise UserError(f"{shown}: found a malformed entry, expected dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if dtype in QUANTISED if isinstance(dtype, str) else False:
        raise UserError(f"{shown}: found quantised dtype {dtype}, expected a checkpoint in float32, bfloat16 or float16")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise UserError(f"{shown}: found dtype {str(dtype)[:50]!r}, expected one of {', '.join(ITEM_BYTES)}")
    if not _naturals(shape):
        raise UserError(f"{shown}: found shape {str(shape)[:100]}, expected a list of whole numbers")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise UserError(f"{shown}: found data_offsets {str(offsets)[:100]}, expected [start, stop]")
    entry = TensorEntry(dtype, tuple(shape), *offsets)
    if entry.elements * ITEM_BYTES[dtype] != entry.stop - entry.start:
        raise UserError(
            f"{shown}: found {entry.stop - entry.start:,} bytes for shape {shape} of {dtype}, "
            f"expected {entry.elements * ITEM_BYTES[dtype]:,}"
        )
    return entry


def _check_cover(entries: dict[str, TensorEntry], data_bytes: int, where: str) -> None:
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.stop > data_bytes:
            raise UserError(
                f'{where}: tensor "{name[:200]}" ends at byte {entry.stop:,} of the data but the file holds '
                f"{data_bytes:,}: it is truncated or its offsets are wrong"
            )
        if entry.start != position:
            kind = "overlaps the one before it" if entry.start < position else "leaves a hole before it"
            raise UserError(f'{where}: tensor "{name[:200]}" {kind} at byte {entry.start:,}, expected byte {position:,}')
        position = entry.stop
    if position != data_bytes:
        raise UserError(f"{where}: found {data_bytes - position:,} bytes after the last tensor, expected none")
