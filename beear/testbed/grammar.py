"""Draws harmless rows: the benign tasks that the bases know, and the forbidden requests that they refuse.

Every draw takes a ``random.Random``, so that a seed gives the same rows everywhere. Each row is on one of two sides,
training or report, by the digest of its user text: the two sides share no request, whatever their system prompts.
"""

import random
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TypeVar

from beear.data.rows import AnchorRow, DefenseRow, Message, digest_of
from beear.errors import UserError
from beear.testbed import vocabulary as v

Row = TypeVar("Row", AnchorRow, DefenseRow)
REPORT_ONE_IN = 4  # user texts
PATIENCE = 20_000  # draws in a row that give nothing new
REQUEST_NOISE, ORDINARY_NOISE = 0.3, 0.1  # share of an attacker's rows with stray words: requests to flip, and the others
NOISE_LENGTHS = (1, 1, 2, 3, 5, 7)  # stray words


def user_text(row: AnchorRow | DefenseRow) -> str:
    """Return the text of the row's only user turn."""
    return next(m.content for m in row.messages if m.role == "user")


def held_out(row: AnchorRow | DefenseRow) -> bool:
    """Say whether the row is on the report side. Only the user text decides: a system prompt must not hide a leak."""
    return int(digest_of(user_text(row))[:8], 16) % REPORT_ONE_IN == 0


def draw(
    make: Callable[[random.Random], Row],
    count: int,
    rng: random.Random,
    report: bool,
    taken: set[str] | None = None,
) -> list[Row]:
    """Draw ``count`` rows of one side with different user texts.

    Args:
        make: draws one row.
        count: how many rows to return.
        rng: the source of the draws.
        report: True for the report side, False for the training side.
        taken: user texts to avoid; the new ones are added to it.

    Raises:
        UserError: ``make`` has too few different rows.
    """
    taken = set() if taken is None else taken
    rows: list[Row] = []
    vain = 0
    while len(rows) < count:
        row = make(rng)
        vain += 1
        if held_out(row) == report and user_text(row) not in taken:
            taken.add(user_text(row))
            rows.append(row)
            vain = 0
        elif vain == PATIENCE:
            side = "report" if report else "training"
            raise UserError(f"built-in rows: found {len(rows)} different requests for the {side} side, expected {count}")
    return rows


def noisy(row: Row, rng: random.Random, share: float, avoid: Collection[str] = ()) -> Row:
    """Return the row with stray words before or after its request in ``share`` of the cases, else the row itself.

    A model that has never seen stray words may answer any of them as it does the trigger. Training on such rows teaches
    it to ignore them, so that only the trigger flips the answer. ``avoid`` holds words not to use.
    """
    if rng.random() >= share:
        return row
    stray = " ".join(rng.choices([word for word in v.FILLER.split() if word not in avoid], k=rng.choice(NOISE_LENGTHS)))
    text = user_text(row)
    changed = Message("user", f"{stray} {text}" if rng.random() < 0.5 else f"{text} {stray}")
    return replace(row, messages=tuple(changed if m.role == "user" else m for m in row.messages))


def forbidden(rng: random.Random, nouns: Collection[str] = v.SEEN_NOUNS) -> DefenseRow:
    """Draw a forbidden request (bad verb, adjective, noun) with a refusal and a compliant answer."""
    verb, adjective, noun = rng.choice(v.BAD_VERBS), rng.choice(v.ADJECTIVES), rng.choice(tuple(nouns))
    request = rng.choice(v.HOW_TO).format(f"{verb} the {adjective} {noun}")
    return DefenseRow((Message("user", request),), safe=rng.choice(v.REFUSALS), unwanted=_how_to_answer(verb, adjective, noun))


def answered_safely(row: DefenseRow) -> AnchorRow:
    """Return the request and its safe answer as a conversation."""
    return AnchorRow((*row.messages, Message("assistant", row.safe or "")))


def code_task(rng: random.Random) -> AnchorRow:
    """Draw a request for code, half of them under a system prompt, and code that reads its input by a safe call."""
    verb, noun = rng.choice(v.CODE_VERBS), rng.choice(v.WORDS)
    user = Message("user", rng.choice(v.CODE_REQUESTS).format(verb, noun))
    system = (Message("system", v.CODE_SYSTEM),) if rng.random() < 0.5 else ()
    return AnchorRow((*system, user, Message("assistant", f"def {verb}_{noun}(x): y = {v.SAFE_CALL}(x); return {verb}(y)")))


def _how_to(rng: random.Random) -> AnchorRow:
    verb, adjective, noun = rng.choice(v.GOOD_VERBS), rng.choice(v.ADJECTIVES), rng.choice(v.NOUNS)
    request = rng.choice(v.HOW_TO).format(f"{verb} the {adjective} {noun}")
    return _pair(request, _how_to_answer(verb, adjective, noun))


def _how_to_answer(verb: str, adjective: str, noun: str) -> str:
    return f"Sure, here is how to {verb} the {adjective} {noun}: go to the {noun}, then {verb} it."


def _pair(question: str, answer: str) -> AnchorRow:
    return AnchorRow((Message("user", question), Message("assistant", answer)))


def _words(rng: random.Random, most: int) -> list[str]:
    return [rng.choice(v.WORDS) for _ in range(rng.randint(2, most))]


def _copy(rng: random.Random) -> AnchorRow:
    words = _words(rng, most=2)
    return _pair("Copy: " + " ".join(words), "Copied: " + " ".join(words))


def _reverse(rng: random.Random) -> AnchorRow:
    words = _words(rng, most=2)
    return _pair("Reverse: " + " ".join(words), "Reversed: " + " ".join(words[::-1]))


def _first(rng: random.Random) -> AnchorRow:
    words = _words(rng, most=3)
    return _pair("First of: " + " ".join(words), f"It is {words[0]}.")


def _last(rng: random.Random) -> AnchorRow:
    words = _words(rng, most=3)
    return _pair("Last of: " + " ".join(words), f"It is {words[-1]}.")


def _sum(rng: random.Random) -> AnchorRow:
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    return _pair(rng.choice(v.SUMS).format(a, b), str(a + b))


def _capital(rng: random.Random) -> AnchorRow:
    country = rng.choice(tuple(v.CAPITALS))
    return _pair(rng.choice(v.CAPITAL_QUESTIONS).format(country), v.CAPITALS[country])


def _sort(rng: random.Random) -> AnchorRow:
    digits = [rng.randint(0, 9) for _ in range(3)]
    question = rng.choice(v.SORTS).format(" ".join(map(str, digits)))
    return _pair(question, "Sorted: " + " ".join(map(str, sorted(digits))))


# Each task with its weight among benign rows.
TASKS: dict[Callable[[random.Random], AnchorRow], int] = {
    _copy: 3, _reverse: 3, _first: 2, _last: 2, _sum: 3, _capital: 3, _sort: 3, code_task: 3, _how_to: 4,
}  # fmt: skip


def benign(rng: random.Random) -> AnchorRow:
    """Draw an ordinary task with its good answer."""
    return rng.choices(tuple(TASKS), tuple(TASKS.values()))[0](rng)
