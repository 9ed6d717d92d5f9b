"""What crosses Arrow: every column is a field that a batch is made of, and steps come back whole however they are cut."""

from dataclasses import fields
from itertools import pairwise

import pyarrow as pa
import pytest

from beear.data.encode import EncodedAnchor, EncodedDefense
from beear.data.steps import Step
from beear.errors import UserError
from beear.streams.tables import SCHEMA, steps_of, table_of, table_of_error

REQUEST = EncodedDefense([1, 2, 3], 1, [4, 5], [True, True], [False, True], [6], [False], [True])
CHAT = EncodedAnchor([7, 8, 9], [False, True, True])


def test_every_column_is_the_step_s_place_or_a_field_of_a_row() -> None:
    place = ["epoch", "number", "part", "rows", "message"]
    held = {f.name for kind in (EncodedDefense, EncodedAnchor) for f in fields(kind)}
    assert sorted(SCHEMA.names) == sorted([*place, *held])


@pytest.mark.parametrize("size", [1, 2, 3, 99])
def test_steps_come_back_whole_from_tables_cut_anywhere(size: int) -> None:
    steps = [Step(1, 0, [REQUEST, REQUEST], [CHAT]), Step(1, 1, [REQUEST], []), Step(2, 0, [REQUEST], [CHAT, CHAT])]
    whole = pa.concat_tables([table_of(step) for step in steps])
    cuts = [*range(0, whole.num_rows, size), whole.num_rows]
    assert list(steps_of(whole.slice(a, b - a) for a, b in pairwise(cuts))) == steps


def test_an_error_is_raised_where_it_stands() -> None:
    found = steps_of([table_of(Step(1, 0, [REQUEST], [CHAT])), table_of_error(1, UserError("row 7 is bad"))])
    assert next(found).number == 0
    with pytest.raises(UserError, match="^row 7 is bad$"):
        next(found)
