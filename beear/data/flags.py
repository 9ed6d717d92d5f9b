"""Flags by which files say that an answer is not to be learnt: those of one turn, and those of a whole row."""

from collections.abc import Collection, Mapping

from beear.data.locations import Where, shown
from beear.errors import UserError

# Each says with 0 or 1, or false or true, whether an assistant turn is to be learnt.
TURN = ("weight", "train", "trainable", "loss")
# Axolotl's way to learn a part of a turn.
PART_OF_TURN = "train_detail"
ROW = ("weight", "train", "trainable", "is_safe")
# Of preference sets with one answer a row (KTO). Elsewhere a label may say anything, and numbers may be classes.
VERDICTS = ("label", "kto_tag")
SAID = {"true": True, "false": False, "1": True, "1.0": True, "0": False, "0.0": False}


def turn_is_learnt(turn: Mapping[str, object], where: Where, field: str) -> bool:
    """Say whether a turn is to be learnt; one without a flag is.

    Raises:
        UserError: a flag is neither 0 nor 1, or says that a part of the turn is to be learnt.
    """
    if turn.get(PART_OF_TURN):
        raise UserError(
            f"{where}: {field}.{PART_OF_TURN} is {shown(turn[PART_OF_TURN])}; expected turns that are learnt whole or not at all."
        )
    said = {key: turn[key] for key in TURN if turn.get(key) is not None}
    for key, value in said.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise UserError(f"{where}: {field}.{key} is {shown(value)}; expected 0 or 1, or false or true.")
    return all(said.values())


def of_row(record: Mapping[str, object], used: Collection[str]) -> dict[str, bool]:
    """Return the columns that say whether the row's answers are to be learnt, and what each says.

    ``used`` holds the columns that are read for something else. A verdict counts beside a conversation or a completion, as
    in the sets that have one. A CSV file has ``False`` as a text.
    """
    judged = not {column.lower() for column in used}.isdisjoint(("completion", "messages", "conversations", "conversation"))
    found = {}
    for column in (name for name in record if name not in used):
        if column.lower() in ROW or (judged and column.lower() in VERDICTS):
            said = str(record[column]).strip().lower()
            if said in ("true", "false") or (column.lower() in ROW and said in SAID):
                found[column] = SAID[said]
    return found
