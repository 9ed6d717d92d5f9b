"""Readers: every format gives the same records, blocks cover a file once, and bad input is one sentence."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from beear.data.files import blocks, expand, read_block
from beear.errors import UserError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
RECORDS = st.lists(st.fixed_dictionaries({"a": TEXT, "b": TEXT}), min_size=1, max_size=30)
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path, target: int = 1 << 20) -> list[dict[str, object]]:
    return [record for block in blocks(expand(str(path)), target) for _, record in read_block(block)]


@SETTINGS
@given(RECORDS, st.integers(1, 200), st.booleans(), st.booleans())
def test_jsonl_blocks_of_any_size_hold_every_line_once(
    tmp_path: Path, records: list[dict[str, str]], target: int, bom: bool, final_newline: bool
) -> None:
    path = tmp_path / "rows.jsonl"
    text = "\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n" * final_newline
    path.write_bytes(b"\xef\xbb\xbf" * bom + text.encode())
    assert read(path, target) == records
    lines = [str(where) for block in blocks([str(path)], target) for where, _ in read_block(block)]
    assert lines == [f"{path}, line {i}" for i in range(1, len(records) + 1)]


@SETTINGS
@given(RECORDS, st.integers(1, 200))
def test_csv_blocks_never_start_inside_a_quoted_cell(tmp_path: Path, records: list[dict[str, str]], target: int) -> None:
    path = tmp_path / "rows.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["a", "b"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(records)
    assert read(path, target) == [{k: v or None for k, v in r.items()} for r in records]


def test_json_and_parquet_hold_the_same_records(tmp_path: Path) -> None:
    records = [{"a": f"ä{i}", "b": str(i)} for i in range(10)]
    (tmp_path / "rows.json").write_text(json.dumps(records), encoding="utf-8")
    parquet.write_table(pa.Table.from_pylist(records), tmp_path / "rows.parquet", row_group_size=3)
    assert read(tmp_path / "rows.json") == read(tmp_path / "rows.parquet") == records
    cut = blocks([str(tmp_path / "rows.parquet")])
    assert [(b.start, b.stop, b.index) for b in cut] == [(0, 3, 0), (3, 6, 1), (6, 9, 2), (9, 10, 3)]
    assert str(list(read_block(cut[3]))[0][0]).endswith("row 10")


def test_a_glob_reads_all_files_in_name_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"name": name}) + "\n")
    assert read(tmp_path / "*.jsonl") == [{"name": "a"}, {"name": "b"}]


BAD = {
    "missing": ("rows.jsonl", None, "does not exist; expected a data file"),
    "empty": ("rows.jsonl", b"", "is empty (0 bytes); expected at least one row"),
    "extension": (
        "rows.xls",
        b"x",
        'has the extension ".xls"; expected one of .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .xlsx, or',
    ),
    "latin-1": ("rows.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n', "line 2: byte 0xe9 is not UTF-8"),
    "latin-1 csv": ("rows.csv", b"a,b\n1,2\n3,caf\xe9\n", "line 3: byte 0xe9 is not UTF-8"),
    "utf-16": ("rows.jsonl", '{"a": 1}\n'.encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
    "malformed": ("rows.jsonl", b'{"a": 1}\n\n{"a": \n', 'line 3: "{\\"a\\":" is not JSON'),
    "not an object": ("rows.jsonl", b"[1]\n[2]\n", "line 1: found [1]; expected a JSON object"),
    "array item": ("rows.json", b'[{"a": 1}, 2]', "item 2: found 2; expected a JSON object"),
    "broken array": ("rows.json", b'[{"a": 1},\n{"a" 2}]', "line 2: not JSON"),
    "ragged csv": ("rows.csv", b"a,b\n1,2\n3\n", "line 3: found 1 cells; expected 2"),
    "twice-named csv": ("rows.csv", b"a,a\n1,2\n", "expected one distinct name per column"),
    "open quote": ("rows.csv", b'a,b\n1,"2\n', "line 2: a quote opens a cell here and never closes; expected its closing quote."),
    "long integer": ("rows.jsonl", b'{"a": 1}\n{"a": ' + b"7" * 5000 + b"}\n", "line 2: "),
    "long integer, reason": ("rows.jsonl", b'{"a": ' + b"7" * 5000 + b"}\n", "is not JSON (an integer has too many digits)"),
    "long integer in an array": (
        "rows.json",
        b'[{"a": 1}, {"a": "[7, 8]"},\n {"a": ' + b"7" * 5000 + b"}]",
        "item 3: not JSON (an integer has too many digits); expected an array of objects",
    ),
    "deep array": ("rows.json", b"[1, " + b"[" * 200_000 + b"]" * 200_000 + b"]", "item 2: not JSON (nested too deeply)"),
    "field twice": ("rows.jsonl", b'{"a": 1}\n{"a": 1, "b": 2, "a": 1}\n', "line 2: "),
    "field twice, reason": ("rows.jsonl", b'{"a": [{"b": 1, "b": 2}]}\n', 'is not JSON (field "b" is named twice); expected one'),
    "field twice in an array": (
        "rows.json",
        b'[{"a": 1}, {"a": 1, "a": 1}]',
        'item 2: not JSON (field "a" is named twice); expected',
    ),
    "not parquet": ("rows.parquet", b"PAR1 no", "is not a parquet file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_sentence(tmp_path: Path, case: str) -> None:
    name, content, sentence = BAD[case]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert sentence in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


ODD = 'a\u2028b\u0085c\x1cd\x0b[{"]},\\"e\u2029'


def test_only_a_line_feed_ends_a_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "ROWS.JSONL"
    records = [{"a": ODD}, {ODD: [1, {"b": ODD}]}]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_bytes(f"{lines[0]}\r\n\r{lines[1]}\r\n".encode())
    for target in (1, 30, 1 << 20):
        assert read(path, target) == records
    path.write_bytes("\r".join(lines).encode())
    with pytest.raises(
        UserError, match=r"ROWS\.JSONL, line 1: .* is not JSON \(lines end with a carriage return alone\); expected"
    ):
        read(path)
    path.write_bytes(b'{"a": "\x00"}\n')
    with pytest.raises(UserError, match="line 1: .* is not JSON \\(Invalid control character"):
        read(path)


def test_brackets_and_quotes_in_the_texts_of_an_array_are_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    records = [{"a": ODD, "b": [ODD, "]"]}, {"a": '"}],[{"'}]
    path.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8", newline="\r")
    assert read(path, 1) == records
    path.write_text(json.dumps(records)[:-2] + ', "c": ' + "7" * 5000 + "}]", encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.json, item 2: not JSON \(an integer has too many digits\)"):
        read(path)


def test_a_directory_and_an_empty_glob_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory; expected a file"):
        expand(str(tmp_path))
    with pytest.raises(UserError, match="matches no file"):
        expand(str(tmp_path / "*.jsonl"))


def test_the_malformed_line_of_a_large_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    lines = [json.dumps({"a": "x" * 900}) for _ in range(4000)]
    lines[1733] = lines[1733][:-1]
    path.write_text("\n".join(lines))
    assert len(blocks([str(path)])) > 2
    with pytest.raises(UserError, match=r"large\.jsonl, line 1734: .* is not JSON"):
        read(path)


def test_the_hub_is_asked_only_for_hub_names_and_says_when_it_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from beear.data import hub

    def unreachable(name: str) -> tuple[None, list[str]]:
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr(hub, "_listing", unreachable)
    with pytest.raises(UserError, match=r"hub:some/set cannot be fetched from the hub \(no route to host\)"):
        expand("hub:some/set")
    with pytest.raises(UserError, match="expected hub:ORG/NAME"):
        expand("hub:alone")
    mixed = ["train.csv", "TRAIN-2.JSONL.GZ", "train.jsonl.zst", "train.xlsx", "train.txt", "data.tsv"]
    assert hub.choose(mixed, "train") == ["train.csv"]
    assert hub.choose(["train.JSONL.GZ", "train.xlsx", "test.tsv.zst"], "train") == ["train.JSONL.GZ"]
    assert hub.choose(["train.JSONL.GZ", "train.xlsx", "test.tsv.zst"], "test") == ["test.tsv.zst"]
    assert hub.choose(["rows.XLSX", "README.md", "rows.csv.gz"], "train") == ["rows.csv.gz"]
    assert hub.choose(["rows.xlsx", "other.parquet.gz"], "train") == ["rows.xlsx"]
    assert hub.choose(["rows.xlsx"], "validation") == hub.choose(["default/train/0000.parquet"], "validation") == []
    files = ["default/train/0000.parquet", "default/test/0000.parquet", "other/train/0000.parquet", "README.md"]
    assert hub.choose(files, "train") == ["default/train/0000.parquet"]
    assert hub.choose(["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], "train") == [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    ]
