"""Excel files: the cells as Excel shows them or refused, and no file that grows while it is read."""

import datetime
import io
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest

from beear.data.columns import anchor_row
from beear.data.files import blocks, expand, read_block
from beear.data.readers import excel_parts
from beear.errors import UserError
from tests.checkout import ROOT


def read(path: Path) -> list[tuple[str, dict[str, object]]]:
    return [(str(where), record) for block in blocks(expand(str(path))) for where, record in read_block(block)]


def saved(folder: Path, *rows: list[object], **formats: str) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for cell, code in formats.items():
        book.active[cell].number_format = code
    path = folder / "rows.xlsx"
    book.save(path)
    return path


def changed(path: Path, part: str, change: Callable[[bytes], bytes]) -> Path:
    """Write one part of the archive anew."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            after = change(content) if name == part else content
            assert name != part or after != content
            new.writestr(name, after)
    path.write_bytes(out.getvalue())
    return path


SHEET = "xl/worksheets/sheet1.xml"


def test_rows_are_those_of_the_sheet_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    path = saved(tmp_path, ["prompt", "response"], ["a\nb", "ä 😀 &<"], [], ["c", None], [None, None], [""])
    found = read(path)
    assert found == [
        (f"{path}, sheet row 2", {"prompt": "a\nb", "response": "ä 😀 &<"}),
        (f"{path}, sheet row 4", {"prompt": "c", "response": None}),
    ]
    path.rename(tmp_path / "ROWS.XLSX")
    assert [record for _, record in read(tmp_path / "*.XLSX")] == [record for _, record in found]


SHOWN = [
    (5, "General", "5"),
    (-5, "@", "-5"),
    (5.0, "General", "5"),
    (0.1, "General", "0.1"),
    (-2.25, "General", "-2.25"),
    (99_999_999_999, "General", "99999999999"),
    (True, "General", "TRUE"),
    (False, "General", "FALSE"),
    (7, "0", "7"),
    (" 007", "@", " 007"),
]
REFUSED = [
    (123_456_789_012, "General", "123456789012 in cell A2"),
    (0.1234567890123, "General", "0.1234567890123 in cell A2"),
    (0.00001, "General", "1e-05 in cell A2"),
    (0.25, "0.00%", "0.25 in cell A2"),
    (2.5, "0", "2.5 in cell A2"),
    (datetime.datetime(2024, 2, 1), "yyyy-mm-dd", "2024-02-01 00:00:00 in cell A2"),
    ("#N/A", "General", "#N/A in cell A2"),
    ("=1+1", "General", "a formula without value in cell A2"),
    ("a_x000D_b", "General", "the escape _x000D_ in cell A2"),
]


@pytest.mark.parametrize(("value", "code", "text"), SHOWN)
def test_numbers_are_shown_as_excel_shows_them(tmp_path: Path, value: object, code: str, text: str) -> None:
    path = saved(tmp_path, ["prompt"], [value], A2=code)
    assert [record for _, record in read(path)] == [{"prompt": text}]


@pytest.mark.parametrize(("value", "code", "said"), REFUSED)
def test_what_excel_shows_otherwise_is_refused_where_it_is_used(tmp_path: Path, value: object, code: str, said: str) -> None:
    path = saved(tmp_path, ["prompt", "response"], [value, "b"], A2=code)
    ((block,), columns) = blocks([str(path)]), None
    ((where, record),) = read_block(block)
    with pytest.raises(UserError) as caught:
        anchor_row(record, where, columns)
    assert str(caught.value) == f"{path}, sheet row 2: prompt is {said}; expected a text."
    # A column that is not used may hold anything.
    assert anchor_row(record | {"prompt": "p", "note": record["prompt"]}, where).messages[0].content == "p"


def test_a_formula_gives_the_value_that_excel_stored(tmp_path: Path) -> None:
    path = saved(tmp_path, ["prompt"], ['="a"&"b"'])
    changed(
        path, SHEET, lambda xml: re.sub(rb'<c r="A2"[^>]*>(<f>.*?</f>)<v ?/?>(</v>)?', rb'<c r="A2" t="str">\1<v>ab</v>', xml)
    )
    assert [record for _, record in read(path)] == [{"prompt": "ab"}]
    # An empty text is a value too, as of formulas that were filled down beyond the last row.
    changed(path, SHEET, lambda xml: xml.replace(b"<v>ab</v>", b"<v></v>"))
    assert read(path) == []


def test_a_sheet_that_says_too_small_a_size_is_read_whole(tmp_path: Path) -> None:
    path = saved(tmp_path, ["prompt", "response"], ["a", "b"], ["c", "d"])
    changed(path, SHEET, lambda xml: xml.replace(b'ref="A1:B3"', b'ref="A1:A2"'))
    assert [record for _, record in read(path)] == [{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d"}]


def test_more_than_one_sheet_with_data_is_refused_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path, ["prompt"], ["a"])
    book = openpyxl.load_workbook(path)
    book.create_sheet("empty")
    book.save(path)
    assert len(read(path)) == 1
    other = book.create_sheet("notes")
    other["C7"] = 1
    other.sheet_state = "hidden"
    book.save(path)
    with pytest.raises(
        UserError, match=r'holds data in 2 sheets, \["Sheet", "notes"\]; expected one: save the one you mean as CSV'
    ):
        read(path)
    # Saved as CSV it is read.
    (tmp_path / "rows.csv").write_text("prompt\na\n")
    assert len(read(tmp_path / "rows.csv")) == 1


BAD: dict[str, tuple[list[list[object]], str]] = {
    "nothing": ([], "holds no data in any sheet"),
    "no header": ([[], ["a"]], "sheet row 1: the header is []; expected one distinct name per column."),
    "twice": ([["a", "a"], ["1", "2"]], 'sheet row 1: the header is ["a", "a"]'),
    "unclear name": ([["a", 0.00001], ["1", "2"]], 'sheet row 1: the header is ["a", "1e-05 in cell B1"]'),
    "beyond": ([["a"], ["1"], ["1", None, "x"]], 'sheet row 3: cell C3 holds "x"; expected a name above it in the header'),
    "under a gap": ([["a", None, "c"], ["1", 2, "3"]], 'sheet row 2: cell B2 holds "2"; expected a name above it'),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sheets_are_one_sentence(tmp_path: Path, case: str) -> None:
    rows, sentence = BAD[case]
    path = saved(tmp_path, *rows)
    with pytest.raises(UserError) as caught:
        read(path)
    assert sentence in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_workbook_are_one_sentence(tmp_path: Path) -> None:
    path = saved(tmp_path, ["prompt"], ["a"])
    whole = path.read_bytes()
    for content, sentence in (
        (b"prompt\na\n", "cannot be read (File is not a zip file); expected an undamaged .xlsx file."),
        (b"\xd0\xcf\x11\xe0 password", "has a password or is an old .xls file; expected an .xlsx file without a password."),
        (whole[: len(whole) // 2], "cannot be read (File is not a zip file)"),
        (whole.replace(b"xl/workbook.xml", b"xl/workbxxk.xml"), "cannot be read ("),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            read(path)
        assert sentence in str(caught.value) and str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    path.write_bytes(whole)
    changed(path, SHEET, lambda xml: xml.replace(b"</row>", b"", 1))
    with pytest.raises(UserError, match=r"cannot be read \(mismatched tag"):
        read(path)


def test_a_workbook_that_grows_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excel_parts, "LARGEST_BYTES", 4 << 20)
    path = changed(
        saved(tmp_path, ["prompt"], ["a"]), SHEET, lambda xml: xml.replace(b"<sheetData>", b" " * (5 << 20) + b"<sheetData>")
    )
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match=r"holds 5 MB unpacked; expected at most 4, or CSV, which streams\."):
        blocks([str(path)])


@pytest.mark.parametrize("coding", ["utf-8", "utf-16", "iso-8859-1"])
def test_entities_are_refused_before_they_are_read(tmp_path: Path, coding: str) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'

    def armed(xml: bytes) -> bytes:
        body = xml.decode().split("?>", 1)[-1]
        return f'<?xml version="1.0" encoding="{coding}"?>{bomb}{body}'.encode(coding)

    path = changed(saved(tmp_path, ["prompt"], ["a"]), SHEET, armed)
    with pytest.raises(UserError, match=rf"rows\.xlsx, {SHEET}: found a document type declaration; expected none"):
        blocks([str(path)])


MISPLACED = {
    "beyond": (
        b'<row r="3"',
        b'<row r="99999999999"',
        "row 99999999999 follows row 2; expected at most 1048576, as Excel writes them",
    ),
    "twice": (b'<row r="3"', b'<row r="2"', "row 2 follows row 2; expected rows in order"),
    "backwards": (b'r="A2"', b'r="C2"', "cell B2 stands after column C; expected cells in order"),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_rows_and_cells_that_openpyxl_would_leave_out_are_refused(tmp_path: Path, case: str) -> None:
    before, after, sentence = MISPLACED[case]
    path = saved(tmp_path, ["prompt", "response"], ["a", "b"], ["c", "d"])
    changed(path, SHEET, lambda xml: xml.replace(before, after))
    with pytest.raises(UserError, match=rf"rows\.xlsx, {SHEET}: {sentence}"):
        blocks([str(path)])


def test_columns_beyond_z_are_in_order(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(60)]
    assert list(read(saved(tmp_path, names, names))[0][1].values()) == names


def test_cells_without_addresses_stand_side_by_side(tmp_path: Path) -> None:
    path = saved(tmp_path, ["prompt", "response"], ["a", "b"])
    changed(path, SHEET, lambda xml: re.sub(rb' r="[A-Z]*[0-9]+"', b"", xml))
    assert read(path) == [(f"{path}, sheet row 2", {"prompt": "a", "response": "b"})]


def test_without_openpyxl_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, ["prompt"], ["a"])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError) as caught:
        blocks([str(path)])
    match = re.fullmatch(
        r'.*rows\.xlsx: reading \.xlsx needs openpyxl; run pip (install "(.*)") on every node, or save the sheet as CSV\.',
        str(caught.value),
    )
    assert match
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["xlsx"] == [match[2]]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", match[2]]
    assert "already satisfied: openpyxl" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
