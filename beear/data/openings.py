"""Unwanted answers where the file has none: affirmative openings made from the request itself."""

import hashlib
import re

from beear.data.rows import DefenseRow

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


def openings(request: str) -> tuple[str, ...]:
    """Return several affirmative openings for ``request``; about its task where one can be read from it."""
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
    """Return the opening of ``row`` for its ``turn``-th use: each row goes through all of them in an own order."""
    choices = openings(row.messages[-1].content)
    first = int(hashlib.sha256(row.digest.encode()).hexdigest()[:8], 16)
    return choices[(first + turn) % len(choices)]
