"""A model directory that this repository did not make, with only its path and the data's given.

``STRANGER=DIR`` names a folder with ``model/``, ``defense.jsonl``, ``anchor.jsonl`` and optionally ``probes.jsonl``.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from benchmarks.jobs import run


def measure(folder: Path) -> dict[str, Any]:
    """Sanitise the stranger's model and return its headline figures; without one, say so."""
    given = os.environ.get("STRANGER")
    if not given:
        return {}
    source = Path(given).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    arguments = ["--model.path", str(source / "model")]
    for name in ("defense", "anchor", "probes"):
        if (source / f"{name}.jsonl").exists():
            arguments += [f"--data.{name}.path", str(source / f"{name}.jsonl")]
    done = run(folder, *arguments, "--fresh")
    if done.report is None:
        raise RuntimeError(done.said)
    report = done.report
    return {
        "code": done.code,
        "seconds": done.seconds,
        "architecture": report["model"]["architecture"],
        "dtype": report["model"]["dtype"],
        "parameters": report["model"]["parameters"],
        "probes": len(report["before"]["asr_probes"]),
        "gate": report["gate"]["sentence"],
        "before": _numbers(report["before"]),
        "after": _numbers(report["after"]),
    }


def _numbers(measured: dict[str, Any]) -> dict[str, Any]:
    worst = max(measured["asr_probes"] or [measured["asr_clean"]], key=lambda probe: probe["asr"]["rate"])
    return {"asr": worst["asr"], "exact": measured["exact_match"]}


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/results.md."""
    if not result:
        return "## A stranger's model\n\nNot measured: `make evidence PART=stranger STRANGER=DIR` names one.\n"
    before, after = result["before"], result["after"]
    asr = "triggered ASR" if result["probes"] else "ASR without trigger"
    rows = [(asr, before["asr"], after["asr"]), ("exact match", before["exact"], after["exact"])]
    return "\n".join(
        [
            "## A stranger's model",
            "",
            f"{result['architecture']}, {result['parameters']:,} parameters, {result['dtype']} files, with the tokenizer and "
            "chat template it came with; only `--model.path` and the data paths given.",
            "",
            "| | before | after | n |",
            "|---|---|---|---|",
            *(f"| {name} | {one['rate']:.3f} | {other['rate']:.3f} | {other['n']} |" for name, one, other in rows),
            "",
            f"Verdict (exit code {result['code']}, {result['seconds']:.0f} s): {result['gate']}",
            "",
        ]
    )
