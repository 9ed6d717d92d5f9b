"""What a file's name says of its content: the format, and how it is compressed."""

import os
from typing import Literal

from beear.errors import UserError

Format = Literal["jsonl", "json", "csv", "tsv", "parquet", "xlsx"]
Packing = Literal["gzip", "zstd"]
FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
}
PACKINGS: dict[str, Packing] = {".gz": "gzip", ".zst": "zstd"}
PACKED_INSIDE: tuple[Format, ...] = ("parquet", "xlsx")
TABLES: tuple[Format, ...] = ("csv", "tsv")


def format_of(path: str) -> Format:
    """Return the format that the name ends with, in capitals or not, before ``.gz`` or ``.zst``.

    Raises:
        UserError: the extension is unknown, or a format that is compressed inside is compressed once more.
    """
    inner, packing = _split(path)
    extension = os.path.splitext(inner)[1].lower()
    if extension not in FORMATS:
        known, packed = ", ".join(FORMATS), " or ".join(PACKINGS)
        given = extension + os.path.splitext(path)[1].lower() if packing else extension
        raise UserError(f'{path} has the extension "{given}"; expected one of {known}, or a text format followed by {packed}.')
    if packing and FORMATS[extension] in PACKED_INSIDE:
        raise UserError(
            f"{path} is compressed twice, since {extension} compresses inside itself; expected a plain {extension} file."
        )
    return FORMATS[extension]


def is_data(path: str) -> bool:
    """Say whether the name is one of a data file."""
    try:
        format_of(path)
    except UserError:
        return False
    return True


def packing_of(path: str) -> Packing | None:
    """Return how the file is compressed from outside; None where it is not."""
    return _split(path)[1]


def stem(path: str) -> str:
    """Return ``path`` without the extensions that say format and packing."""
    return os.path.splitext(_split(path)[0])[0]


def _split(path: str) -> tuple[str, Packing | None]:
    inner, last = os.path.splitext(path)
    packing = PACKINGS.get(last.lower())
    return (inner, packing) if packing else (path, None)
