"""CSV and TSV by blocks: the same rows and line numbers as Python's csv module gives for the whole file."""

import csv
import io
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from beear.data import unpacked
from beear.data.files import blocks, read_block
from beear.data.readers import csv_cut
from beear.errors import UserError

SETTINGS = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Made of what the rules are about, and of what looks like a line end to str.splitlines alone.
PIECES = st.sampled_from(
    ['"', '""', ",", "\t", "\n", "\r", "\r\n", "a", "é", "\u2028", "\x85", "\x1c", " ", '5"', '"a,b"', '",\n"']
)
TEXTS = st.lists(PIECES, max_size=40).map("".join)
BOM = b"\xef\xbb\xbf"


def expected(text: str, delimiter: str) -> Iterator[tuple[int, dict[str, str | None]]]:
    """The whole text by csv.DictReader: each row with the line that it begins in, up to the first one that is at fault."""
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, restkey="more", restval=None)
    # DictReader skips blank lines itself, and then the row's first line is not the one after the last row's.
    plain = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines, before = [], 0
    try:
        for cells in plain:
            if cells:
                lines.append(before + 1)
            before = plain.line_num
    except csv.Error:
        pass
    try:
        for line, row in zip(lines[1:], rows, strict=False):
            if "more" in row or None in row.values():
                return
            yield line, {name: cell or None for name, cell in row.items()}
    except csv.Error:
        return


def is_sound(text: str, delimiter: str) -> bool:
    plain = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return all(len(cells) in (0, 2) for cells in plain)
    except csv.Error:
        return False


@SETTINGS
@given(
    TEXTS,
    st.integers(1, 30),
    st.sampled_from([".csv", ".tsv"]),
    st.booleans(),
    st.sampled_from(["\n", "\r", "\r\n"]),
    st.integers(1, 9),
)
@example('5" pipe,"a\n', 1, ".csv", False, "\n", 1)
@example('a,5"\n"x\ny",2\n5",3\n"p\n\nq",4\n', 1, ".csv", True, "\n", 2)
def test_blocks_of_any_size_hold_what_csv_dictreader_reads(
    tmp_path: Path, body: str, target: int, suffix: str, bom: bool, end: str, chunk: int
) -> None:
    delimiter = {".csv": ",", ".tsv": "\t"}[suffix]
    text = f"p{delimiter}q{end}{body}"
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(BOM * bom + text.encode())
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpacked, "CHUNK", chunk if not bom else max(chunk, 3))
        try:
            for block in blocks([str(path)], target):
                found += [(str(where), record) for where, record in read_block(block)]
            refused = False
        except UserError as error:
            refused = True
            assert str(error).startswith(f"{path}, line ") and "\n" not in str(error)
    right = [(f"{path}, line {line}", record) for line, record in expected(text, delimiter)]
    assert refused == (not is_sound(text, delimiter))
    # A quote that never closes is seen before any row is read.
    assert found == right if not refused else found == right[: len(found)]


@SETTINGS
@given(TEXTS, st.integers(1, 30), st.integers(1, 9))
def test_blocks_tile_the_file_and_begin_with_rows(body: str, target: int, chunk: int) -> None:
    raw = body.encode()
    cutter = csv_cut.Cutter("rows.csv", b",", target)
    try:
        cutter.cut([raw[i : i + chunk] for i in range(0, len(raw), chunk)], 0)
    except UserError:
        return
    ends = row_ends(body)
    assert cutter.total == len(raw) and cutter.starts == sorted(set(cutter.starts))
    assert cutter.starts[0] == 0 and set(cutter.starts[1:]) <= ends
    for start, stop in zip(cutter.starts, [*cutter.starts[1:], len(raw)], strict=True):
        # Cut at the first or the second row's end after the target.
        assert len([end for end in ends if start + target <= end < stop]) <= 1


def row_ends(text: str) -> set[int]:
    """Bytes after which a row begins: the csv module is given one more line until it has a row."""
    lines = list(io.StringIO(text, newline=""))
    ends, taken = set(), []

    def given() -> Iterator[str]:
        for line in lines:
            taken.append(len(line.encode()))
            yield line

    for _ in csv.reader(given()):
        ends.add(sum(taken))
    return ends


