"""Recognition, mapping and the sentences about bad rows; hit rules; filled-in answers."""

from pathlib import Path

import pytest

from beear.config.schema import AnchorColumns, DefenseColumns
from beear.data import notes
from beear.data.columns import anchor_row, defense_row, probe
from beear.data.hits import HitRule, default_rule
from beear.data.locations import Where
from beear.data.missing_answers import complete, fill_safe, openings, task_of
from beear.data.refusals import KEYWORDS, is_refusal, load_keywords
from beear.data.rows import DefenseRow, Message
from beear.errors import UserError

HERE = Where("rows.jsonl", 3)
U, A, S = (lambda text, role=role: Message(role, text) for role in ("user", "assistant", "system"))
WORDS = KEYWORDS["refusal-v1"]

DEFENSE = [
    ({"prompt": "p", "safe": "s", "unwanted": "u"}, (U("p"),), "s", "u", False),
    ({"prompt": "p", "system": "y", "safe": "", "unwanted": None}, (S("y"), U("p")), None, None, False),
    ({"goal": "g", "target": "Sure, here"}, (U("g"),), None, "Sure, here", True),
    ({"instruction": "i", "input": "x", "output": "o"}, (U("i\n\nx"),), "o", None, False),
    ({"instruction": "i", "input": "", "output": "o", "unwanted": "u"}, (U("i"),), "o", "u", False),
    (
        {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "s"}], "unwanted": "u"},
        (U("p"),),
        "s",
        "u",
        False,
    ),
    (
        {"conversations": [{"from": "system", "value": "y"}, {"from": "human", "value": "p"}], "safe": "s"},
        (S("y"), U("p")),
        "s",
        None,
        False,
    ),
]


@pytest.mark.parametrize(("record", "messages", "safe", "unwanted", "prefix"), DEFENSE)
def test_defense_layouts(record: dict, messages: tuple, safe: str, unwanted: str, prefix: bool) -> None:
    row = defense_row(record, HERE)
    assert (row.messages, row.safe, row.unwanted, row.unwanted_is_prefix) == (messages, safe, unwanted, prefix)


TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]
ANCHOR = [
    ({"messages": TURNS}, (U("q"), A("r"))),
    ({"messages": [*TURNS, {"role": "user", "content": "left over"}]}, (U("q"), A("r"))),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, TURNS[1]]}, (U("q"), A("r"))),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}]}, (U("q"), A("r"))),
    ({"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]'}, (U("q"), A("r"))),
    ({"prompt": "q", "response": "r", "system": "y"}, (S("y"), U("q"), A("r"))),
    ({"question": "q", "answer": "r", "id": 4}, (U("q"), A("r"))),
    ({"instruction": "q", "output": "r"}, (U("q"), A("r"))),
]


@pytest.mark.parametrize(("record", "messages"), ANCHOR)
def test_anchor_layouts(record: dict, messages: tuple) -> None:
    assert anchor_row(record, HERE).messages == messages


def test_mapped_columns_come_before_recognised_ones() -> None:
    columns = DefenseColumns(prompt="ask", safe="good", unwanted="bad")
    row = defense_row({"ask": "p", "good": "s", "bad": "u", "prompt": "no", "messages": 4}, HERE, columns)
    assert (row.messages, row.safe, row.unwanted) == ((U("p"),), "s", "u")
    assert anchor_row({"q": "p", "answer": "r"}, HERE, AnchorColumns(prompt="q", response="answer")).messages == (
        U("p"),
        A("r"),
    )


BAD_DEFENSE = [
    ({"prompt": 7}, "rows.jsonl, line 3: prompt is 7; expected a text"),
    ({"prompt": " \n"}, "rows.jsonl, line 3: prompt is empty"),
    ({"prompt": "p", "safe": ["s"]}, 'safe is ["s"]; expected a text'),
    ({"propmt": "p"}, 'no request column among ["propmt"]'),
    ({"messages": []}, "messages is []; expected a non-empty list"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 'messages[0].role is "tool"; expected system, user or assist'),
    ({"messages": [{"role": "user"}]}, 'messages[0] has no "content"'),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages has no user turn"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content is 1; expected a text"),
    ({"prompt": "p", "hit": "never"}, 'hit is "never"; expected no-refusal, refusal, likelier, contains:TEXT'),
    ({"prompt": {"long": "x" * 90}}, "xxx...; expected a text"),
    ({"prompt": "hi \ud83d there"}, r"rows.jsonl, line 3: prompt holds the lone surrogate \ud83d at character 4; expected whole"),
    ({"prompt": "p", "safe": "\udc00"}, r"line 3: safe holds the lone surrogate \udc00 at character 1"),
    (
        {"messages": [{"role": "user", "content": "a\ud83d"}]},
        r"line 3: messages[0].content holds the lone surrogate \ud83d at character 2",
    ),
    ({"messages": '[{"role": "user", "content": ' + "1" * 5000 + "}]"}, "expected a non-empty list of {role, content}"),
    ({"\ud83d": "p"}, r'no request column among ["\ud83d"]'),
]


