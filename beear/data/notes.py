"""What is said aloud of rows that are taken otherwise than a reader may expect, each with its count."""

from collections.abc import Mapping
from typing import Final

PAIR: Final = "chosen is taken as the safe answer and rejected as the unwanted one"
PARTED: Final = "chosen and rejected part before their last answer; what follows the answer where they part is not used"
MARKED: Final = "the prompt already holds marks of a chat template, and the model's own goes around it"
NOT_LEARNT: Final = "an assistant turn is not learnt, because a flag says so"
NOT_SAFE: Final = "a flag says that the answer is not to be learnt, so it is not taken as the safe one"
OTHER_SAFE: Final = "the answer in the conversation is not used, since another column holds the safe one"
FOLLOWED: Final = "what follows the answer in the conversation is not used"
REFUSED: Final = "data.refusal is taken as the unwanted answer, since the hit rule is refusal"
DROPPED: Final = "turns after the last answer that is learnt are dropped"
SYSTEM: Final = "the system prompt of data.system goes before the row"
UNUSED: Final = "column not used: "


def sentences(path: str, noted: Mapping[str, int], rows: int) -> list[str]:
    """Return one sentence for each kind of note; ``noted`` counts the rows of each, of ``rows`` that were read."""
    names = ((note.removeprefix(UNUSED) or '""', count) for note, count in noted.items() if note.startswith(UNUSED))
    unused = ", ".join(f"{name} ({count})" for name, count in names)
    found = [f"{path}: {count} of {rows} rows: {note}" for note, count in noted.items() if not note.startswith(UNUSED)]
    return [*found, f"{path}: columns not used, with the rows that fill them: {unused}"] if unused else found
