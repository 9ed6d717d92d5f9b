"""What makes two runs the same: contents and settings, not places."""

from pathlib import Path

import pytest

from beear.config.schema import RunConfig
from beear.models.facts import ModelFacts
from beear.run.identity import run_identity

FACTS = ModelFacts("m", "LlamaForCausalLM", "llama", 4, 16, 61, 128, 1000, True, "float32", {"weights": "w"}, "template")
DATA = {"/a/defense.jsonl": "d", "/a/anchor.jsonl": "a"}


def identity(config: RunConfig, data: dict[str, str] | None = None) -> str:
    return run_identity(config, FACTS, data or DATA, "sanitize")


def test_places_do_not_count() -> None:
    here, there = RunConfig(), RunConfig()
    here.data.defense.path, there.data.defense.path = "/a/defense.jsonl", "/b/defense.jsonl"
    there.model.path, there.output.dir, there.tracking.experiment = "elsewhere", "out2", "other"
    assert identity(here) == identity(there, {"/b/defense.jsonl": "d", "/b/anchor.jsonl": "a"})


def test_how_the_work_is_spread_does_not_count() -> None:
    other = RunConfig()
    other.parallel.workers, other.parallel.backend, other.parallel.micro_batch = 2, "fsdp", 4
    assert identity(other) == identity(RunConfig())


@pytest.mark.parametrize("field", ["seed", "layer", "data", "report file"])
def test_what_changes_the_result_counts(field: str) -> None:
    other, data = RunConfig(), DATA
    if field == "seed":
        other.seed = 1
    elif field == "layer":
        other.method.layer = 3
    elif field == "report file":
        other.data.defense.report_path = "/a/report.jsonl"
    else:
        data = {**DATA, "/a/anchor.jsonl": "other"}
    assert identity(other, data) != identity(RunConfig())


def test_the_contents_of_a_given_template_and_keyword_list_count(tmp_path: Path) -> None:
    config = RunConfig()
    config.model.chat_template, config.evaluate.keywords = str(tmp_path / "t.jinja"), str(tmp_path / "k.txt")
    found = set()
    for template, keywords in (("a", "no"), ("b", "no"), ("b", "never")):
        (tmp_path / "t.jinja").write_text(template)
        (tmp_path / "k.txt").write_text(keywords)
        found.add(identity(config))
    assert len(found) == 3
