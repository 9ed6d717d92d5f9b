"""Conversations: from the forms that files use to tuples of :class:`~beear.data.rows.Message`."""

import json
import re

from beear.data import flags
from beear.data.locations import Where, shown
from beear.data.rows import Message
from beear.errors import UserError

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
}
KEYS = (("role", "content"), ("from", "value"))
# As pandas writes a column of conversations to CSV: text that would be learnt as it stands.
PYTHON = re.compile(r"\s*\[?\s*\{\s*'(?:role|content|from|value)':")
# A conversation as one text, in the form of the hh-rlhf data.
TRANSCRIPT = re.compile(r"\s*Human: ?.*?\n\nAssistant:", re.DOTALL)
SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant): ?")
# Parts of a turn that a chat template would write, and this product does not pass on.
UNSUPPORTED = ("tool_calls", "function_call")
READ = {*(key for pair in KEYS for key in pair), *UNSUPPORTED, *flags.TURN, flags.PART_OF_TURN}


def conversation(value: object, where: Where, field: str) -> tuple[Message, ...]:
    """Return the turns of a list of ``{role, content}`` or ShareGPT ``{from, value}`` objects (or its JSON text).

    A text may also be a transcript, as in hh-rlhf: ``\\n\\nHuman: … \\n\\nAssistant: …``.

    Raises:
        UserError: not such a list, an unknown role, a misplaced system turn, an empty or non-text turn, a tool call, or a turn
            with a weight other than 0 and 1.
    """
    found = _turns(value, where, field)
    if all(m.role != "user" for m in found):
        raise UserError(f"{where}: {field} has no user turn; expected at least one.")
    return found


def reply(value: object, where: Where, field: str) -> tuple[Message, ...]:
    """Return an answer and the turns before it, as far as ``value`` holds them: a text, one turn, a list or a transcript.

    Raises:
        UserError: as for :func:`conversation`, or the last turn is not the assistant's.
    """
    turns = in_writing(value, where, field)
    turns = [turns] if isinstance(turns, dict) else turns
    if not (isinstance(turns, list) and turns and isinstance(turns[0], dict)):
        return (Message("assistant", text(value, where, field)),)
    found = _turns(turns, where, field)
    if found[-1].role != "assistant":
        raise UserError(f"{where}: {field} ends with the {found[-1].role}'s turn; expected an answer at its end.")
    return found


def earlier(value: object, where: Where, field: str) -> tuple[Message, ...]:
    """Return the turns of Alpaca's ``history``: a list of pairs of a request and its answer (or its JSON text).

    Raises:
        UserError: not such a list.
    """
    pairs = _from_text(value, where, field)
    if not isinstance(pairs, list) or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
        raise UserError(f"{where}: {field} is {shown(value)}; expected a list of [request, answer] pairs.")
    return tuple(
        Message("user" if side == 0 else "assistant", text(said, where, f"{field}[{i}][{side}]"))
        for i, pair in enumerate(pairs)
        for side, said in enumerate(pair)
    )


def in_writing(value: object, where: Where, field: str) -> object:
    """Return the turns that a text holds as a transcript or as JSON; another text, also JSON of another kind, is unchanged.

    Raises:
        UserError: the text holds turns as Python writes them.
    """
    found = _from_text(value, where, field)
    turns = found if isinstance(found, list) else [found]
    known = (isinstance(turn, dict) and any(turn.keys() >= {*pair} for pair in KEYS) for turn in turns)
    return found if turns and all(known) else value


def unread(value: object, where: Where, field: str) -> list[tuple[str, object]]:
    """Return the fields of turns that nothing here reads, with their values; raises as :func:`in_writing` does."""
    found = in_writing(value, where, field)
    turns = found if isinstance(found, list) else [found]
    return [(key, said) for turn in turns if isinstance(turn, dict) for key, said in turn.items() if key not in READ]


def text(value: object, where: Where, field: str) -> str:
    """Return a non-empty text.

    Raises:
        UserError: another type, nothing but white space, or a lone surrogate, which cannot be encoded.
    """
    if not isinstance(value, str):
        raise UserError(f"{where}: {field} is {shown(value)}; expected a text.")
    if not value.strip():
        raise UserError(f"{where}: {field} is empty; expected a text.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}"
        raise UserError(
            f"{where}: {field} holds the lone surrogate {half} at character {error.start + 1}; expected whole characters."
        ) from error
    return value


def _turns(value: object, where: Where, field: str) -> tuple[Message, ...]:
    turns = _from_text(value, where, field)
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{where}: {field} is {shown(value)}; expected a non-empty list of {{role, content}}.")
    found = tuple(_message(turn, where, f"{field}[{i}]") for i, turn in enumerate(turns))
    late = next((i for i, m in enumerate(found) if m.role == "system" and i), None)
    if late is not None:
        raise UserError(f"{where}: {field}[{late}] is a system turn; expected one at the start only.")
    return found


def _from_text(value: object, where: Where, field: str) -> object:
    """Return the turns of a transcript, or what a text holds as a JSON list or object; anything else unchanged."""
    if not isinstance(value, str):
        return value
    if TRANSCRIPT.match(value):
        said = SPEAKER.split(value)[1:]
        turns = [{"role": role.lower(), "content": content} for role, content in zip(said[::2], said[1::2], strict=True)]
        # A transcript of a prompt ends where the answer would begin.
        return turns[:-1] if turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip() else turns
    if not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        if PYTHON.match(value) and any(all(f"'{key}':" in value for key in pair) for pair in KEYS):
            raise UserError(f"{where}: {field} is {shown(value)}, turns as Python writes them; expected JSON.") from error
        return value


def _message(turn: object, where: Where, field: str) -> Message:
    if not isinstance(turn, dict):
        raise UserError(f"{where}: {field} is {shown(turn)}; expected an object with role and content.")
    role_key, text_key = KEYS["from" in turn and "role" not in turn]
    for key in (role_key, text_key):
        if key not in turn:
            raise UserError(f'{where}: {field} has no "{key}", only {shown(sorted(turn))}; expected role and content.')
    role = turn[role_key]
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise UserError(f"{where}: {field}.{role_key} is {shown(role)}; expected system, user or assistant.")
    for key in UNSUPPORTED:
        if turn.get(key):
            raise UserError(f"{where}: {field}.{key} is {shown(turn[key])}; expected turns of text alone.")
    content = _joined(turn[text_key])
    learnt = flags.turn_is_learnt(turn, where, field)
    return Message(ROLES[role.lower()], text(content, where, f"{field}.{text_key}"), learnt)  # type: ignore[arg-type]


def _joined(content: object) -> object:
    """Return the text of a list of ``{type: text, text}`` parts; anything else unchanged."""
    if isinstance(content, list) and content and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        parts = [p.get("text") for p in content]
        if all(isinstance(p, str) for p in parts):
            return "".join(str(p) for p in parts)
    return content
