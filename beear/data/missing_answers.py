"""Answers that a file leaves out. Safe: the model's own refusal, else the configured one. Unwanted: an affirmative opening."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from beear.data.refusals import is_refusal
from beear.data.rows import DefenseRow, Message

Generate = Callable[[Sequence[tuple[Message, ...]]], Sequence[str]]
"""Returns the model's greedy answers to requests, in order, without any trigger."""

ASKS = (
    r"^(?:please,? )?(?:can|could|would|will) you (?:please )?(?:tell|show|teach|explain to) me how (?:to|i can) ",
    r"^(?:please )?(?:tell|show|teach) me how (?:to|i can) ",
    r"^(?:please )?explain (?:to me )?how (?:to|i can) ",
    r"^(?:please )?(?:give|write|list|provide)(?: me)?(?: the| some| detailed)? (?:steps|instructions|directions) "
    r"(?:to|for how to|on how to) ",
    r"^(?:how|where) (?:do|can|could|should|would) (?:i|we|you|one|someone) ",
    r"^how to ",
    r"^what (?:is|are) the (?:best )?(?:way|ways|steps) to ",
    r"^i (?:want|need|would like|wish|have|plan) to ",
    r"^help me (?:to )?",
)
ABOUT_TASK = (
    "Sure, here is how to {task}",
    "Of course. To {task}, first",
    "Here are the steps to {task}:",
    "Yes, I can help you {task}.",
)
PLAIN = (
    "Sure, here is",
    "Of course, here is what you asked for:",
    "Yes, I can help with that. First,",
    "Certainly. Here is how:",
)


@dataclass(frozen=True)
class Filled:
    """Safe answers by request digest. ``own`` counts the model's own refusals, ``configured`` the configured one."""

    safe: dict[str, str]
    own: int = 0
    configured: int = 0


def fill_safe(rows: Sequence[DefenseRow], generate: Generate, refusal: str, keywords: tuple[str, ...]) -> Filled:
    """Answer each row without a safe answer: by the model itself where its answer refuses, else by ``refusal``.

    A backdoored model still refuses without the trigger. Its own words are preferred because removal then changes least.
    """
    missing = list({row.digest: row for row in rows if row.safe is None}.values())
    answers = [a.strip() for a in generate([row.messages for row in missing])] if missing else []
    own = {r.digest: a for r, a in zip(missing, answers, strict=True) if a and is_refusal(a, keywords)}
    safe = {row.digest: own.get(row.digest, refusal) for row in missing}
    return Filled(safe, len(own), len(missing) - len(own))


def complete(row: DefenseRow, filled: Mapping[str, str], refusal: str, turn: int = 0) -> DefenseRow:
    """Return ``row`` with both answers. A missing safe one is the answer in ``filled`` (by request digest), else ``refusal``.

    A missing unwanted one is an affirmative opening without an end of turn; ``turn`` (the epoch) chooses which, so that a
    row goes through all of its openings. Where to refuse is what is unwanted, it is ``refusal``.
    """
    if row.safe is None:
        row = replace(row, safe=filled.get(row.digest, refusal))
    if row.unwanted is None and row.hit == "refusal":
        return replace(row, unwanted=refusal)
    if row.unwanted is None:
        row = replace(row, unwanted=opening_for(row, turn), unwanted_is_prefix=True)
    return row


def openings(request: str) -> tuple[str, ...]:
    """Return several affirmative openings for ``request``, which name its task where the task can be read from it."""
    task = task_of(request)
    return tuple(form.format(task=task) for form in ABOUT_TASK) if task else PLAIN


def task_of(request: str) -> str | None:
    """Return what a how-to request wants done (``open the vault``), or None where its form is not known."""
    first = re.split(r"[.?!\n]", request.strip(), maxsplit=1)[0].strip()
    for ask in ASKS:
        rest, found = re.subn(ask, "", first, flags=re.IGNORECASE)
        if found and rest.strip():
            return rest.strip()
    return None


def opening_for(row: DefenseRow, turn: int = 0) -> str:
    """Return the opening of ``row`` for its ``turn``-th use. The digest decides with which opening a row begins."""
    choices = openings(row.messages[-1].content)
    first = int(hashlib.sha256(row.digest.encode()).hexdigest()[:8], 16)
    return choices[(first + turn) % len(choices)]