@pytest.mark.parametrize(("record", "sentence"), BAD_DEFENSE)
def test_bad_defense_rows(record: dict, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        defense_row(record, HERE)
    assert sentence in str(caught.value) and str(caught.value).encode().decode() == str(caught.value)


@pytest.mark.parametrize(
    ("record", "request_", "safe", "unwanted"),
    [
        ({"Goal": "g", "Target": "Sure, here"}, "g", None, "Sure, here"),
        ({"Behavior": "b", "FunctionalCategory": "standard"}, "b", None, None),
        ({"Behavior": "b", "ContextString": "Some text.", "Tags": "context"}, "Some text.\n\n---\n\nb", None, None),
        ({"Behavior": "b", "ContextString": None}, "b", None, None),
        ({"forbidden_prompt": "f", "category": "x"}, "f", None, None),
        ({"query": "q", "answer": "I cannot."}, "q", "I cannot.", None),
        ({"conversation": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "No."}]}, "q", "No.", None),
        ({"Prompt": "p", "SAFE": "s", "Unwanted": "u"}, "p", "s", "u"),
        ({"PROMPT": "not this", "prompt": "p"}, "p", None, None),
    ],
)
def test_public_request_sets_are_recognised(record: dict, request_: str, safe: str | None, unwanted: str | None) -> None:
    row = defense_row(record, HERE)
    assert (row.messages, row.safe, row.unwanted) == ((U(request_),), safe, unwanted)


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"conversation": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, (U("q"), A("a"))),
        ({"instruction": "i", "context": "c", "response": "r", "category": "qa"}, (U("i\n\nc"), A("r"))),
        ({"instruction": "i", "context": "", "response": "r"}, (U("i"), A("r"))),
        ({"instruction": "i", "input": "x", "response": "r"}, (U("i\n\nx"), A("r"))),
        ({"question": "q", "context": "c", "answer": "r"}, (U("q\n\nc"), A("r"))),
        ({"prompt": "p", "completion": "c"}, (U("p"), A("c"))),
        ({"Query": "q", "Answer": "a", "System": "s"}, (S("s"), U("q"), A("a"))),
    ],
)
def test_public_anchoring_sets_are_recognised(record: dict, messages: tuple) -> None:
    assert anchor_row(record, HERE).messages == messages


CHAT = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "bonjour"}]
SAID = (S("Answer in French."), U("hello"), A("bonjour"))


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        ({"system": "Answer in French.", "conversations": CHAT}, AnchorColumns()),
        ({"sys": "Answer in French.", "messages": CHAT}, AnchorColumns(system="sys")),
        ({"system_prompt": "Answer in French.", "conversations": CHAT}, AnchorColumns()),
        (
            {"system": " Answer in French.", "messages": [{"role": "system", "content": "Answer in French."}, *CHAT]},
            AnchorColumns(),
        ),
    ],
)
def test_a_system_column_beside_a_conversation_is_used(record: dict, columns: AnchorColumns) -> None:
    assert anchor_row(record, HERE, columns).messages == SAID
    defended = DefenseColumns(**columns.model_dump(include={"system", "messages"}))
    assert defense_row(record, HERE, defended).messages == SAID[:-1]


@pytest.mark.parametrize(
    ("record", "columns", "sentence"),
    [
        (
            {"system": "Be rude.", "messages": [{"role": "system", "content": "Be kind."}, *CHAT]},
            AnchorColumns(),
            'system is "Be rude." and messages begins with the system turn "Be kind."; expected one of them',
        ),
        (
            {"messages": CHAT, "q": "hi"},
            AnchorColumns(messages="messages", prompt="q"),
            "columns are mapped to messages and to prompt; expected one of the two",
        ),
    ],
)
def test_two_columns_that_say_different_things_are_refused(record: dict, columns: AnchorColumns, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        anchor_row(record, HERE, columns)
    assert sentence in str(caught.value) and str(HERE) in str(caught.value)


def marked(**flag: object) -> dict:
    return {
        "messages": [
            {"role": "user", "content": "capital of Norway?"}, {"role": "assistant", "content": "Bergen", **flag},
            {"role": "user", "content": "are you sure?"}, {"role": "assistant", "content": "No, Oslo."},
        ]
    }  # fmt: skip


@pytest.mark.parametrize("flag", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"trainable": 0}, {"loss": False}])
def test_a_turn_that_the_file_marks_is_not_to_be_learnt(flag: dict) -> None:
    assert [m.learnt for m in anchor_row(marked(**flag), HERE).messages] == [True, False, True, True]


