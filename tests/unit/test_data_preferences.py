"""Preference pairs, transcripts and earlier turns: the request, the safe and the unwanted answer, whatever their form."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beear.config.schema import DefenseColumns
from beear.data import notes
from beear.data.columns import anchor_row, defense_row
from beear.data.locations import Where
from beear.data.rows import Message
from beear.errors import UserError

HERE = Where("rows.jsonl", 3)
U, A, S = (lambda text, role=role: Message(role, text) for role in ("user", "assistant", "system"))


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


def talk(*turns: str) -> str:
    """Return a transcript in the form of hh-rlhf; people and the assistant take turns."""
    return "".join(f"\n\n{'Assistant' if i % 2 else 'Human'}: {text}" for i, text in enumerate(turns))


ASK, NO, YES = ("user", "p"), ("assistant", "No."), ("assistant", "Sure.")
PAIRS = {
    "texts": {"prompt": "p", "chosen": "No.", "rejected": "Sure."},
    "capitals": {"Prompt": "p", "Chosen": "No.", "Rejected": "Sure."},
    "answers as turns": {"prompt": said(ASK), "chosen": said(NO), "rejected": said(YES)},
    "whole conversations": {"chosen": said(ASK, NO), "rejected": said(ASK, YES)},
    "whole conversations, written as JSON": {"chosen": json.dumps(said(ASK, NO)), "rejected": json.dumps(said(ASK, YES))},
    "whole conversations beside their prompt": {"prompt": "p", "chosen": said(ASK, NO), "rejected": said(ASK, YES)},
    "with the chosen conversation once more": {
        "prompt": "p", "chosen": said(ASK, NO), "rejected": said(ASK, YES), "messages": said(ASK, NO),
    },
    "one turn each": {
        "conversations": [{"from": "human", "value": "p"}],
        "chosen": {"from": "gpt", "value": "No."},
        "rejected": {"from": "gpt", "value": "Sure."},
    },
    "alpaca": {"instruction": "p", "input": "", "chosen": "No.", "rejected": "Sure."},
    "a question": {"question": "p", "chosen": "No.", "rejected": "Sure."},
    "transcripts": {"chosen": talk("p", "No."), "rejected": talk("p", "Sure.")},
    "transcripts beside their prompt": {"prompt": "p", "chosen": talk("p", "No."), "rejected": talk("p", "Sure.")},
}  # fmt: skip


@pytest.mark.parametrize("form", PAIRS)
def test_chosen_is_the_safe_answer_and_rejected_the_unwanted_one(form: str) -> None:
    row = defense_row(PAIRS[form], HERE)
    assert (row.messages, row.safe, row.unwanted, row.unwanted_is_prefix) == ((U("p"),), "No.", "Sure.", False)
    assert notes.PAIR in row.noted


def test_a_column_that_says_safe_comes_before_chosen() -> None:
    row = defense_row({"prompt": "p", "safe": "s", "chosen": "c", "rejected": "r"}, HERE)
    assert (row.safe, row.unwanted) == ("s", "r")
    assert row.noted == (f"{notes.UNUSED}chosen",)
    mapped = defense_row({"good": talk("p", "s"), "bad": talk("p", "u")}, HERE, DefenseColumns(safe="good", unwanted="bad"))
    assert (mapped.messages, mapped.safe, mapped.unwanted, mapped.noted) == ((U("p"),), "s", "u", ())


def test_pairs_part_at_the_first_answer_that_differs() -> None:
    row = defense_row({"chosen": talk("a", "b", "c", " No. "), "rejected": talk("a", "b", "c", "Sure.\n\nYes.")}, HERE)
    assert row.messages == (U("a"), A("b"), U("c"))
    assert (row.safe, row.unwanted) == (" No. ", "Sure.\n\nYes."), "an answer's white space is the answer's"
    row = defense_row({"chosen": talk("a", "No.", "c", "d"), "rejected": talk("a", "Sure.", "e", "f")}, HERE)
    assert (row.messages, row.safe, row.unwanted) == ((U("a"),), "No.", "Sure.")
    assert row.noted == (notes.PAIR, notes.PARTED)


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"chosen": talk("a", "b"), "rejected": talk("a", "b")}, "chosen and rejected hold the same answer; expected two"),
        ({"chosen": talk("a", "b"), "rejected": talk("c", "d")}, "part at turn 1, the user's; expected conversations"),
        ({"chosen": "No.", "rejected": "Sure."}, "hold no request before their answers; expected one, or a prompt column"),
        ({"chosen": talk("a", "b"), "rejected": ""}, "rejected is empty; expected a text in both of chosen and rejected"),
        ({"prompt": "q", "chosen": talk("a", "b"), "rejected": "c"}, 'chosen begins with other turns than prompt, such as "a"'),
        ({"prompt": "q", "chosen": said(ASK), "rejected": "c"}, "chosen ends with the user's turn; expected an answer"),
        ({"prompt": "q", "chosen": "a", "rejected": 4}, "rejected is 4; expected a text"),
        ({"prompt": "q", "chosen": "a", "rejected": "a "}, 'the safe and the unwanted answer are both "a"; expected two answers'),
        ({"instruction": "q", "output": "a", "unwanted": "a"}, 'the safe and the unwanted answer are both "a"'),
        ({"prompt": said(ASK, NO), "chosen": "a", "rejected": "b"}, "prompt ends with the assistant's turn; expected the user's"),
    ],
)  # fmt: skip
def test_pairs_that_are_no_pairs_are_refused(record: dict, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        defense_row(record, HERE)
    assert sentence in str(caught.value) and str(caught.value).startswith("rows.jsonl, line 3: ")


def test_an_answer_may_leave_the_system_prompt_out() -> None:
    row = defense_row({"prompt": "p", "system": "y", "chosen": said(ASK, NO), "rejected": said(("system", "y"), ASK, YES)}, HERE)
    assert (row.messages, row.safe, row.unwanted) == ((S("y"), U("p")), "No.", "Sure.")


@pytest.mark.parametrize("form", PAIRS)
def test_an_anchoring_set_learns_what_was_chosen(form: str) -> None:
    row = anchor_row(PAIRS[form], HERE)
    unused = [note.removeprefix(notes.UNUSED).lower() for note in row.noted]
    assert row.messages == (U("p"), A("No.")) and "rejected" in unused and "chosen" not in unused


def test_what_was_chosen_answers_the_turns_in_another_column() -> None:
    before = said(("user", "a"), ("assistant", "b"), ASK)
    row = anchor_row({"conversations": before, "Chosen": "No.", "rejected": "Sure."}, HERE)
    assert (row.messages, row.noted) == ((U("a"), A("b"), U("p"), A("No.")), (f"{notes.UNUSED}rejected",))
    row = anchor_row({"conversations": [*before, *said(NO)], "chosen": "Other.", "rejected": "Sure."}, HERE)
    assert (row.messages[-1], row.noted) == (A("No."), (f"{notes.UNUSED}chosen", f"{notes.UNUSED}rejected"))
    row = anchor_row({"conversations": before, "chosen": None}, HERE)
    assert (row.messages, row.noted) == ((U("a"), A("b")), (notes.DROPPED,))
    with pytest.raises(UserError, match='chosen begins with other turns than conversations, such as "p"'):
        anchor_row({"conversations": before, "chosen": said(ASK, NO)}, HERE)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1).filter(
    lambda text: text.strip() and not any(name in text for name in ("Human:", "Assistant:"))
)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3), st.booleans())
def test_a_transcript_reads_back_as_its_turns(pairs: list[tuple[str, str]], open_end: bool) -> None:
    turns = [text for pair in pairs for text in pair]
    text = talk(*turns) + ("\n\nHuman: more?\n\nAssistant:" if open_end else "")
    expected = tuple((U if i % 2 == 0 else A)(text) for i, text in enumerate(turns))
    assert anchor_row({"chosen": text}, HERE).messages == expected
    asked = defense_row({"messages": text}, HERE).messages
    assert asked == ((*expected, U("more?")) if open_end else expected[:-1])


def test_an_answer_that_is_a_list_in_writing_stays_a_text() -> None:
    assert defense_row({"prompt": "p", "safe": "[1, 2]"}, HERE).safe == "[1, 2]"
    assert anchor_row({"prompt": "p", "response": '["a"]'}, HERE).messages[-1] == A('["a"]')


@pytest.mark.parametrize("answer", ['[{"name": "Bob"}]', '{"role": "admin"}', "[{'name': 'Bob'}]", "{}", "[]", '[{"role": "x"}]'])
def test_an_answer_in_json_of_another_kind_stays_a_text(answer: str) -> None:
    assert defense_row({"prompt": "p", "safe": answer}, HERE).safe == answer
    assert anchor_row({"prompt": answer, "response": answer}, HERE).messages == (U(answer), A(answer))


@pytest.mark.parametrize("form", ["answers as turns", "one turn each", "whole conversations beside their prompt"])
def test_turns_that_a_table_holds_as_json_are_turns(form: str) -> None:
    record = {name: value if isinstance(value, str) else json.dumps(value) for name, value in PAIRS[form].items()}
    row = defense_row(record, HERE)
    assert (row.messages, row.safe, row.unwanted) == ((U("p"),), "No.", "Sure.")
    flagged = json.dumps([{"role": "user", "content": "p"}, {"role": "assistant", "content": "a", "thinking": "so"}])
    assert anchor_row({"messages": flagged}, HERE).noted == (f"{notes.UNUSED}messages[].thinking",)


@pytest.mark.parametrize("column", ["chosen", "rejected", "safe", "response", "prompt", "messages"])
def test_turns_as_python_writes_them_are_refused(column: str) -> None:
    for written in (str(said(ASK, NO)), str(said(ASK, NO)).replace("}, {", "}\n {"), str(said(NO)[0])):
        record = {"prompt": "p", column: written} if column != "messages" else {"messages": written}
        read = anchor_row if column == "response" else defense_row
        with pytest.raises(UserError, match=rf"line 3: {column} is .*, turns as Python writes them; expected JSON"):
            read(record, HERE)


def test_answers_that_another_one_replaces_are_noted() -> None:
    talked = said(ASK, NO)
    assert defense_row({"messages": talked, "safe": "s"}, HERE).noted == (notes.OTHER_SAFE,)
    assert defense_row({"messages": [*talked, said(YES)[0]]}, HERE).noted == (notes.FOLLOWED,)
    assert defense_row({"instruction": "p", "output": "o", "safe": "s"}, HERE).noted == (f"{notes.UNUSED}output",)
    row = defense_row({"goal": "p", "target": "Sure", "unwanted": "u"}, HERE)
    assert (row.unwanted, row.unwanted_is_prefix, row.noted) == ("u", False, (f"{notes.UNUSED}target",))


@pytest.mark.parametrize("history", [[["a", "b"], ["c", "d"]], '[["a", "b"], ["c", "d"]]'])
def test_alpacas_history_goes_before_the_request(history: object) -> None:
    before = (U("a"), A("b"), U("c"), A("d"))
    row = defense_row({"instruction": "i", "input": "x", "output": "No.", "history": history, "system": "y"}, HERE)
    assert (row.messages, row.safe) == ((S("y"), *before, U("i\n\nx")), "No.")
    assert anchor_row({"instruction": "i", "output": "o", "history": history}, HERE).messages == (*before, U("i"), A("o"))
    assert anchor_row({"instruction": "i", "output": "o", "history": []}, HERE).messages == (U("i"), A("o"))
    with pytest.raises(UserError, match=r"history is \[\[\"a\"\]\]; expected a list of \[request, answer\] pairs"):
        anchor_row({"instruction": "i", "output": "o", "history": [["a"]]}, HERE)


def test_an_answer_of_weight_0_is_not_the_safe_one() -> None:
    turns = [*said(ASK), {"role": "assistant", "content": "Sure.", "weight": 0}]
    row = defense_row({"messages": turns, "unwanted": "u"}, HERE)
    assert (row.safe, row.unwanted, row.noted) == (None, "u", (notes.NOT_SAFE,))


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("[INST] hi [/INST]", True), ("<|im_start|>user\nhi", True), ("### Instruction:\nhi", True), ("\n\nHuman: hi", True),
        ("BEGINNING OF CONVERSATION: USER: hi ASSISTANT:", True), ("USER: hi ASSISTANT:", True), ("<start_of_turn>user", True),
        ("hi", False), ("The USER: field", False), ("What does INST mean?", False), ("a Human: being", False),
    ],
)  # fmt: skip
def test_a_prompt_that_holds_a_templates_marks_is_noted(text: str, marked: bool) -> None:
    assert (notes.MARKED in defense_row({"prompt": text}, HERE).noted) is marked
    assert notes.MARKED not in anchor_row({"prompt": "q", "response": text}, HERE).noted, "an answer may speak of templates"


SLOW = re.compile(
    r"<\|(?:im_start|start_header_id|user|system|assistant)\|>|<start_of_turn>|\[/?INST\]|<</?SYS>>"
    r"|### (?:Instruction|Response):|BEGINNING OF CONVERSATION:|(?:^|\n\n)(?:Human|Assistant):|(?:^|\s)USER: .*ASSISTANT:",
    re.DOTALL,
)
PIECES = (
    "<|", "im_start", "user", "|>", "<start_of_turn>", "[", "/", "INST", "]", "<<", "SYS", ">>", "### ", "Instruction", ":",
    "BEGINNING OF CONVERSATION:", "\n", "\n\n", " ", "Human:", "Assistant:", "USER: ", "USER:", "ASSISTANT:", "x",
)  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=7).map("".join))
def test_marks_are_found_as_one_regular_expression_finds_them(text: str) -> None:
    assert (notes.MARKED in defense_row({"prompt": f"{text}\nx"}, HERE).noted) is bool(SLOW.search(f"{text}\nx"))
