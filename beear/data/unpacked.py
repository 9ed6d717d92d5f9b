"""The content of data files, plain or compressed: a position in it is a byte of the unpacked text.

A compressed file has no way into its middle: to begin at a byte is to unpack all that stands before it, a megabyte at a time.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO

from beear.data import storage
from beear.data.suffixes import TABLES, format_of, packing_of
from beear.errors import UserError

CHUNK = 1 << 20
# A line of JSONL or a row of CSV is read whole, and a file may hold a line without end.
LARGEST_RECORD = 64 << 20


def open_at(path: str, start: int = 0) -> BinaryIO:
    """Open the unpacked content for reading from byte ``start`` on.

    Raises:
        UserError: the file cannot be read, or its compressed bytes are damaged or cut off (then, or while they are read).
    """
    file = storage.open_binary(path)
    packing = packing_of(path)
    if packing is None:
        file.seek(start)
        return file
    unpacked = io.BufferedReader(_Unpacked(path, file, packing), CHUNK)
    while start > 0 and (passed := unpacked.read(min(start, CHUNK))):
        start -= len(passed)
    return unpacked


def chunks(path: str) -> Iterator[bytes]:
    """Yield the unpacked content, a megabyte or less at a time; raises as :func:`open_at` does."""
    with open_at(path) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def count_lines(path: str, stop: int) -> int:
    """Return how many lines end before byte ``stop`` of the content."""
    total, last = 0, b""
    for chunk in chunks(path):
        chunk = chunk[:stop]
        total += line_ends(last + chunk, path) - line_ends(last, path)
        last, stop = chunk[-1:], stop - len(chunk)
        if stop <= 0:
            break
    return total


def line_ends(text: bytes, path: str) -> int:
    """Return how many lines end in ``text``, a piece of the file ``path``; in CSV a carriage return alone ends one too."""
    found = text.count(b"\n")
    return found + text.count(b"\r") - text.count(b"\r\n") if format_of(path) in TABLES else found


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of an open file, one after the other."""

    def __init__(self, path: str, file: BinaryIO, packing: str) -> None:
        import pyarrow as pa

        self._path, self._file = path, file
        self._stream = pa.CompressedInputStream(file, packing)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # any writable buffer
        import pyarrow as pa

        try:
            data = self._stream.read(len(buffer))
        except (OSError, pa.ArrowException) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
            raise UserError(f"{self._path} cannot be unpacked ({reason}); expected a whole, undamaged file.") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
