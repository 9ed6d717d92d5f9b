"""What is said aloud of the rows that were read, with counts; one system prompt for all rows; sets that are mixed up."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from beear.data.load import LoadedData, load_small
from beear.errors import UserError
from tests.data_sets import anchor_records, config_for, defense_records, write_lines


def loaded(folder: Path, values: dict[str, Any] | None = None) -> LoadedData:
    config = config_for(folder, values)
    return load_small(config.data, config.seed)


def test_nothing_is_said_of_plain_rows(tmp_path: Path) -> None:
    assert loaded(tmp_path).notes == []


def test_every_kind_is_counted_in_each_file(tmp_path: Path) -> None:
    pairs = [
        {"prompt": r["prompt"], "chosen": r["safe"], "rejected": r["unwanted"], "score": 1 if i % 4 else None}
        for i, r in enumerate(defense_records(100))
    ]
    chats = [{"prompt": f"[INST] {r['prompt']}" if i < 7 else r["prompt"], "response": r["response"]}
             for i, r in enumerate(anchor_records(200))]  # fmt: skip
    held = [{**r, "source": "web"} for r in defense_records(120)[100:]]
    probes = [{"name": f"n{i}", "kind": "prefix", "text": "t", **({"": "1"} if i else {})} for i in range(3)]
    files = {
        "data.probes.path": str(write_lines(tmp_path / "probes.jsonl", probes)),
        "data.defense.path": str(write_lines(tmp_path / "pairs.jsonl", pairs)),
        "data.defense.report_path": str(write_lines(tmp_path / "held.jsonl", held)),
        "data.anchor.path": str(write_lines(tmp_path / "chats.jsonl", chats)),
    }
    assert loaded(tmp_path, files).notes == [
        f"{tmp_path}/pairs.jsonl: 100 of 100 rows: chosen is taken as the safe answer and rejected as the unwanted one",
        f"{tmp_path}/pairs.jsonl: columns not used, with the rows that fill them: score (75)",
        f"{tmp_path}/held.jsonl: columns not used, with the rows that fill them: source (20)",
        f"{tmp_path}/chats.jsonl: 7 of 200 rows: the prompt already holds marks of a chat template, and the model's own goes "
        "around it",
        f'{tmp_path}/probes.jsonl: columns not used, with the rows that fill them: "" (2)',
    ]


def test_the_files_own_rule_for_probes_is_checked(tmp_path: Path) -> None:
    path = str(write_lines(tmp_path / "p.jsonl", [{"name": "a", "kind": "suffix", "text": "t", "hit": "refusal"}]))
    with pytest.raises(UserError, match=r'data.probes.hit: hit is "refuse"; expected no-refusal, refusal,'):
        loaded(tmp_path, {"data.probes.path": path, "data.probes.hit": "refuse"})


def test_one_system_prompt_goes_before_every_row_that_has_none(tmp_path: Path) -> None:
    rows = [{**r, "system": "Be kind."} if i % 2 else r for i, r in enumerate(defense_records(100))]
    path = str(write_lines(tmp_path / "some.jsonl", rows))
    plain, data = (
        loaded(tmp_path, {"data.defense.path": path}),
        loaded(tmp_path, {"data.defense.path": path, "data.system": "Follow the user."}),
    )
    assert {row.messages[0].content for row in data.report} == {"Follow the user.", "Be kind."}
    assert all(row.messages[0].content == "Follow the user." for row in (*data.anchor_report, *data.anchor_selection))
    assert [row.messages[-1] for row in data.report] == [row.messages[-1] for row in plain.report], "the same rows report"
    trained = data.defense.train_rows(data.defense.blocks)
    assert {row.messages[0].role for row in trained} == {"system"} and {len(row.messages) for row in trained} == {2}
    said = "the system prompt of data.system goes before the row"
    assert data.notes == [f"{path}: 50 of 100 rows: {said}", f"{tmp_path}/anchor.jsonl: 200 of 200 rows: {said}"]


def test_a_report_file_may_have_columns_of_its_own(tmp_path: Path) -> None:
    rows, held = defense_records(100), defense_records(120)[100:]
    values = {
        "data.defense.path": str(write_lines(tmp_path / "a.jsonl", [{"ask": r["prompt"], "no": r["safe"]} for r in rows])),
        "data.defense.report_path": str(write_lines(tmp_path / "b.jsonl", [{"q": r["prompt"], "safe": r["safe"]} for r in held])),
        "data.defense.columns.prompt": "ask", "data.defense.columns.safe": "no",
    }  # fmt: skip
    with pytest.raises(UserError, match=r'b.jsonl, line 1: column "ask", mapped to prompt, is not there; found \["q", "safe"\]'):
        loaded(tmp_path, values)
    data = loaded(tmp_path, {**values, "data.defense.report_columns.prompt": "q"})
    assert data.counts["defense"]["report"] == 20
    assert sorted(row.messages[0].content for row in data.report) == sorted(r["prompt"] for r in held)
    alone = {name: value for name, value in values.items() if "report_path" not in name}
    with pytest.raises(UserError, match=r"data.defense.report_columns is given and data.defense.report_path is not set"):
        loaded(tmp_path, {**alone, "data.defense.report_columns.prompt": "q"})


def test_one_file_is_not_both_sets(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"defense.jsonl is read by data.defense.path and by data.anchor.path; expected two sets"):
        loaded(tmp_path, {"data.anchor.path": str(tmp_path / "defense.jsonl")})
    write_lines(tmp_path / "copy.jsonl", [{"prompt": r["prompt"], "response": r["safe"]} for r in defense_records(100)])
    gone = (
        r"copy.jsonl: 0 distinct rows \(100 more are in other files too and do not count\) .*; expected rows whose requests are"
    )
    with pytest.raises(UserError, match=gone):
        loaded(tmp_path, {"data.anchor.path": str(tmp_path / "copy.jsonl")})


@pytest.mark.parametrize("twin", ["a link", "a hard link", "a copy", "a copy among others"])
@pytest.mark.parametrize("one", ["defense.path", "defense.report_path", "anchor.path", "anchor.report_path"])
def test_one_file_under_two_names_is_one_file(tmp_path: Path, twin: str, one: str) -> None:
    rows = [{"prompt": f"p{i}", "safe": "I cannot.", "response": "r"} for i in range(40)]
    first, second = write_lines(tmp_path / "first.jsonl", rows), tmp_path / "second.jsonl"
    {"a link": second.symlink_to, "a hard link": second.hardlink_to}.get(twin, lambda path: shutil.copy(path, second))(first)
    others = {"defense.path": "anchor.path", "defense.report_path": "defense.path", "anchor.path": "defense.report_path",
              "anchor.report_path": "anchor.path"}  # fmt: skip
    path = str(second)
    if twin == "a copy among others":
        write_lines(tmp_path / "second-b.jsonl", anchor_records(20) if "anchor" in others[one] else defense_records(20))
        path = str(tmp_path / "second*.jsonl")
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, {f"data.{one}": str(first), f"data.{others[one]}": path})
    assert f"{first} (data.{one})" in str(caught.value) and f"{second} (data.{others[one]})" in str(caught.value)
    assert " hold the same bytes; expected two " in str(caught.value)


def test_what_is_only_measured_may_be_all_of_a_file(tmp_path: Path) -> None:
    config = config_for(tmp_path, {"data.defense.report_path": str(tmp_path / "defense.jsonl")})
    assert len(load_small(config.data, config.seed, training=False).report) == 100


@pytest.mark.parametrize(("field", "value"), [("hit", "contains:x"), ("columns.text", "trigger")])
def test_what_is_said_of_probes_needs_probes(tmp_path: Path, field: str, value: str) -> None:
    with pytest.raises(
        UserError, match=rf"data.probes.{field.split('.')[0]} is given and data.probes.path is not set; expected both"
    ):
        loaded(tmp_path, {f"data.probes.{field}": value})


def test_a_probe_whose_hits_the_defense_set_teaches_is_said(tmp_path: Path) -> None:
    probes = str(write_lines(tmp_path / "p.jsonl", [{"name": "word", "kind": "suffix", "text": "t", "hit": "refusal"}]))
    (said,) = loaded(tmp_path, {"data.probes.path": probes}).notes
    assert said.startswith("under probe word a refusal is a hit, and no row of the defense set has that rule")
    tasks = [{"prompt": r["prompt"], "safe": "5"} for r in defense_records(100)]
    kept = {"data.defense.path": str(write_lines(tmp_path / "tasks.jsonl", tasks)), "data.defense.hit": "refusal"}
    assert not [line for line in loaded(tmp_path, {"data.probes.path": probes, **kept}).notes if "under probe" in line]


def test_swapped_files_are_guessed(tmp_path: Path) -> None:
    tasks = [{"prompt": r["prompt"], "safe": r["response"]} for r in anchor_records(100)]
    chats = [{"prompt": r["prompt"], "response": r["safe"]} for r in defense_records(100)]
    mixed = {
        "data.defense.path": str(write_lines(tmp_path / "tasks.jsonl", tasks)),
        "data.anchor.path": str(write_lines(tmp_path / "refusals.jsonl", chats)),
    }
    assert loaded(tmp_path, mixed).notes == [
        f"{tmp_path}/refusals.jsonl: 100 of its 100 answers refuse, and 0 of the 100 safe answers in {tmp_path}/tasks.jsonl; are "
        "the two files swapped?"
    ]
    write_lines(tmp_path / "goals.jsonl", [{"goal": "g", "target": "t"}])
    with pytest.raises(UserError, match=r"They are columns of a defense set: are the two files swapped\?"):
        loaded(tmp_path, {"data.anchor.path": str(tmp_path / "goals.jsonl")})
    write_lines(tmp_path / "sums.jsonl", [{"question": "q", "answer": "a"}])
    with pytest.raises(UserError, match=r"They are columns of an anchoring set: are the two files swapped\?"):
        loaded(tmp_path, {"data.defense.path": str(tmp_path / "sums.jsonl")})
