"""What makes two runs the same: contents and settings, not places."""

from pathlib import Path
from typing import Any

import pytest

from beear.models.facts import ModelFacts
from beear.run.identity import run_identity
from tests.configs import asked

FACTS = ModelFacts("m", "LlamaForCausalLM", "llama", 4, 16, 61, 128, 1000, True, "float32", {"weights": "w"}, "template")
DATA = {"/a/defense.jsonl": "d", "/a/anchor.jsonl": "a"}


def identity(changes: dict[str, Any] | None = None, data: dict[str, str] | None = None) -> str:
    config = asked(changes)
    files = list((data or DATA).values())
    values = config.model_dump(mode="json")
    return run_identity(values, config.evaluate.keywords, config.model.chat_template, FACTS, files, "sanitize")


def test_places_do_not_count() -> None:
    there = {"data.defense.path": "/b/defense.jsonl", "model.path": "elsewhere"}
    there |= {"output.dir": "out2", "tracking.experiment": "other"}
    here = identity({"data.defense.path": "/a/defense.jsonl"})
    assert here == identity(there, {"/b/defense.jsonl": "d", "/b/anchor.jsonl": "a"})


def test_how_the_work_is_spread_does_not_count() -> None:
    assert identity({"parallel.workers": 2, "parallel.backend": "fsdp", "parallel.micro_batch": 4}) == identity()


@pytest.mark.parametrize(
    ("changes", "data"),
    [
        ({"seed": 1}, DATA),
        ({"method.layer": 3}, DATA),
        ({}, {**DATA, "/a/anchor.jsonl": "other"}),
        ({"data.defense.report_path": "/a/report.jsonl"}, DATA),
    ],
)
def test_what_changes_the_result_counts(changes: dict[str, Any], data: dict[str, str]) -> None:
    assert identity(changes, data) != identity()


def test_the_contents_of_a_given_template_and_keyword_list_count(tmp_path: Path) -> None:
    given = {"model.chat_template": str(tmp_path / "t.jinja"), "evaluate.keywords": str(tmp_path / "k.txt")}
    found = set()
    for template, keywords in (("a", "no"), ("b", "no"), ("b", "never")):
        (tmp_path / "t.jinja").write_text(template)
        (tmp_path / "k.txt").write_text(keywords)
        found.add(identity(given))
    assert len(found) == 3
