"""Configurations, published shapes and identities, as flat tables that two versions can be compared by."""

import contextlib
import json
from pathlib import Path
from typing import Any

from tests.frozen import adapter
from tests.frozen.commands import ROOT

DATA = {"/a/defense.jsonl": "d", "/a/anchor.jsonl": "a"}
CHANGES: dict[str, dict[str, Any]] = {
    "other seed": {"seed": 1},
    "other layer": {"method.layer": 3},
    "other method": {"method.name": "finetune"},
    "other weight": {"method.weights.safe": 0.5},
    "other gate": {"gate.asr": 0.1},
    "other workers": {"parallel.workers": 2, "parallel.backend": "fsdp"},
    "other output": {"output.dir": "elsewhere", "tracking.experiment": "other"},
    "other model path": {"model.path": "elsewhere", "model.base": "base"},
    "other data path": {"data.defense.path": "/b", "data.probes.path": "/c"},
    "report file": {"data.defense.report_path": "/a/report.jsonl"},
    "report file elsewhere": {"data.defense.report_path": "/b/report.jsonl"},
    "template file": {"model.chat_template": "t.jinja"},
    "keyword file": {"evaluate.keywords": "k.txt"},
}
# What a schema says in words, or says twice.
WORDS = ("title", "description", "default", "$defs")


def defaults() -> dict[str, dict[str, Any]]:
    """Return every configuration's keys with their defaults, by dotted name."""
    return {name: _leaves(values, "") for name, values in adapter.configurations().items()}


def _leaves(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def schemas() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the properties of report.json and of a search's record, by dotted name."""
    report = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
    return {"report": properties(report), "search": properties(adapter.search_schema())}


def properties(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what each property takes and whether it is required; names of definitions do not matter, they are filled in."""
    found: dict[str, dict[str, Any]] = {"": {"takes": _plain(schema), "required": True}}
    _walk(schema, schema, "", found)
    return found


def _walk(node: Any, whole: dict[str, Any], prefix: str, found: dict[str, dict[str, Any]]) -> None:
    if not isinstance(node, dict):
        return
    if "$ref" in node:
        return _walk(_referred(node, whole), whole, prefix, found)
    for name, inner in node.get("properties", {}).items():
        found[prefix + name] = {"takes": _plain(_inlined(inner, whole)), "required": name in node.get("required", ())}
        _walk(inner, whole, f"{prefix}{name}.", found)
    for inner in [node.get("items"), node.get("additionalProperties"), *node.get("anyOf", ()), *node.get("prefixItems", ())]:
        _walk(inner, whole, prefix, found)


def _referred(node: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    return whole["$defs"][node["$ref"].rpartition("/")[2]]


def _inlined(node: Any, whole: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inlined(part, whole) for part in node]
    if isinstance(node, dict):
        return _inlined(_referred(node, whole), whole) if "$ref" in node else {k: _inlined(v, whole) for k, v in node.items()}
    return node


def _plain(node: Any) -> Any:
    """Leave out the words, and the properties, which stand in lines of their own."""
    if isinstance(node, list):
        return [_plain(part) for part in node]
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items() if key not in (*WORDS, "properties", "required")}
    return node


def identities(folder: Path) -> dict[str, str]:
    """Return the identity of each of a few runs; ``folder`` is for the files that some of them name."""
    (folder / "t.jinja").write_text("{{ messages }}")
    (folder / "k.txt").write_text("no\n")
    runs: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
        "default": ({}, DATA, "sanitize"),
        "evaluate": ({}, DATA, "evaluate"),
        "tune": ({}, DATA, "tune"),
        "other data": ({}, {**DATA, "/a/anchor.jsonl": "other"}, "sanitize"),
        "same data elsewhere": ({}, {"/b/defense.jsonl": "d", "/b/anchor.jsonl": "a"}, "sanitize"),
    }
    runs |= {name: (changes, DATA, "sanitize") for name, changes in CHANGES.items()}
    # Files are named from the folder they are in, since their names count.
    with contextlib.chdir(folder):
        return {name: adapter.identity(*run) for name, run in runs.items()}
