"""Excel (``.xlsx``): the one sheet that holds data, its first row the header, its cells as Excel shows them."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from beear.data import storage
from beear.data.locations import Block, Where, shown
from beear.data.readers import excel_parts
from beear.errors import UserError

# Excel writes a control character so, and openpyxl does not tell it from the same letters typed by a person.
ESCAPE = re.compile("_x[0-9A-Fa-f]{4}_")
SHOWN_AS_THEY_ARE = ("General", "@", "0")
# So many characters of a number are shown in a column that is wide enough, and the rest is rounded off.
SHOWN_DIGITS = 11
NEEDED = 'reading .xlsx needs openpyxl; run pip install "openpyxl>=3.1" on every node, or save the sheet as CSV'


@dataclass(frozen=True)
class Unclear:
    """A cell whose text on the screen is not known: a row that uses it is refused, as for any value that is no text."""

    said: str

    def __repr__(self) -> str:
        """Return what stands in the cell, and where."""
        return self.said


def cut(path: str, target_bytes: int) -> list[Block]:
    """Return the whole file as one block, since a sheet cannot be read from its middle.

    Raises:
        UserError: openpyxl is not installed, or the file is no workbook that may be read (:func:`excel_parts.check`).
    """
    with storage.open_binary(path) as file, _understood(path):
        total = excel_parts.check(path, file)
    _openpyxl(path)
    return [Block(path, "xlsx", 0, total, size=total)]


def read(block: Block) -> Iterator[tuple[Where, dict[str, object]]]:
    """Yield records by column name, counted as rows of the sheet; empty cells are None and empty rows are left out.

    Raises:
        UserError: no sheet or more than one holds data, the header is not one, or a cell stands beside its columns.
    """
    path = block.path
    with _understood(path):
        sheet, formulas = _sheet(path)
        with _workbook(path, data_only=True) as book:
            header: list[object] = []
            for number, cells in _rows(book[sheet]):
                values = [_value(cell, formulas) for cell in cells]
                where = Where(path, number, "sheet row")
                if number == 1:
                    header = _header(values, where)
                elif any(value is not None for value in values):
                    yield where, _record(header, values, cells, where)


def _sheet(path: str) -> tuple[str, set[str]]:
    """Return the name of the only sheet with data, and which of its cells are formulas."""
    found: dict[str, set[str]] = {}
    with _workbook(path, data_only=False) as book:
        for sheet in book.worksheets:
            filled = False
            formulas = set()
            for _, cells in _rows(sheet):
                filled = filled or any(cell.value not in (None, "") for cell in cells)
                formulas |= {cell.coordinate for cell in cells if cell.data_type == "f"}
            if filled:
                found[sheet.title] = formulas
    if not found:
        raise UserError(f"{path} holds no data in any sheet; expected a header and at least one row.")
    if len(found) > 1:
        raise UserError(
            f"{path} holds data in {len(found)} sheets, {shown(list(found))}; expected one: save the one you mean as CSV."
        )
    return next(iter(found.items()))


def _rows(sheet: Any) -> Iterator[tuple[int, tuple[Any, ...]]]:
    # What a sheet says of its own size may be wrong, and cells beyond it would be left out.
    sheet.reset_dimensions()
    return enumerate(sheet.iter_rows(), 1)


def _value(cell: Any, formulas: set[str]) -> object:
    """Return the cell's text as Excel shows it, None where it is empty."""
    value, kind = cell.value, cell.data_type
    if value is None or value == "":
        # A cell that the file leaves out has no address. Of kind "str" is a formula whose value is the empty text.
        uncomputed = kind != "str" and value is None and getattr(cell, "coordinate", None) in formulas
        return Unclear(f"a formula without value in cell {cell.coordinate}") if uncomputed else None
    if kind == "s" and isinstance(value, str):
        escape = ESCAPE.search(value)
        return Unclear(f"the escape {escape.group()} in cell {cell.coordinate}") if escape else value
    if kind == "b":
        return "TRUE" if value else "FALSE"
    if kind == "n" and isinstance(value, int | float) and cell.number_format in SHOWN_AS_THEY_ARE:
        text = f"{value:.15g}"
        whole = value == int(value) if abs(value) < 10**SHOWN_DIGITS else False
        if whole or (len(text) <= SHOWN_DIGITS and "e" not in text and cell.number_format != "0"):
            return text
    return Unclear(f"{value} in cell {cell.coordinate}")


def _header(values: list[object], where: Where) -> list[object]:
    while values and values[-1] is None:
        values.pop()
    names = [value for value in values if value is not None]
    if not names or len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: the header is {_shown_row(values)}; expected one distinct name per column.")
    return values


def _record(header: list[object], values: list[object], cells: tuple[Any, ...], where: Where) -> dict[str, object]:
    names = [*header, *[None] * (len(values) - len(header))]
    values = [*values, *[None] * (len(names) - len(values))]
    for at, (name, value) in enumerate(zip(names, values, strict=True)):
        if name is None and value is not None:
            place = cells[at].coordinate
            raise UserError(f"{where}: cell {place} holds {shown(value)}; expected a name above it in the header, row 1.")
    return {str(name): value for name, value in zip(names, values, strict=True) if name is not None}


def _shown_row(values: list[object]) -> str:
    """Return cells as a list that fits in a sentence."""
    return shown([value if isinstance(value, str) or value is None else str(value) for value in values])


@contextmanager
def _workbook(path: str, data_only: bool) -> Iterator[Any]:
    file: BinaryIO
    with storage.open_binary(path) as file:
        book = _openpyxl(path).load_workbook(file, read_only=True, data_only=data_only, keep_links=False)
        try:
            yield book
        finally:
            book.close()


@contextmanager
def _understood(path: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # zip, XML and openpyxl raise many kinds of errors, and each means that the file is damaged
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise UserError(f"{path} cannot be read ({reason}); expected an undamaged .xlsx file.") from error


def _openpyxl(path: str) -> Any:
    try:
        import openpyxl
    except ImportError as error:
        raise UserError(f"{path}: {NEEDED}.") from error
    # It warns of parts that it does not need: validation lists, extensions.
    warnings.filterwarnings("ignore", module="openpyxl")
    return openpyxl
