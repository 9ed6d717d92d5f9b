"""The parts of an Excel file, a zip of XML, checked before openpyxl reads them: it trusts their sizes and their order."""

import re
import zipfile
from typing import IO, BinaryIO
from xml.parsers import expat

from beear.errors import UserError

LARGEST_BYTES = 256 << 20
# Excel's own limit; a file may name any row.
MOST_ROWS = 1 << 20
OLD_FORMAT = b"\xd0\xcf\x11\xe0"
ADDRESS = re.compile("([A-Z]{1,3})[0-9]+")


def check(path: str, file: BinaryIO) -> int:
    """Return how many bytes the file's parts hold unpacked.

    Raises:
        UserError: the file has a password, is too large to be read whole, has a part that declares entities, or a sheet
            whose rows or cells stand in another order than Excel's.
        zipfile.BadZipFile, expat.ExpatError, ValueError: it is no workbook.
    """
    if file.read(len(OLD_FORMAT)) == OLD_FORMAT:
        raise UserError(f"{path} has a password or is an old .xls file; expected an .xlsx file without a password.")
    with zipfile.ZipFile(file) as archive:
        # Python reads no more of a part than the archive says that it holds.
        total = sum(part.file_size for part in archive.infolist())
        if total > LARGEST_BYTES:
            limit = LARGEST_BYTES >> 20
            raise UserError(f"{path} holds {total >> 20} MB unpacked; expected at most {limit}, or CSV, which streams.")
        for part in archive.infolist():
            with archive.open(part) as content:
                _Part(f"{path}, {part.filename}").read(content)
    return total


class _Part:
    """One part: a sheet is read to its end, other XML to its first element, and what is no XML not at all."""

    def __init__(self, name: str) -> None:
        self.name, self.root, self.row, self.column = name, "", 0, ""
        self.parser = expat.ParserCreate()
        self.parser.StartDoctypeDeclHandler = self._document_type
        self.parser.StartElementHandler = self._element

    def read(self, content: IO[bytes]) -> None:
        while chunk := content.read(1 << 16):
            try:
                self.parser.Parse(chunk)
            except expat.ExpatError:
                if self.root:
                    raise
                return
            if self.root not in ("", "worksheet"):
                return

    def _document_type(self, *_: object) -> None:
        # Entities could grow without end.
        raise UserError(f"{self.name}: found a document type declaration; expected none, as Excel writes none.")

    def _element(self, name: str, attributes: dict[str, str]) -> None:
        kind = name.rpartition(":")[2]
        self.root = self.root or kind
        if self.root != "worksheet":
            return
        if kind == "row":
            row, self.column = int(attributes.get("r", self.row + 1)), ""
            # openpyxl leaves out what comes too late.
            if not self.row < row <= MOST_ROWS:
                limit = f"at most {MOST_ROWS}" if row > MOST_ROWS else "rows in order"
                raise UserError(f"{self.name}: row {row} follows row {self.row}; expected {limit}, as Excel writes them.")
            self.row = row
        elif kind == "c" and (address := ADDRESS.fullmatch(attributes.get("r", ""))):
            # AA comes after Z.
            if (len(address[1]), address[1]) <= (len(self.column), self.column):
                raise UserError(f"{self.name}: cell {address[0]} stands after column {self.column}; expected cells in order.")
            self.column = address[1]
