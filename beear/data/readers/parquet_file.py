"""Parquet: row groups, each cut into ranges of rows."""

from collections.abc import Iterator

from beear.data import storage
from beear.data.locations import Block, Where
from beear.errors import UserError

ROWS_AT_ONCE = 1024
BATCH_BYTES = BUFFER_BYTES = 1 << 20
# With a dictionary, repeated texts take almost nothing on disk, but each row takes memory.
LEAST_ROW_BYTES = 16


def cut(path: str, target_bytes: int) -> list[Block]:
    """Return ranges of rows of about ``target_bytes`` unpacked, none across row groups, from the file's metadata."""
    found, first = [], 0
    with storage.open_binary(path) as file:
        metadata = _open(path, file).metadata
        for group in range(metadata.num_row_groups):
            part = metadata.row_group(group)
            row_bytes = max(part.total_byte_size / max(part.num_rows, 1), LEAST_ROW_BYTES)
            step, end = max(1, int(target_bytes / row_bytes)), first + part.num_rows
            for start in range(first, max(end, first + 1), step):
                stop = min(start + step, end)
                size = round((stop - start) * row_bytes)
                found.append(Block(path, "parquet", start, stop, size=size, group=group))
            first = end
    return found


def read(block: Block) -> Iterator[tuple[Where, dict[str, object]]]:
    """Yield the range's records, counted as rows of the file, with one batch of them in memory at a time.

    Raises:
        UserError: the pages are damaged.
    """
    height = block.stop - block.start
    at_once = max(1, min(ROWS_AT_ONCE, height, BATCH_BYTES * height // max(block.size, 1)))
    with storage.open_binary(block.path) as file:
        opened = _open(block.path, file)
        position = sum(opened.metadata.row_group(group).num_rows for group in range(block.group))
        batches = opened.iter_batches(at_once, row_groups=[block.group])
        while position < block.stop:
            records, passed = _records(batches, block, position)
            for number, record in enumerate(records, max(position, block.start) + 1):
                yield Where(block.path, number, "row"), record
            position += passed


def _records(batches, block: Block, position: int) -> tuple[list[dict[str, object]], int]:  # type: ignore[no-untyped-def]
    """Return the records of the next batch that lie in ``block``, and how many rows the batch has."""
    import pyarrow as pa

    try:
        batch = next(batches)
        skipped = min(max(block.start - position, 0), batch.num_rows)
        return batch.slice(skipped, block.stop - position - skipped).to_pylist(), batch.num_rows
    # A damaged page may unpack all the same: into bytes that are not text, or into too few rows.
    except (pa.ArrowException, OSError, ValueError, StopIteration) as error:
        place = Where(block.path, position + 1, "row")
        raise UserError(f"{place}: cannot be read ({_reason(error)}); expected an undamaged parquet file.") from error


def _open(path: str, file):  # type: ignore[no-untyped-def]  # pyarrow ships no types
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # With pre_buffer pyarrow fetches the whole row group before its first row.
        return parquet.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a parquet file ({_reason(error)}).") from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
