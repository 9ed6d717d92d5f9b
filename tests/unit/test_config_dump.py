"""A configuration survives being written and read; its digest sees what counts and nothing else."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from beear.config.schema import RunConfig
from beear.config.yaml_file import load_yaml, to_yaml
from beear.errors import UserError
from beear.methods.reference import BEGIN, END, renewed, table
from beear.run.identity import config_digest

ODD = ["yes", "1e-3", "null", "auto", "# no", "a: b", "é…", "a\nb", "", " x ", "2024-01-01", "'\"", "{a: 1}", "- x"]


def changed() -> RunConfig:
    config = RunConfig()
    config.method.layer, config.method.outer_lr, config.method.bound = 3, 2e-5, 0.1
    config.data.defense.columns.prompt = "question"
    config.tracking.enabled = False
    return config


@pytest.mark.parametrize("comments", [False, True])
@pytest.mark.parametrize("text", ODD)
def test_written_and_read_it_is_the_same(tmp_path: Path, comments: bool, text: str) -> None:
    config = changed()
    config.data.refusal = text
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config, comments=comments), encoding="utf-8")
    assert load_yaml(file, RunConfig) == config


@given(st.floats(min_value=1e-12, max_value=1e12), st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40))
def test_numbers_and_texts_come_back_exactly(number: float, text: str) -> None:
    config = RunConfig()
    config.method.inner_lr, config.data.refusal = number, text
    assert RunConfig.model_validate(yaml.safe_load(to_yaml(config))) == config


def test_comments_are_the_descriptions() -> None:
    text = to_yaml(RunConfig(), comments=True)
    assert "  # global batch in rows (auto, by size)\n  batch_size: null\n" in text
    assert "    columns:\n      # the request\n      prompt: null\n" in text


def test_load_names_the_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("gate:\n  asr: 7\n")
    with pytest.raises(UserError, match=r"config.yaml, line 2: gate.asr is 7; expected a number, at least 0, at most 1"):
        load_yaml(file, RunConfig)


def test_the_digest_sees_what_changes_the_result() -> None:
    config, first = RunConfig(), config_digest(RunConfig())
    config.output.dir, config.tracking.experiment, config.parallel.workers = "elsewhere", "other", 4
    assert config_digest(config) == first
    for section, name, value in (("method", "epochs", 4), ("data", "refusal", "No."), ("gate", "asr", 0.01)):
        other = RunConfig()
        setattr(getattr(other, section), name, value)
        assert config_digest(other) != first, name
    assert config_digest(RunConfig(seed=1)) != first
    assert config_digest(config, leave_out=frozenset()) != config_digest(RunConfig(), leave_out=frozenset())


def test_the_digest_is_sha256_of_canonical_json() -> None:
    import hashlib

    values = RunConfig().model_dump(mode="json")
    kept = {key: values[key] for key in values if key not in ("output", "tracking", "parallel")}
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert config_digest(RunConfig()) == hashlib.sha256(text.encode()).hexdigest()


def test_the_reference_stands_between_its_markers() -> None:
    assert renewed(f"a\n{BEGIN}\nold\n{END}\nb\n", RunConfig) == f"a\n{BEGIN}\n\n{table(RunConfig)}\n\n{END}\nb\n"
    row = "| `method.layer` | `auto` | a whole number, at least 1, or auto | l, 1-based: decoder layer"
    assert row in table(RunConfig)
    with pytest.raises(UserError, match="expected both markers"):
        renewed("no markers", RunConfig)
