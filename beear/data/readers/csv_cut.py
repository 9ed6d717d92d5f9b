"""Where a CSV file may be cut: the bytes at which rows start, found in one pass by the rules of Python's csv module.

A quote opens a quoted cell only as the first character of the cell; elsewhere it is an inch mark or the like. In a quoted
cell two quotes stand for one, and line ends and delimiters are text.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NoReturn

from beear.data.locations import Where
from beear.data.unpacked import LARGEST_RECORD
from beear.errors import UserError

INSIDE = re.compile(rb'(?:[^"]++|"")*+')


@dataclass
class Cutter:
    """Cuts the file at ``path`` at the first row that starts ``target_bytes`` or more after the last cut.

    ``starts`` are the cuts so far, as bytes of the content; ``total`` is how much of it was seen.
    """

    path: str
    delimiter: bytes
    target_bytes: int
    starts: list[int] = field(default_factory=lambda: [0])
    total: int = 0

    def __post_init__(self) -> None:
        """Make the patterns of what stands outside quoted cells, up to a cell that the text at hand does not close."""
        edge = re.escape(self.delimiter) + rb"\r\n"
        cell = rb'(?<=[%b])"[^"]*+(?:""[^"]*+)*+"(?=[^"])' % edge
        literal = rb'(?<=[^%b])"' % edge
        self._outside = re.compile(rb'(?:[^"]++|%b|%b)*+' % (cell, literal))
        self._line = re.compile(rb'(?:[^"\r\n]++|%b|%b)*+' % (cell, literal))
        # The text begins with one byte that has been dealt with: the next one may be a quote, and its meaning hangs on it.
        self._text, self._base, self._at, self._opened = b"\n", -1, 1, -1

    def cut(self, chunks: Iterable[bytes], skipped: int) -> None:
        """Take the content, of which the first ``skipped`` bytes (a byte order mark) are no part of a cell.

        Raises:
            UserError: a quoted cell does not close, or a row is too long.
        """
        for chunk in chunks:
            self.total += len(chunk)
            if self.total == len(chunk):
                chunk, self._base = chunk[skipped:], skipped - 1
            kept = self._at - 1
            self._text, self._base, self._at = self._text[kept:] + chunk, self._base + kept, 1
            self._take()
            if self._base + self._at - self.starts[-1] > self.target_bytes + LARGEST_RECORD:
                self._refuse_long()
        # A quote that nothing follows closes its cell.
        if self._opened >= 0 and self._at == len(self._text):
            self._refuse_open("never closes")
        if self.starts[-1] >= self.total and len(self.starts) > 1:
            self.starts.pop()

    def _take(self) -> None:
        """Go through the text at hand as far as its meaning is sure."""
        text, end = self._text, len(self._text)
        while self._at < end:
            if self._opened >= 0:
                self._at = _end(INSIDE, text, self._at, end)
                # The next chunk may begin with the second quote of a pair.
                if self._at >= end - 1:
                    return
                self._at, self._opened = self._at + 1, -1
                continue
            goal = self.starts[-1] + self.target_bytes - self._base
            if self._at < goal:
                stop = min(goal, end)
                self._at = _end(self._outside, text, self._at, stop)
                if self._at < stop:
                    self._open_cell()
                continue
            self._at = _end(self._line, text, self._at, end)
            if self._at < end and text[self._at : self._at + 1] == b'"':
                self._open_cell()
            elif self._at < end:
                pair = text[self._at : self._at + 2]
                # The next chunk may begin with the line feed.
                if pair == b"\r":
                    return
                self._at += 2 if pair == b"\r\n" else 1
                self.starts.append(self._base + self._at)

    def _open_cell(self) -> None:
        self._opened = self._base + self._at
        self._at += 1

    def _refuse_open(self, what: str) -> NoReturn:
        place = Where(self.path, 1, "line", self._opened)
        raise UserError(f"{place}: a quote opens a cell here and {what}; expected its closing quote.")

    def _refuse_long(self) -> NoReturn:
        limit = f"{LARGEST_RECORD >> 20} MB"
        if self._opened >= 0:
            self._refuse_open(f"does not close within {limit}")
        place = Where(self.path, 1, "line", self._base + self._at)
        raise UserError(f"{place}: the row is longer than {limit}; expected shorter rows.")


def _end(pattern: re.Pattern[bytes], text: bytes, start: int, stop: int) -> int:
    """Return where the match that begins at ``start`` ends; the patterns match the empty text."""
    match = pattern.match(text, start, stop)
    return match.end() if match else start
