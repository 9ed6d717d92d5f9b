"""Which column holds what: recognised from the names, or mapped by the user; then one record → one row."""

from collections.abc import Mapping
from functools import lru_cache
from typing import cast, get_args

from beear.config.schema import AnchorColumns, DefenseColumns, ProbeColumns
from beear.data.chats import conversation, text
from beear.data.hits import HitRule
from beear.data.locations import Where, shown
from beear.data.rows import AnchorRow, DefenseRow, Message, Probe, ProbeKind
from beear.errors import UserError, nearest

Record = Mapping[str, object]
Names = dict[str, str]

DEFENSE_LAYOUTS: tuple[Names, ...] = (
    {"messages": "messages"},
    {"messages": "conversations"},
    {"prompt": "prompt"},
    {"prompt": "goal", "opening": "target"},
    {"prompt": "instruction", "input": "input", "answer": "output"},
)
DEFENSE_EXTRAS = ("system", "safe", "unwanted", "hit")
ANCHOR_LAYOUTS: tuple[Names, ...] = (
    {"messages": "messages"},
    {"messages": "conversations"},
    {"prompt": "prompt", "response": "response"},
    {"prompt": "instruction", "input": "input", "response": "output"},
    {"prompt": "question", "response": "answer"},
)
ANCHOR_EXTRAS = ("system",)
RESERVED = ("no trigger", "plain")  # what reports call requests in the clear
OPTIONAL = ("input", "opening", "answer")
DEFENSE_EXPECTED = "prompt, messages, goal, instruction or conversations (or --data.defense.columns.*)"
ANCHOR_EXPECTED = "messages, conversations, prompt+response, instruction+output or question+answer (or --data.anchor.columns.*)"


def defense_row(
    record: Record, where: Where, columns: DefenseColumns | None = None, default_hit: str | None = None
) -> DefenseRow:
    """Return the defense row in ``record``; ``default_hit`` is the file's own rule for rows without one.

    Raises:
        UserError: no recognised request column, a mapped column that is not there, or a value of the wrong kind.
    """
    names = _defense_names(tuple(record), _mapping(columns), where)
    messages, safe = _request(record, names, where)
    safe = _optional(record, names, "safe", where) or safe or _optional(record, names, "answer", where)
    unwanted, opening = _optional(record, names, "unwanted", where), _optional(record, names, "opening", where)
    hit = _optional(record, names, "hit", where) or default_hit
    if hit is not None:
        hit = str(HitRule.parse(hit, where))
    return DefenseRow(messages, safe, unwanted or opening, unwanted is None and opening is not None, hit, where.brief)


def anchor_row(record: Record, where: Where, columns: AnchorColumns | None = None) -> AnchorRow:
    """Return the conversation in ``record``, cut after its last assistant turn.

    Raises:
        UserError: as for :func:`defense_row`, or no assistant turn.
    """
    names = _anchor_names(tuple(record), _mapping(columns), where)
    if "messages" in names:
        turns = conversation(record[names["messages"]], where, names["messages"])
        last = max((i for i, m in enumerate(turns) if m.role == "assistant"), default=0)
        if last == 0 or all(m.role != "user" for m in turns[:last]):
            raise UserError(f"{where}: {names['messages']} has no assistant turn after a user turn; expected one.")
        return AnchorRow(turns[: last + 1], where.brief)
    prompt = _prompt(record, names, where)
    response = text(record[names["response"]], where, names["response"])
    return AnchorRow((*prompt, Message("assistant", response)), where.brief)


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
    """Return the turns up to the last user turn, and the answer that follows it, if any."""
    if "messages" not in names:
        return _prompt(record, names, where), None
    turns = conversation(record[names["messages"]], where, names["messages"])
    last = max(i for i, m in enumerate(turns) if m.role == "user")
    answer = turns[last + 1].content if last + 1 < len(turns) else None
    system = _optional(record, names, "system", where)
    head = (Message("system", system),) if system and turns[0].role != "system" else ()
    return (*head, *turns[: last + 1]), answer


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


def _mapping(columns: DefenseColumns | AnchorColumns | ProbeColumns | None) -> tuple[tuple[str, str], ...]:
    return tuple((f, c) for f, c in columns if c is not None) if columns is not None else ()


@lru_cache(maxsize=256)
def _known(keys: tuple[str, ...], mapped: tuple[tuple[str, str], ...], layouts: int) -> tuple[tuple[str, str], ...] | None:
    table, extras = ((DEFENSE_LAYOUTS, DEFENSE_EXTRAS), (ANCHOR_LAYOUTS, ANCHOR_EXTRAS))[layouts]
    names = {field: field for field in extras if field in keys} | dict(mapped)
    if "messages" in names:
        return tuple(names.items())
    for layout in table:
        fits = {f: c for f, c in layout.items() if c in keys and f not in names}
        complete = all(f in names or f in fits or f in OPTIONAL for f in layout)
        clashes = "prompt" in names and "messages" in layout
        if complete and not clashes:
            return tuple((fits | names).items())
    return None


def _defense_names(keys: tuple[str, ...], mapped: tuple[tuple[str, str], ...], where: Where) -> Names:
    _check_mapped(dict(mapped), keys, where)
    names = _known(keys, mapped, 0)
    if names is None:
        raise UserError(f"{where}: no request column among {shown(list(keys))}; expected {DEFENSE_EXPECTED}.")
    return dict(names)


def _anchor_names(keys: tuple[str, ...], mapped: tuple[tuple[str, str], ...], where: Where) -> Names:
    _check_mapped(dict(mapped), keys, where)
    names = _known(keys, mapped, 1)
    if names is None:
        raise UserError(f"{where}: no recognised columns among {shown(list(keys))}; expected {ANCHOR_EXPECTED}.")
    return dict(names)


def _check_mapped(mapped: Mapping[str, str], keys: tuple[str, ...], where: Where) -> None:
    for field, column in mapped.items():
        if column not in keys:
            hint = nearest(column, list(keys))
            raise UserError(f'{where}: column "{column}", mapped to {field}, is not there{hint}; found {shown(list(keys))}.')