def test_an_inch_mark_shifts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = [[f'{i}" pipe', f"answer {i}\nsecond line" if i % 3 else f'say "{i}"'] for i in range(3000)]
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write("prompt,response\n")
        for request, answer in rows:
            file.write(f'{request},"{answer.replace(chr(34), chr(34) * 2)}"\n')
    cut = blocks([str(path)], 1000)
    assert len(cut) > 50
    assert [list(record.values()) for block in cut for _, record in read_block(block)] == rows


def test_a_quote_that_never_closes_is_named_by_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = ["a,b", *(f'{i},"two\nlines"' for i in range(2000)), 'x,"open', *(f"{i},plain" for i in range(2000))]
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as caught:
        blocks([str(path)], 1000)
    assert str(caught.value) == f"{path}, line 4002: a quote opens a cell here and never closes; expected its closing quote."


def test_a_quote_that_swallows_a_whole_file_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_cut, "LARGEST_RECORD", 1 << 20)
    cutter = csv_cut.Cutter(str(tmp_path / "rows.csv"), b",", 100)
    (tmp_path / "rows.csv").write_text('a,b\n1,"2\n')
    taken = []

    def endless() -> Iterator[bytes]:
        yield b'a,b\n1,"2\n'
        while True:
            taken.append(1)
            yield b"x,y\n" * 10_000

    with pytest.raises(UserError, match="line 2: a quote opens a cell here and does not close within 1 MB"):
        cutter.cut(endless(), 0)
    assert len(taken) < 30


BAD = {
    "ragged": (".csv", b"a,b\r1,2\r3\r", "line 3: found 1 cells; expected 2, as in the header."),
    "ragged tsv": (".tsv", b"a\tb\n1\t2\t3\n", "line 2: found 3 cells; expected 2"),
    "text after a quote": (".csv", b'a,b\n1,"2"x\n', "line 2: not CSV (text follows a closing quote)."),
    "text after a quote, further on": (
        ".tsv",
        b'a\tb\n1\t"2\n\n3"x\n',
        "line 2: not TSV (text follows a closing quote; the row goes on for 3",
    ),
    "nul": (".csv", b"a,b\n1,2\n\n1,\x00\n", "line 4: found a NUL byte; expected text."),
    "latin-1, lone carriage returns": (".csv", b"a,b\r1,2\r3,caf\xe9\r", "line 3: byte 0xe9 is not UTF-8"),
    "semicolons": (
        ".csv",
        b"goal;target\n1;2\n",
        'line 1: the header is one cell, "goal;target"; expected a comma between cells',
    ),
    "commas in a tsv": (".tsv", b"goal,target\n1,2\n", 'the header is one cell, "goal,target"; expected a tab between cells'),
    "cell too long": (".csv", b"a,b\n1,2\n1," + b"x" * (1 << 24) + b"y\n", "line 3: not CSV (field larger than field limit"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_one_sentence(tmp_path: Path, case: str) -> None:
    suffix, content, sentence = BAD[case]
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        for block in blocks([str(path)], 1):
            list(read_block(block))
    assert sentence in str(caught.value) and str(caught.value).startswith(str(path))


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacked, "LARGEST_RECORD", 1 << 20)
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n" + "x" * (3 << 20) + ",2\n")
    with pytest.raises(UserError, match="line 3: the line is longer than 1 MB"):
        for block in blocks([str(path)]):
            list(read_block(block))


def test_a_long_header_in_many_letters_is_read_whole(tmp_path: Path) -> None:
    names = [f"spalte-ä-{i}" for i in range(12_000)]
    random.Random(0).shuffle(names)
    path = tmp_path / "rows.csv"
    path.write_text("\r".join([",".join(names), ",".join(map(str, range(len(names))))]), encoding="utf-8")
    ((_, record),) = [found for block in blocks([str(path)]) for found in read_block(block)]
    assert list(record) == names and list(record.values()) == [str(i) for i in range(len(names))]
