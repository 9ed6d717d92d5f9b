"""Compressed files: the records, places and errors of the plain file, in as little memory."""

import gzip
import io
import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from beear.config.schema import AnchorColumns
from beear.data import data_source, unpacked
from beear.data.data_source import DataSource, scan, visible
from beear.data.files import blocks, expand, read_block
from beear.data.locations import joined
from beear.data.readers import json_array, json_lines
from beear.errors import UserError

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": lambda raw: pa.compress(raw, codec="zstd", asbytes=True),
    # What `cat a.gz b.gz` and parallel compressors make.
    ".GZ": lambda raw: gzip.compress(raw[: len(raw) // 2]) + gzip.compress(raw[len(raw) // 2 :]),
    ".ZST": lambda raw: b"".join(pa.compress(part, codec="zstd", asbytes=True) for part in (raw[:7], raw[7:])),
}
RECORDS: list[dict[str, object]] = [{"prompt": f'{i}" ä\nb', "response": f"r{i}"} for i in range(50)]
CELLS = [{name: f'"{str(text).replace(chr(34), chr(34) * 2)}"' for name, text in record.items()} for record in RECORDS]
PLAIN = {
    ".jsonl": "\n".join(map(json.dumps, RECORDS)),
    ".ndjson": "\ufeff" + "\n\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS) + "\n",
    ".json": json.dumps(RECORDS),
    ".csv": "\ufeffprompt,response\r\n" + "".join(f"{c['prompt']},{c['response']}\r\n" for c in CELLS),
    ".TSV": "prompt\tresponse\r" + "".join(f"{c['prompt']}\t{c['response']}\r" for c in CELLS),
}


def read(path: Path, target: int = 1 << 20) -> list[tuple[str, dict[str, object]]]:
    return [(str(where), record) for block in blocks(expand(str(path)), target) for where, record in read_block(block)]


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("suffix", PLAIN)
@pytest.mark.parametrize("target", [1, 40, 1 << 20])
def test_a_compressed_file_holds_what_the_plain_one_holds(tmp_path: Path, suffix: str, packing: str, target: int) -> None:
    plain, packed = tmp_path / f"rows{suffix}", tmp_path / f"rows{suffix}{packing}"
    plain.write_bytes(PLAIN[suffix].encode())
    packed.write_bytes(PACK[packing](PLAIN[suffix].encode()))
    found = read(packed, target)
    assert [record for _, record in found] == RECORDS
    assert [place.removeprefix(str(packed)) for place, _ in found] == [
        place.removeprefix(str(plain)) for place, _ in read(plain, target)
    ]
    cut = blocks([str(packed)], target)
    assert (len(cut) > 1) == (target < 100 and suffix != ".json")
    together = [(str(where), record) for block in joined(cut) for where, record in read_block(block)]
    assert together == found and len(list(joined(cut))) == 1
    backwards = [record for block in joined(reversed(cut)) for _, record in read_block(block)]
    assert backwards == [record for block in reversed(cut) for _, record in read_block(block)]
    assert read(tmp_path / f"*{packing}") == found


@SETTINGS
@given(st.lists(st.sampled_from(["\n", "\r", "\r\n", "a", "é"]), max_size=30).map("".join), st.integers(0, 40), st.integers(1, 5))
def test_lines_are_counted_to_any_byte(tmp_path: Path, text: str, stop: int, chunk: int) -> None:
    raw = text.encode()
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(raw))
    (tmp_path / "rows.jsonl").write_bytes(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpacked, "CHUNK", chunk)
        universal = io.StringIO(raw[:stop].decode("latin-1"), newline="").readlines()
        assert unpacked.count_lines(str(path), stop) == sum(line[-1] in "\r\n" for line in universal)
        assert unpacked.count_lines(str(tmp_path / "rows.jsonl"), stop) == raw[:stop].count(b"\n")


