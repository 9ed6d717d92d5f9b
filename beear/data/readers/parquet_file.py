"""Parquet: one block per row group."""

from collections.abc import Iterator

from beear.data import storage
from beear.data.blocks import Block
from beear.data.places import Where
from beear.errors import UserError

ROWS_AT_ONCE = 1024


def cut(path: str, target_bytes: int) -> list[Block]:
    """Return one block per row group, from the file's metadata."""
    found, start = [], 0
    with storage.open_binary(path) as file:
        metadata = _open(path, file).metadata
        for group in range(metadata.num_row_groups):
            part = metadata.row_group(group)
            stop = start + part.num_rows
            found.append(Block(path, "parquet", start, stop, size=part.total_byte_size, group=group))
            start = stop
    return found


def read(block: Block) -> Iterator[tuple[Where, dict[str, object]]]:
    """Yield the row group's records, counted as rows of the file."""
    number = block.start
    with storage.open_binary(block.path) as file:
        for batch in _open(block.path, file).iter_batches(ROWS_AT_ONCE, row_groups=[block.group]):
            for record in batch.to_pylist():
                number += 1
                yield Where(block.path, number, "row"), record


def _open(path: str, file):  # type: ignore[no-untyped-def]  # pyarrow ships no types
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"{path} is not a parquet file ({reason}).") from error
