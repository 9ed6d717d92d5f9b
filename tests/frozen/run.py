"""A small run on the built-in model with a fixed seed, and a measurement of it: what they end with and what they write."""

import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

REGISTERED = "demo"
ROWS = 100
SETTINGS = (
    *("--method.epochs=2", f"--evaluate.rows={ROWS}", "--evaluate.resistance.steps=6", "--evaluate.drift_rows=16"),
    *("--gate.utility_loss=0.1", "--gate.over_refusal=0.1"),
)
COMMANDS = ("sanitize", "evaluate")
# What a reader names himself: files by path, probes by name, and the configuration, which is frozen elsewhere.
FREE = ("config", "data.files", "drift.pca")


def machine() -> dict[str, str]:
    """Return what a run's last digit depends on: the processor and the library that computes."""
    words = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    pairs = [[part.strip() for part in line.partition(":")[::2]] for line in words.partition("\n\n")[0].splitlines()]
    # A virtual machine names many processors alike; the numbers tell them apart.
    known = [value for name, value in pairs if name in ("model name", "cpu family", "model")]
    return {"processor": ", ".join(known) or "unknown", "torch": version("torch")}


def sanitize_words(out: Path, server: str) -> list[str]:
    """Return the arguments that sanitise the built-in model into ``out`` and register it with the tracking ``server``."""
    return [*SETTINGS, f"--output.dir={out}", f"--tracking.uri={server}", f"--tracking.register_as={REGISTERED}"]


def evaluate_words(sanitised: Path, out: Path) -> list[str]:
    """Return the arguments that measure, into ``out``, what :func:`sanitize_words` wrote to ``sanitised``, on its data."""
    data = json.loads((sanitised / "report.json").read_text())["config"]["data"]
    paths = [f"--data.{name}.path={data[name]['path']}" for name in ("defense", "anchor", "probes")]
    model = (f"--model.path={sanitised / 'model'}", "--data.holdout=0.9", "--tracking.enabled=false")
    return [*SETTINGS, *model, *paths, f"--output.dir={out}"]


def written(command: str, done: subprocess.CompletedProcess[str], out: Path) -> dict[str, Any]:
    """Return what is compared of a command that wrote ``out``, the one entry of its folder."""
    assert (out / "report.json").exists(), done.stdout + done.stderr
    report = json.loads((out / "report.json").read_text())
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()] if command == "sanitize" else []
    return {
        "exit code": done.returncode,
        "files": sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()),
        "left beside": sorted(path.name for path in out.parent.iterdir() if path != out),
        "verdict": report["gate"]["verdict"],
        "checks": {check["name"]: check["verdict"] for check in report["gate"]["checks"]},
        "choices": {choice["field"]: choice["value"] for choice in report["choices"]},
        "digests": {side: report[side]["weights_digest"] for side in ("before", "after") if report[side]},
        "inner steps": [[curve["steps"] for curve in epoch["inner"]] for epoch in report["epochs"]],
        "losses": _losses(report),
        "hits": hits(report),
        "keys": sorted(keys(report)),
        "events": {kind: sorted({key for event in events if event["kind"] == kind for key in event}) for kind in _kinds(events)},
    }


def _kinds(events: list[dict[str, Any]]) -> list[str]:
    return sorted({event["kind"] for event in events})


def _losses(report: dict[str, Any]) -> dict[str, float]:
    found = {f"epoch {e['epoch']} {name}": value for e in report["epochs"] for name, value in e["losses"].items()}
    found |= {f"epoch {e['epoch']} selection {name}": value for e in report["epochs"] for name, value in e["selection"].items()}
    return found | {f"{side} anchor_nll": report[side]["anchor_nll"]["mean"] for side in ("before", "after") if report[side]}


def hits(node: Any, where: str = "") -> dict[str, str]:
    """Return every ``hits of n`` in a report, by where it stands."""
    if isinstance(node, list):
        return {name: text for i, part in enumerate(node) for name, text in hits(part, f"{where}[{i}]").items()}
    if not isinstance(node, dict):
        return {}
    if {"hits", "n"} <= set(node):
        return {where: f"{node['hits']} of {node['n']}"}
    return {name: text for key, part in node.items() for name, text in hits(part, f"{where}.{key}".lstrip(".")).items()}


def keys(node: Any, where: str = "") -> set[str]:
    """Return every key in a report by its dotted place; what a list holds is taken together."""
    if isinstance(node, list):
        return {key for part in node for key in keys(part, where)}
    if not isinstance(node, dict) or where in FREE:
        return set()
    places = {key: f"{where}.{key}".lstrip(".") for key in node}
    return set(places.values()) | {inner for key, part in node.items() for inner in keys(part, places[key])}
