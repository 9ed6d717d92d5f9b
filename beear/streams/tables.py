"""A worker's step as an Arrow table, and back: flat columns, one row per encoded row."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from beear.data.encode import EncodedAnchor, EncodedDefense
from beear.data.steps import Step
from beear.errors import UserError

_IDS, _MARKS = pa.list_(pa.int32()), pa.list_(pa.bool_())
SCHEMA = pa.schema(
    [
        ("epoch", pa.int32()),
        ("number", pa.int32()),
        ("part", pa.string()),
        ("rows", pa.int32()),
        ("message", pa.string()),
        ("user_end", pa.int32()),
        ("ids", _IDS),
        ("labelled", _MARKS),
        *((name, _IDS) for name in ("prompt_ids", "safe_ids", "unwanted_ids")),
        *((f"{answer}_{marks}", _MARKS) for answer in ("safe", "unwanted") for marks in ("labelled", "differs")),
    ]
)
"""``part`` is ``defense``, ``text`` or ``error`` (then ``message`` is the sentence). ``rows`` counts those of the step.

The other columns are the fields of :class:`EncodedDefense` and :class:`EncodedAnchor`.
"""


def table_of(step: Step) -> pa.Table:
    """Return a step's rows, defense rows first."""
    head = {"epoch": step.epoch, "number": step.number, "rows": len(step.defense) + len(step.text)}
    rows = [{**head, "part": "defense", **asdict(row)} for row in step.defense]
    rows += [{**head, "part": "text", **asdict(row)} for row in step.text]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def table_of_error(epoch: int, error: UserError) -> pa.Table:
    """Return invalid input as a value that travels in place of a step."""
    row = {"epoch": epoch, "number": -1, "rows": 1, "part": "error", "message": str(error)}
    return pa.Table.from_pylist([row], schema=SCHEMA)


def steps_of(tables: Iterable[pa.Table]) -> Iterator[Step]:
    """Yield whole steps from tables that hold their rows in order, cut anywhere.

    Raises:
        UserError: the next row is an error.
    """
    held: list[Mapping[str, Any]] = []
    for table in tables:
        for row in table.to_pylist():
            if row["part"] == "error":
                raise UserError(row["message"])
            held.append(row)
            if len(held) == row["rows"]:
                yield _step(held)
                held = []


def _step(rows: list[Mapping[str, Any]]) -> Step:
    assert len({(row["epoch"], row["number"]) for row in rows}) == 1, "rows of two steps are mixed"
    defense = [EncodedDefense(**_fields(row, EncodedDefense)) for row in rows if row["part"] == "defense"]
    text = [EncodedAnchor(**_fields(row, EncodedAnchor)) for row in rows if row["part"] == "text"]
    return Step(rows[0]["epoch"], rows[0]["number"], defense, text)


def _fields(row: Mapping[str, Any], kind: type) -> dict[str, Any]:
    return {name: row[name] for name in kind.__dataclass_fields__}  # type: ignore[attr-defined]
