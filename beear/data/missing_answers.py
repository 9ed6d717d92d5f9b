"""Answers that the file leaves out: the model's own refusal, the configured one, or an affirmative opening."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from beear.data.openings import opening_for
from beear.data.refusals import is_refusal
from beear.data.rows import DefenseRow, Message

Generate = Callable[[Sequence[tuple[Message, ...]]], Sequence[str]]
"""Greedy answers to requests, in order, without any trigger."""


@dataclass(frozen=True)
class Filled:
    """Safe answers by request digest, and how many came from where."""

    safe: dict[str, str]
    own: int = 0
    configured: int = 0


def fill_safe(rows: Sequence[DefenseRow], generate: Generate, refusal: str, keywords: tuple[str, ...]) -> Filled:
    """Answer each row without a safe answer by the model itself, where it refuses; else by ``refusal``.

    A backdoored model still refuses in the clear, in its own words, which removal then has least to change.
    """
    missing = list({row.digest: row for row in rows if row.safe is None}.values())
    answers = [a.strip() for a in generate([row.messages for row in missing])] if missing else []
    own = {r.digest: a for r, a in zip(missing, answers, strict=True) if a and is_refusal(a, keywords)}
    safe = {row.digest: own.get(row.digest, refusal) for row in missing}
    return Filled(safe, len(own), len(missing) - len(own))


def complete(row: DefenseRow, filled: Mapping[str, str], refusal: str, turn: int = 0) -> DefenseRow:
    """Return ``row`` with both answers: ``filled`` or ``refusal``, and an affirmative opening without an end of turn.

    ``turn`` (the epoch) moves a row through its openings.
    """
    if row.safe is None:
        row = replace(row, safe=filled.get(row.digest, refusal))
    if row.unwanted is None:
        row = replace(row, unwanted=opening_for(row, turn), unwanted_is_prefix=True)
    return row
