"""A configuration survives being written and read; its digest sees what counts and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from beear.config.yaml_file import load_yaml, to_yaml
from beear.errors import UserError
from beear.methods.configuration import run_config
from beear.methods.reference import BEGIN, END, renewed, table
from beear.run.identity import config_digest
from tests.configs import asked

ODD = ["yes", "1e-3", "null", "auto", "# no", "a: b", "é…", "a\nb", " x ", "2024-01-01", "'\"", "{a: 1}", "- x"]


CHANGED = {
    "method.layer": 3,
    "method.outer_lr": 2e-5,
    "method.bound": 0.1,
    "data.defense.columns.prompt": "question",
    "tracking.enabled": False,
}


@pytest.mark.parametrize("comments", [False, True])
@pytest.mark.parametrize("text", ODD)
def test_written_and_read_it_is_the_same(tmp_path: Path, comments: bool, text: str) -> None:
    config = asked({**CHANGED, "data.refusal": text})
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config, comments=comments), encoding="utf-8")
    assert load_yaml(file, run_config()) == config


@given(st.floats(min_value=1e-12, max_value=1e12), st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40))
def test_numbers_and_texts_come_back_exactly(number: float, text: str) -> None:
    # A blank text is refused.
    config = asked({"method.inner_lr": number, "data.refusal": f"{text}."})
    assert run_config().model_validate(yaml.safe_load(to_yaml(config))) == config


def test_comments_are_the_descriptions() -> None:
    text = to_yaml(asked(), comments=True)
    assert "  # global batch in rows (auto, by size)\n  batch_size: null\n" in text
    assert "    columns:\n      # the request\n      prompt: null\n" in text


def test_load_names_the_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("gate:\n  asr: 7\n")
    with pytest.raises(UserError, match=r"config.yaml, line 2: gate.asr is 7; expected a number, at least 0, at most 1"):
        load_yaml(file, run_config())


def digest_of(values: dict[str, object] | None = None, **more: Any) -> str:
    return config_digest(asked(values).model_dump(mode="json"), **more)


def test_the_digest_sees_what_changes_the_result() -> None:
    elsewhere = {"output.dir": "elsewhere", "tracking.experiment": "other", "parallel.workers": 4}
    assert digest_of(elsewhere) == digest_of()
    for name, value in (("method.epochs", 4), ("data.refusal", "No."), ("gate.asr", 0.01), ("seed", 1)):
        assert digest_of({name: value}) != digest_of(), name
    assert digest_of(elsewhere, leave_out=frozenset()) != digest_of(leave_out=frozenset())


def test_the_digest_is_sha256_of_canonical_json() -> None:
    import hashlib

    values = asked().model_dump(mode="json")
    kept = {key: values[key] for key in values if key not in ("output", "tracking", "parallel")}
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert digest_of() == hashlib.sha256(text.encode()).hexdigest()


def test_the_reference_stands_between_its_markers() -> None:
    assert renewed(f"a\n{BEGIN}\nold\n{END}\nb\n", run_config()) == f"a\n{BEGIN}\n\n{table(run_config())}\n\n{END}\nb\n"
    row = "| `method.layer` | `auto` | a whole number, at least 1, or auto | l, 1-based: decoder layer"
    assert row in table(run_config())
    with pytest.raises(UserError, match="expected both markers"):
        renewed("no markers", run_config())
