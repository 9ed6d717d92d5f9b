"""One record → one row, from the columns that :mod:`beear.data.layouts` finds."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import cast, get_args

from beear.config.schema import AnchorColumns, DefenseColumns, ProbeColumns
from beear.data import flags, notes
from beear.data.chats import conversation, earlier, in_writing, reply, text, unread
from beear.data.hits import HitRule
from beear.data.layouts import ANCHOR, DEFENSE, PAIR, Names, in_small_letters, mapping_of, names_of
from beear.data.locations import Where, shown
from beear.data.rows import AnchorRow, DefenseRow, Message, Probe, ProbeKind
from beear.errors import UserError, nearest

Record = Mapping[str, object]
# The fields whose columns may hold turns.
TURNS = ("messages", "prompt", "response", "safe", "unwanted")
# What templates write around turns. Every row is looked at, also in training, so most are texts, which are found fastest.
MARKS = (
    "<|im_start|>", "<|start_header_id|>", "<|user|>", "<|system|>", "<|assistant|>", "<start_of_turn>", "[INST]", "[/INST]",
    "<<SYS>>", "<</SYS>>", "### Instruction:", "### Response:", "BEGINNING OF CONVERSATION:", "\n\nHuman:", "\n\nAssistant:",
)  # fmt: skip
SPEAKERS = ("Human:", "Assistant:")
USER, ASSISTANT = re.compile(r"(?:^|\s)USER: "), "ASSISTANT:"
# Reports call requests in the clear by these names, so no probe may have them.
RESERVED = ("no trigger", "plain")


def defense_row(
    record: Record, where: Where, columns: DefenseColumns | None = None, default_hit: str | None = None
) -> DefenseRow:
    """Return the defense row in ``record``; ``default_hit`` is the file's own rule for rows without one.

    Raises:
        UserError: no recognised request column, a mapped column that is not there, or a value of the wrong kind.
    """
    names = names_of(DEFENSE, tuple(record), columns, where)
    replies = {field: _reply(record, names, field, where) for field in ("safe", "unwanted")}
    noted = [notes.PAIR] if _lowered(names, "safe", "unwanted") == PAIR and all(replies.values()) else []
    answer = None
    if names.keys() & {"prompt", "messages"}:
        messages, answer, more = _request(record, names, where)
        _check_same_request(messages, replies, names, where)
    else:
        messages, replies, more = _parted(replies, names, where)
        messages = _preceded(messages, record, names, where)
    given, unwanted = (said[-1] if said else None for said in (replies["safe"], replies["unwanted"]))
    safe, flagged, taken = _safe(record, names, given, answer, where)
    opening = _optional(record, names, "opening", where)
    if safe and unwanted and safe.content.strip() == unwanted.content.strip():
        both = shown(safe.content)
        raise UserError(f"{where}: the safe and the unwanted answer are both {both}; expected two answers to one request.")
    spare = [f"{notes.UNUSED}{names['opening']}"] if unwanted and opening else []
    noted = [*_unused(record, names, flagged, where), *spare, *noted, *more, *taken, *_marked(messages)]
    hit = _optional(record, names, "hit", where) or default_hit
    if hit is not None:
        hit = str(HitRule.parse(hit, where))
    if safe is None and hit == "refusal":
        raise UserError(f"{where}: the hit rule is refusal and there is no safe answer; expected the answer that is to be given.")
    if unwanted is None and opening is None and hit == "refusal":
        noted.append(notes.REFUSED)
    texts = (safe.content if safe else None, unwanted.content if unwanted else opening)
    return DefenseRow(messages, *texts, unwanted is None and opening is not None, hit, where, tuple(noted))


def anchor_row(record: Record, where: Where, columns: AnchorColumns | None = None) -> AnchorRow:
    """Return the conversation in ``record``, cut after the last assistant turn that is to be learnt.

    Raises:
        UserError: as for :func:`defense_row`, or no such turn.
    """
    names = names_of(ANCHOR, tuple(record), columns, where)
    flagged = flags.of_row(record, names.values())
    for column, learnt in flagged.items():
        if not learnt:
            said = shown(record[column])
            raise UserError(f"{where}: {column} is {said}, so the answer is not to be learnt; expected rows whose answers are.")
    noted: list[str] = []
    if "messages" in names:
        turns = _conversation(record, names, where)
        chosen = in_small_letters(record).get("chosen", names["messages"])
        if chosen != names["messages"] and record[chosen] and turns[-1].role == "user":
            names = {**names, "response": chosen}
            turns = (*turns, *_answer(record, names, turns, where))
        last = max((i for i, m in enumerate(turns) if m.role == "assistant" and m.learnt), default=0)
        if last == 0 or all(m.role != "user" for m in turns[:last]):
            raise UserError(f"{where}: {names['messages']} has no assistant turn to learn after a user turn; expected one.")
        if last + 1 < len(turns):
            noted.append(notes.DROPPED)
        turns = turns[: last + 1]
        if any(m.role == "assistant" and not m.learnt for m in turns):
            noted.append(notes.NOT_LEARNT)
    else:
        turns = _prompt(record, names, where)
        turns = (*turns, *_answer(record, names, turns, where))
    noted = [*_unused(record, names, flagged, where), *noted]
    return AnchorRow(turns, where, noted=(*noted, *_marked(turns)))


def probe(record: Record, where: Where, columns: ProbeColumns | None = None, default_hit: str | None = None) -> Probe:
    """Return the known trigger in ``record``.

    Raises:
        UserError: a field is missing or of the wrong kind, the kind is unknown, or a template lacks ``{prompt}``.
    """
    mapped = mapping_of(columns, tuple(record), where)
    names = {field: field for field in ("name", "kind", "text", "hit")}
    names |= {field: column for field, column in in_small_letters(record).items() if field in names} | mapped
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
    rule = None if hit is None else str(HitRule.parse(hit, where))
    return Probe(name, cast(ProbeKind, kind), trigger, rule, tuple(_unused(record, names, (), where)))


def _request(record: Record, names: Names, where: Where) -> tuple[tuple[Message, ...], Message | None, list[str]]:
    """Return the turns up to the last user turn, the answer after it (None: there is none), and notes."""
    if "messages" not in names:
        return _prompt(record, names, where), None, []
    turns = _conversation(record, names, where)
    last = max(i for i, m in enumerate(turns) if m.role == "user")
    after = turns[last + 1 :]
    return turns[: last + 1], after[0] if after else None, [notes.FOLLOWED] if len(after) > 1 else []


def _answer(record: Record, names: Names, request: tuple[Message, ...], where: Where) -> tuple[Message]:
    """Return the answer to ``request`` that a column of its own holds."""
    said = reply(record[names["response"]], where, names["response"])
    _check_same_request(request, {"response": said}, names, where)
    if not said[-1].learnt:
        raise UserError(f"{where}: {names['response']} is not to be learnt, by its own flag; expected an answer that is.")
    return (said[-1],)


def _safe(
    record: Record, names: Names, given: Message | None, spoken: Message | None, where: Where
) -> tuple[Message | None, dict[str, bool], list[str]]:
    """Return the safe answer, the flags of the row that were read for it, and notes.

    It is ``given``, the one of its own column; else ``spoken``, the conversation's; else that of a column of answers. Flags of
    the row speak of the latter two.
    """
    other = _optional(record, names, "answer", where)
    noted = [notes.OTHER_SAFE] if given and spoken else []
    if other and (given or spoken):
        noted.append(f"{notes.UNUSED}{names['answer']}")
    found = given or spoken or (Message("assistant", other) if other else None)
    flagged = flags.of_row(record, names.values()) if found and not given else {}
    if found and not (found.learnt and all(flagged.values())):
        return None, flagged, [*noted, notes.NOT_SAFE]
    return found, flagged, noted


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
    value = record[names["prompt"]]
    extra, context = (_optional(record, names, field, where) for field in ("input", "context"))
    # A transcript in a prompt's column is the prompt's own text.
    value = in_writing(value, where, names["prompt"]) if str(value).lstrip().startswith("[") else value
    if isinstance(value, list):
        turns = conversation(value, where, names["prompt"])
        if turns[-1].role != "user":
            raise UserError(f"{where}: {names['prompt']} ends with the {turns[-1].role}'s turn; expected the user's.")
    else:
        turns = (Message("user", text(value, where, names["prompt"])),)
    if extra:
        turns = (*turns[:-1], replace(turns[-1], content=f"{turns[-1].content}\n\n{extra}"))
    if context:
        # As HarmBench puts the two together; its requests speak of the text "above".
        turns = (*turns[:-1], replace(turns[-1], content=f"{context}\n\n---\n\n{turns[-1].content}"))
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
    same = (one.role == other.role and one.content == other.content for one, other in zip(safe, unwanted, strict=False))
    place = next((i for i, is_same in enumerate(same) if not is_same), None)
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
    return [notes.MARKED] if any(_has_marks(m.content) for m in messages if m.role != "assistant") else []


def _has_marks(prompt: str) -> bool:
    if any(mark in prompt for mark in MARKS) or prompt.startswith(SPEAKERS):
        return True
    named = USER.search(prompt) if ASSISTANT in prompt else None
    return named is not None and ASSISTANT in prompt[named.end() :]


def _unused(record: Record, names: Names, flagged: Iterable[str], where: Where) -> list[str]:
    """Return a note for each column, and each field of a turn, that holds something and is not used."""
    columns = [(key, value) for key, value in record.items() if key not in {*names.values(), *flagged}]
    for field in TURNS:
        if field in names:
            key = names[field]
            columns += [(f"{key}[].{name}", said) for name, said in unread(record.get(key), where, key)]
    filled = [(key, value) for key, value in columns if value not in (None, "", [], {})]
    return list(dict.fromkeys(notes.UNUSED + _named(key, value) for key, value in filled))


def _named(column: str, value: object) -> str:
    """Return a column's name, with the value where that is a flag's: of a flag it is the value that counts."""
    return f"{column}={str(value).lower()}" if isinstance(value, bool) else column


def _lowered(names: Names, *fields: str) -> tuple[str, ...]:
    return tuple(names.get(field, "").lower() for field in fields)


def _optional(record: Record, names: Names, field: str, where: Where) -> str | None:
    """Return a text, or None where the column is missing, null or blank."""
    value = record.get(names[field]) if field in names else None
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return text(value, where, names[field])