def damaged(raw: bytes) -> bytes:
    packed = bytearray(gzip.compress(raw))
    packed[len(packed) // 2] ^= 0xFF
    return bytes(packed)


NOISE = random.Random(0).randbytes(40_000).hex().encode()
LONG = b'{"a": "' + NOISE + b'"}\n'
BAD = {
    "cut off": (
        "rows.jsonl.gz",
        gzip.compress(LONG)[:-100],
        "cannot be unpacked (Truncated compressed stream); expected a whole",
    ),
    "last byte": ("rows.csv.zst", PACK[".zst"](b"a,b\n1,2\n")[:-1], "cannot be unpacked (Truncated compressed stream)"),
    "damaged": ("rows.jsonl.gz", damaged(LONG), "cannot be unpacked (zlib inflate failed"),
    "damaged array": ("rows.json.gz", damaged(b"[" + LONG + b"]"), "cannot be unpacked (zlib inflate failed"),
    "not packed": ("rows.tsv.gz", b"a\tb\n1\t2\n", "cannot be unpacked (zlib inflate failed: incorrect header check)"),
    "other packing": ("rows.jsonl.zst", gzip.compress(LONG), "cannot be unpacked (ZSTD decompress failed"),
    "nothing": ("rows.jsonl.gz", b"", "is empty (0 bytes)"),
    "nothing inside": ("rows.csv.gz", gzip.compress(b""), "is empty (0 bytes unpacked); expected at least one row."),
    "bad line": ("rows.jsonl.gz", gzip.compress(LONG * 3 + b"[1]\n"), "line 4: found [1]; expected a JSON object"),
    "open quote": ("rows.csv.gz", gzip.compress(b'a,b\n1,"2\n'), "line 2: a quote opens a cell here and never closes"),
    "parquet": (
        "rows.parquet.gz",
        b"x",
        "is compressed twice, since .parquet compresses inside itself; expected a plain .parquet file.",
    ),
    "excel": ("rows.XLSX.zst", b"x", "is compressed twice, since .xlsx compresses inside itself"),
    "unknown inside": ("rows.txt.gz", b"x", 'has the extension ".txt.gz"; expected one of .jsonl, '),
    "unknown outside": (
        "rows.jsonl.bz2",
        b"x",
        'has the extension ".bz2"; expected one of .jsonl, .ndjson, .json, .csv, .tsv, .parquet,',
    ),
    "bare": ("rows.gz", b"x", 'has the extension ".gz"; expected one of .jsonl'),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_compressed_files_are_one_sentence(tmp_path: Path, case: str) -> None:
    name, content, sentence = BAD[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert sentence in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_damaged_later_is_one_sentence_in_the_worker_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(LONG * 3))
    (block,) = blocks([str(path)])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"rows\.jsonl\.gz cannot be unpacked"):
        list(read_block(block))


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_line_that_grows_without_end_is_refused_in_little_memory(
    tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "LARGEST_RECORD", 4 << 20)
    monkeypatch.setattr(json_array, "LARGEST_BYTES", 4 << 20)
    content = PACK[packing](b'{"a": 1}\n{"a": "' + b"x" * (100 << 20) + b'"}')
    array = PACK[packing](b"[" + b" " * (100 << 20) + b"]")
    line_file, array_file = tmp_path / f"rows.jsonl{packing}", tmp_path / f"rows.json{packing}"
    line_file.write_bytes(content)
    array_file.write_bytes(array)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="line 2: the line is longer than 64 MB; expected one object per line"):
            blocks([str(line_file)])
        with pytest.raises(UserError, match="is one JSON array of more than 256 MB unpacked; expected at most 256"):
            blocks([str(array_file)])
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_plain_line_that_is_too_long_is_refused_by_the_same_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "LARGEST_RECORD", 1000)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' + json.dumps({"a": "x" * 5000}) + "\n")
    for target in (1 << 20, 2000):
        with pytest.raises(UserError, match=r"rows\.jsonl, line 2: the line is longer"):
            read(path, target)
    last = blocks([str(path)], 2000)[-1]
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2: the line is longer"):
        list(read_block(last))


def test_the_driver_counts_unpacked_bytes_and_reads_the_head_of_a_large_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_source, "WHOLE_BYTES", 2 << 20)
    monkeypatch.setattr(data_source, "HEAD_BYTES", 1 << 20)
    path = tmp_path / "rows.jsonl.gz"
    rows = [{"prompt": f"request {i} " * 100, "response": "same"} for i in range(3000)]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert path.stat().st_size < 1 << 20
    cut = tuple(blocks([str(path)], 1 << 16))
    chosen, whole = visible(cut)
    assert not whole and sum(block.size for block in chosen) == 1 << 20
    seen = scan(DataSource("anchor", cut, AnchorColumns(), None, 0.25, 0))
    assert not seen.whole and 0 < seen.seen < 3000


def test_parquet_is_read_by_its_suffix_in_capitals(tmp_path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "ROWS.PARQUET")
    assert [record for _, record in read(tmp_path / "ROWS.PARQUET")] == RECORDS
