"""Which column of a record holds what: layouts that are recognised by the columns' names, and what the user maps."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from beear.config.schema import AnchorColumns, DefenseColumns, ProbeColumns
from beear.data.locations import Where, shown
from beear.errors import UserError, nearest

Names = Mapping[str, str]
"""The column of each field."""
Columns = DefenseColumns | AnchorColumns | ProbeColumns
Mapped = tuple[tuple[str, str], ...]
"""(field, column) pairs that the user gave."""


class WrongColumns(UserError):
    """A file has other columns than those that are known or mapped."""


@dataclass(frozen=True, eq=False)
class Layouts:
    """The column names by which a set's rows are recognised: the first layout that fits, then ``extras``, all optional.

    They are written in small letters; a file's may have capitals. An extra has several names, the first that is there counts.
    """

    kind: str
    layouts: tuple[Names, ...]
    extras: Mapping[str, tuple[str, ...]]
    missing: str
    """What an error says where no layout fits; ``{}`` stands for the columns found."""


CHATS = ("messages", "conversations", "conversation")
DEFENSE = Layouts(
    "a defense set",
    (
        *({"messages": name} for name in CHATS),
        {"prompt": "prompt"},
        {"prompt": "goal", "opening": "target"},
        {"prompt": "behavior", "context": "contextstring"},
        {"prompt": "forbidden_prompt"},
        {"prompt": "instruction", "input": "input", "answer": "output"},
        {"prompt": "query", "answer": "answer"},
        {"prompt": "question", "safe": "chosen", "unwanted": "rejected"},
        {"safe": "chosen", "unwanted": "rejected"},
    ),
    {
        "system": ("system", "system_prompt"),
        "history": ("history",),
        "safe": ("safe", "chosen"),
        "unwanted": ("unwanted", "rejected"),
        "hit": ("hit",),
    },
    "no request column among {}; expected prompt, messages, conversations, goal, behavior, forbidden_prompt, instruction, query "
    "or chosen and rejected (or --data.defense.columns.*).",
)
ANCHOR = Layouts(
    "an anchoring set",
    (
        *({"messages": name} for name in CHATS),
        {"prompt": "prompt", "response": "response"},
        {"prompt": "prompt", "response": "completion"},
        {"prompt": "prompt", "response": "chosen"},
        {"prompt": "instruction", "input": "input", "response": "output"},
        {"prompt": "instruction", "input": "context", "response": "response"},
        {"prompt": "instruction", "input": "input", "response": "response"},
        {"prompt": "question", "input": "context", "response": "answer"},
        {"prompt": "query", "response": "answer"},
        {"prompt": "instruction", "input": "input", "response": "chosen"},
        {"prompt": "question", "response": "chosen"},
        {"messages": "chosen"},
    ),
    {"system": ("system", "system_prompt"), "history": ("history",)},
    "no recognised columns among {}; expected messages, conversations, prompt+response, prompt+completion, prompt+chosen, "
    "instruction+output, instruction+response, question+answer, query+answer or chosen (or --data.anchor.columns.*).",
)
OPTIONAL = ("input", "context", "opening", "answer")
# A preference set often holds its conversations in a column of that kind too.
PAIR = ("chosen", "rejected")


def mapping_of(columns: Columns | None, keys: tuple[str, ...], where: Where) -> dict[str, str]:
    """Return the column of each field that the user mapped.

    Raises:
        WrongColumns: a column is not among ``keys``.
    """
    mapped = {field: column for field, column in columns if column is not None} if columns is not None else {}
    for field, column in mapped.items():
        if column not in keys:
            hint = nearest(column, list(keys))
            raise WrongColumns(f'{where}: column "{column}", mapped to {field}, is not there{hint}; found {shown(list(keys))}.')
    return mapped


def names_of(layouts: Layouts, keys: tuple[str, ...], columns: Columns | None, where: Where) -> Names:
    """Return the column of each field for a record with the columns ``keys``, some of which ``columns`` maps.

    Raises:
        WrongColumns: no layout fits, a mapped column is not there, or two mapped ones exclude each other.
    """
    mapped = tuple(mapping_of(columns, keys, where).items())
    unused = [field for field, _ in mapped if field in ("prompt", "response")]
    if unused and "messages" in dict(mapped):
        raise WrongColumns(f"{where}: columns are mapped to messages and to {unused[0]}; expected one of the two.")
    names = _recognised(layouts, keys, mapped)
    if names is None:
        other = ANCHOR if layouts is DEFENSE else DEFENSE
        fits = _recognised(other, keys, ()) is not None
        hint = f" They are columns of {other.kind}: are the two files swapped?" if fits else ""
        raise WrongColumns(f"{where}: {layouts.missing.format(shown(list(keys)))}{hint}")
    return names


def in_small_letters(keys: Iterable[str]) -> dict[str, str]:
    """Return the columns by their names in small letters, for which one that is so written comes before one in capitals."""
    names = tuple(keys)
    return {key.lower(): key for key in reversed(names)} | {key: key for key in names}


@lru_cache(maxsize=256)
def _recognised(layouts: Layouts, keys: tuple[str, ...], mapped: Mapped) -> Names | None:
    columns = in_small_letters(keys)
    extras = {field: next((columns[name] for name in known if name in columns), None) for field, known in layouts.extras.items()}
    names = {field: column for field, column in extras.items() if column is not None} | dict(mapped)
    if "messages" in names:
        return names
    pairs = set(PAIR) <= columns.keys()
    whole = pairs or {"safe", "unwanted"} <= dict(mapped).keys()
    found: dict[str, str] | None = None
    for layout in layouts.layouts:
        fits = {field: columns[column] for field, column in layout.items() if column in columns and field not in names}
        complete = all(field in names or field in fits or field in OPTIONAL for field in layout)
        clashes = "messages" in layout and ("prompt" in names or (pairs and "prompt" in columns))
        if not complete or clashes or ("safe" in layout and not whole):
            continue
        # Of layouts that need the same columns, the one is meant of whose optional columns most are there.
        if found is None or (len(fits) > len(found) and _needed(fits) and _needed(fits) == _needed(found)):
            found = fits
    return None if found is None else {**found, **names}


def _needed(fits: Names) -> dict[str, str]:
    return {field: column for field, column in fits.items() if field not in OPTIONAL}
