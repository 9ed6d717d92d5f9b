"""Parquet: ranges of rows tile the file, hold every row once, and cost no more memory than a range is worth."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from beear.data import storage
from beear.data.data_source import HEAD_BYTES, visible
from beear.data.files import blocks, read_block
from beear.data.locations import Block, Where, joined
from beear.errors import UserError

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_all(cut: Iterable[Block]) -> Iterator[tuple[Where, dict[str, object]]]:
    return (found for block in joined(cut) for found in read_block(block))


def written(folder: Path, texts: list[str], group: int, **options: object) -> tuple[str, list[dict[str, object]]]:
    records: list[dict[str, object]] = [{"prompt": text, "index": i} for i, text in enumerate(texts)]
    path = str(folder / "rows.parquet")
    parquet.write_table(pa.Table.from_pylist(records), path, row_group_size=group, **options)
    return path, records


@SETTINGS
@given(st.lists(st.text("ab\u00e4", max_size=40), min_size=1, max_size=60), st.integers(1, 70), st.integers(1, 4000))
def test_blocks_tile_the_file_and_hold_every_row_once(tmp_path: Path, texts: list[str], group: int, target: int) -> None:
    path, records = written(tmp_path, texts, group)
    cut = blocks([path], target)
    assert [b.start for b in cut] == [0, *(b.stop for b in cut[:-1])] and cut[-1].stop == len(records)
    assert all(b.start // group == (b.stop - 1) // group == b.group for b in cut)
    found = [(where.number, record) for block in cut for where, record in read_block(block)]
    assert found == list(enumerate(records, 1))
    assert [(where.number, record) for where, record in read_all(cut)] == found
    backwards = [record for _, record in read_all(reversed(cut))]
    assert backwards == [record for block in reversed(cut) for _, record in read_block(block)]


def test_a_large_row_group_is_cut_into_blocks_of_the_target_size(tmp_path: Path) -> None:
    path, records = written(tmp_path, [f"{i:0100d}" for i in range(30_000)], 30_000)
    cut = blocks([path])
    total = parquet.ParquetFile(path).metadata.row_group(0).total_byte_size
    assert len(cut) == -(-total // (1 << 20)) == 4 and sum(b.size for b in cut) == pytest.approx(total, abs=len(cut))
    assert max(b.size for b in cut) <= 1 << 20
    assert [record for _, record in read_block(cut[2])] == records[cut[2].start : cut[2].stop]


def test_only_the_batches_needed_are_read_and_neighbours_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, records = written(tmp_path, ["x" * 99 + str(i) for i in range(20_000)], 20_000)
    taken: list[tuple[int, int]] = []
    plain = parquet.ParquetFile.iter_batches

    def counted(self: parquet.ParquetFile, size: int, **kwargs: object):  # type: ignore[no-untyped-def]
        taken.append((size, 0))
        for batch in plain(self, size, **kwargs):
            taken[-1] = (size, taken[-1][1] + batch.num_rows)
            yield batch

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", counted)
    cut = blocks([path], 64 << 10)
    assert [record for _, record in read_block(cut[1])] == records[cut[1].start : cut[1].stop]
    ((size, rows),) = taken
    assert size <= cut[1].stop - cut[1].start and cut[1].stop <= rows < cut[1].stop + size
    taken.clear()
    assert [record for _, record in read_all(cut)] == records and len(taken) == 1


class Counting(io.FileIO):
    """A file that says how many bytes were asked of it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(-1 if size is None else size) or b""
        Counting.taken += len(data)
        return data


def test_the_group_s_bytes_are_fetched_as_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = written(tmp_path, [f"{i:01000d}" for i in range(40_000)], 40_000, compression="none", use_dictionary=False)
    monkeypatch.setattr(storage, "open_binary", lambda name: Counting(name, "rb"))
    first = next(iter(read_all(blocks([path]))))
    assert first[1]["index"] == 0 and 0 < Counting.taken < 8 << 20, "of 40 MB"


def test_repeated_texts_are_cut_by_their_number(tmp_path: Path) -> None:
    path, _ = written(tmp_path, ["the same " * 20] * 200_000, 200_000)
    assert parquet.ParquetFile(path).metadata.row_group(0).total_byte_size < 3 << 20
    assert max(b.stop - b.start for b in blocks([path])) <= 1 << 16


def test_the_driver_reads_the_head_of_one_large_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beear.data.data_source.WHOLE_BYTES", 9 << 20)
    texts = [f"{i:01000d}" for i in range(20_000)]
    path, _ = written(tmp_path, texts, 20_000, compression="none", use_dictionary=False)
    chosen, whole = visible(tuple(blocks([path])))
    assert not whole and HEAD_BYTES <= sum(b.size for b in chosen) <= HEAD_BYTES + (1 << 20)


def test_damaged_pages_are_one_sentence(tmp_path: Path) -> None:
    path, _ = written(tmp_path, [f"request {i} " * 9 for i in range(3000)], 1000)
    column = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    raw = bytearray(Path(path).read_bytes())
    raw[start + 40 : start + column.total_compressed_size] = b"\xff" * (column.total_compressed_size - 40)
    Path(path).write_bytes(raw)
    cut = blocks([path])
    assert len(list(read_block(cut[0]))) == 1000
    with pytest.raises(UserError) as caught:
        list(read_block(cut[1]))
    assert str(caught.value).startswith(f"{path}, row 1001: cannot be read (")
    assert str(caught.value).endswith("); expected an undamaged parquet file.") and "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_one_sentence(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.parquet")
    column = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    parquet.write_table(pa.table({"prompt": column}), path)
    with pytest.raises(UserError, match=r"rows\.parquet, row 1: cannot be read \(.*utf-8"):
        list(read_block(blocks([path])[0]))
