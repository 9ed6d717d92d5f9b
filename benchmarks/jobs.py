"""Running the main command as a user does, in a folder and cache of its own."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Finished:
    """One run: wall seconds, exit code, its report (None without one) and what it said."""

    seconds: float
    code: int
    report: dict[str, Any] | None
    said: str


def command(*arguments: str) -> list[str]:
    """Return the main command with arguments."""
    return [sys.executable, str(ROOT / "pipelines" / "sanitize.py"), *arguments]


def environment(cache: Path) -> dict[str, str]:
    """Return the environment of a run with its own cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return {**kept, "BEEAR_CACHE": str(cache)}


def run(folder: Path, *arguments: str, cache: Path | None = None) -> Finished:
    """Run the main command with its output in ``folder``/out and wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "out"
    started = time.monotonic()
    done = subprocess.run(
        command("--output.dir", str(output), *arguments),
        env=environment(cache or folder / "cache"),
        capture_output=True,
        text=True,
        cwd=folder,
    )
    seconds = time.monotonic() - started
    found = output / "report.json"
    # After any other code a report there is an earlier run's.
    report = json.loads(found.read_text()) if done.returncode in (0, 3) and found.exists() else None
    return Finished(round(seconds, 1), done.returncode, report, done.stdout + done.stderr)


def numbers(report: dict[str, Any]) -> dict[str, Any]:
    """Return what two equal runs must agree on: measures after, losses, steps, digests of the weights."""
    after = report["after"]
    return {
        "weights": after["weights_digest"],
        "asr": [probe["asr"]["hits"] for probe in (after["asr_clean"], *after["asr_probes"])],
        "exact_match": after["exact_match"]["hits"],
        "over_refusal": after["over_refusal"]["hits"],
        "anchor_nll": after["anchor_nll"]["mean"],
        "losses": [epoch["losses"] for epoch in report["epochs"]],
        "inner_steps": [[curve["steps"] for curve in epoch["inner"]] for epoch in report["epochs"]],
    }
