"""Flags of rows and turns that say what is not to be learnt, and fields of turns that nothing reads: none is passed over."""

from typing import Any

import pytest

from beear.data import notes
from beear.data.columns import anchor_row, defense_row
from beear.data.locations import Where
from beear.errors import UserError

HERE = Where("rows.jsonl", 3)


def turns(**of_answer: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r", **of_answer}]


AGAINST = [
    ({"prompt": "q", "completion": "r"}, {"label": False}, "label is false"),
    ({"prompt": "q", "completion": "r"}, {"label": "False"}, 'label is "False"'),
    ({"messages": turns()}, {"label": False}, "label is false"),
    ({"conversations": turns()}, {"kto_tag": False}, "kto_tag is false"),
    ({"prompt": "q", "response": "r"}, {"is_safe": False}, "is_safe is false"),
    ({"prompt": "q", "response": "r"}, {"Is_Safe": "0"}, 'Is_Safe is "0"'),
    ({"prompt": "q", "response": "r"}, {"weight": 0}, "weight is 0"),
    ({"messages": turns()}, {"weight": 0.0}, "weight is 0.0"),
    ({"instruction": "q", "output": "r"}, {"train": False}, "train is false"),
    ({"question": "q", "answer": "r"}, {"trainable": 0}, "trainable is 0"),
]


@pytest.mark.parametrize(("record", "flag", "found"), AGAINST)
def test_an_anchoring_row_that_is_marked_as_bad_is_refused(record: dict, flag: dict, found: str) -> None:
    with pytest.raises(UserError) as caught:
        anchor_row({**record, **flag}, HERE)
    assert str(caught.value) == f"{HERE}: {found}, so the answer is not to be learnt; expected rows whose answers are."


@pytest.mark.parametrize(
    ("record", "flag"),
    [
        ({"prompt": "q", "completion": "r"}, {"label": True}),
        ({"messages": turns()}, {"weight": 1.0}),
        ({"prompt": "q", "response": "r"}, {"is_safe": "True"}),
        ({"prompt": "q", "response": "r"}, {"train": None}),
    ],
)
def test_one_that_is_marked_as_good_is_learnt(record: dict, flag: dict) -> None:
    row = anchor_row({**record, **flag}, HERE)
    assert [m.content for m in row.messages] == ["q", "r"] and row.noted == (), "a flag that was read is no unused column"


@pytest.mark.parametrize(
    ("flag", "said"),
    [({"label": False}, "label=false"), ({"label": 0}, "label"), ({"label": "safe"}, "label"), ({"weight": 0.7}, "weight")],
)
def test_what_may_mean_something_else_is_noted(flag: dict, said: str) -> None:
    row = anchor_row({"prompt": "q", "response": "r", **flag}, HERE)
    assert row.noted == (f"{notes.UNUSED}{said}",)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": turns(), "label": False},
        {"messages": turns(), "weight": 0},
        {"messages": turns(train=False)},
        {"instruction": "q", "output": "r", "is_safe": False},
        {"query": "q", "answer": "r", "train": False},
        {"prompt": "q", "safe": {"role": "assistant", "content": "r", "weight": 0}},
    ],
)
def test_an_answer_that_is_marked_as_bad_is_not_the_safe_one(record: dict) -> None:
    row = defense_row(record, HERE)
    assert (row.messages[-1].content, row.safe, row.noted) == ("q", None, (notes.NOT_SAFE,))


def test_a_flag_of_another_answer_says_nothing_of_the_safe_one() -> None:
    row = defense_row({"prompt": "q", "safe": "s", "response": "r", "is_safe": False}, HERE)
    assert (row.safe, row.noted) == ("s", (f"{notes.UNUSED}response", f"{notes.UNUSED}is_safe=false"))


def test_a_chosen_answer_of_weight_0_is_neither_safe_nor_learnt() -> None:
    pair: dict[str, Any] = {"chosen": turns(weight=0), "rejected": [*turns()[:1], {"role": "assistant", "content": "b"}]}
    row = defense_row(pair, HERE)
    assert (row.safe, row.unwanted, row.noted) == (None, "b", (notes.PAIR, notes.NOT_SAFE))
    for answer in ({"chosen": pair["chosen"]}, {"completion": pair["chosen"][1:]}):
        with pytest.raises(UserError, match="is not to be learnt, by its own flag; expected an answer that is"):
            anchor_row({"prompt": "q", **answer}, HERE)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"toxic": True}, "toxic=true"), ({"toxic": False}, "toxic=false"), ({"reasoning_content": "so"}, "reasoning_content"),
        ({"thinking": "so"}, "thinking"), ({"masked": 1}, "masked"), ({"name": "bob"}, "name"), ({"prefix": True}, "prefix=true"),
    ],
)  # fmt: skip
def test_a_field_of_a_turn_that_nothing_reads_is_noted(field: dict, said: str) -> None:
    for column in ("messages", "conversation"):
        for row in (anchor_row({column: turns(**field)}, HERE), defense_row({column: turns(**field)}, HERE)):
            assert row.noted == (f"{notes.UNUSED}{column}[].{said}",)
    chosen = anchor_row({"prompt": turns()[:1], "chosen": turns(**field)[1:]}, HERE)
    assert chosen.noted == (f"{notes.UNUSED}chosen[].{said}",)


def test_fields_without_content_and_fields_that_are_read_are_not_noted() -> None:
    empty = {"weight": 1, "train": True, "tool_calls": None, "function_call": None, "name": None, "images": [], "thinking": ""}
    assert anchor_row({"messages": turns(**empty)}, HERE).noted == ()


def test_a_part_of_a_turn_cannot_be_learnt() -> None:
    part = [{"begin_offset": 0, "end_offset": 0, "train": False}]
    with pytest.raises(UserError, match=r"messages\[1\].train_detail is .*; expected turns that are learnt whole or not at all"):
        anchor_row({"messages": turns(train_detail=part)}, HERE)


def test_a_flag_is_counted_by_its_value() -> None:
    rows = [anchor_row({"messages": turns(), "toxic": i == 0}, HERE) for i in range(3)]
    noted = {note: sum(note in row.noted for row in rows) for row in rows for note in row.noted}
    assert notes.sentences("f", noted, 3) == [
        "f: columns not used, with the rows that fill them: toxic=true (1), toxic=false (2)"
    ]
