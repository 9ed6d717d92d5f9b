"""Near-identical requests stand on one side: stray spaces, other system prompts, continued conversations."""

from collections.abc import Sequence
from pathlib import Path

from beear.data.data_source import Row
from beear.data.load import LoadedData, load_small
from beear.data.rows import AnchorRow, DefenseRow, Message, digest_of
from tests.data_sets import anchor_records, config_for, defense_records, write_lines

U, A, S = (lambda text, role=role: Message(role, text) for role in ("user", "assistant", "system"))


def sides(rows: Sequence[Row], data: LoadedData, kind: str) -> dict[str, set[str]]:
    """Return, by the text that ought to stay on one side, the sides on which it is."""
    source = data.defense if kind == "defense" else data.anchor
    found: dict[str, set[str]] = {}
    for row in rows:
        text = " ".join(next(m.content for m in row.messages if m.role == "user").split())
        found.setdefault(text, set()).add(str(source.split(row)))
    return found


def loaded(
    tmp_path: Path, defense: Sequence[object] = (), anchor: Sequence[object] = (), report: str | None = None
) -> LoadedData:
    files = {"data.anchor.report_path": report}
    if defense:
        files["data.defense.path"] = str(write_lines(tmp_path / "more-defense.jsonl", defense))
    if anchor:
        files["data.anchor.path"] = str(write_lines(tmp_path / "more-anchor.jsonl", anchor))
    return load_small(config_for(tmp_path, files).data, 0)


def test_digests_of_single_spaced_text_stay_what_they_were() -> None:
    plain = DefenseRow((S("be kind"), U("How do I open it?")))
    assert plain.digest == digest_of([{"role": m.role, "content": m.content} for m in plain.messages])
    assert DefenseRow((U("Q 1"),)).group == DefenseRow((U("Q 1"),)).digest == digest_of([{"role": "user", "content": "Q 1"}])
    chat = AnchorRow((U("Q 1"), A("R")))
    assert chat.digest == chat.group == DefenseRow((U("Q 1"),)).digest
    assert digest_of("two  spaces ") != digest_of("two spaces")


def test_white_space_makes_no_other_request() -> None:
    one = DefenseRow((U("Q 1"),))
    for text in ("Q 1 ", " Q  1", "Q\n1", "Q\t 1\n\n"):
        assert DefenseRow((U(text),)).digest == one.digest
    assert DefenseRow((U("Q1"),)).digest != one.digest


def test_a_request_with_stray_spaces_or_another_system_prompt_stays_on_one_side(tmp_path: Path) -> None:
    plain = defense_records(100)
    varied = [{**r, "prompt": f"{r['prompt']} \n"} for r in plain]
    systems = [{**r, "system": f"Be {how}."} for r in plain for how in ("kind", "brief")]
    data = loaded(tmp_path, defense=[*plain, *varied, *systems])
    assert data.overlaps["defense rows repeated"] == 100
    assert sum(data.counts["defense"].values()) == 300
    rows = [row for row in data.defense.rows(data.defense.blocks)]
    found = sides(rows, data, "defense")
    assert len(found) == 100 and all(len(where) == 1 for where in found.values())
    assert {side for where in found.values() for side in where} == {"train", "selection", "report"}


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def test_a_conversation_and_its_continuation_stay_on_one_side(tmp_path: Path) -> None:
    short = [turns(f"Tell me of {i}", "It is.") for i in range(120)]
    chats = [*short, *([*s, *turns("And then?", "More.")] for s in short), *([*s, *turns("Why?", "So.")] for s in short)]
    data = loaded(tmp_path, anchor=[{"messages": chat} for chat in chats])
    assert data.overlaps["anchor rows repeated"] == 0 and sum(data.counts["anchor"].values()) == 360
    rows = [row for row in data.anchor.rows(data.anchor.blocks)]
    found = sides(rows, data, "anchor")
    assert len(found) == 120 and all(len(where) == 1 for where in found.values())
    assert len({row.digest for row in rows}) == 360 and len({row.group for row in rows}) == 120
    trained = {row.group for row in data.anchor.train_rows(data.anchor.blocks)}
    assert not trained & {row.group for row in (*data.anchor_report, *data.anchor_selection)}


def test_an_anchor_conversation_that_answers_a_defense_request_is_removed(tmp_path: Path) -> None:
    defense = defense_records(100)
    asked = [r["prompt"] for r in defense[:6]]
    shared: list[object] = [
        {"messages": turns(asked[0], "Sure.")},
        {"messages": turns(f"{asked[1]} ", "Sure.")},
        {"messages": [{"role": "system", "content": "Be kind."}, *turns(asked[2], "Sure.")]},
        {"messages": turns(asked[3], "Sure.", "And then?", "More.")},
    ]
    apart: list[object] = [{"messages": turns("Hello", "Hi.", asked[4], "No.")}]
    chats = [{"messages": turns(r["prompt"], r["response"])} for r in anchor_records(200)]
    data = loaded(tmp_path, anchor=[*chats, *shared, *apart])
    assert data.overlaps["anchor rows also in the defense or report files"] == 4
    assert sum(data.counts["anchor"].values()) == 201
    learnt = [row for row in data.anchor.train_rows(data.anchor.blocks)]
    assert not {row.messages[0].content.strip() for row in learnt} & set(asked)


def test_a_continuation_of_a_report_conversation_never_trains(tmp_path: Path) -> None:
    report = [{"messages": turns(f"Tell me of {i}", "It is.")} for i in range(20)]
    path = str(write_lines(tmp_path / "report.jsonl", report))
    longer = [{"messages": turns(f"Tell me of {i}", "It is.", "Why?", "So.")} for i in range(50)]
    data = loaded(tmp_path, anchor=longer, report=path)
    assert data.overlaps["anchor rows also in the defense or report files"] == 20
    assert (data.counts["anchor"]["report"], sum(data.counts["anchor"].values())) == (20, 50)