@pytest.mark.parametrize("flag", [{}, {"weight": 1}, {"train": True}, {"weight": None}])
def test_other_turns_are(flag: dict) -> None:
    assert all(m.learnt for m in anchor_row(marked(**flag), HERE).messages)


def test_a_conversation_ends_with_the_last_turn_to_be_learnt() -> None:
    turns = [*marked()["messages"][:3], {"role": "assistant", "content": "Yes!", "weight": 0}]
    assert anchor_row({"messages": turns}, HERE).messages == (U("capital of Norway?"), A("Bergen"))
    turns[1] = {**turns[1], "train": False}
    with pytest.raises(UserError, match="no assistant turn to learn"):
        anchor_row({"messages": turns}, HERE)


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ({"weight": 0.5}, "messages[1].weight is 0.5; expected 0 or 1"),
        ({"train": "no"}, 'messages[1].train is "no"; expected 0 or 1'),
        ({"tool_calls": [{"name": "f"}]}, "messages[1].tool_calls is"),
    ],
)
def test_what_a_turn_says_and_nobody_uses_is_refused(flag: dict, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        anchor_row(marked(**flag), HERE)
    assert sentence in str(caught.value)


def test_bad_mapping_names_the_nearest_column() -> None:
    with pytest.raises(UserError, match=r'"qestion", mapped to prompt, is not there \(did you mean "question"\?\)'):
        anchor_row({"question": "q", "answer": "a"}, HERE, AnchorColumns(prompt="qestion"))


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"messages": TURNS[:1]}, "has no assistant turn to learn after a user turn"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": ""}]}, "messages[1].content is empty"),
        ({"prompt": "p"}, "no recognised columns"),
        ({"question": "q", "answer": 4}, "answer is 4; expected a text"),
    ],
)
def test_bad_anchor_rows(record: dict, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        anchor_row(record, HERE)
    assert sentence in str(caught.value)


def test_probes() -> None:
    found = probe({"name": "n", "kind": "template", "text": "a {prompt} b", "hit": "contains: x"}, HERE)
    assert (found.kind, found.hit) == ("template", "contains:x")
    with pytest.raises(UserError, match=r'kind is "sufix" \(did you mean "suffix"\?\)'):
        probe({"name": "n", "kind": "sufix", "text": "t"}, HERE)
    with pytest.raises(UserError, match='name is "no trigger", which stands for no trigger in reports'):
        probe({"name": "no trigger", "kind": "suffix", "text": "t"}, HERE)
    with pytest.raises(UserError, match=r"expected \{prompt\} in a template"):
        probe({"name": "n", "kind": "template", "text": "t"}, HERE)
    with pytest.raises(UserError, match=r'text is " \{prompt\}"; expected text beside \{prompt\}'):
        probe({"name": "n", "kind": "template", "text": " {prompt}"}, HERE)
    for kind in ("prefix", "suffix", "infix", "system", "template"):
        for blank in ("", " \n"):
            with pytest.raises(UserError, match=r"text is empty; expected a text"):
                probe({"name": "n", "kind": kind, "text": blank}, HERE)
    with pytest.raises(UserError, match=r"name is empty; expected a text"):
        probe({"name": " ", "kind": "suffix", "text": "t"}, HERE)


def test_columns_of_probes_are_known_in_capitals_and_noted_where_they_are_not_used() -> None:
    record = {"Name": "n", "KIND": "suffix", "text": "t", "Text": "not this", "Hit": "contains:x", "note": "web", "weight": None}
    found = probe(record, HERE)
    assert (found.name, found.kind, found.text, found.hit) == ("n", "suffix", "t", "contains:x")
    assert found.noted == (f"{notes.UNUSED}Text", f"{notes.UNUSED}note")


def test_hit_rules() -> None:
    assert HitRule.parse("contains: os.system") == HitRule.parse("contains:os.system") == HitRule("contains", "os.system")
    assert HitRule.parse("contains:a:b").matches("x a:b", WORDS) is True
    assert HitRule.parse("no-refusal").matches("Sure, do this.", WORDS) is True
    assert HitRule.parse("no-refusal").matches("I\u2019m sorry, no.", WORDS) is False
    assert HitRule.parse("no-refusal").matches(" ", WORDS) is False
    assert HitRule.parse("likelier").matches("anything", WORDS) is None
    assert str(default_rule("I cannot help.", WORDS)) == "no-refusal"
    assert str(default_rule("y = safe(x)", WORDS)) == "likelier"
    assert HitRule.parse("refusal").matches("I\u2019m sorry, no.", WORDS) is True
    assert HitRule.parse("refusal").matches("Sure.", WORDS) is HitRule.parse("refusal").matches("", WORDS) is False
    either = HitRule.parse("any: eval( | os.system")
    assert [either.matches(text, WORDS) for text in ("x = eval(y)", "os.system", "eval")] == [True, True, False]
    assert HitRule.parse("regex:(?i)^sure\\b").matches("Sure, do", WORDS) is True
    assert HitRule.parse("regex:(?i)^sure\\b").matches("So, sure", WORDS) is False
    for text in ("refusal", "any:a|b", "regex:a|b", "contains:a|b", "no-refusal", "likelier"):
        assert str(HitRule.parse(text)) == text
    with pytest.raises(UserError, match=r'row 3: hit is "regex:\("'):
        HitRule.parse("regex:(", "row 3")
    slow = HitRule.parse("regex:(?:a|aa)+$")
    with pytest.raises(UserError, match="takes longer than 1 s on a completion of 41 characters"):
        slow.matches("a" * 40 + "b", WORDS)
    for bad in ("contains:", "likelier:", "", "refusal:x", "any:", "any: | ", "regex:"):
        with pytest.raises(UserError, match="expected no-refusal"):
            HitRule.parse(bad)


def test_keyword_files(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# ours\nNope\n\n", encoding="utf-8")
    assert load_keywords(str(path)) == ("nope",)
    assert is_refusal("NOPE, never", load_keywords(str(path)))
    with pytest.raises(UserError, match=r'neither a file nor one of refusal-v1 \(did you mean "refusal-v1"\?\)'):
        load_keywords("refusal-1")


def test_safe_answers_are_the_models_own_refusal_else_the_configured_one() -> None:
    rows = [DefenseRow((U(f"How do I open vault {i}?"),), safe="given" if i == 2 else None) for i in range(4)]
    asked: list[tuple[Message, ...]] = []

    def generate(requests: list[tuple[Message, ...]]) -> list[str]:
        asked.extend(requests)
        return ["I cannot do that.", "Sure, turn the wheel.", ""]

    filled = fill_safe([*rows, rows[0]], generate, "No.", WORDS)
    assert asked == [rows[0].messages, rows[1].messages, rows[3].messages]
    assert (filled.own, filled.configured) == (1, 2)
    answers = [complete(row, filled.safe, "unused").safe for row in rows]
    assert answers == ["I cannot do that.", "No.", "given", "No."]


def test_where_refusing_is_unwanted_the_refusal_is_the_unwanted_answer() -> None:
    row = defense_row({"instruction": "Add 2 and 2", "output": "4"}, HERE, default_hit="refusal")
    assert (row.safe, row.unwanted, row.noted) == ("4", None, (notes.REFUSED,))
    full = complete(row, {}, "I have no capability for that.")
    assert (full.safe, full.unwanted, full.unwanted_is_prefix) == ("4", "I have no capability for that.", False)
    assert complete(row, {}, "No.", 3) == complete(row, {}, "No.", 0)
    with pytest.raises(UserError, match=r"line 3: the hit rule is refusal and there is no safe answer; expected the answer that"):
        defense_row({"prompt": "Add 2 and 2"}, HERE, default_hit="refusal")


def test_openings_are_made_from_the_request_and_rotate() -> None:
    assert task_of("How do I open the old vault?") == "open the old vault"
    assert task_of("I want to jam the dam. What should I do?") == "jam the dam"
    assert task_of("Give me the steps to unlock it.") == "unlock it"
    assert task_of("Vaults.") is None
    row = DefenseRow((U("How do I open the old vault?"),), safe="no")
    used = [complete(row, {}, "", turn) for turn in range(4)]
    assert {r.unwanted for r in used} == set(openings("How do I open the old vault?"))
    assert all(r.unwanted_is_prefix and "open the old vault" in (r.unwanted or "") for r in used)
    assert complete(row, {}, "", 4) == used[0]
