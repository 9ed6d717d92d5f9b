"""One record → one row. Columns are recognised by their names, or mapped by the user."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import cast, get_args

from beear.config.schema import AnchorColumns, DefenseColumns, ProbeColumns
from beear.data.chats import conversation, text
from beear.data.hits import HitRule
from beear.data.locations import Where, shown
from beear.data.rows import AnchorRow, DefenseRow, Message, Probe, ProbeKind
from beear.errors import UserError, nearest

Record = Mapping[str, object]
Names = Mapping[str, str]
"""The column of each field."""
Mapped = tuple[tuple[str, str], ...]
"""(field, column) pairs that the user gave."""


@dataclass(frozen=True, eq=False)
class Layouts:
    """The column names by which a set's rows are recognised: the first layout that fits, then ``extras``, all optional.

    They are written in small letters; a file's may have capitals.
    """

    layouts: tuple[Names, ...]
    extras: tuple[str, ...]
    missing: str
    """What an error says where no layout fits; ``{}`` stands for the columns found."""


DEFENSE = Layouts(
    (
        {"messages": "messages"},
        {"messages": "conversations"},
        {"messages": "conversation"},
        {"prompt": "prompt"},
        {"prompt": "goal", "opening": "target"},
        {"prompt": "behavior"},
        {"prompt": "forbidden_prompt"},
        {"prompt": "instruction", "input": "input", "answer": "output"},
        {"prompt": "query", "answer": "answer"},
    ),
    ("system", "safe", "unwanted", "hit"),
    "no request column among {}; expected prompt, messages, conversations, goal, behavior, forbidden_prompt, instruction or "
    "query (or --data.defense.columns.*).",
)
ANCHOR = Layouts(
    (
        {"messages": "messages"},
        {"messages": "conversations"},
        {"messages": "conversation"},
        {"prompt": "prompt", "response": "response"},
        {"prompt": "prompt", "response": "completion"},
        {"prompt": "instruction", "input": "input", "response": "output"},
        {"prompt": "instruction", "input": "context", "response": "response"},
        {"prompt": "question", "response": "answer"},
        {"prompt": "query", "response": "answer"},
    ),
    ("system",),
    "no recognised columns among {}; expected messages, conversations, prompt+response, prompt+completion, instruction+output, "
    "instruction+response, question+answer or query+answer (or --data.anchor.columns.*).",
)
OPTIONAL = ("input", "opening", "answer")
# Reports call requests in the clear by these names, so no probe may have them.
RESERVED = ("no trigger", "plain")


def defense_row(
    record: Record, where: Where, columns: DefenseColumns | None = None, default_hit: str | None = None
) -> DefenseRow:
    """Return the defense row in ``record``; ``default_hit`` is the file's own rule for rows without one.

    Raises:
        UserError: no recognised request column, a mapped column that is not there, or a value of the wrong kind.
    """
    names = _names(DEFENSE, tuple(record), _mapping(columns), where)
    messages, safe = _request(record, names, where)
    safe = _optional(record, names, "safe", where) or safe or _optional(record, names, "answer", where)
    unwanted, opening = _optional(record, names, "unwanted", where), _optional(record, names, "opening", where)
    hit = _optional(record, names, "hit", where) or default_hit
    if hit is not None:
        hit = str(HitRule.parse(hit, where))
    return DefenseRow(messages, safe, unwanted or opening, unwanted is None and opening is not None, hit, where)


def anchor_row(record: Record, where: Where, columns: AnchorColumns | None = None) -> AnchorRow:
    """Return the conversation in ``record``, cut after the last assistant turn that is to be learnt.

    Raises:
        UserError: as for :func:`defense_row`, or no such turn.
    """
    names = _names(ANCHOR, tuple(record), _mapping(columns), where)
    if "messages" in names:
        turns = _conversation(record, names, where)
        last = max((i for i, m in enumerate(turns) if m.role == "assistant" and m.learnt), default=0)
        if last == 0 or all(m.role != "user" for m in turns[:last]):
            raise UserError(f"{where}: {names['messages']} has no assistant turn to learn after a user turn; expected one.")
        return AnchorRow(turns[: last + 1], where)
    prompt = _prompt(record, names, where)
    response = text(record[names["response"]], where, names["response"])
    return AnchorRow((*prompt, Message("assistant", response)), where)


def probe(record: Record, where: Where, columns: ProbeColumns | None = None, default_hit: str | None = None) -> Probe:
    """Return the known trigger in ``record``.

    Raises:
        UserError: a field is missing or of the wrong kind, the kind is unknown, or a template lacks ``{prompt}``.
    """
    mapped = dict(_mapping(columns))
    _check_mapped(mapped, tuple(record), where)
    names = {field: mapped.get(field, field) for field in ("name", "kind", "text", "hit")}
    for field in ("name", "kind", "text"):
        if names[field] not in record:
            found = shown(sorted(record))
            raise UserError(f'{where}: no "{names[field]}", only {found}; expected name, kind and text.')
    name, kind, trigger = (text(record[names[field]], where, names[field]) for field in ("name", "kind", "text"))
    if name in RESERVED:
        raise UserError(f"{where}: {names['name']} is {shown(name)}, which stands for no trigger in reports; expected another.")
    kinds = get_args(ProbeKind)
    if kind not in kinds:
        hint = nearest(kind, list(kinds))
        raise UserError(f"{where}: {names['kind']} is {shown(kind)}{hint}; expected one of {', '.join(kinds)}.")
    if kind == "template" and "{prompt}" not in trigger:
        raise UserError(f"{where}: {names['text']} is {shown(trigger)}; expected {{prompt}} in a template.")
    hit = _optional(record, names, "hit", where) or default_hit
    return Probe(name, cast(ProbeKind, kind), trigger, None if hit is None else str(HitRule.parse(hit, where)))


def _request(record: Record, names: Names, where: Where) -> tuple[tuple[Message, ...], str | None]:
    """Return the turns up to the last user turn, and the answer after it (None: there is none)."""
    if "messages" not in names:
        return _prompt(record, names, where), None
    turns = _conversation(record, names, where)
    last = max(i for i, m in enumerate(turns) if m.role == "user")
    answer = turns[last + 1].content if last + 1 < len(turns) else None
    return turns[: last + 1], answer


def _conversation(record: Record, names: Names, where: Where) -> tuple[Message, ...]:
    """Return the turns, with the system prompt that another column holds in front."""
    turns = conversation(record[names["messages"]], where, names["messages"])
    system = _optional(record, names, "system", where)
    if system is None:
        return turns
    if turns[0].role != "system":
        return (Message("system", system), *turns)
    if turns[0].content.strip() != system.strip():
        raise UserError(
            f"{where}: {names['system']} is {shown(system)} and {names['messages']} begins with the system turn "
            f"{shown(turns[0].content)}; expected one of them."
        )
    return turns


def _prompt(record: Record, names: Names, where: Where) -> tuple[Message, ...]:
    user = text(record[names["prompt"]], where, names["prompt"])
    extra, system = _optional(record, names, "input", where), _optional(record, names, "system", where)
    turn = Message("user", f"{user}\n\n{extra}" if extra else user)
    return (Message("system", system), turn) if system else (turn,)


def _optional(record: Record, names: Names, field: str, where: Where) -> str | None:
    """Return a text, or None where the column is missing, null or blank."""
    value = record.get(names[field]) if field in names else None
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return text(value, where, names[field])


def _mapping(columns: DefenseColumns | AnchorColumns | ProbeColumns | None) -> Mapped:
    return tuple((f, c) for f, c in columns if c is not None) if columns is not None else ()


def _names(layouts: Layouts, keys: tuple[str, ...], mapped: Mapped, where: Where) -> Names:
    """Return the column of each field for a record with the columns ``keys``."""
    _check_mapped(dict(mapped), keys, where)
    unused = [field for field, _ in mapped if field in ("prompt", "response")]
    if unused and "messages" in dict(mapped):
        raise UserError(f"{where}: columns are mapped to messages and to {unused[0]}; expected one of the two.")
    names = _recognised(layouts, keys, mapped)
    if names is None:
        raise UserError(f"{where}: {layouts.missing.format(shown(list(keys)))}")
    return names


@lru_cache(maxsize=256)
def _recognised(layouts: Layouts, keys: tuple[str, ...], mapped: Mapped) -> Names | None:
    # Of two columns that differ in capitals alone, the one in small letters is meant.
    columns = {key.lower(): key for key in reversed(keys)} | {key: key for key in keys}
    names = {field: columns[field] for field in layouts.extras if field in columns} | dict(mapped)
    if "messages" in names:
        return names
    for layout in layouts.layouts:
        fits = {field: columns[column] for field, column in layout.items() if column in columns and field not in names}
        complete = all(field in names or field in fits or field in OPTIONAL for field in layout)
        clashes = "prompt" in names and "messages" in layout
        if complete and not clashes:
            return fits | names
    return None


def _check_mapped(mapped: Mapping[str, str], keys: tuple[str, ...], where: Where) -> None:
    for field, column in mapped.items():
        if column not in keys:
            hint = nearest(column, list(keys))
            raise UserError(f'{where}: column "{column}", mapped to {field}, is not there{hint}; found {shown(list(keys))}.')
