"""Bytes to text, and text to JSON, or an error."""

import json

from beear.data.locations import Where, shown
from beear.data.unpacked import line_ends
from beear.errors import UserError

BOM = b"\xef\xbb\xbf"


class Repeated(ValueError):
    """An object names a field twice; Python's json module would drop the first one."""


def distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object from its fields, as a hook for the json module.

    Raises:
        Repeated: a field is named twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise Repeated(f"field {shown(next(name for name in names if names.count(name) > 1))} is named twice")
    return found


def decode(raw: bytes, where: Where) -> str:
    """Return ``raw`` as text.

    Raises:
        UserError: ``raw`` is not UTF-8; the sentence names the file and the line of the first bad byte.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        passed = line_ends(raw[: error.start], where.path)
        line = Where(where.path, where.number + passed, "line", where.start)
        raise UserError(f"{line}: byte 0x{raw[error.start]:02x} is not UTF-8; expected a UTF-8 file.") from error


def why_not(error: Exception) -> str:
    """Return in a few words why ``json.loads`` failed."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    if isinstance(error, Repeated):
        return str(error)
    return "nested too deeply" if isinstance(error, RecursionError) else "an integer has too many digits"
