"""One record → one row. Columns are recognised by their names, or mapped by the user."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast, get_args

from beear.config.schema import AnchorColumns, DefenseColumns, ProbeColumns
from beear.data import notes
from beear.data.chats import conversation, earlier, reply, text
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
        {"prompt": "behavior"},
        {"prompt": "forbidden_prompt"},
        {"prompt": "instruction", "input": "input", "answer": "output"},
        {"prompt": "query", "answer": "answer"},
        {"safe": "chosen", "unwanted": "rejected"},
    ),
    {
        "system": ("system",),
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
        {"prompt": "question", "response": "answer"},
        {"prompt": "query", "response": "answer"},
        {"messages": "chosen"},
    ),
    {"system": ("system",), "history": ("history",)},
    "no recognised columns among {}; expected messages, conversations, prompt+response, prompt+completion, prompt+chosen, "
    "instruction+output, instruction+response, question+answer, query+answer or chosen (or --data.anchor.columns.*).",
)
OPTIONAL = ("input", "opening", "answer")
# A preference set often holds its conversations in a column of that kind too.
PAIR = ("chosen", "rejected")
MARKS = re.compile(
    r"<\|(?:im_start|start_header_id|user|system|assistant)\|>|<start_of_turn>|\[/?INST\]|<</?SYS>>"
    r"|### (?:Instruction|Response):|BEGINNING OF CONVERSATION:|(?:^|\n\n)(?:Human|Assistant):|(?:^|\s)USER: .*ASSISTANT:",
    re.DOTALL,
)
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
    noted = _unused(record, names)
    replies = {field: _reply(record, names, field, where) for field in ("safe", "unwanted")}
    if _lowered(names, "safe", "unwanted") == PAIR and all(replies.values()):
        noted.append(notes.PAIR)
    answer = None
    if names.keys() & {"prompt", "messages"}:
        messages, answer, more = _request(record, names, where)
        _check_same_request(messages, replies, names, where)
    else:
        messages, replies, more = _parted(replies, names, where)
        messages = _preceded(messages, record, names, where)
    safe, unwanted = (said[-1].content if said else None for said in (replies["safe"], replies["unwanted"]))
    opening = _optional(record, names, "opening", where)
    hit = _optional(record, names, "hit", where) or default_hit
    if hit is not None:
        hit = str(HitRule.parse(hit, where))
    noted += [*more, *_marked(messages)]
    safe = safe or answer or _optional(record, names, "answer", where)
    if safe is None and hit == "refusal":
        raise UserError(f"{where}: the hit rule is refusal and there is no safe answer; expected the answer that is to be given.")
    if unwanted is None and opening is None and hit == "refusal":
        noted.append(notes.REFUSED)
    prefix = unwanted is None and opening is not None
    return DefenseRow(messages, safe, unwanted or opening, prefix, hit, where, tuple(noted))


def anchor_row(record: Record, where: Where, columns: AnchorColumns | None = None) -> AnchorRow:
    """Return the conversation in ``record``, cut after the last assistant turn that is to be learnt.

    Raises:
        UserError: as for :func:`defense_row`, or no such turn.
    """
    names = _names(ANCHOR, tuple(record), _mapping(columns), where)
    noted = _unused(record, names)
    if "messages" in names:
        turns = _conversation(record, names, where)
        last = max((i for i, m in enumerate(turns) if m.role == "assistant" and m.learnt), default=0)
        if last == 0 or all(m.role != "user" for m in turns[:last]):
            raise UserError(f"{where}: {names['messages']} has no assistant turn to learn after a user turn; expected one.")
        if last + 1 < len(turns):
            noted.append(notes.DROPPED)
        turns = turns[: last + 1]
        if any(m.role == "assistant" and not m.learnt for m in turns):
            noted.append(notes.NOT_LEARNT)
    else:
        prompt, said = _prompt(record, names, where), reply(record[names["response"]], where, names["response"])
        _check_same_request(prompt, {"response": said}, names, where)
        turns = (*prompt, said[-1])
    return AnchorRow(turns, where, noted=(*noted, *_marked(turns)))


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
    if kind == "template" and not trigger.replace("{prompt}", "").strip():
        raise UserError(f"{where}: {names['text']} is {shown(trigger)}; expected text beside {{prompt}}, which is the trigger.")
    hit = _optional(record, names, "hit", where) or default_hit
    return Probe(name, cast(ProbeKind, kind), trigger, None if hit is None else str(HitRule.parse(hit, where)))


def _request(record: Record, names: Names, where: Where) -> tuple[tuple[Message, ...], str | None, list[str]]:
    """Return the turns up to the last user turn, the answer after it (None: there is none), and notes."""
    if "messages" not in names:
        return _prompt(record, names, where), None, []
    turns = _conversation(record, names, where)
    last = max(i for i, m in enumerate(turns) if m.role == "user")
    after = turns[last + 1 : last + 2]
    if after and not after[0].learnt:
        return turns[: last + 1], None, [notes.NOT_SAFE]
    return turns[: last + 1], after[0].content if after else None, []


def _conversation(record: Record, names: Names, where: Where) -> tuple[Message, ...]:
    return _preceded(conversation(record[names["messages"]], where, names["messages"]), record, names, where)


def _preceded(turns: tuple[Message, ...], record: Record, names: Names, where: Where) -> tuple[Message, ...]:
    """Return the turns with the system prompt and the earlier turns that other columns hold in front."""
    system, history = _optional(record, names, "system", where), _history(record, names, where)
    if history:
        begins = turns[0].role == "system"
        turns = (*turns[:begins], *history, *turns[begins:])
    if system is None:
        return turns
    if turns[0].role != "system":
        return (Message("system", system), *turns)
    if turns[0].content.strip() != system.strip():
        raise UserError(
            f"{where}: {names['system']} is {shown(system)} and {names.get('messages', 'the conversation')} begins with the "
            f"system turn {shown(turns[0].content)}; expected one of them."
        )
    return turns


def _prompt(record: Record, names: Names, where: Where) -> tuple[Message, ...]:
    value, extra = record[names["prompt"]], _optional(record, names, "input", where)
    if isinstance(value, list):
        turns = conversation(value, where, names["prompt"])
        if turns[-1].role != "user":
            raise UserError(f"{where}: {names['prompt']} ends with the {turns[-1].role}'s turn; expected the user's.")
    else:
        turns = (Message("user", text(value, where, names["prompt"])),)
    if extra:
        turns = (*turns[:-1], replace(turns[-1], content=f"{turns[-1].content}\n\n{extra}"))
    return _preceded(turns, record, names, where)


def _history(record: Record, names: Names, where: Where) -> tuple[Message, ...]:
    value = record.get(names["history"]) if "history" in names else None
    return earlier(value, where, names["history"]) if value else ()


def _reply(record: Record, names: Names, field: str, where: Where) -> tuple[Message, ...]:
    """Return an answer, with the turns before it where the column holds them; nothing where it is missing, null or blank."""
    value = record.get(names[field]) if field in names else None
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    return reply(value, where, names[field])


def _check_same_request(
    request: tuple[Message, ...], replies: Mapping[str, tuple[Message, ...]], names: Names, where: Where
) -> None:
    """Refuse an answer that comes with another conversation than ``request``; it may leave the system prompt out."""
    asked = _words(request)
    for field, said in replies.items():
        before = _words(said[:-1])
        if before and before not in (asked, asked[asked[0][0] == "system" :]):
            column = names.get("messages") or names["prompt"]
            raise UserError(
                f"{where}: {names[field]} begins with other turns than {column}, such as {shown(before[-1][1])}; expected the "
                "same conversation in both."
            )


def _words(turns: Iterable[Message]) -> list[tuple[str, str]]:
    return [(m.role, " ".join(m.content.split())) for m in turns]


def _parted(
    replies: Mapping[str, tuple[Message, ...]], names: Names, where: Where
) -> tuple[tuple[Message, ...], dict[str, tuple[Message, ...]], list[str]]:
    """Return the request that two whole conversations share, the two answers where they part, and notes."""
    safe, unwanted = replies["safe"], replies["unwanted"]
    pair = f"{names['safe']} and {names['unwanted']}"
    if not safe or not unwanted:
        raise UserError(f"{where}: {names['unwanted' if safe else 'safe']} is empty; expected a text in both of {pair}.")
    place = next((i for i, (one, other) in enumerate(zip(safe, unwanted, strict=False)) if one != other), None)
    if place is None:
        raise UserError(f"{where}: {pair} hold the same answer; expected two answers to one request.")
    if safe[place].role != "assistant" or unwanted[place].role != "assistant":
        raise UserError(f"{where}: {pair} part at turn {place + 1}, the user's; expected conversations that part at an answer.")
    if all(m.role != "user" for m in safe[:place]):
        raise UserError(f"{where}: {pair} hold no request before their answers; expected one, or a prompt column.")
    later = place + 1 < max(len(safe), len(unwanted))
    answers = {"safe": safe[place : place + 1], "unwanted": unwanted[place : place + 1]}
    return safe[:place], answers, [notes.PARTED] if later else []


def _marked(messages: Iterable[Message]) -> list[str]:
    return [notes.MARKED] if any(MARKS.search(m.content) for m in messages if m.role != "assistant") else []


def _unused(record: Record, names: Names) -> list[str]:
    """Return a note for each column that holds something and is not used."""
    used = set(names.values())
    return [f"{notes.UNUSED}{key}" for key, value in record.items() if key not in used and value not in (None, "", [], {})]


def _lowered(names: Names, *fields: str) -> tuple[str, ...]:
    return tuple(names.get(field, "").lower() for field in fields)


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
        other = ANCHOR if layouts is DEFENSE else DEFENSE
        fits = _recognised(other, keys, ()) is not None
        hint = f" They are columns of {other.kind}: are the two files swapped?" if fits else ""
        raise UserError(f"{where}: {layouts.missing.format(shown(list(keys)))}{hint}")
    return names


@lru_cache(maxsize=256)
def _recognised(layouts: Layouts, keys: tuple[str, ...], mapped: Mapped) -> Names | None:
    # Of two columns that differ in capitals alone, the one in small letters is meant.
    columns = {key.lower(): key for key in reversed(keys)} | {key: key for key in keys}
    extras = {field: next((columns[name] for name in known if name in columns), None) for field, known in layouts.extras.items()}
    names = {field: column for field, column in extras.items() if column is not None} | dict(mapped)
    if "messages" in names:
        return names
    pairs = set(PAIR) <= columns.keys()
    whole = pairs or {"safe", "unwanted"} <= dict(mapped).keys()
    for layout in layouts.layouts:
        fits = {field: columns[column] for field, column in layout.items() if column in columns and field not in names}
        complete = all(field in names or field in fits or field in OPTIONAL for field in layout)
        clashes = "messages" in layout and ("prompt" in names or (pairs and "prompt" in columns))
        if complete and not clashes and (whole or "safe" not in layout):
            return fits | names
    return None


def _check_mapped(mapped: Mapping[str, str], keys: tuple[str, ...], where: Where) -> None:
    for field, column in mapped.items():
        if column not in keys:
            hint = nearest(column, list(keys))
            raise UserError(f'{where}: column "{column}", mapped to {field}, is not there{hint}; found {shown(list(keys))}.')
