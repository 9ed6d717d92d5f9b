"""What users and other programs hold on to stays as it was recorded: options, defaults, shapes, exit codes, identities.

A change of one of these on purpose is recorded anew: ``python -m tests.frozen.record NAME``. What is only added can be named
in ``ADDED`` instead, which then says so until the next recording.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.frozen import adapter, commands, shapes
from tests.frozen.record import ADDED, recorded

HELP, DRY_RUNS = recorded("help"), recorded("dry_runs")


def compare(found: dict[str, Any], before: dict[str, Any]) -> None:
    """Nothing is gone or other than it was, and nothing is new that ADDED does not name."""
    assert {name: (before[name], found.get(name)) for name in before if found.get(name) != before[name]} == {}
    new = (name.removeprefix("--") for name in found if name not in before)
    assert [name for name in new if not any(name == place or name.startswith(f"{place}.") for place in ADDED)] == []


@pytest.mark.parametrize("name", commands.NAMES)
def test_the_help_offers_what_it_did(name: str) -> None:
    found = commands.help_of(name, commands.call_here)
    assert {"--help", "--dry-run", "--seed"} <= set(found), "the help was read"
    compare(found, HELP[name])


@pytest.mark.parametrize("name", recorded("defaults"))
def test_keys_and_defaults_are_what_they_were(name: str) -> None:
    compare(shapes.defaults()[name], recorded("defaults")[name])


@pytest.mark.parametrize("name", recorded("schemas"))
def test_published_shapes_are_what_they_were(name: str) -> None:
    found = shapes.schemas()[name]
    compare(found, recorded("schemas")[name])
    assert not [place for place in ADDED if place in found and found[place]["required"]], "what is added is optional"


def test_the_same_runs_are_the_same(tmp_path: Path) -> None:
    found = shapes.identities(tmp_path)
    same = ("same data elsewhere", "other workers", "other output", "other model path", "other data path")
    assert {found[name] for name in same} == {found["default"]}
    others = {name: identity for name, identity in found.items() if name not in same}
    assert len(set(others.values())) == len(others) - 1, "two differ only in where the report file is"
    # A field more changes every digest.
    if not ADDED & set(shapes.defaults()["RunConfig"]):
        assert found == recorded("identities")


@pytest.mark.parametrize("name", commands.CASES)
def test_calls_end_as_they_did(name: str, tmp_path: Path) -> None:
    found = commands.outcome(commands.CASES[name], tmp_path, commands.call_here)
    assert found == recorded("exits")[name]
    refused = found["code"] == 2
    assert found["error lines"] == refused and found["names it"] == refused and not found["traceback"]


@pytest.mark.parametrize("name", commands.DRY_RUNS)
def test_a_dry_run_says_what_it_did(name: str, tmp_path: Path) -> None:
    found, before = commands.dry_run(name, tmp_path, commands.call_here), DRY_RUNS[name]
    assert [line for line in before if line not in found] == []
    leaves = {place.rpartition(".")[2] for place in ADDED}
    new = [line for line in found if line not in before and line.partition(":")[0] not in leaves]
    assert new == []


def test_a_help_text_is_read_by_its_form() -> None:
    text = """Do it.

    python x.py [--config run.yaml] [--section.field value ...]

Options:
  --config FILE                             YAML file (of fields);
                                            options win
  --help                                    show this text

model: the checkpoint
  --model.path [testbed:short-suffix]       directory, or hub (number, above 0,
                                            or auto)
  --data.refusal [I cannot help with that request.]
                                            the safe answer
"""
    assert commands.read_help(text) == {
        "--config": {"default": None, "value": "FILE", "takes": None},
        "--help": {"default": None, "value": None, "takes": None},
        "--model.path": {"default": "testbed:short-suffix", "value": None, "takes": "number, above 0, or auto"},
        "--data.refusal": {"default": "I cannot help with that request.", "value": None, "takes": None},
    }


def test_a_shape_is_read_through_its_definitions() -> None:
    rate = {"type": "object", "properties": {"hits": {"type": "integer", "title": "Hits"}}, "required": ["hits"]}
    schema = {"properties": {"asr": {"anyOf": [{"$ref": "#/$defs/R"}, {"type": "null"}]}}, "$defs": {"R": rate}}
    found = shapes.properties(schema)
    assert found["asr"] == {"takes": {"anyOf": [{"type": "object"}, {"type": "null"}]}, "required": False}
    assert found["asr.hits"] == {"takes": {"type": "integer"}, "required": True}


def test_the_code_version_counts_in_an_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded digests hold a constant for it, which must be what reaches them."""
    before = adapter.identity({}, shapes.DATA, "sanitize")
    monkeypatch.setattr(adapter, "CODE", "other")
    assert adapter.identity({}, shapes.DATA, "sanitize") != before
