"""JSON: one array of objects, which is read whole."""

import json
import re
from collections.abc import Iterator

from beear.data import storage, unpacked
from beear.data.locations import Block, Where, shown
from beear.data.readers.text import BOM, decode, distinct, why_not
from beear.data.suffixes import packing_of
from beear.errors import UserError

LARGEST_BYTES = 256 << 20
BETWEEN = re.compile(r"[\s,]*")


def is_array(path: str) -> bool:
    """Say whether the file's first character opens an array."""
    with unpacked.open_at(path) as file:
        head = file.read(4096)
    return head.removeprefix(BOM).lstrip()[:1] == b"["


def cut(path: str, target_bytes: int) -> list[Block]:
    """Return the whole file as one block, since an array cannot be read from its middle.

    Raises:
        UserError: the file is too large to be read whole.
    """
    packed, total = packing_of(path), 0
    for size in map(len, unpacked.chunks(path)) if packed else [storage.size(path)]:
        total += size
        if total > LARGEST_BYTES:
            found = "more than 256 MB unpacked" if packed else f"{total >> 20} MB"
            raise UserError(f"{path} is one JSON array of {found}; expected at most 256, or JSONL, which streams.")
    return [Block(path, "json", 0, total, size=total)]


def read(block: Block) -> Iterator[tuple[Where, dict[str, object]]]:
    """Yield the array's objects, counted as items.

    Raises:
        UserError: the file is not UTF-8 or not JSON, or an item is not an object.
    """
    with unpacked.open_at(block.path) as file:
        text = decode(file.read().removeprefix(BOM), Where(block.path, 1))
    try:
        items = json.loads(text, object_pairs_hook=distinct)
    except json.JSONDecodeError as error:
        place = Where(block.path, error.lineno)
        raise UserError(f"{place}: not JSON ({error.msg}); expected an array of objects.") from error
    except (ValueError, RecursionError) as error:
        place = Where(block.path, _unreadable(text), "item")
        raise UserError(f"{place}: not JSON ({why_not(error)}); expected an array of objects.") from error
    for number, item in enumerate(items, 1):
        where = Where(block.path, number, "item")
        if not isinstance(item, dict):
            raise UserError(f"{where}: found {shown(item)}; expected a JSON object with named fields.")
        yield where, item


def _unreadable(text: str) -> int:
    """Return the number of the first item that cannot be read; these errors do not say where they are."""
    decoder, at, number = json.JSONDecoder(object_pairs_hook=distinct), text.index("[") + 1, 0
    while True:
        number += 1
        gap = BETWEEN.match(text, at)
        try:
            _, at = decoder.raw_decode(text, gap.end() if gap else at)
        except (ValueError, RecursionError):
            return number
