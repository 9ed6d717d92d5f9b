"""Where in a file a record stands, said only when it must be."""

import json
from dataclasses import dataclass

from beear.data import storage

SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class Where:
    """The place of one record: ``number`` counts lines, items or rows (``unit``) from 1 after byte ``start``.

    A block in mid-file does not know its first line's number; ``str()`` counts the newlines before it, which reads
    the file up to there, so it is left until an error has to be said.
    """

    path: str
    number: int
    unit: str = "line"
    start: int = 0

    def __str__(self) -> str:
        """Return ``FILE, line N``."""
        before = storage.count_newlines(self.path, self.start) if self.start else 0
        return f"{self.path}, {self.unit} {before + self.number}"

    @property
    def brief(self) -> str:
        """A place that costs nothing to say: exact at the file's start, else relative to the block's byte."""
        after = f" after byte {self.start}" if self.start else ""
        return f"{self.path}, {self.unit} {self.number}{after}"


def shown(value: object) -> str:
    """Return ``value`` as JSON where it can be, cut to a length that fits in a sentence."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    # A lone surrogate would break the terminal that prints the sentence.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
